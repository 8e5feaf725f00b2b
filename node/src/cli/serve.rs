//! `leoma-node serve`: a checkpoint behind HTTP.

mod judging;

use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use candle_core::Device;
use clap::Args;
use leoma_models::rounding::Rounding;
use leoma_models::{Error, Precision};
use secrecy::SecretString;

use super::DeviceArg;
use super::hub::Show;
use super::local_model::local_model;
use super::model_files::ModelFileArgs;
use super::units::{Bytes, Seconds};
use crate::engine::{EngineOptions, WanOptions};
use crate::generation::{MemoryOptions, OffloadChoice, Preset, TextEncoderDevice};
use crate::http::{
    Access, AccessOptions, FetchOptions, Fetcher, Limits, Profile, ServerOptions, check_key,
    read_key_file,
};
use crate::service::{self, Model, ServiceOptions};
use crate::store::StoreOptions;
use crate::telemetry::Metrics;

/// Silence of a job on a GPU that cannot be work: a transformer block takes seconds at most.
const GPU_STALL: Duration = Duration::from_secs(120);
/// On a processor one block of a large model can take minutes.
const CPU_STALL: Duration = Duration::from_secs(1800);
/// Time for fetching one file.
const FETCH_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Checkpoint: a folder (diffusers or official layout), user/name of the Hub, or tiny, the small one inside this
    /// program.
    #[arg(
        long,
        value_name = "MODEL",
        env = "LEOMA_NODE_MODEL",
        required_unless_present = "fake_engine"
    )]
    model: Option<PathBuf>,
    #[command(flatten)]
    files: ModelFileArgs,
    /// Serve a scripted engine in place of a checkpoint: load tests, development of clients.
    #[arg(
        long,
        value_name = "SCRIPT.toml",
        env = "LEOMA_NODE_FAKE_ENGINE",
        conflicts_with = "model"
    )]
    fake_engine: Option<PathBuf>,
    /// Name of the model in the API; default: the name of the folder or repository.
    #[arg(long, value_name = "NAME", env = "LEOMA_NODE_MODEL_NAME")]
    model_name: Option<String>,
    /// Branch, tag or full commit of a repository of the Hub (default: main); of a folder: what is told to who asks.
    #[arg(long, value_name = "REVISION", env = "LEOMA_NODE_REVISION")]
    revision: Option<String>,
    /// Address to listen on. Other than loopback only with an API key.
    #[arg(
        long,
        default_value = "127.0.0.1",
        env = "LEOMA_NODE_HOST",
        help_heading = "Network"
    )]
    host: IpAddr,
    /// Port; 0 picks a free one and prints it.
    #[arg(
        long,
        default_value_t = 8000,
        env = "LEOMA_NODE_PORT",
        help_heading = "Network"
    )]
    port: u16,
    /// File with the key that callers must show.
    #[arg(
        long,
        value_name = "FILE",
        env = "LEOMA_NODE_API_KEY_FILE",
        help_heading = "Network"
    )]
    api_key_file: Option<PathBuf>,
    /// The key itself; better in the environment or in a file than on the command line, where others see it.
    #[arg(
        long,
        value_name = "KEY",
        env = "LEOMA_NODE_API_KEY",
        hide_env_values = true,
        conflicts_with = "api_key_file",
        help_heading = "Network"
    )]
    api_key: Option<SecretString>,
    /// Host names by which this server may be called without a key, besides loopback; repeat or separate by comma.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "LEOMA_NODE_ALLOWED_HOST",
        help_heading = "Network"
    )]
    allowed_host: Vec<String>,
    /// Fetch pictures and clips that requests name by https URL. Off: such requests are refused.
    #[arg(long, env = "LEOMA_NODE_IMAGE_URLS", help_heading = "Network")]
    image_urls: bool,
    /// Hosts that they may be fetched from; default: any public one.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "LEOMA_NODE_IMAGE_URL_HOST",
        help_heading = "Network"
    )]
    image_url_host: Vec<String>,
    /// Connections open at a time; beyond it the longest idle one is closed.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1024,
        env = "LEOMA_NODE_MAX_CONNECTIONS",
        help_heading = "Network"
    )]
    max_connections: usize,
    /// Largest request body; a larger one is answered 413.
    #[arg(
        long,
        value_name = "BYTES",
        default_value = "32MiB",
        env = "LEOMA_NODE_MAX_BODY_BYTES",
        help_heading = "Network"
    )]
    max_body_bytes: Bytes,
    /// Family of defaults for what a request leaves out: leoma, diffusers, official or tiny; default: leoma,
    /// and tiny for --model tiny.
    #[arg(long, env = "LEOMA_NODE_PRESET", help_heading = "Generation")]
    preset: Option<Preset>,
    /// Vocabulary and defaults of the Chutes routes: leoma, chutes-wan22 or chutes-wan21.
    #[arg(
        long,
        default_value = "leoma",
        env = "LEOMA_NODE_PROFILE",
        help_heading = "Generation"
    )]
    profile: Profile,
    /// Number types: f32, bf16, f16, fp8 (transformer blocks in 8 bits; lossy) or tf32 (on a card; lossy).
    #[arg(
        long,
        default_value = "f32",
        env = "LEOMA_NODE_DTYPE",
        help_heading = "Generation"
    )]
    dtype: Precision,
    /// Where bf16 rounds: diffusers, or official (residual stream, guidance and VAE in f32).
    #[arg(
        long,
        default_value = "diffusers",
        env = "LEOMA_NODE_ROUNDING",
        help_heading = "Generation"
    )]
    rounding: Rounding,
    /// Where to compute: cpu, cuda, cuda:N or auto.
    #[arg(
        long,
        default_value = "auto",
        env = "LEOMA_NODE_DEVICE",
        help_heading = "Generation"
    )]
    device: DeviceArg,
    /// What to keep in memory: auto (the fastest that fits), none (offload nothing), experts (one network at a
    /// time) or blocks (two transformer blocks at a time).
    #[arg(
        long,
        default_value = "auto",
        env = "LEOMA_NODE_OFFLOAD",
        help_heading = "Generation"
    )]
    offload: OffloadChoice,
    /// Where to run the text encoder: same (as the rest) or cpu.
    #[arg(
        long,
        default_value = "same",
        env = "LEOMA_NODE_TEXT_ENCODER_DEVICE",
        help_heading = "Generation"
    )]
    text_encoder_device: TextEncoderDevice,
    /// Most memory to use, of the GPU or, on the CPU, of the machine; default: what is free.
    #[arg(
        long,
        value_name = "BYTES",
        env = "LEOMA_NODE_MEMORY_LIMIT",
        help_heading = "Generation"
    )]
    memory_limit: Option<Bytes>,
    /// Requests that may wait behind the running one; more are answered 429.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4,
        env = "LEOMA_NODE_QUEUE",
        help_heading = "Queue"
    )]
    queue: usize,
    /// Jobs of /v1/videos that may wait; more are answered 429.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 256,
        env = "LEOMA_NODE_MAX_JOBS",
        help_heading = "Queue"
    )]
    max_jobs: usize,
    /// Time in which a waiting client must have its clip, or is refused at once; 0: no limit.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "300s",
        env = "LEOMA_NODE_DEADLINE",
        help_heading = "Queue"
    )]
    deadline: Seconds,
    /// Time without any progress after which a job counts as hung; default: 2m on a GPU, 30m on the CPU.
    #[arg(
        long,
        value_name = "TIME",
        env = "LEOMA_NODE_STALL_TIMEOUT",
        help_heading = "Queue"
    )]
    stall_timeout: Option<Seconds>,
    /// Time between self-tests with a known result; 0: only at start.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1h",
        env = "LEOMA_NODE_CANARY_INTERVAL",
        help_heading = "Queue"
    )]
    canary_interval: Seconds,
    /// Time that requests in flight may take to finish after a stop signal; a second signal ends at once.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        env = "LEOMA_NODE_DRAIN_TIMEOUT",
        help_heading = "Queue"
    )]
    drain_timeout: Seconds,
    /// Folder for jobs and clips; default: $STATE_DIRECTORY, else leoma-node in the user's data folder.
    #[arg(
        long,
        value_name = "DIR",
        env = "LEOMA_NODE_DATA_DIR",
        help_heading = "Storage"
    )]
    data_dir: Option<PathBuf>,
    /// Age at which finished jobs and their clips are removed; 0: never.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "7d",
        env = "LEOMA_NODE_RETENTION_AGE",
        help_heading = "Storage"
    )]
    retention_age: Seconds,
    /// Bytes of clips kept; beyond it the oldest are removed.
    #[arg(
        long,
        value_name = "BYTES",
        default_value = "20GiB",
        env = "LEOMA_NODE_RETENTION_BYTES",
        help_heading = "Storage"
    )]
    retention_bytes: Bytes,
    /// Free space that must be left; below it the server takes no jobs and is not ready.
    #[arg(
        long,
        value_name = "BYTES",
        default_value = "1GiB",
        env = "LEOMA_NODE_MIN_FREE_BYTES",
        help_heading = "Storage"
    )]
    min_free_bytes: Bytes,
    #[command(flatten)]
    judging: judging::JudgingArgs,
    /// User name under which this node appears as a chute.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "local",
        env = "LEOMA_NODE_CHUTE_USERNAME",
        help_heading = "Chutes"
    )]
    chute_username: String,
    /// Name under which this node appears as a chute; default: the model's name.
    #[arg(
        long,
        value_name = "NAME",
        env = "LEOMA_NODE_CHUTE_NAME",
        help_heading = "Chutes"
    )]
    chute_name: Option<String>,
}

pub(super) fn run(args: ServeArgs) -> Result<()> {
    init_log();
    if !cfg!(feature = "ffmpeg") {
        let message =
            "this build writes no MP4; build it with the default feature `ffmpeg` to serve";
        return Err(Error::local(message).into());
    }
    service::run(args.options()?)
}

impl ServeArgs {
    fn options(self) -> Result<ServiceOptions> {
        let access = self.access()?;
        let fetcher = self.fetcher()?;
        let data_dir = match &self.data_dir {
            Some(dir) => dir.clone(),
            None => default_data_dir()?,
        };
        // A script of the fake engine computes nothing.
        let device = match self.fake_engine {
            Some(_) => Device::Cpu,
            None => self.device.open()?,
        };
        let stall = if device.is_cuda() {
            GPU_STALL
        } else {
            CPU_STALL
        };
        let stall_timeout = match self.stall_timeout {
            Some(time) => time.limit(),
            None => Some(stall),
        };
        let scratch = data_dir.join("scratch");
        if self.fake_engine.is_some() && !self.files.is_empty() {
            let message = "a scripted engine has no networks; leave the model files out";
            return Err(Error::caller("fake_engine", message).into());
        }
        let max_body_bytes = usize::try_from(self.max_body_bytes.0)
            .ok()
            .filter(|bytes| (1 << 10..=1 << 30).contains(bytes))
            .ok_or_else(|| Error::caller("max_body_bytes", "is not between 1KiB and 1GiB"))?;
        let judge = self.judging.open(&device)?;
        let model = match (self.fake_engine, self.model) {
            (Some(script), _) => Model::Fake {
                script,
                preset: self.preset.unwrap_or_default(),
                name: self.model_name,
                revision: self.revision,
                scratch,
            },
            (None, Some(model)) => {
                // Last of all: what is wrong with the other options must not be found after hours.
                let local = local_model(&model, self.revision.as_deref(), Show::Progress)?;
                let commit = match local.snapshot {
                    Some(snapshot) => Some(snapshot.commit.to_string()),
                    None => self.revision,
                };
                Model::Wan(Box::new(WanOptions {
                    files: self.files.with(&local.path),
                    name: self.model_name.or(local.name),
                    revision: commit,
                    preset: self.preset.unwrap_or(local.preset),
                    precision: self.dtype,
                    rounding: self.rounding,
                    device,
                    memory: MemoryOptions {
                        offload: self.offload,
                        text_encoder: self.text_encoder_device,
                        limit: self.memory_limit.map(|limit| limit.0),
                    },
                    scratch,
                }))
            }
            (None, None) => {
                let message = "is missing; name a checkpoint: a folder, or user/name of the Hub";
                return Err(Error::caller("model", message).into());
            }
        };
        Ok(ServiceOptions {
            address: SocketAddr::new(self.host, self.port),
            access,
            fetcher,
            judge,
            limits: Limits {
                max_body_bytes,
                ..Limits::default()
            },
            server: ServerOptions {
                max_connections: self.max_connections,
                drain_timeout: self.drain_timeout.0,
                ..ServerOptions::default()
            },
            engine: EngineOptions {
                queue_capacity: self.queue,
                stall_timeout,
                canary_interval: self.canary_interval.limit(),
                metrics: Arc::new(Metrics::new()),
                ..EngineOptions::default()
            },
            model,
            profile: self.profile,
            deadline: self.deadline.limit(),
            data_dir,
            store: StoreOptions {
                retention_age: self.retention_age.limit(),
                retention_bytes: self.retention_bytes.0,
                min_free_bytes: self.min_free_bytes.0,
                max_queued: self.max_jobs,
            },
            chute_username: self.chute_username,
            chute_name: self.chute_name,
        })
    }

    /// With a key anyone may call who shows it; without one only this machine may.
    fn access(&self) -> Result<Access, Error> {
        let key = match (&self.api_key_file, &self.api_key) {
            (Some(path), _) => {
                Some(read_key_file(path).map_err(|e| Error::caller("api_key_file", e))?)
            }
            (None, Some(key)) => {
                let key = secrecy::ExposeSecret::expose_secret(key);
                Some(check_key(key).map_err(|e| Error::caller("api_key", e))?)
            }
            (None, None) => None,
        };
        if key.is_none() && !self.host.is_loopback() {
            let message = format!(
                "{} is reachable by others, which needs a key: give --api-key-file, or listen on 127.0.0.1",
                self.host
            );
            return Err(Error::caller("host", message));
        }
        if key.is_some() && !self.allowed_host.is_empty() {
            tracing::warn!("--allowed-host says nothing where a key is needed");
        }
        let options = AccessOptions {
            key,
            allowed_hosts: self.allowed_host.clone(),
        };
        Access::new(options).map_err(|e| Error::caller("allowed_host", e))
    }

    fn fetcher(&self) -> Result<Option<Fetcher>, Error> {
        if !self.image_urls {
            return Ok(None);
        }
        let options = FetchOptions {
            allowed_hosts: self.image_url_host.clone(),
            max_bytes: Limits::default().max_image_bytes,
            timeout: FETCH_TIMEOUT,
        };
        let fetcher = Fetcher::new(options).map_err(|e| Error::caller("image_urls", e))?;
        Ok(Some(fetcher))
    }
}

/// Where jobs and clips are kept when nothing else is said.
pub(super) fn default_data_dir() -> Result<PathBuf, Error> {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    // systemd lists several, separated by colons; the first is ours.
    if let Some(state) = var("STATE_DIRECTORY") {
        let state = state.to_string_lossy().into_owned();
        let first = state.split(':').next().unwrap_or_default().to_owned();
        return Ok(PathBuf::from(first));
    }
    let base = var("XDG_DATA_HOME").map(PathBuf::from).or_else(|| {
        let home = PathBuf::from(var("HOME")?);
        Some(home.join(".local/share"))
    });
    base.map(|base| base.join("leoma-node")).ok_or_else(|| {
        let message = "cannot be guessed, as HOME is not set; name a folder with --data-dir";
        Error::caller("data_dir", message)
    })
}

/// Logs to stderr; `LEOMA_NODE_LOG` filters as `RUST_LOG` does elsewhere (`debug`, `leoma_node=trace`).
fn init_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LEOMA_NODE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // Fails only when a log is set up already; then that one is used.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}

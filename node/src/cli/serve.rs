//! `leoma-node serve`: a checkpoint behind the HTTP endpoint.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use leoma_models::Error;
use leoma_models::wan::pipeline::Offload;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use super::{DeviceArg, DtypeArg};
use crate::engine::{Engine, WanBackend};
use crate::generation::Preset;
use crate::http::{Limits, ServerOptions, router, serve};

/// After the drain timeout, time for a cancelled job to reach its next step and clean up.
const CANCEL_GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Checkpoint folder: diffusers or official layout.
    #[arg(long, value_name = "DIR", env = "LEOMA_NODE_MODEL")]
    model: PathBuf,
    /// Address to listen on. There is no authentication yet: keep it local, or behind a proxy that has it.
    #[arg(long, default_value = "127.0.0.1", env = "LEOMA_NODE_HOST")]
    host: IpAddr,
    /// Port; 0 picks a free one and prints it.
    #[arg(long, default_value_t = 8000, env = "LEOMA_NODE_PORT")]
    port: u16,
    /// Family of defaults for what a request leaves out: leoma, diffusers or official.
    #[arg(long, default_value = "leoma", env = "LEOMA_NODE_PRESET")]
    preset: Preset,
    /// Compute type: f32, bf16 or f16.
    #[arg(long, default_value = "f32", env = "LEOMA_NODE_DTYPE")]
    dtype: DtypeArg,
    /// Where to compute: cpu, cuda, cuda:N or auto.
    #[arg(long, default_value = "auto", env = "LEOMA_NODE_DEVICE")]
    device: DeviceArg,
    /// What to keep in memory: none (offload nothing) or experts (one expert at a time).
    #[arg(long, default_value = "none", env = "LEOMA_NODE_OFFLOAD")]
    offload: Offload,
    /// Jobs that may wait behind the running one; more are answered 429.
    #[arg(long, value_name = "N", default_value_t = 4, env = "LEOMA_NODE_QUEUE")]
    queue: usize,
    /// Largest request body; a larger one is answered 413.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Limits::default().max_body_bytes,
        env = "LEOMA_NODE_MAX_BODY_BYTES"
    )]
    max_body_bytes: usize,
    /// Seconds that requests in flight may take to finish after a stop signal; a second signal ends at once.
    #[arg(
        long,
        value_name = "S",
        default_value_t = 30,
        env = "LEOMA_NODE_DRAIN_TIMEOUT"
    )]
    drain_timeout: u64,
    /// Folder for clips while they are written; default: the system's temporary folder.
    #[arg(long, value_name = "DIR", env = "LEOMA_NODE_SCRATCH_DIR")]
    scratch_dir: Option<PathBuf>,
}

pub(super) fn run(args: ServeArgs) -> Result<()> {
    init_log();
    if !cfg!(feature = "ffmpeg") {
        let message =
            "this build writes no MP4; build it with the default feature `ffmpeg` to serve";
        return Err(Error::local(message).into());
    }
    let drain_timeout = Duration::from_secs(args.drain_timeout);
    let address = SocketAddr::new(args.host, args.port);
    let limits = Limits {
        max_body_bytes: args.max_body_bytes,
        ..Limits::default()
    };
    let engine = Arc::new(start_engine(args)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the network threads")?;
    runtime.block_on(serve_until_signal(engine, address, limits, drain_timeout))
}

/// Loads the model on the engine thread. The port is not open yet: a caller that can connect gets clips.
fn start_engine(args: ServeArgs) -> Result<Engine> {
    let scratch = args.scratch_dir.unwrap_or_else(std::env::temp_dir);
    tempfile::tempfile_in(&scratch).map_err(|error| {
        let message = format!("{} cannot be written: {error}", scratch.display());
        Error::caller("scratch_dir", message)
    })?;
    tracing::info!(model = %args.model.display(), "loading");
    let device = args.device.open()?;
    let (dtype, preset, offload) = (args.dtype.0, args.preset, args.offload);
    let model = args.model;
    Engine::start(args.queue, move || -> Result<WanBackend> {
        Ok(WanBackend::open(
            &model, preset, dtype, &device, offload, scratch,
        )?)
    })
}

async fn serve_until_signal(
    engine: Arc<Engine>,
    address: SocketAddr,
    limits: Limits,
    drain_timeout: Duration,
) -> Result<()> {
    let stop = watch_signals().context("cannot watch for stop signals")?;
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Error::caller("host, port", format!("cannot listen on {address}: {error}"))
    })?;
    announce(listener.local_addr().context("the socket has no address")?)?;
    tracing::info!(model = ?engine.info(), "ready");
    let options = ServerOptions {
        drain_timeout,
        ..ServerOptions::default()
    };
    let routes = router(Arc::clone(&engine), limits);
    let drained = serve(listener, routes, &options, async { stop.notified().await }, || {
        tracing::info!(load = ?engine.load(), "stopping: requests in flight are finished first");
        engine.close();
    })
    .await;
    if !drained {
        tracing::warn!("some requests did not finish in time and are cancelled");
    }
    engine.cancel_all();
    if !engine.ended(CANCEL_GRACE).await {
        tracing::warn!("the running job did not stop in time; leaving without it");
    }
    Ok(())
}

/// The one line on stdout: scripts read the port from it.
fn announce(address: SocketAddr) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "listening on http://{address}")
        .and_then(|()| out.flush())
        .context("cannot print the address")
}

/// Resolves at the first SIGINT or SIGTERM; the second one ends the process at once.
fn watch_signals() -> std::io::Result<Arc<Notify>> {
    let mut signals = [
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    ];
    let stop = Arc::new(Notify::new());
    let first = Arc::clone(&stop);
    tokio::spawn(async move {
        next(&mut signals).await;
        first.notify_one();
        next(&mut signals).await;
        #[expect(
            clippy::exit,
            reason = "asked twice to stop: nothing is waited for any more"
        )]
        std::process::exit(130);
    });
    Ok(stop)
}

async fn next([interrupt, terminate]: &mut [Signal; 2]) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
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

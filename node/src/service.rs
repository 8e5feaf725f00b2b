//! The running server: from options to an open port, and back to an empty process.
//!
//! ```text
//! bind ─► open the store ─► answer /health ─► load and test the model ─► "listening on …"
//! stop signal ─► not ready ─► what is admitted finishes, within the drain timeout ─► close the port ─► exit 0
//! lost device ─► what is running is told ─► exit 75, for the supervisor to start a new process
//! ```

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use leoma_models::Error;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::engine::{Engine, EngineOptions, FakeBackend, Speed, WanBackend, WanOptions};
use crate::generation::Preset;
use crate::http::{
    Access, App, AppOptions, ChuteIdentity, Fetcher, JudgeOptions, Limits, Profile, ServerOptions,
    raise_file_limit, router, serve,
};
use crate::jobs::{self, Jobs};
use crate::store::{Store, StoreOptions};

/// After the drain timeout, time for a cancelled job to reach its next block and clean up.
const CANCEL_GRACE: Duration = Duration::from_secs(10);
/// After the device was lost, time for the answers that say so to leave.
const LOST_GRACE: Duration = Duration::from_secs(3);
/// At least so long answers that are ready may take to reach their clients.
const ANSWER_GRACE: Duration = Duration::from_secs(3);
/// For the outcomes of ended jobs to be written down.
const WRITE_GRACE: Duration = Duration::from_secs(5);
/// Between two looks at what retention no longer covers.
const TIDY: Duration = Duration::from_secs(60);
/// Exit code that asks the supervisor for a new process.
const RESTART: i32 = 75;
/// How late a self-test may be, besides its interval.
const CANARY_SLACK: Duration = Duration::from_secs(600);

/// Everything a server is made of.
#[derive(Debug)]
pub struct ServiceOptions {
    /// Where to listen.
    pub address: SocketAddr,
    /// Who may call.
    pub access: Access,
    /// Fetches pictures and clips by address.
    pub fetcher: Option<Fetcher>,
    /// Judges clips.
    pub judge: Option<JudgeOptions>,
    /// What requests may ask for.
    pub limits: Limits,
    /// How connections are treated.
    pub server: ServerOptions,
    /// How the engine works.
    pub engine: EngineOptions,
    /// What is served.
    pub model: Model,
    /// Vocabulary of the Chutes routes.
    pub profile: Profile,
    /// Time in which a waiting client must have its clip.
    pub deadline: Option<Duration>,
    /// Folder for jobs and clips.
    pub data_dir: PathBuf,
    /// What the store keeps.
    pub store: StoreOptions,
    /// User name as a chute.
    pub chute_username: String,
    /// Name as a chute; the model's when absent.
    pub chute_name: Option<String>,
}

/// What is served.
#[derive(Debug)]
pub enum Model {
    /// A checkpoint.
    Wan(Box<WanOptions>),
    /// A script.
    Fake {
        /// The TOML file.
        script: PathBuf,
        /// Defaults of requests.
        preset: Preset,
        /// Name in the API; the script's when absent.
        name: Option<String>,
        /// Revision told to who asks.
        revision: Option<String>,
        /// Where clips are written before they are handed out.
        scratch: PathBuf,
    },
}

impl Model {
    fn scratch(&self) -> &Path {
        match self {
            Self::Wan(options) => &options.scratch,
            Self::Fake { scratch, .. } => scratch,
        }
    }

    /// The name it will have, for an identity that is told before it is loaded.
    fn name(&self) -> String {
        let stem = |path: &Path| {
            let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            path.file_stem().map_or_else(
                || "model".into(),
                |name| name.to_string_lossy().into_owned(),
            )
        };
        match self {
            Self::Wan(options) => options
                .name
                .clone()
                .unwrap_or_else(|| stem(&options.files.root)),
            Self::Fake { script, name, .. } => name.clone().unwrap_or_else(|| stem(script)),
        }
    }

    /// Loads it on the engine thread and tests it.
    fn start(self, options: EngineOptions) -> Result<Engine> {
        match self {
            Self::Wan(wan) => {
                tracing::info!(model = %wan.files.root.display(), "loading");
                Engine::start(options, move || Ok(WanBackend::open(*wan)?))
            }
            Self::Fake {
                script,
                preset,
                name,
                revision,
                scratch,
            } => Engine::start(options, move || {
                Ok(FakeBackend::open(&script, preset, name, revision, scratch)?)
            }),
        }
    }
}

/// Runs the server to its end.
///
/// # Errors
/// What keeps it from starting, by whose fault it is.
pub fn run(options: ServiceOptions) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // One is enough for what the network asks of it; a second would be woken for nothing with every request.
        // What takes longer than a wake runs on threads of its own.
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the network threads")?;
    runtime.block_on(service(options))
}

async fn service(options: ServiceOptions) -> Result<()> {
    let mut stop = watch_signals().context("cannot watch for stop signals")?;
    let files = raise_file_limit();
    tracing::debug!(files, "open files allowed");
    // Before minutes of loading: a port that is taken is better known now.
    let listener = TcpListener::bind(options.address).await.map_err(|error| {
        let message = format!("cannot listen on {}: {error}", options.address);
        Error::caller("host, port", message)
    })?;
    let address = listener.local_addr().context("the socket has no address")?;
    let jobs = open_jobs(&options).await?;
    let ServiceOptions {
        access,
        fetcher,
        judge,
        limits,
        mut server,
        engine: engine_options,
        model,
        profile,
        deadline,
        store,
        chute_username,
        chute_name,
        ..
    } = options;
    let chute_name = chute_name.unwrap_or_else(|| model.name());
    let app = App::new(AppOptions {
        limits,
        access,
        profile,
        deadline,
        chute: ChuteIdentity::new(&chute_username, &chute_name),
        fetcher,
        judge,
        jobs: jobs.clone(),
        retention_age: store.retention_age,
        canary_max_age: engine_options
            .canary_interval
            .map(|interval| 2 * interval + CANARY_SLACK),
        metrics: Arc::clone(&engine_options.metrics),
    });

    let (close, mut closed) = watch::channel(false);
    let routes = router(app.clone());
    let drain_timeout = server.drain_timeout;
    server.drain_timeout = drain_timeout.max(ANSWER_GRACE);
    let serving = tokio::spawn(async move {
        let shutdown = async { drop(closed.wait_for(|close| *close).await) };
        serve(listener, routes, &server, shutdown, || {}).await
    });

    tracing::info!("{address} answers /health; the model is loading");
    let loading = tokio::task::spawn_blocking(move || model.start(engine_options));
    let engine = tokio::select! {
        loaded = loading => Arc::new(loaded.context("loading ended without a result")??),
        _ = stop.wait_for(|stop| *stop) => {
            tracing::info!("stopped while loading");
            exit(0);
        }
    };
    let speed_note = speed_note(&engine);
    recall_speed(&engine, jobs.store(), &speed_note).await;
    app.set_engine(Arc::clone(&engine));
    let running = tokio::spawn(jobs::run(
        jobs.clone(),
        Arc::clone(&engine),
        app.prepare_stored(),
    ));
    let tidy = tokio::spawn(keep(jobs.clone(), Arc::clone(&engine), speed_note.clone()));
    let watchdog = tokio::spawn(feed_watchdog(Arc::clone(&engine)));
    announce(address)?;
    tell_systemd(&[NotifyState::Ready]);
    tracing::info!(model = ?engine.info(), "ready");

    let lost = tokio::select! {
        _ = stop.wait_for(|stop| *stop) => None,
        message = lost(&engine) => Some(message),
    };
    app.drain();
    tell_systemd(&[NotifyState::Stopping]);
    watchdog.abort();
    tidy.abort();
    let ending = Ending {
        app,
        engine,
        jobs,
        close,
        serving,
        running,
    };
    if let Some(message) = lost {
        tracing::error!(
            message,
            "the device is lost: leaving, so that a new process can take over"
        );
        ending.give_up().await;
        exit(RESTART);
    }
    ending.drain(drain_timeout, &speed_note).await;
    Ok(())
}

/// Opens the data folder and takes up what waits in it.
async fn open_jobs(options: &ServiceOptions) -> Result<Jobs> {
    let (dir, store) = (options.data_dir.clone(), options.store.clone());
    let opened = tokio::task::spawn_blocking(move || Store::open(&dir, store));
    let (store, recovered) = opened
        .await
        .context("opening the data folder ended without a result")?
        .map_err(|error| Error::caller("data_dir", error.to_string()))?;
    if !recovered.requeued.is_empty() || !recovered.failed.is_empty() {
        tracing::warn!(
            requeued = recovered.requeued.len(),
            failed = recovered.failed.len(),
            "jobs were running when the node last ended"
        );
    }
    // The folder is locked: whatever lies here was left by an earlier process.
    let scratch = options.model.scratch();
    let _ = std::fs::remove_dir_all(scratch);
    std::fs::create_dir_all(scratch).map_err(|error| {
        let message = format!("{} cannot be made: {error}", scratch.display());
        Error::caller("data_dir", message)
    })?;
    let metrics = Arc::clone(&options.engine.metrics);
    Ok(Jobs::open(store, metrics).await?)
}

/// What has to end, in order.
struct Ending {
    app: App,
    engine: Arc<Engine>,
    jobs: Jobs,
    close: watch::Sender<bool>,
    serving: JoinHandle<bool>,
    running: JoinHandle<()>,
}

impl Ending {
    async fn drain(self, drain_timeout: Duration, speed_note: &str) {
        let Self {
            app,
            engine,
            jobs,
            close,
            serving,
            running,
        } = self;
        tracing::info!(load = ?engine.load(), "stopping: what is running is finished first");
        let until = Instant::now() + drain_timeout;
        engine.close();
        // The port stays open meanwhile: who asks is told that the node stops, and who follows a job sees
        // how it ends.
        if !engine.ended(drain_timeout).await {
            tracing::warn!(
                "not everything was finished in time; what is left is cancelled or waits for the next start"
            );
            engine.cancel_all();
            if !engine.ended(CANCEL_GRACE).await {
                tracing::warn!("the running job did not stop in time; leaving without it");
            }
        }
        if timeout(WRITE_GRACE, running).await.is_err() {
            tracing::warn!(
                "the outcome of a job is not written down; it is begun again at the next start"
            );
        }
        app.stop_streams();
        close.send_replace(true);
        let left = until.saturating_duration_since(Instant::now());
        let answered = timeout(left.max(ANSWER_GRACE), serving).await;
        if !matches!(answered, Ok(Ok(true))) {
            tracing::warn!("not every answer reached its client in time");
        }
        remember_speed(&engine, jobs.store(), speed_note).await;
    }

    /// The engine's threads may never answer again: nothing waits for them.
    async fn give_up(self) {
        self.app.stop_streams();
        self.close.send_replace(true);
        let _ = timeout(LOST_GRACE, async {
            let _ = self.running.await;
            let _ = self.serving.await;
        })
        .await;
    }
}

async fn lost(engine: &Engine) -> String {
    let mut health = engine.health();
    let lost = health.wait_for(|health| health.lost.is_some()).await;
    lost.ok()
        .and_then(|health| health.lost.clone())
        .unwrap_or_else(|| "the engine has ended".into())
}

/// Name of the note that keeps what was learned about the speed of this model on this device.
fn speed_note(engine: &Engine) -> String {
    let info = engine.info();
    let digest = info.digest.as_deref().unwrap_or("");
    format!(
        "speed {} {} {} {digest}",
        info.kind, info.device, info.dtype
    )
}

async fn recall_speed(engine: &Engine, store: &Store, note: &str) {
    if let Ok(Some(text)) = store.get_note(note).await
        && let Ok(speed) = serde_json::from_str::<Speed>(&text)
    {
        engine.set_speed(speed);
    }
}

async fn remember_speed(engine: &Engine, store: &Store, note: &str) {
    let text = serde_json::to_string(&engine.speed()).unwrap_or_default();
    if let Err(error) = store.set_note(note, &text).await {
        tracing::warn!(%error, "the speed of this device is not kept");
    }
}

/// Housekeeping while the server runs.
async fn keep(jobs: Jobs, engine: Arc<Engine>, speed_note: String) {
    let speed = async {
        let mut ticks = tokio::time::interval(TIDY);
        ticks.tick().await; // the first comes at once
        loop {
            ticks.tick().await;
            remember_speed(&engine, jobs.store(), &speed_note).await;
        }
    };
    tokio::join!(jobs.keep_tidy(TIDY), speed);
}

/// The one line on stdout: scripts read the port from it.
fn announce(address: SocketAddr) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "listening on http://{address}")
        .and_then(|()| out.flush())
        .context("cannot print the address")
}

/// Does nothing where no systemd listens.
fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}

/// Pings systemd's watchdog as long as the engine is well: its own watchdog notices jobs without signs of
/// life, and then the pings stop.
async fn feed_watchdog(engine: Arc<Engine>) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut ticks = tokio::time::interval(limit / 3);
    loop {
        ticks.tick().await;
        if engine.health().borrow().lost.is_some() {
            return;
        }
        tell_systemd(&[NotifyState::Watchdog]);
    }
}

/// Becomes true at the first SIGINT or SIGTERM; the second one ends the process at once.
fn watch_signals() -> std::io::Result<watch::Receiver<bool>> {
    let mut signals = [
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    ];
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        next(&mut signals).await;
        stop.send_replace(true);
        next(&mut signals).await;
        exit(130);
    });
    Ok(stopped)
}

async fn next([interrupt, terminate]: &mut [Signal; 2]) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Ends the process without waiting for threads that may never end.
#[expect(clippy::exit, reason = "nothing is waited for any more")]
fn exit(code: i32) -> ! {
    std::process::exit(code)
}

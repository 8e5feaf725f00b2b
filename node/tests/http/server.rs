//! A server over a scripted backend, and a client that can misbehave.

use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use leoma_models::weights::ModelKind;
use leoma_node::engine::{
    Admission, Backend, Clip, Control, Cost, Decode, Engine, EngineError, EngineOptions, Job,
    ModelInfo, Stage,
};
use leoma_node::generation::{
    GenerationRequest, Media, ModelDefaults, OutputFormat, Preset, StageSeconds, resolve,
};
use leoma_node::http::{
    Access, AccessOptions, App, AppOptions, ChuteIdentity, Limits, Profile, ServerOptions, router,
    serve,
};
use leoma_node::jobs::Jobs;
use leoma_node::media::{ImageLimits, decode};
use leoma_node::store::{Store, StoreOptions};
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// Stands for a file; no test here looks inside.
pub(crate) const MP4: &[u8] = b"\0\0\0\x18ftypisom, then the rest";

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A door that jobs with the prompt `wait` stop at.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    open: Mutex<bool>,
    moved: Condvar,
}

impl Gate {
    pub(crate) fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.moved.notify_all();
    }

    fn wait_a_little(&self) -> bool {
        let open = self.open.lock().unwrap();
        let (open, _) = self
            .moved
            .wait_timeout(open, Duration::from_millis(5))
            .unwrap();
        *open
    }
}

/// Does what the prompt says: `wait`, `panic`, `artifact`, `disk full`, `local`; else makes a clip.
struct Scripted {
    gate: Arc<Gate>,
    events: mpsc::Sender<&'static str>,
}

/// The real rules, for a model that can do with and without a picture.
#[derive(Debug)]
struct Checks;

impl Admission for Checks {
    fn prepare(&self, request: &GenerationRequest) -> Result<Job, EngineError> {
        assert!(request.prompt != "panic in check", "scripted");
        let model = ModelDefaults {
            kind: ModelKind::Ti2v5b,
            flow_shift: None,
            boundary_ratio: None,
            temporal_stride: 4,
            size_multiple: [32, 32],
        };
        let limits = ImageLimits::default();
        let image = request
            .image
            .as_deref()
            .map(|bytes| decode(bytes, &limits))
            .transpose()?;
        let size = image.as_ref().map(|image| [image.height(), image.width()]);
        let settings = resolve(request, Preset::Leoma, &model, size)?;
        Ok(Job {
            settings,
            image,
            cost: Cost::default(),
        })
    }
}

/// Nothing is left to do after the script.
struct Done(Clip);

impl Decode for Done {
    fn decode(self: Box<Self>, _: &Control) -> Result<Clip, EngineError> {
        Ok(self.0)
    }
}

impl Backend for Scripted {
    fn info(&self) -> ModelInfo {
        ModelInfo {
            name: "scripted".into(),
            kind: "ti2v-5b".into(),
            digest: None,
            revision: None,
            preset: "leoma".into(),
            dtype: "f32".into(),
            bf16_rounding: None,
            lossy: false,
            loras: Vec::new(),
            device: "cpu".into(),
            attention: "cpu-flash".into(),
            text_to_video: true,
            image_to_video: true,
            size_720p: [1280, 704],
            defaults: json!({"fps": 16}),
        }
    }

    fn admission(&self) -> Arc<dyn Admission> {
        Arc::new(Checks)
    }

    fn canary(&mut self, _: &Control) -> Result<Vec<f32>, EngineError> {
        Ok(vec![1.0])
    }

    fn denoise(
        &mut self,
        job: &Arc<Job>,
        control: &Control,
    ) -> Result<Box<dyn Decode>, EngineError> {
        let message = "scripted".to_owned();
        match job.settings.params.prompt.as_str() {
            "panic" => panic!("scripted panic"),
            "artifact" => return Err(EngineError::Artifact { message }),
            "disk full" => return Err(EngineError::DiskFull { message }),
            "local" => return Err(EngineError::Local { message }),
            "wait" => {
                self.events.send("started").unwrap();
                for step in 0.. {
                    control.progress(Stage::Denoise, step, 30);
                    if control.cancelled() {
                        self.events.send("cancelled").unwrap();
                        return Err(EngineError::Cancelled);
                    }
                    if self.gate.wait_a_little() {
                        break;
                    }
                }
            }
            _ => {}
        }
        Ok(Box::new(Done(Clip {
            media: Media {
                bytes: MP4.into(),
                format: OutputFormat::Mp4,
                poster: MP4[..0].into(),
            },
            effective: job.effective(),
            stages: StageSeconds::default(),
            queue_s: 0.0,
        })))
    }
}

/// A running server on a port of its own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) gate: Arc<Gate>,
    pub(crate) engine: Arc<Engine>,
    _data: tempfile::TempDir,
    events: mpsc::Receiver<&'static str>,
    stop: Option<oneshot::Sender<()>>,
    drained: mpsc::Receiver<bool>,
}

impl Server {
    pub(crate) fn start(queue: usize) -> Self {
        let options = ServerOptions {
            drain_timeout: PATIENCE,
            ..ServerOptions::default()
        };
        Self::with(
            queue,
            Limits {
                max_body_bytes: 12 << 20,
                ..Limits::default()
            },
            options,
        )
    }

    pub(crate) fn with(queue: usize, limits: Limits, options: ServerOptions) -> Self {
        let gate = Arc::new(Gate::default());
        let (events_in, events) = mpsc::channel();
        let script = Scripted {
            gate: Arc::clone(&gate),
            events: events_in,
        };
        let options_of_engine = EngineOptions {
            queue_capacity: queue,
            ..EngineOptions::default()
        };
        let metrics = Arc::clone(&options_of_engine.metrics);
        let started = Engine::start(options_of_engine, || Ok::<_, EngineError>(script));
        let engine = Arc::new(started.unwrap());
        let data = tempfile::tempdir().unwrap();
        let store = StoreOptions {
            retention_age: None,
            retention_bytes: 1 << 30,
            min_free_bytes: 0,
            max_queued: 8,
        };
        let (store, _) = Store::open(data.path(), store).unwrap();
        let (address_in, address) = mpsc::channel();
        let (drained_in, drained) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let closing = Arc::clone(&engine);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let jobs = Jobs::open(store, Arc::clone(&metrics)).await.unwrap();
                let app = App::new(AppOptions {
                    limits,
                    access: Access::new(AccessOptions::default()).unwrap(),
                    profile: Profile::Leoma,
                    deadline: None,
                    chute: ChuteIdentity::new("local", "scripted"),
                    fetcher: None,
                    judge: None,
                    jobs: jobs.clone(),
                    retention_age: None,
                    canary_max_age: None,
                    metrics,
                });
                app.set_engine(Arc::clone(&closing));
                let running = Arc::clone(&closing);
                tokio::spawn(leoma_node::jobs::run(jobs, running, app.prepare_stored()));
                let routes = router(app);
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                address_in.send(listener.local_addr().unwrap()).unwrap();
                let stopped = async { drop(stopped.await) };
                let drained = serve(listener, routes, &options, stopped, || closing.close()).await;
                let _ = drained_in.send(drained); // only shutdown tests listen
            });
        });
        let address = address.recv_timeout(PATIENCE).unwrap();
        Self {
            address,
            gate,
            engine,
            _data: data,
            events,
            stop: Some(stop),
            drained,
        }
    }

    /// Asks the server to stop, as a signal would.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits for the end of the server: whether every request in flight was finished.
    pub(crate) fn drained(&self) -> bool {
        self.drained.recv_timeout(PATIENCE).unwrap()
    }

    /// Waits for the backend to tell `event`.
    pub(crate) fn expect_event(&self, event: &str) {
        assert_eq!(self.events.recv_timeout(PATIENCE).unwrap(), event);
    }

    /// Waits until the engine has this many jobs running and queued.
    pub(crate) fn expect_load(&self, running: usize, queued: usize) {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let load = self.engine.load();
            if (load.running, load.queued) == (running, queued) {
                return;
            }
            assert!(std::time::Instant::now() < end, "{load:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path} HTTP/1.1\r\n"), b"")
    }

    pub(crate) fn generate(&self, body: &Value) -> Reply {
        self.post("/generate", body.to_string().as_bytes())
    }

    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Reply {
        self.send(
            &format!("POST {path} HTTP/1.1\r\nContent-Type: application/json\r\n"),
            body,
        )
    }

    /// Sends `/generate` on a connection of its own and leaves the answer unread.
    pub(crate) fn start_generate(&self, body: &Value) -> TcpStream {
        let body = body.to_string();
        let mut stream = self.connect();
        let length = body.len();
        write!(
            stream,
            "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        stream
    }

    /// Sends one request; see [`send`].
    pub(crate) fn send(&self, head: &str, body: &[u8]) -> Reply {
        send(self.address, head, body)
    }

    /// An answer without a length, to its end.
    pub(crate) fn get_stream(&self, path: &str) -> String {
        self.stream(path, "")
    }

    /// The events after one.
    pub(crate) fn get_stream_after(&self, path: &str, last: usize) -> String {
        self.stream(path, &format!("Last-Event-ID: {last}\r\n"))
    }

    fn stream(&self, path: &str, headers: &str) -> String {
        let mut stream = self.connect();
        // HTTP/1.0 has no chunks: the stream ends with the connection.
        let head = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Proves that the server still works.
    pub(crate) fn expect_still_serving(&self) {
        let reply = self.generate(&json!({"prompt": "a boat", "seed": 5}));
        assert_eq!((reply.status, reply.header("x-leoma-seed")), (200, "5"));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.gate.open();
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(()); // the server may have ended already
        }
    }
}

/// Sends `head` (request line and headers, each line ended) and `body`, reads one answer.
pub(crate) fn send(address: SocketAddr, head: &str, body: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!("{head}Host: localhost\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses early may have stopped reading; its answer is what matters.
    let _ = stream.write_all(body);
    Reply::read_one(&mut stream)
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn read_one(stream: &mut TcpStream) -> Self {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let status = line
            .split(' ')
            .nth(1)
            .unwrap_or_else(|| panic!("{line:?}"))
            .parse()
            .unwrap();
        let mut headers = Vec::new();
        loop {
            line.clear();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let mut reply = Self {
            status,
            headers,
            body: Vec::new(),
        };
        let length: u64 = reply.header("content-length").parse().unwrap();
        reader.take(length).read_to_end(&mut reply.body).unwrap();
        assert_eq!(reply.body.len() as u64, length);
        reply
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        let value = found.next().map_or("", |(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice in {self:?}");
        value
    }

    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/json");
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn code(&self) -> String {
        let json = self.json();
        let code = json.get("code").unwrap_or(&json["error"]["code"]);
        code.as_str().unwrap().to_owned()
    }

    pub(crate) fn message(&self) -> String {
        let json = self.json();
        let text = json.get("message").unwrap_or(&json["error"]["message"]);
        text.as_str().unwrap().to_owned()
    }
}

/// Ends the client's side without reading, as a client that gives up.
pub(crate) fn leave(stream: &TcpStream) {
    stream.shutdown(Shutdown::Both).unwrap();
}

/// A PNG file of this size, in base64.
pub(crate) fn picture(width: u32, height: u32) -> String {
    STANDARD.encode(png(width, height))
}

pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    let image = image::RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([(x * 9) as u8, (y * 7) as u8, (x ^ y) as u8])
    });
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

//! A folder, the processes that serve it one after the other, and what is asked of them.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::client::{Ask, PATIENCE, Reply};

/// A script in which everything goes well and takes next to no time.
pub(crate) const FAST: &str = "decode_s = 0.01\n";

/// A rule by which jobs with `prompt` do not get past `at`.
pub(crate) fn hangs(prompt: &str, at: &str) -> String {
    fault(prompt, at, "hang")
}

/// A rule by which jobs with `prompt` end in `fault` at `at`.
pub(crate) fn fault(prompt: &str, at: &str, fault: &str) -> String {
    format!("[[rule]]\nprompt_contains = \"{prompt}\"\nat = \"{at}\"\nfault = \"{fault}\"\n")
}

/// A small request.
pub(crate) fn clip(prompt: &str) -> Value {
    json!({"prompt": prompt, "size": "64x64", "num_frames": 5, "fps": 8, "steps": 2, "seed": 7})
}

/// As [`clip`], as the Chutes routes spell it.
pub(crate) fn flat(prompt: &str) -> Value {
    json!({"prompt": prompt, "width": 64, "height": 64, "num_frames": 5, "fps": 8, "steps": 2})
}

/// A data folder, with room beside it for scripts and logs.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    starts: Cell<usize>,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            starts: Cell::new(0),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// Names of the files in a folder of the data folder.
    pub(crate) fn files(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.data().join(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// `leoma-node` with `args` and nothing from the outside.
    pub(crate) fn program(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leoma-node"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LEOMA_NODE_") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .env("XDG_CONFIG_HOME", self.folder.path())
            .env("XDG_DATA_HOME", self.path("home"))
            .env_remove("STATE_DIRECTORY")
            .env_remove("NOTIFY_SOCKET")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// The command that serves `script`; options given twice would be an error, so defaults that tests
    /// change are left out.
    pub(crate) fn serve(&self, script: &str, options: &[&str]) -> Command {
        let path = self.path("fake.toml");
        std::fs::write(&path, script).unwrap();
        let mut command = self.program(&["serve", "--port", "0", "--device", "cpu"]);
        command
            .arg("--fake-engine")
            .arg(path)
            .arg("--data-dir")
            .arg(self.data())
            .args(options);
        if !options.contains(&"--min-free-bytes") {
            command.args(["--min-free-bytes", "1MiB"]);
        }
        command
    }

    /// Starts a server and waits until it is ready.
    pub(crate) fn start(&self, script: &str, options: &[&str]) -> Node {
        self.start_command(self.serve(script, options))
    }

    pub(crate) fn start_command(&self, command: Command) -> Node {
        let mut node = self.launch(command);
        let stdout = node.child.stdout.take().unwrap();
        let (sender, line) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = sender.send(line); // the test may have given up
        });
        let line = line.recv_timeout(PATIENCE).unwrap_or_default();
        let address = line.trim().strip_prefix("listening on http://");
        node.address = address
            .unwrap_or_else(|| panic!("{line:?}\n{}", node.log()))
            .parse()
            .unwrap();
        node
    }

    /// Starts a server and does not wait for it.
    pub(crate) fn launch(&self, mut command: Command) -> Node {
        let number = self.starts.replace(self.starts.get() + 1);
        let log = self.path(&format!("log-{number}"));
        let child = command
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Node {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            log,
        }
    }
}

/// A running server.
pub(crate) struct Node {
    child: Child,
    pub(crate) address: SocketAddr,
    log: PathBuf,
}

impl Drop for Node {
    #[expect(clippy::print_stderr, reason = "the log of a server whose test failed")]
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has usually ended
        let _ = self.child.wait();
        if thread::panicking() {
            eprint!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

impl Node {
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn log_path(&self) -> &Path {
        &self.log
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    /// As `kill -9`, and gone when this returns.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end; returns the exit code.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the server does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Resident memory in KiB.
    pub(crate) fn rss_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.unwrap().trim().strip_suffix("kB").unwrap();
        kib.trim().parse().unwrap()
    }

    pub(crate) fn send(&self, ask: &Ask) -> Reply {
        ask.send(self.address)
            .unwrap_or_else(|error| panic!("{error}: {ask:?}"))
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send(&Ask::get(path))
    }

    pub(crate) fn delete(&self, id: &str) -> Reply {
        self.send(&Ask::new("DELETE", &format!("/v1/videos/{id}")))
    }

    pub(crate) fn generate(&self, body: &Value) -> Reply {
        self.send(&Ask::post("/generate", body))
    }

    /// Sends `/generate` and leaves the answer unread.
    pub(crate) fn start_generate(&self, body: &Value) -> TcpStream {
        Ask::post("/generate", body).open(self.address).unwrap()
    }

    /// Makes a job; its id.
    pub(crate) fn create(&self, body: &Value) -> String {
        self.create_once(body, None)
    }

    pub(crate) fn create_once(&self, body: &Value, key: Option<&str>) -> String {
        let mut ask = Ask::post("/v1/videos", body);
        if let Some(key) = key {
            ask = ask.header("Idempotency-Key", key);
        }
        let reply = self.send(&ask);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn video(&self, id: &str) -> Value {
        let reply = self.get(&format!("/v1/videos/{id}"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// Waits until the video is as wanted.
    pub(crate) fn wait(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until("the video is not as wanted", || {
            let video = self.video(id);
            if wanted(&video) {
                Ok(video)
            } else {
                Err(video)
            }
        })
    }

    /// Waits until the job is in a stage, as events and videos name it.
    pub(crate) fn wait_stage(&self, id: &str, stage: &str) {
        let video = self.wait(id, |video| {
            assert!(!is_finished(video), "{video}");
            video["stage"] == stage
        });
        assert_eq!(video["status"], "in_progress");
    }

    /// Waits for the end of a job, whichever it is.
    pub(crate) fn finished(&self, id: &str) -> Value {
        self.wait(id, is_finished)
    }

    /// Waits until a job is completed and checks its file.
    pub(crate) fn completed(&self, id: &str) -> Value {
        let video = self.finished(id);
        assert_eq!(video["status"], "completed", "{video}");
        let clip = self.content(id).expect("content of a completed video");
        assert_eq!(video["bytes"], clip.len());
        video
    }

    /// Waits for a job to fail and returns the code.
    pub(crate) fn failed(&self, id: &str) -> String {
        let video = self.finished(id);
        assert_eq!(video["status"], "failed", "{video}");
        video["error"]["code"].as_str().unwrap().to_owned()
    }

    /// The clip, proven whole; `None` while there is none.
    pub(crate) fn content(&self, id: &str) -> Option<Vec<u8>> {
        let reply = self.get(&format!("/v1/videos/{id}/content"));
        if reply.status == 409 {
            assert_eq!(reply.code(), "not_completed");
            return None;
        }
        assert_eq!(reply.status, 200, "{}", reply.text());
        let digest = Sha256::digest(&reply.body);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(reply.header("etag"), format!("\"{hex}\""));
        assert_whole_mp4(&reply.body);
        Some(reply.body)
    }

    /// Ids of all videos, each only once.
    pub(crate) fn list(&self) -> Vec<String> {
        let list = self.get("/v1/videos?limit=100&order=asc").json();
        let ids = list["data"].as_array().unwrap().iter();
        let ids: Vec<_> = ids
            .map(|video| video["id"].as_str().unwrap().to_owned())
            .collect();
        let mut once = ids.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), ids.len(), "listed twice: {ids:?}");
        ids
    }

    /// All events of a finished job, proven to be complete.
    pub(crate) fn events(&self, id: &str) -> Vec<Value> {
        let reply = self.get(&format!("/v1/videos/{id}/events"));
        assert_eq!(reply.status, 200);
        let events = reply.events();
        for (seq, event) in events.iter().enumerate() {
            assert_eq!(event["seq"], seq, "{events:?}");
        }
        let last = events.last().expect("an event");
        assert!(
            matches!(last["type"].as_str(), Some("completed" | "failed")),
            "{last}"
        );
        assert_eq!(last["video"]["id"], id);
        events
    }

    /// Waits until the engine has this many jobs running and queued.
    pub(crate) fn wait_load(&self, running: usize, queued: usize) {
        until("the load is not as wanted", || {
            let load = self.get("/info").json()["load"].clone();
            let there = load["running"] == running && load["queued"] == queued;
            if there { Ok(()) } else { Err(load) }
        });
    }

    /// A sample of `/metrics`; 0 when it is absent.
    pub(crate) fn metric(&self, sample: &str) -> f64 {
        let text = self.get("/metrics").text();
        let value = text.lines().find_map(|line| line.strip_prefix(sample));
        value.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// Proves that the server works as on the first day.
    pub(crate) fn expect_well(&self) {
        let reply = self.generate(&flat("a boat"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_whole_mp4(&reply.body);
        let id = self.create(&clip("a boat"));
        self.completed(&id);
    }
}

/// Asks again and again until the answer is `Ok`.
pub(crate) fn until<T, E: std::fmt::Display>(
    problem: &str,
    mut ask: impl FnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(found) => assert!(Instant::now() < deadline, "{problem}: {found}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn is_finished(video: &Value) -> bool {
    matches!(video["status"].as_str(), Some("completed" | "failed"))
}

/// The types of events, without repetitions of `progress`.
pub(crate) fn kinds(events: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<_> = events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    kinds.dedup();
    kinds
}

/// The boxes of an MP4 file must fill it exactly, with the index and the pictures among them.
pub(crate) fn assert_whole_mp4(bytes: &[u8]) {
    let (mut rest, mut names) = (bytes, Vec::new());
    while !rest.is_empty() {
        assert!(rest.len() >= 8, "{} bytes after {names:?}", rest.len());
        let size = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        names.push(String::from_utf8_lossy(&rest[4..8]).into_owned());
        assert!((8..=rest.len()).contains(&size), "{size} in {names:?}");
        rest = &rest[size..];
    }
    for name in ["ftyp", "moov", "mdat"] {
        assert!(names.iter().any(|other| other == name), "{names:?}");
    }
}

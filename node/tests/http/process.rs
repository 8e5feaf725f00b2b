//! The program itself: a tiny checkpoint served by `leoma-node serve`, and signals.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use leoma_models::tiny::make_tiny;
use leoma_models::weights::ModelKind;
use serde_json::json;

use crate::server::{Reply, leave, picture, send};

/// One checkpoint for all tests here.
static TINY: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny-serve");
    let _ = std::fs::remove_dir_all(&dir); // of an earlier run
    make_tiny(ModelKind::Ti2v5b, 7, &dir).unwrap();
    dir
});

/// A folder of its own for each server.
fn data_dir() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("serve-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir); // of an earlier run
    dir
}

pub(crate) struct Node {
    child: Child,
    pub(crate) address: std::net::SocketAddr,
    log: Option<ChildStderr>,
}

fn command(model: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leoma-node"));
    command
        .args(["serve", "--port", "0", "--device", "cpu", "--model"])
        .arg(model)
        .arg("--data-dir")
        .arg(data_dir());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Node {
    pub(crate) fn start(options: &[&str]) -> Self {
        let mut child = command(&TINY).args(options).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().strip_prefix("listening on http://");
        let address = address
            .unwrap_or_else(|| panic!("{line:?}"))
            .parse()
            .unwrap();
        let log = child.stderr.take();
        Self {
            child,
            address,
            log,
        }
    }

    fn generate(&self, body: &serde_json::Value) -> Reply {
        let head = "POST /generate HTTP/1.1\r\nContent-Type: application/json\r\n";
        send(self.address, head, body.to_string().as_bytes())
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &id])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits for the end; returns the exit code and the log.
    fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut log = String::new();
        std::io::Read::read_to_string(&mut self.log.take().unwrap(), &mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has usually ended
        let _ = self.child.wait();
    }
}

#[test]
fn the_true_request_gets_a_true_clip() {
    let node = Node::start(&[]);
    let body = json!({
        "prompt": "a secret wish", "image": picture(100, 70), "fps": 16, "frames": 6,
        "resolution": "96x64", "fast": true, "steps": 2, "seed": 3,
    });
    let reply = node.generate(&body);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("x-leoma-seed"), "3");
    assert_eq!(reply.header("x-leoma-steps"), "2");
    assert_eq!(reply.header("x-leoma-frames"), "5", "6 is not 4n + 1");
    assert_eq!(reply.header("x-leoma-size"), "96x64");

    let file = tempfile::NamedTempFile::with_suffix(".mp4").unwrap();
    std::fs::write(file.path(), &reply.body).unwrap();
    let probe = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-select_streams",
            "v:0",
            "-count_frames",
            "-of",
            "csv=p=0",
        ])
        .args(["-show_entries"])
        .arg("stream=codec_name,width,height,pix_fmt,r_frame_rate,nb_read_frames")
        .arg(file.path())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&probe.stdout).trim(),
        "h264,96,64,yuv420p,16/1,5"
    );

    // The same request again gives the same file; another seed another one.
    assert_eq!(node.generate(&body).body, reply.body);
    let mut other = body.clone();
    other["seed"] = json!(4);
    assert_ne!(node.generate(&other).body, reply.body);

    // What the model cannot do is the caller's fault, named.
    for (field, value) in [("resolution", "100x64"), ("image", "AAAA")] {
        let mut wrong = body.clone();
        wrong[field] = json!(value);
        assert_eq!(node.generate(&wrong).status, 400, "{field}");
    }

    node.signal("TERM");
    let (code, log) = node.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(
        log.contains("job done") && !log.contains("secret wish"),
        "{log}"
    );
}

#[test]
fn a_running_job_is_cancelled_by_its_client_and_by_shutdown() {
    let node = Node::start(&["--drain-timeout", "0"]);
    // Long enough to still run when the signal comes.
    let body = json!({"prompt": "p", "frames": 81, "resolution": "480p", "steps": 200});
    let head = format!(
        "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.to_string().len()
    );
    let client = || {
        let mut stream = std::net::TcpStream::connect(node.address).unwrap();
        std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
        stream
    };
    let running = || {
        let health = send(node.address, "GET /info HTTP/1.1\r\n", b"").json();
        health["load"]["running"] == 1
    };
    let wait_for = |wanted: bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while running() != wanted {
            assert!(Instant::now() < deadline, "running is not {wanted}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let gone = client();
    wait_for(true);
    leave(&gone);
    wait_for(false);

    let _waiting = client();
    wait_for(true);
    node.signal("INT");
    let (code, log) = node.end();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("job cancelled").count(), 2, "{log}");
}

#[test]
fn an_unusable_start_is_refused_with_exit_code_2() {
    let empty = tempfile::tempdir().unwrap();
    let refused = |command: &mut Command| -> String {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        assert_eq!(status.code(), Some(2), "{stderr}");
        assert!(stdout.is_empty());
        stderr
    };
    let name = empty.path().display().to_string();
    assert!(refused(&mut command(empty.path())).contains(&name));
    assert!(refused(&mut command(Path::new("/nonexistent"))).contains("/nonexistent"));
    let mut nowhere = Command::new(env!("CARGO_BIN_EXE_leoma-node"));
    nowhere
        .args([
            "serve",
            "--port",
            "0",
            "--data-dir",
            "/proc/nonexistent",
            "--model",
        ])
        .arg(&*TINY);
    let message = refused(&mut nowhere);
    assert!(message.contains("/proc/nonexistent"), "{message}");
    // A port that is taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut again = Command::new(env!("CARGO_BIN_EXE_leoma-node"));
    again
        .args(["serve", "--device", "cpu", "--port", &port, "--model"])
        .arg(&*TINY)
        .arg("--data-dir")
        .arg(data_dir());
    assert!(refused(&mut again).contains(&port));
}

//! Against `leoma-node serve`: the same frames as a local run, cancellation, a server that dies meanwhile.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use leoma_models::tiny::make_tiny;
use leoma_models::weights::ModelKind;
use leoma_node::media::{read_video_info, write_png};
use serde_json::Value;

use crate::{files, generate, signal};

/// A running server; killed when dropped.
struct Serve {
    child: Child,
    host: String,
}

impl Serve {
    fn start(folder: &Path, port: u16, engine: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leoma-node"));
        command
            .args(["serve", "--port", &port.to_string(), "--data-dir"])
            .arg(folder.join("data"))
            .args(engine)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        crate::without_settings(&mut command);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let host = line.trim().strip_prefix("listening on ");
        let host = host.unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self { child, host }
    }

    fn fake(folder: &Path, port: u16, script: &str) -> Self {
        std::fs::write(folder.join("engine.toml"), script).unwrap();
        Self::start(folder, port, &["--fake-engine", "engine.toml"])
    }

    fn port(&self) -> u16 {
        self.host.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    fn get(&self, path: &str) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port())).unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Waits until the only job has this status.
    fn wait_for(&self, status: &str) -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let job = self.get("/v1/videos")["data"][0].clone();
            if job["status"] == status {
                return job;
            }
            assert!(Instant::now() < deadline, "{job} is not {status}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

fn done(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    stderr
}

/// A digest of every decoded frame.
fn frames(clip: &Path) -> String {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(clip)
        .args(["-f", "framemd5", "-"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn frames_are_those_of_a_local_run() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_tiny(ModelKind::Ti2v5b, 7, &folder.join("model")).unwrap();
    let pixels: Vec<u8> = (0..90 * 70 * 3u32).map(|i| (i * 7 % 251) as u8).collect();
    write_png(&folder.join("first.png"), 90, 70, &pixels).unwrap();
    let server = Serve::start(folder, 0, &["--model", "model", "--device", "cpu"]);
    let run = |output: &str, seed: &str, host: Option<&str>| {
        let mut command = if let Some(host) = host {
            generate(folder, host)
        } else {
            let mut command = Command::new(env!("CARGO_BIN_EXE_leoma-node"));
            crate::without_settings(&mut command);
            command
                .args(["generate", "--prompt", "a boat", "--model", "model"])
                .args(["--device", "cpu"])
                .current_dir(folder);
            command
        };
        let output = command
            .args([
                "--image",
                "first.png",
                "--width",
                "96",
                "--height",
                "64",
                "--num-frames",
                "5",
            ])
            .args([
                "--num-inference-steps",
                "3",
                "--guidance-scale",
                "4.5",
                "--fps",
                "12",
            ])
            .args([
                "--negative-prompt",
                "blur",
                "--flow-shift",
                "4",
                "--scheduler",
                "euler",
            ])
            .args([
                "--noise-source",
                "cuda:4090",
                "--crf",
                "20",
                "--preset",
                "diffusers",
            ])
            .args(["--seed", seed, "--output", output, "--format", "json"])
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        done(output);
        report
    };
    let here = run("here.mp4", "5", None);
    let there = run("there.mp4", "5", Some(&server.host));
    run("other.mp4", "6", Some(&server.host));
    assert_eq!(here["parameters"], there["parameters"]);
    assert_eq!(there["seed"], 5);
    let info = read_video_info(&folder.join("there.mp4")).unwrap();
    assert_eq!((info.width, info.height, info.frames), (96, 64, 5));
    let expected = frames(&folder.join("here.mp4"));
    assert_eq!(frames(&folder.join("there.mp4")), expected);
    assert_ne!(frames(&folder.join("other.mp4")), expected);
}

#[test]
fn ctrl_c_cancels_on_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = Serve::fake(folder.path(), 0, "step_s = 30.0\n");
    let here = folder.path().join("here");
    std::fs::create_dir(&here).unwrap();
    let client = generate(&here, &server.host)
        .args(["--width", "64", "--height", "64", "--num-frames", "5"])
        .spawn()
        .unwrap();
    server.wait_for("in_progress");
    signal("INT", client.id());
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(files(&here).is_empty());
    let job = server.wait_for("failed");
    assert_eq!(job["error"]["code"], "cancelled", "{job}");
}

#[test]
fn a_server_that_is_killed_and_comes_back_still_gives_the_clip() {
    let folder = tempfile::tempdir().unwrap();
    let script = "step_s = 0.3\n";
    let mut server = Serve::fake(folder.path(), 0, script);
    let port = server.port();
    let client = generate(folder.path(), &server.host)
        .args(["--width", "64", "--height", "64", "--num-frames", "5"])
        .args(["--num-inference-steps", "10"])
        .spawn()
        .unwrap();
    let job = server.wait_for("in_progress");
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let server = Serve::fake(folder.path(), port, script);
    let stderr = done(client.wait_with_output().unwrap());
    assert!(stderr.contains("trying again"), "{stderr}");
    let info = read_video_info(&folder.path().join("out.mp4")).unwrap();
    assert_eq!((info.width, info.height, info.frames), (64, 64, 5));
    // The same job, not a second one.
    let jobs = server.get("/v1/videos");
    assert_eq!(jobs["data"].as_array().unwrap().len(), 1, "{jobs}");
    assert_eq!(jobs["data"][0]["id"], job["id"]);
}

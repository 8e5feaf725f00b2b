//! The real program over a scripted engine.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::browser::{PATIENCE, http_client};

/// Slow enough to watch, quick enough to wait for.
pub(crate) const WATCHABLE: &str = "step_s = 0.1\ndecode_s = 0.2\n";
/// Longer than any test.
pub(crate) const ENDLESS: &str = "step_s = 60.0\n";

/// A running node; it ends, and what it wrote goes, with the value.
pub(crate) struct Node {
    child: Child,
    pub(crate) url: String,
    key: Option<&'static str>,
    http: reqwest::Client,
    dir: TempDir,
}

impl Node {
    pub(crate) fn start(script: &str, key: Option<&'static str>) -> Self {
        Self::start_with(script, key, &[])
    }

    pub(crate) fn start_with(script: &str, key: Option<&'static str>, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = dir.path().join("engine.toml");
        std::fs::write(
            &engine,
            format!("kind = \"ti2v-5b\"\nclip = \"encode\"\n{script}"),
        )
        .unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_leoma-node"));
        command.args(["serve", "--port", "0", "--fake-engine"]);
        command
            .arg(&engine)
            .arg("--data-dir")
            .arg(dir.path().join("data"));
        command.args(["--min-free-bytes", "1MiB"]).args(options);
        if let Some(key) = key {
            command.env("LEOMA_NODE_API_KEY", key);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let url = line.trim().strip_prefix("listening on ").map(str::to_owned);
        let url = url.unwrap_or_else(|| {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            panic!("the node does not start: {line:?}\n{said}")
        });
        Self {
            child,
            url,
            key,
            http: http_client(),
            dir,
        }
    }

    pub(crate) fn page(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let request = match self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        (status, value)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.send(self.http.get(self.page(path))).await
    }

    /// Asks for a small clip; returns the job's name.
    pub(crate) async fn order(&self, prompt: &str) -> String {
        let body =
            json!({"prompt": prompt, "size": "256x160", "num_frames": 5, "num_inference_steps": 4});
        let (status, video) = self
            .send(self.http.post(self.page("/v1/videos")).json(&body))
            .await;
        assert_eq!(status, 200, "{video}");
        video["id"].as_str().unwrap().to_owned()
    }

    /// Waits for the end of a job; returns it.
    pub(crate) async fn ended(&self, id: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, video) = self.get(&format!("/v1/videos/{id}")).await;
            if matches!(video["status"].as_str(), Some("completed" | "failed")) {
                return video;
            }
            assert!(Instant::now() < deadline, "{video}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has usually not ended
        let _ = self.child.wait();
        if std::thread::panicking() {
            let said = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let _ = writeln!(std::io::stderr(), "the node's log:\n{said}");
        }
    }
}

//! The servers under load: started here, or running already.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::args::{HttpArgs, Target};
use super::process::Tree;
use super::wire::Url;
use crate::run::this_program;

/// The FastAPI server; it travels inside the binary so that the two cannot drift apart.
const PEER: &str = include_str!("../../peer/http_peer.py");

/// Longest start of a server.
const START: Duration = Duration::from_secs(120);

/// One side of a comparison.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) url: Url,
    /// Where CPU time and memory are read.
    pub(crate) tree: Option<Tree>,
    /// Versions of what it is made of, as far as they are known.
    pub(crate) versions: Value,
    _started: Option<Started>,
}

/// A child process that ends with its owner.
#[derive(Debug)]
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended by itself
        let _ = self.0.wait();
    }
}

impl Server {
    /// A server that runs already.
    pub(crate) fn running(target: &Target) -> Self {
        Self {
            name: target.name.clone(),
            url: target.url.clone(),
            tree: target.pid.map(Tree),
            versions: Value::Null,
            _started: None,
        }
    }

    /// The node with an engine that does nothing but take `args.job` seconds.
    pub(crate) fn node(args: &HttpArgs, work: &Path) -> Result<Self> {
        let node = match &args.node {
            Some(path) => path.clone(),
            None => this_program()?.with_file_name("leoma-node"),
        };
        if !node.is_file() {
            bail!(
                "there is no {}: build it with `cargo build --release`, or pass --node",
                node.display()
            );
        }
        let script = work.join("engine.toml");
        let text = format!(
            "kind = \"ti2v-5b\"\nclip = \"fixed\"\ndecode_s = {:?}\n",
            args.job
        );
        fs::write(&script, text)?;
        let mut command = Command::new(node);
        command
            .args(["serve", "--port", "0", "--queue", &args.queue.to_string()])
            .arg("--fake-engine")
            .arg(&script)
            .arg("--data-dir")
            .arg(work.join("node-data"));
        // What is set for the machine's own node is not meant here.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LEOMA_NODE_") {
                command.env_remove(name);
            }
        }
        let (started, line) = start(&mut command, &work.join("node.log"))?;
        let url = line
            .trim()
            .strip_prefix("listening on ")
            .with_context(|| format!("leoma-node serve began with `{line}`"))?;
        Self::started("leoma-node", url, started, json!({}))
    }

    /// The FastAPI server, answering with the clip in `clip`.
    pub(crate) fn fastapi(args: &HttpArgs, work: &Path, clip: &Path) -> Result<Self> {
        let program = work.join("http_peer.py");
        fs::write(&program, PEER)?;
        let mut command = Command::new(&args.python);
        command
            .arg(&program)
            .arg("--clip")
            .arg(clip)
            .args(["--queue", &args.queue.to_string()])
            .args(["--job-seconds", &format!("{:?}", args.job)]);
        let (started, line) = start(&mut command, &work.join("fastapi.log"))
            .context("the Python needs fastapi, uvicorn and pillow; name another with --python")?;
        let hello: Value = serde_json::from_str(&line)
            .with_context(|| format!("the FastAPI server began with `{line}`"))?;
        let url = hello["url"].as_str().context("the peer named no address")?;
        Self::started("FastAPI", url, started, hello["versions"].clone())
    }

    fn started(name: &str, url: &str, started: Started, versions: Value) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            url: Url::parse(url)?,
            tree: Some(Tree(started.0.id())),
            versions,
            _started: Some(started),
        })
    }
}

/// Starts a program and waits for its first line.
fn start(command: &mut Command, log: &PathBuf) -> Result<(Started, String)> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(log)?)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let stdout = child.stdout.take();
    let started = Started(child);
    let (sender, line) = channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        if let Some(mut stdout) = stdout.map(BufReader::new) {
            let _ = stdout.read_line(&mut line);
            let _ = sender.send(line);
            // Whatever it prints later must not block it.
            let _ = std::io::copy(&mut stdout, &mut std::io::sink());
        }
    });
    match line.recv_timeout(START) {
        Ok(line) if !line.is_empty() => Ok((started, line)),
        _ => {
            let text = fs::read_to_string(log).unwrap_or_default();
            bail!("{program} did not start: {}", text.trim())
        }
    }
}

//! The commands, as a user meets them.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use leoma_models::tiny::make_tiny;
use leoma_models::weights::ModelKind;
use serde_json::Value;

use crate::server::{Act, At, Content, Hub, large, noise, small};
use crate::*;

/// The command with an environment that says nothing but where the Hub and the cache are.
pub(crate) fn leoma(hub: &Hub, cache: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leoma-node"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["LEOMA_NODE_", "HF_", "HUGGING"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .env("HF_HOME", cache)
        .env("HF_HUB_CACHE", cache)
        .env("HF_ENDPOINT", hub.url())
        .current_dir(cache)
        .stdin(Stdio::null());
    command
}

pub(crate) fn run(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn files() -> Vec<(&'static str, Content)> {
    vec![
        ("config.json", small("{}")),
        ("model.safetensors", large(noise(31, 95_000))),
    ]
}

#[test]
fn pull_list_verify_rm() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    let cache = tempfile::tempdir().unwrap();
    let leoma = |arguments: &[&str]| run(&mut leoma(&hub, cache.path(), arguments));

    let (code, out, _) = leoma(&["models", "list"]);
    assert_eq!(
        (code, out),
        (0, format!("no models in {}\n", cache.path().display()))
    );
    let (code, _, error) = leoma(&["models", "verify", REPO]);
    assert_eq!(code, 2);
    assert!(error.contains("models pull"), "{error}");

    let (code, out, error) = leoma(&["models", "pull", REPO]);
    let snapshot = folder(cache.path()).join("snapshots").join(FIRST);
    assert_eq!(
        (code, out.trim()),
        (0, snapshot.to_str().unwrap()),
        "{error}"
    );
    assert!(
        error.contains(&format!(
            "{REPO}@{FIRST}: 2 files, 95.00 kB; 95.00 kB downloaded"
        )),
        "{error}"
    );
    let (_, out, _) = leoma(&[
        "models",
        "pull",
        REPO,
        "--revision",
        FIRST,
        "--format",
        "json",
    ]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (json["commit"].as_str(), json["downloaded_bytes"].as_u64()),
        (Some(FIRST), Some(0))
    );

    let (code, out, _) = leoma(&["models", "list"]);
    let lines: Vec<Vec<&str>> = out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(code, 0);
    assert_eq!(
        lines,
        [
            vec!["MODEL", "COMMIT", "REFS", "FILES", "SIZE"],
            vec![REPO, FIRST, "main", "2", "95.00", "kB"],
        ]
    );
    let (_, out, _) = leoma(&["models", "list", "--format", "json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["models"][0]["revisions"][0]["missing"], 0);

    let (code, out, _) = leoma(&["models", "verify", REPO]);
    assert_eq!(
        (code, out),
        (
            0,
            format!("{REPO}@{FIRST}: 2 of 2 files are as the Hub says, 95.00 kB\n")
        )
    );
    let blob = fs::canonicalize(snapshot.join("model.safetensors")).unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    bytes[0] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let (code, out, error) = leoma(&["models", "verify", REPO, "--format", "json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["good"]), (1, &Value::from(false)));
    assert_eq!(json["files"][1]["state"], "damaged");
    assert!(
        error.contains(&format!("models pull {REPO} --revision {FIRST} --verify")),
        "{error}"
    );
    let (code, _, error) = leoma(&["models", "pull", REPO, "--verify"]);
    assert_eq!(code, 0);
    assert!(
        error.contains("warning: model.safetensors: its SHA-256 is"),
        "{error}"
    );
    assert_eq!(leoma(&["models", "verify", REPO]).0, 0);

    let (code, out, _) = leoma(&["models", "rm", REPO, "--dry-run"]);
    assert!(
        code == 0 && out.starts_with("would remove") && snapshot.exists(),
        "{out}"
    );
    let (code, out, _) = leoma(&["models", "rm", REPO]);
    assert!(
        code == 0 && out.contains("1 commits, 2 contents") && !snapshot.exists(),
        "{out}"
    );
    assert_eq!(leoma(&["models", "rm", REPO]).0, 2);
}

#[test]
fn codes_say_whose_fault_it_is() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    let cache = tempfile::tempdir().unwrap();
    let pull = |more: &[&str], env: &[(&str, &str)]| {
        let mut command = leoma(&hub, cache.path(), &["models", "pull", REPO]);
        run(command.args(more).envs(env.iter().copied()))
    };
    let (code, _, error) = pull(&["--revision", "gone"], &[]);
    assert_eq!(code, 2, "{error}");
    let (code, _, error) = pull(&[], &[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(code, 69, "{error}");
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    let (code, _, error) = pull(&["--connections", "0"], &[]);
    assert_eq!(code, 2, "{error}");
    let (code, _, error) = pull(&["--keep-free-bytes", "8000TB"], &[]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("not enough room"), "{error}");
    hub.script(|asked| {
        if asked.at == At::Storage {
            Act::Wrong(0)
        } else {
            Act::Right
        }
    });
    let (code, _, error) = pull(&[], &[]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("nothing of it was kept"), "{error}");
    hub.gate(REPO);
    let (code, _, error) = pull(&[], &[("HF_TOKEN", "hf_canary")]);
    assert_eq!(code, 2, "{error}");
    assert!(
        error.contains("accept the terms") && !error.contains("canary"),
        "{error}"
    );
    hub.script(|_| Act::Right);
    let (code, _, error) = pull(&[], &[("HF_TOKEN", "hf_good")]);
    assert_eq!(code, 0, "{error}");
}

#[test]
fn ctrl_c_keeps_what_arrived() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    hub.script(|asked| match asked.at {
        At::Storage => Act::Slow(1_000, Duration::from_millis(20)),
        _ => Act::Right,
    });
    let cache = tempfile::tempdir().unwrap();
    let mut child = leoma(&hub, cache.path(), &["models", "pull", REPO])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while hub.sent() == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(200));
    let id = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let mut error = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut error)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{error}");
    assert!(error.ends_with("interrupted\n"), "{error}");
    let blobs = below(&folder(cache.path()).join("blobs"));
    assert!(
        blobs.keys().any(|name| name.ends_with(".leoma.journal")),
        "{:?}",
        blobs.keys()
    );
    hub.script(|_| Act::Right);
    let (_, out, _) = run(&mut leoma(
        &hub,
        cache.path(),
        &["models", "pull", REPO, "--format", "json"],
    ));
    let json: Value = serde_json::from_str(&out).unwrap();
    let downloaded = json["downloaded_bytes"].as_u64().unwrap();
    assert!((1..95_000).contains(&downloaded), "{downloaded}");
}

/// A repository with a checkpoint of a few MB, and some that no checkpoint needs.
fn tiny(hub: &Hub) {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("tiny");
    make_tiny(ModelKind::Ti2v5b, 0, &folder).unwrap();
    let mut files: Vec<(String, Content)> = Vec::new();
    let mut folders = vec![folder.clone()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path
                .strip_prefix(&folder)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let bytes = fs::read(&path).unwrap();
            let content = if name.ends_with(".safetensors") {
                large(bytes)
            } else {
                small(bytes)
            };
            files.push((name, content));
        }
    }
    files.push(("setup.py".into(), small("import os")));
    files.push(("pytorch_model.bin".into(), large(noise(32, 50_000))));
    let files: Vec<(&str, Content)> = files
        .iter()
        .map(|(name, c)| (name.as_str(), c.clone()))
        .collect();
    hub.commit(REPO, "main", FIRST, &files);
}

#[test]
fn a_repository_is_a_model() {
    let hub = Hub::start();
    tiny(&hub);
    let cache = tempfile::tempdir().unwrap();
    let plan = [
        "generate", "--prompt", "a boat", "--device", "cpu", "--plan", "--format", "json",
        "--model",
    ];
    let generate = |more: &[&str]| run(leoma(&hub, cache.path(), &plan).args(more));

    let (code, out, error) = generate(&[REPO]);
    assert_eq!(code, 0, "{error}");
    assert!(
        error.contains(&format!(
            "note: {REPO} at main is commit {FIRST}; --revision {FIRST}"
        )),
        "{error}"
    );
    assert!(
        !serde_json::from_str::<Value>(&out).unwrap()["plan"].is_null(),
        "{out}"
    );
    // Neither code nor pickles came along.
    let snapshot = folder(cache.path()).join("snapshots").join(FIRST);
    assert!(!snapshot.join("setup.py").exists() && !snapshot.join("pytorch_model.bin").exists());
    hub.asked();
    let (code, _, error) = generate(&[REPO, "--revision", FIRST]);
    assert!(code == 0 && !error.contains("note: miner"), "{error}");
    assert!(hub.asked().is_empty());

    let (code, _, error) = generate(&["miner/nothing"]);
    assert_eq!(code, 2, "{error}");
    assert!(
        error.contains("no folder miner/nothing") && error.contains("no such repository"),
        "{error}"
    );
    let (code, _, error) = generate(&[snapshot.to_str().unwrap(), "--revision", FIRST]);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("only those have revisions"), "{error}");
    let (code, _, error) = generate(&["./miner/nothing"]);
    assert!(code == 2 && !error.contains("repository"), "{error}");
}

#[test]
fn a_server_tells_the_commit() {
    let hub = Hub::start();
    tiny(&hub);
    let cache = tempfile::tempdir().unwrap();
    let serve = [
        "serve",
        "--model",
        REPO,
        "--port",
        "0",
        "--device",
        "cpu",
        "--data-dir",
        "data",
    ];
    let mut child = leoma(&hub, cache.path(), &serve)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line
        .trim()
        .strip_prefix("listening on http://")
        .map(str::to_owned);
    let ask = |address: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(
            stream,
            "GET /chutes/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = address.as_deref().map(ask);
    child.kill().unwrap();
    child.wait().unwrap();
    let answer = answer.unwrap_or_else(|| panic!("{line}"));
    assert!(
        answer.contains(FIRST) && answer.contains("leoma-model"),
        "{answer}"
    );
}

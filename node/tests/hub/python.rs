//! The same cache by the Python tools: what one wrote, the other finds.

use std::process::Command;

use crate::server::{Content, Hub, large, noise, small};
use crate::*;

fn files() -> Vec<(&'static str, Content)> {
    let weights = noise(21, 95_000);
    vec![
        (".gitattributes", small("*.safetensors filter=lfs\n")),
        ("config.json", small("{\"a\": 1}\n")),
        ("transformer/config.json", small("{\"a\": 1}\n")),
        ("transformer/model.safetensors", large(weights.clone())),
        ("transformer_2/model.safetensors", large(weights)),
        ("vae/deep/model.safetensors", large(noise(22, 10_000))),
        ("ü name.txt", small("text")),
    ]
}

/// Runs a script with the interpreter that the environment names.
fn python(hub: &Hub, cache: &Path, offline: &str, script: &str) -> String {
    let interpreter = std::env::var("LEOMA_TEST_PYTHON")
        .expect("LEOMA_TEST_PYTHON names an interpreter that has huggingface_hub");
    let output = Command::new(interpreter)
        .args(["-c", script])
        .env("HF_ENDPOINT", hub.url())
        .env("HF_HUB_CACHE", cache)
        .env("HF_HOME", cache)
        .env("HF_HUB_OFFLINE", offline)
        .env("HF_HUB_DISABLE_XET", "1")
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        .env_remove("HF_TOKEN")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// What of a cache both must have.
fn shared(cache: &Path) -> BTreeMap<String, String> {
    let mut all = below(cache);
    all.retain(|name, _| name.starts_with("models--") || name == "CACHEDIR.TAG");
    all
}

#[test]
#[ignore = "needs huggingface_hub: LEOMA_TEST_PYTHON=…/bin/python cargo test -p leoma-node --test hub python -- --ignored"]
fn python_finds_what_we_wrote_and_we_find_what_it_wrote() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    let [ours, theirs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    fetch(&settings(&hub, ours.path()), "main", &options())
        .0
        .unwrap();

    // Offline, by name, by branch and by commit.
    let script = format!(
        "from huggingface_hub import hf_hub_download, snapshot_download, scan_cache_dir\n\
         for path in {:?}:\n\
         \x20   for revision in ('main', '{FIRST}'):\n\
         \x20       print(path, len(open(hf_hub_download('{REPO}', path, revision=revision), 'rb').read()))\n\
         print(snapshot_download('{REPO}'))\n\
         cache = scan_cache_dir()\n\
         print(cache.warnings, [(r.repo_id, r.nb_files, r.size_on_disk) for r in cache.repos])\n",
        files().iter().map(|(path, _)| *path).collect::<Vec<_>>()
    );
    hub.asked();
    let said = python(&hub, ours.path(), "1", &script);
    let mut expected = String::new();
    for (path, content) in files() {
        let line = format!("{path} {}\n", content.bytes.len());
        expected += &line.repeat(2);
    }
    let snapshot = folder(ours.path()).join("snapshots").join(FIRST);
    let whole = format!("{}\n[] [('{REPO}', 5, 105038)]\n", snapshot.display());
    expected.push_str(&whole);
    assert_eq!(said, expected);
    assert!(hub.asked().is_empty());

    // Theirs is the same to the byte.
    let script =
        format!("from huggingface_hub import snapshot_download; snapshot_download('{REPO}')");
    python(&hub, theirs.path(), "0", &script);
    assert_eq!(shared(ours.path()), shared(theirs.path()));
    hub.sent();
    hub.asked();
    let found = fetch(&settings(&hub, theirs.path()), FIRST, &options())
        .0
        .unwrap();
    assert_eq!((found.files, found.downloaded_bytes), (7, 0));
    let mut offline = settings(&hub, theirs.path());
    offline.offline = true;
    assert_eq!(fetch(&offline, "main", &options()).0.unwrap().files, 7);
    assert!(hub.asked().is_empty());
    assert_eq!(shared(ours.path()), shared(theirs.path()));

    // One of their locks is one of ours.
    let etag = files()[3].1.etag();
    let script = format!(
        "import os, sys\n\
         from huggingface_hub.utils import WeakFileLock\n\
         with WeakFileLock(os.path.join(os.environ['HF_HUB_CACHE'], '.locks', 'models--miner--leoma-model', '{etag}.lock')):\n\
         \x20   print('held', flush=True)\n\
         \x20   sys.stdin.read()\n"
    );
    let mut holder = Command::new(std::env::var("LEOMA_TEST_PYTHON").unwrap())
        .args(["-c", &script])
        .env("HF_HUB_CACHE", theirs.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(holder.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    assert_eq!(line, "held\n");
    fs::remove_file(folder(theirs.path()).join("blobs").join(&etag)).unwrap();
    let waiter = {
        let settings = settings(&hub, theirs.path());
        std::thread::spawn(move || fetch(&settings, FIRST, &options()))
    };
    std::thread::sleep(Duration::from_secs(1));
    assert!(hub.asked().is_empty(), "we wait for their lock");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let (result, told) = waiter.join().unwrap();
    assert_eq!(result.unwrap().downloaded_bytes, 95_000);
    assert!(told.count("Waiting") > 0);
}

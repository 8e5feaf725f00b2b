//! Processes that are killed: at every step of publishing, and at moments nobody chose.

use std::thread;

use crate::server::{Act, At, Content, Hub, large, noise, small};
use crate::together::child;
use crate::*;

fn files() -> Vec<(&'static str, Content)> {
    vec![
        ("config.json", small("{\"a\": 1}")),
        ("model.safetensors", large(noise(8, 95_000))),
    ]
}

/// What must be true after a kill, and that the next download finishes what is left.
fn survives(hub: &Hub, cache: &Path, already: bool, when: &str) {
    assert_sound(cache);
    hub.sent();
    let (result, _) = fetch(&settings(hub, cache), "main", &options());
    let snapshot = result.unwrap_or_else(|error| panic!("{when}: {error}"));
    for (path, content) in files() {
        assert!(
            fs::read(snapshot.path.join(path)).unwrap() == *content.bytes,
            "{when}: {path}"
        );
    }
    let sent = hub.sent();
    if already {
        assert!(sent <= 8, "{when}: {sent} bytes again");
    }
    assert_sound(cache);
    let blobs = below(&folder(cache).join("blobs"));
    assert_eq!(blobs.len(), 2, "{when}: {:?}", blobs.keys());
    assert_eq!(
        fs::read_to_string(folder(cache).join("refs/main")).unwrap(),
        FIRST
    );
}

#[test]
fn killed_at_every_step_of_publishing() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    for file in ["config.json", "model.safetensors"] {
        for step in ["checked", "synced", "renamed", "settled", "linked"] {
            let cache = tempfile::tempdir().unwrap();
            let when = format!("{step} {file}");
            let ended = child(&hub, cache.path(), "main", &when).wait().unwrap();
            assert!(!ended.success(), "{when}: was not killed");
            let renamed = matches!(step, "renamed" | "settled" | "linked");
            let blob = folder(cache.path()).join("blobs");
            let index = usize::from(file == "model.safetensors");
            assert_eq!(
                blob.join(files()[index].1.etag()).exists(),
                renamed,
                "{when}"
            );
            assert!(!folder(cache.path()).join("refs/main").exists(), "{when}");
            survives(&hub, cache.path(), renamed && index == 1, &when);
        }
    }
}

#[test]
fn killed_at_any_moment() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    let cache = tempfile::tempdir().unwrap();
    for round in 0..40_u64 {
        hub.script(move |asked| match asked.at {
            At::Storage => Act::Slow(3_000, Duration::from_millis(round % 4)),
            _ => Act::Right,
        });
        let mut process = child(&hub, cache.path(), "main", "");
        // From before the first question until after the end.
        thread::sleep(Duration::from_millis(5 + round * 5));
        process.kill().unwrap();
        process.wait().unwrap();
        assert_sound(cache.path());
        if round % 8 == 7 {
            hub.script(|_| Act::Right);
            survives(&hub, cache.path(), false, &format!("round {round}"));
            fs::remove_dir_all(folder(cache.path())).unwrap();
        }
    }
}

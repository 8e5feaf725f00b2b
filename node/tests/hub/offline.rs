//! Without the network, and with one that is gone.

use leoma_models::Fault;
use leoma_node::hub::Selection;

use crate::server::{Act, Content, Hub, large, noise, small};
use crate::*;

fn files() -> Vec<(&'static str, Content)> {
    vec![
        ("config.json", small("{}")),
        ("model_index.json", small("[]")),
        ("vae/w.safetensors", large(noise(9, 30_000))),
        ("w.safetensors", large(noise(10, 30_000))),
        ("x.safetensors", large(noise(11, 30_000))),
    ]
}

#[test]
fn offline_uses_what_is_there_and_names_what_is_not() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    let cache = tempfile::tempdir().unwrap();
    let online = settings(&hub, cache.path());
    let mut offline = online.clone();
    offline.offline = true;

    let error = fetch(&offline, "main", &options()).0.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("never downloaded") && text.contains("models pull"),
        "{text}"
    );
    assert_eq!(error.fault(), Fault::Local);
    assert!(hub.asked().is_empty());

    let json = PullOptions {
        selection: Selection::new(&["*.json".to_owned()], &[]).unwrap(),
        ..options()
    };
    fetch(&online, "main", &json).0.unwrap();
    hub.asked();
    let some = fetch(&offline, "main", &json).0.unwrap();
    assert_eq!((some.files, some.commit.as_str()), (2, FIRST));
    let text = fetch(&offline, "main", &options())
        .0
        .unwrap_err()
        .to_string();
    for part in [
        "3 of 5",
        "vae/w.safetensors",
        "w.safetensors",
        FIRST_FILES,
        "HF_HUB_OFFLINE",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for revision in [SECOND, "other"] {
        assert!(fetch(&offline, revision, &options()).0.is_err());
    }
    assert!(hub.asked().is_empty(), "offline asks nobody");

    fetch(&online, "main", &options()).0.unwrap();
    assert_eq!(fetch(&offline, "main", &options()).0.unwrap().files, 5);
    assert_eq!(fetch(&offline, FIRST, &options()).0.unwrap().files, 5);
    // As another program leaves it: without the listing.
    fs::remove_dir_all(folder(cache.path()).join("trees")).unwrap();
    assert_eq!(fetch(&offline, "main", &options()).0.unwrap().files, 5);
}

const FIRST_FILES: &str = "x.safetensors";

#[test]
fn a_hub_that_is_gone_stops_nobody_who_has_everything() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    let cache = tempfile::tempdir().unwrap();
    let settings = settings(&hub, cache.path());
    let hasty = PullOptions {
        patience: Duration::from_millis(100),
        ..options()
    };
    // Half of it first.
    hub.script(|asked| match asked.what.as_str() {
        "x.safetensors" => Act::Status(418, vec![]),
        _ => Act::Right,
    });
    fetch(&settings, "main", &options()).0.unwrap_err();
    assert!(!folder(cache.path()).join("refs/main").exists());
    hub.script(|_| Act::Right);
    fetch(&settings, "main", &options()).0.unwrap();

    hub.go_down();
    let (result, told) = fetch(&settings, "main", &hasty);
    assert_eq!(result.unwrap().commit.as_str(), FIRST);
    assert_eq!(told.count("Unasked"), 1);
    // Who has not everything is told that the Hub is gone.
    fs::remove_file(
        folder(cache.path())
            .join("snapshots")
            .join(FIRST)
            .join("config.json"),
    )
    .unwrap();
    let error = fetch(&settings, "main", &hasty).0.unwrap_err();
    assert!(error.to_string().contains("503"), "{error}");
    // A commit needs the Hub for nothing but bytes, and these are there.
    assert_eq!(
        fetch(&settings, FIRST, &hasty).0.unwrap().downloaded_bytes,
        0
    );
    drop(hub);
    fetch(&settings, FIRST, &hasty).0.unwrap();
}

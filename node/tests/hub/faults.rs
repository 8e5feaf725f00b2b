//! A Hub, a storage and a network that fail and lie.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use leoma_models::Fault;
use secrecy::SecretString;

use crate::server::{Act, Asked, At, Content, Hub, large, noise, small};
use crate::*;

/// One large and one small file.
fn pair() -> Vec<(&'static str, Content)> {
    vec![
        ("config.json", small(noise(3, 25_000))),
        ("model.safetensors", large(noise(4, 95_000))),
    ]
}

fn hub() -> Hub {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &pair());
    hub
}

/// A download against a script.
fn against(
    script: impl FnMut(&Asked) -> Act + Send + 'static,
) -> (Result<Snapshot, HubError>, Arc<Told>, Hub) {
    against_with(&options(), script)
}

/// The same, where silence is soon noticed.
fn hasty_against(
    script: impl FnMut(&Asked) -> Act + Send + 'static,
) -> (Result<Snapshot, HubError>, Arc<Told>, Hub) {
    let hasty = PullOptions {
        stall: Duration::from_millis(400),
        ..options()
    };
    against_with(&hasty, script)
}

fn against_with(
    options: &PullOptions,
    script: impl FnMut(&Asked) -> Act + Send + 'static,
) -> (Result<Snapshot, HubError>, Arc<Told>, Hub) {
    let hub = hub();
    hub.script(script);
    let cache = tempfile::tempdir().unwrap();
    let (result, told) = fetch(&settings(&hub, cache.path()), "main", options);
    assert_sound(cache.path());
    let blobs = fs::read_dir(folder(cache.path()).join("blobs"));
    let names: Vec<String> = blobs
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    if result.is_ok() {
        assert!(
            names.len() == 2 && names.iter().all(|name| !name.contains('.')),
            "{names:?}"
        );
    }
    (result, told, hub)
}

/// Does something to the first `count` answers of a kind, and then what is right.
fn first(count: usize, at: At, act: Act) -> impl FnMut(&Asked) -> Act + Send + 'static {
    move |asked| {
        if asked.at == at && asked.before < count {
            act.clone()
        } else {
            Act::Right
        }
    }
}

#[test]
fn what_passes_is_outlasted() {
    for (name, act) in [
        ("cut", Act::Cut(3_000)),
        ("cut before the first byte", Act::Cut(0)),
        ("silence", Act::Hang(3_000)),
        ("500", Act::Status(500, vec![])),
        ("502", Act::Status(502, vec![])),
        ("503", Act::Status(503, vec![])),
        ("504", Act::Status(504, vec![])),
        ("408", Act::Status(408, vec![])),
        ("429", Act::Status(429, vec![])),
        ("wrong range", Act::Shifted),
        ("no ranges", Act::Whole),
        ("longer", Act::Longer(10)),
        ("page", Act::Page),
    ] {
        for at in [At::Storage, At::File] {
            let (result, _, _) = hasty_against(first(3, at, act.clone()));
            let downloaded = result.unwrap_or_else(|error| panic!("{name} at {at:?}: {error}"));
            assert_eq!(downloaded.downloaded_bytes, 120_000, "{name} at {at:?}");
        }
    }
    for at in [At::Info, At::Tree] {
        for status in [429, 500, 503] {
            against(first(2, at, Act::Status(status, vec![])))
                .0
                .unwrap();
        }
    }
    against(first(1, At::Info, Act::Page)).0.unwrap();
}

#[test]
fn a_wait_that_is_asked_for_is_kept() {
    let start = Instant::now();
    let wait = vec![("retry-after", "1".to_owned())];
    let (result, told, _) = against(first(1, At::Storage, Act::Status(429, wait)));
    result.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    let lines = told.lines.lock().unwrap();
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("Retrying") && line.contains("429")),
        "{lines:?}"
    );
    drop(lines);
    // Not for longer than anybody waits.
    let start = Instant::now();
    let wait = vec![("retry-after", "3600".to_owned())];
    let error = against(move |_| Act::Status(429, wait.clone()))
        .0
        .unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(error.fault(), Fault::Transient, "{error}");
}

#[test]
fn what_does_not_pass_is_given_up_and_named() {
    for (name, act, word) in [
        ("503", Act::Status(503, vec![]), "503"),
        ("cut", Act::Cut(0), "127.0.0.1"),
        ("silence", Act::Hang(0), "no answer"),
        ("wrong range", Act::Shifted, "range"),
        ("longer", Act::Longer(1), "bytes in place of"),
        ("page", Act::Page, "bytes in place of"),
        ("nobody's status", Act::Status(418, vec![]), "418"),
        ("range refused", Act::Status(416, vec![]), "no such range"),
        (
            "storage refuses",
            Act::Status(403, vec![]),
            "that the Hub gave",
        ),
    ] {
        let (result, _, _) = hasty_against(move |asked| match asked.at {
            At::Storage => act.clone(),
            _ => Act::Right,
        });
        let error = result.unwrap_err();
        assert!(error.to_string().contains(word), "{name}: {error}");
        let fault = if name == "nobody's status" {
            Fault::Local
        } else {
            Fault::Transient
        };
        assert_eq!(error.fault(), fault, "{name}: {error}");
    }
}

#[test]
fn wrong_bytes_are_never_published() {
    // Once: everything is fetched anew, and is right.
    for at in [At::Storage, At::File] {
        let wrong = AtomicUsize::new(0);
        let (result, told, hub) = against(move |asked| {
            let hit = asked.at == at
                && asked.what != "model.safetensors"
                && asked
                    .range
                    .as_deref()
                    .is_some_and(|range| range.starts_with("bytes=0-"))
                && wrong.fetch_add(1, Ordering::Relaxed) == 0;
            if hit { Act::Wrong(7) } else { Act::Right }
        });
        let downloaded = result.unwrap().downloaded_bytes;
        let again = if at == At::Storage { 95_000 } else { 25_000 };
        assert_eq!(downloaded, 120_000 + again);
        assert_eq!(told.count("StartedOver"), 1);
        assert_eq!(*told.bytes.lock().unwrap(), 120_000);
        assert_eq!(hub.sent(), 120_000 + again);
    }
    // Always: it is said, and nothing is kept.
    for at in [At::Storage, At::File] {
        let hub = hub();
        hub.script(move |asked| {
            if asked.at == at {
                Act::Wrong(20_001)
            } else {
                Act::Right
            }
        });
        let cache = tempfile::tempdir().unwrap();
        let error = fetch(&settings(&hub, cache.path()), "main", &options())
            .0
            .unwrap_err();
        assert!(matches!(error, HubError::Damaged { .. }), "{error}");
        let text = error.to_string();
        let word = if at == At::Storage {
            "SHA-256"
        } else {
            "git object id"
        };
        assert!(text.contains(word) && text.contains(FIRST), "{text}");
        assert_eq!(error.fault(), Fault::Transient);
        assert_sound(cache.path());
        let wrong = pair()[usize::from(at == At::Storage)].1.etag();
        let left = below(&folder(cache.path()).join("blobs"));
        assert!(
            !left.keys().any(|name| name.starts_with(&wrong)),
            "{:?}",
            left.keys()
        );
        // The branch is where it was: nowhere.
        assert!(!folder(cache.path()).join("refs/main").exists());
    }
}

#[test]
fn a_hub_that_means_another_file_is_not_believed() {
    let other = "9".repeat(64);
    for (name, value) in [
        ("x-linked-etag", format!("\"{other}\"")),
        ("x-linked-size", "94999".to_owned()),
        ("x-repo-commit", SECOND.to_owned()),
    ] {
        let with = Act::With(vec![(name, value.clone())]);
        let (result, _, hub) = against(move |asked| match asked.at {
            At::File if asked.what == "model.safetensors" => with.clone(),
            _ => Act::Right,
        });
        let error = result.unwrap_err().to_string();
        assert!(error.contains(value.trim_matches('"')), "{error}");
        assert!(
            hub.asked().iter().all(|asked| asked.at != At::Storage),
            "{name}"
        );
        // Once is an accident.
        let with = Act::With(vec![(name, value)]);
        against(first(2, At::File, with)).0.unwrap();
    }
    // A mirror has tags of its own.
    let tags = vec![
        ("etag", "\"5f3-mirror\"".to_owned()),
        ("x-linked-etag", "\"weak\"".to_owned()),
    ];
    against(move |asked| match asked.at {
        At::File => Act::With(tags.clone()),
        _ => Act::Right,
    })
    .0
    .unwrap();
}

#[test]
fn a_size_that_is_not_true_is_found() {
    for (listed, large_file) in [
        (94_999, true),
        (95_001, true),
        (24_999, false),
        (25_001, false),
    ] {
        let hub = Hub::start();
        let mut files = pair();
        files[usize::from(large_file)].1.listed_size = Some(listed);
        hub.commit(REPO, "main", FIRST, &files);
        let cache = tempfile::tempdir().unwrap();
        let error = fetch(&settings(&hub, cache.path()), "main", &options())
            .0
            .unwrap_err();
        assert_eq!(error.fault(), Fault::Transient, "{error}");
        assert_sound(cache.path());
        let etag = files[usize::from(large_file)].1.etag();
        assert!(!folder(cache.path()).join("blobs").join(etag).exists());
    }
}

#[test]
fn a_storage_without_ranges_is_read_from_the_beginning_by_one() {
    let (result, _, hub) = against(|asked| match asked.at {
        At::Storage => Act::Whole,
        _ => Act::Right,
    });
    result.unwrap();
    // Four may have asked before one was chosen; none of the others read to the end.
    let sent = hub.sent();
    assert!(sent <= 25_000 + 4 * 95_000, "{sent}");
    // And goes on after breaks, although every answer begins at the beginning.
    let (result, _, _) = against(|asked| match asked.at {
        At::Storage if asked.before < 6 => Act::Whole,
        At::Storage => Act::Right,
        _ => Act::Right,
    });
    result.unwrap();
}

#[test]
fn addresses_that_have_run_out_are_asked_for_again() {
    let hub = hub();
    hub.script(|asked| match (asked.at, asked.before % 3) {
        (At::Storage, 2) => Act::Status(403, vec![]),
        _ => Act::Right,
    });
    let cache = tempfile::tempdir().unwrap();
    let one = PullOptions {
        connections: 1,
        ..options()
    };
    let (result, told) = fetch(&settings(&hub, cache.path()), "main", &one);
    result.unwrap();
    assert_eq!(told.count("Retrying"), 0);
    let resolved = |asked: &Asked| asked.at == At::File && asked.what == "model.safetensors";
    // Ten pieces: at first, and at every refusal.
    assert_eq!(
        hub.asked().iter().filter(|asked| resolved(asked)).count(),
        5
    );
}

#[test]
fn redirects_to_nowhere_and_without_end() {
    for (location, word) in [
        ("", "nowhere"),
        ("ftp://127.0.0.1/x", "nowhere"),
        ("/miner/leoma-model/resolve/main/config.json", "redirects"),
    ] {
        let to = vec![("location", location.to_owned())];
        let (result, _, _) = against(move |asked| match asked.at {
            At::File if asked.what == "config.json" => Act::Status(302, to.clone()),
            _ => Act::Right,
        });
        let error = result.unwrap_err().to_string();
        assert!(
            error.contains(word) || location.is_empty(),
            "{location}: {error}"
        );
    }
}

#[test]
fn gated_missing_and_moved_are_told_apart() {
    let hub = hub();
    let cache = tempfile::tempdir().unwrap();
    let mut settings = settings(&hub, cache.path());
    let (error, _) = fetch_repo(&settings, "miner/nothing", "main", &options());
    let error = error.unwrap_err();
    assert!(
        matches!(&error, HubError::Missing { what, .. } if what == "miner/nothing"),
        "{error}"
    );
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");
    for revision in ["gone", SECOND] {
        let error = fetch(&settings, revision, &options()).0.unwrap_err();
        assert!(
            matches!(&error, HubError::Missing { what, .. } if what.ends_with(revision)),
            "{error}"
        );
        assert_eq!(error.fault(), Fault::Caller);
    }
    hub.gate(REPO);
    for token in [None, Some("hf_bad")] {
        settings.token = token.map(SecretString::from);
        let error = fetch(&settings, "main", &options()).0.unwrap_err();
        assert!(matches!(&error, HubError::Gated { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("accept the terms at http") && !text.contains("hf_bad"),
            "{text}"
        );
        assert_eq!(error.fault(), Fault::Caller);
    }
    settings.token = Some("hf_good".into());
    fetch(&settings, "main", &options()).0.unwrap();
    // A 401 without a code is how the Hub hides private repositories.
    hub.script(|_| Act::Status(401, vec![]));
    let (error, _) = fetch_repo(&settings, "miner/hidden", "main", &options());
    assert!(matches!(error.unwrap_err(), HubError::Missing { .. }));
    hub.script(|_| Act::Status(403, vec![]));
    let (error, _) = fetch_repo(&settings, "miner/hidden", "main", &options());
    assert!(matches!(error.unwrap_err(), HubError::Gated { .. }));
    assert_sound(cache.path());
}

#[test]
fn hostile_listings_are_refused_whole() {
    for path in [
        "../../escape",
        "/absolute",
        "a/../../../escape",
        "back\\slash",
        "a//b",
    ] {
        let hub = Hub::start();
        hub.commit(
            REPO,
            "main",
            FIRST,
            &[("config.json", small("{}")), (path, small("x"))],
        );
        let place = tempfile::tempdir().unwrap();
        let cache = place.path().join("cache");
        let error = fetch(&settings(&hub, &cache), "main", &options())
            .0
            .unwrap_err();
        assert!(
            matches!(error, HubError::Unusable { .. }),
            "{path}: {error}"
        );
        assert_eq!(error.fault(), Fault::Artifact);
        assert!(!cache.exists(), "{path}");
        assert!(hub.asked().iter().all(|asked| asked.at != At::File));
    }
    // A listing that goes on elsewhere would take the token along.
    let hub = hub();
    let other = Hub::start();
    let link = format!("<{}/api/models/a/b/tree/c>; rel=\"next\"", other.url());
    hub.script(move |asked| match asked.at {
        At::Tree => Act::With(vec![("link", link.clone())]),
        _ => Act::Right,
    });
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(&settings(&hub, cache.path()), "main", &options())
        .0
        .unwrap_err();
    assert!(error.to_string().contains("elsewhere"), "{error}");
    assert!(other.asked().is_empty());
}

#[test]
fn a_disk_without_room_is_found_before() {
    let hub = Hub::start();
    let mut files = pair();
    // More than any disk has.
    files[1].1.listed_size = Some(8 << 50);
    hub.commit(REPO, "main", FIRST, &files);
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(&settings(&hub, cache.path()), "main", &options())
        .0
        .unwrap_err();
    assert!(
        matches!(error, HubError::DiskFull { .. }) && error.is_disk_full(),
        "{error}"
    );
    assert!(error.to_string().contains("HF_HUB_CACHE"), "{error}");
    assert!(hub.asked().iter().all(|asked| asked.at != At::File));
    assert!(below(&folder(cache.path()).join("blobs")).is_empty());
    // Nor is the reserve touched.
    hub.commit(REPO, "main", SECOND, &pair());
    let reserving = PullOptions {
        reserve_bytes: 8 << 50,
        ..options()
    };
    let error = fetch(&settings(&hub, cache.path()), "main", &reserving)
        .0
        .unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    fetch(&settings(&hub, cache.path()), "main", &options())
        .0
        .unwrap();
    // What is there needs no room.
    fetch(&settings(&hub, cache.path()), "main", &reserving)
        .0
        .unwrap();
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let hub = hub();
    let place = tempfile::tempdir().unwrap();
    let cache = place.path().join("file");
    fs::write(&cache, "not a folder").unwrap();
    let error = fetch(&settings(&hub, &cache), "main", &options())
        .0
        .unwrap_err();
    assert!(
        matches!(error, HubError::Io { .. }) && error.to_string().contains("file"),
        "{error}"
    );
}

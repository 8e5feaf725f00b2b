//! Several processes at one cache.

use std::process::{Child, Command, Stdio};
use std::thread;

use crate::server::{Act, At, Content, Hub, large, noise, small};
use crate::*;

pub(crate) const CHILD: &str = "LEOMA_TEST_HUB_CHILD";

/// A process of its own that downloads: `URL CACHE REVISION [FILE STEP]`, killed at that step of that file.
pub(crate) fn child(hub: &Hub, cache: &Path, revision: &str, kill_at: &str) -> Child {
    let arguments = [&hub.url(), cache.to_str().unwrap(), revision, kill_at].join("\n");
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "together::download_as_a_child", "--nocapture"])
        .env(CHILD, arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The process of [`child`].
#[test]
fn download_as_a_child() {
    let Ok(arguments) = std::env::var(CHILD) else {
        return;
    };
    let arguments: Vec<&str> = arguments.split('\n').collect();
    let settings = HubSettings {
        endpoint: arguments[0].parse().unwrap(),
        token: None,
        cache: arguments[1].into(),
        offline: false,
    };
    let kill_at = arguments[3].to_owned();
    let report: Report = Arc::new(move |event: Event<'_>| {
        let here = match event {
            Event::Publishing { file, step } => format!("{step} {file}"),
            Event::Linked { file } => format!("linked {file}"),
            _ => return,
        };
        if here == kill_at {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                .unwrap();
            // The signal is on its way; nothing more must happen.
            thread::sleep(Duration::from_secs(60));
        }
    });
    let options = PullOptions {
        patience: Duration::from_secs(60),
        ..options()
    };
    let (repo, revision) = (REPO.parse().unwrap(), arguments[2].parse().unwrap());
    block_on(pull(&settings, &repo, &revision, &options, &report)).unwrap();
}

fn files() -> Vec<(&'static str, Content)> {
    vec![
        ("config.json", small("{}")),
        ("a.safetensors", large(noise(5, 80_000))),
        ("b.safetensors", large(noise(6, 80_000))),
    ]
}

fn slow(hub: &Hub) {
    hub.script(|asked| match asked.at {
        At::Storage => Act::Slow(2_000, Duration::from_millis(20)),
        _ => Act::Right,
    });
}

#[test]
fn two_processes_at_once_download_once() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    slow(&hub);
    let cache = tempfile::tempdir().unwrap();
    let mut children: Vec<Child> = (0..3)
        .map(|_| child(&hub, cache.path(), "main", ""))
        .collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(hub.sent(), 160_002);
    assert_sound(cache.path());
    let snapshot = folder(cache.path()).join("snapshots").join(FIRST);
    for (path, content) in files() {
        assert!(fs::read(snapshot.join(path)).unwrap() == *content.bytes);
    }
}

#[test]
fn who_waits_is_told_and_goes_on_when_the_other_dies() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    slow(&hub);
    let cache = tempfile::tempdir().unwrap();
    let mut first = child(&hub, cache.path(), "main", "");
    while hub.asked().iter().all(|asked| asked.at != At::Storage) {
        thread::sleep(Duration::from_millis(5));
    }
    let waiter = {
        let settings = settings(&hub, cache.path());
        let patient = PullOptions {
            patience: Duration::from_secs(60),
            ..options()
        };
        thread::spawn(move || fetch(&settings, "main", &patient))
    };
    thread::sleep(Duration::from_millis(150));
    first.kill().unwrap();
    first.wait().unwrap();
    let (result, told) = waiter.join().unwrap();
    result.unwrap();
    assert!(
        told.count("Waiting") > 0,
        "{:?}",
        told.lines.lock().unwrap()
    );
    assert_sound(cache.path());
}

#[test]
fn a_repository_in_use_is_not_removed() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    slow(&hub);
    let cache = tempfile::tempdir().unwrap();
    let mut child = child(&hub, cache.path(), "main", "");
    let blobs = folder(cache.path()).join("blobs");
    while !below(&blobs)
        .keys()
        .any(|name| name.ends_with(".incomplete"))
    {
        thread::sleep(Duration::from_millis(5));
    }
    let repo = REPO.parse().unwrap();
    let error = leoma_node::hub::remove(cache.path(), &repo, None, false).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    assert!(child.wait().unwrap().success());
    assert_sound(cache.path());
    leoma_node::hub::remove(cache.path(), &repo, None, false).unwrap();
    assert!(!folder(cache.path()).exists());
}

//! The program itself, killed without warning where contents get their names: never a poisoned cache, always
//! resumed.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::commands::{leoma, run};
use crate::cuts::Random;
use crate::server::{At, Content, Hub, large, noise, small};
use crate::*;

/// Kills in a run of all tests.
const FEW: usize = 20;
/// Kills in the long run.
const MANY: usize = 1_000;
/// Kills of one download before it is let through.
const IN_A_ROW: usize = 4;
/// Longest time between what can be seen from outside and the kill.
const AFTER: Duration = Duration::from_millis(5);

/// Many small contents, because every one is published by itself.
fn files() -> Vec<(String, Content)> {
    let mut files = vec![
        ("config.json".to_owned(), small("{\"a\": 1}")),
        ("vae/config.json".to_owned(), small("{\"b\": 2}")),
        ("model.safetensors".to_owned(), large(noise(40, 400_000))),
    ];
    for number in 0..9 {
        let name = format!("transformer/{number}.safetensors");
        let bytes = noise(50 + number, 1_000 * (1 + number as usize));
        files.push((name, large(bytes)));
    }
    files
}

/// How the cache looks from outside.
struct Looked {
    /// Contents that have their names.
    named: BTreeSet<String>,
    /// Bytes of the others.
    missing: u64,
    /// Some content is begun.
    begun: bool,
    /// Some content has its name, and nothing leads to it.
    unlinked: bool,
    /// Everything is in its place, and the branch does not say so.
    unsaid: bool,
}

fn blob(cache: &Path, content: &Content) -> PathBuf {
    folder(cache).join("blobs").join(content.etag())
}

fn link(cache: &Path, path: &str) -> PathBuf {
    folder(cache).join("snapshots").join(FIRST).join(path)
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn look(cache: &Path, files: &[(String, Content)]) -> Looked {
    let mut looked = Looked {
        named: BTreeSet::new(),
        missing: 0,
        begun: false,
        unlinked: false,
        unsaid: false,
    };
    let mut linked = 0;
    for (path, content) in files {
        let blob = blob(cache, content);
        let is_linked = is_there(&link(cache, path));
        if is_there(&blob) {
            looked.named.insert(content.etag());
            looked.unlinked |= !is_linked;
        } else {
            looked.missing += content.size();
            looked.begun |= is_there(&blob.with_extension("leoma.incomplete"));
        }
        linked += usize::from(is_linked);
    }
    looked.unsaid = linked == files.len() && !is_there(&folder(cache).join("refs/main"));
    looked
}

/// What a kill waits for.
enum Aim {
    /// So many bytes have left the Hub.
    Sent(u64),
    /// A content has its name, or a file its link.
    There(PathBuf),
    /// Nothing but time.
    Time,
}

impl Aim {
    /// One of those that are still ahead, and how long after it.
    fn choose(
        random: &mut Random,
        cache: &Path,
        files: &[(String, Content)],
        whole: Duration,
    ) -> (Self, Duration) {
        let mut within = |limit: Duration| {
            Duration::from_micros(random.below(limit.as_micros() as usize) as u64)
        };
        let (soon, anywhen) = (within(AFTER), within(whole));
        let (path, content) = &files[random.below(files.len())];
        let missing = look(cache, files).missing;
        let there = [blob(cache, content), link(cache, path)];
        let there = there[random.below(2)].clone();
        match random.below(4) {
            0 if missing > 0 => (Self::Sent(1 + random.below(missing as usize) as u64), soon),
            1 | 2 if !is_there(&there) => (Self::There(there), soon),
            _ => (Self::Time, anywhen),
        }
    }

    fn is_reached(&self, sent: u64) -> bool {
        match self {
            Self::Sent(bytes) => sent >= *bytes,
            Self::There(path) => is_there(path),
            Self::Time => true,
        }
    }
}

fn start(hub: &Hub, cache: &Path) -> Child {
    leoma(hub, cache, &["models", "pull", REPO, "--no-progress"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits for the moment, or for the end of the process; whether it was killed.
fn kill(hub: &Hub, mut child: Child, (aim, after): &(Aim, Duration)) -> bool {
    let mut sent = hub.sent();
    while child.try_wait().unwrap().is_none() && !aim.is_reached(sent) {
        thread::sleep(Duration::from_micros(50));
        sent += hub.sent();
    }
    thread::sleep(*after);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    let killed = status.signal() == Some(9);
    assert!(killed || status.success(), "it ended by itself: {status}");
    killed
}

/// Lets a download through: it finishes what is left, and fetches nothing that has its name.
fn goes_on(hub: &Hub, cache: &Path, files: &[(String, Content)], when: &str) {
    let before = look(cache, files);
    hub.asked();
    let (code, out, error) = run(&mut leoma(
        hub,
        cache,
        &["models", "pull", REPO, "--format", "json", "--no-progress"],
    ));
    assert_eq!(code, 0, "{when}: {error}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let downloaded = report["downloaded_bytes"].as_u64().unwrap();
    assert!(
        downloaded <= before.missing,
        "{when}: {downloaded} bytes for {} that were missing",
        before.missing
    );
    for asked in hub.asked() {
        let etag = match asked.at {
            At::Storage => asked.what,
            At::File => {
                let file = files.iter().find(|(path, _)| *path == asked.what);
                file.unwrap().1.etag()
            }
            _ => continue,
        };
        assert!(
            !before.named.contains(&etag),
            "{when}: {etag} was asked for again"
        );
    }
    assert_sound(cache);
    for (path, content) in files {
        assert!(
            fs::read(link(cache, path)).unwrap() == *content.bytes,
            "{when}: {path}"
        );
    }
    let blobs = below(&folder(cache).join("blobs"));
    assert_eq!(blobs.len(), files.len(), "{when}: {:?}", blobs.keys());
    let branch = fs::read_to_string(folder(cache).join("refs/main")).unwrap();
    assert_eq!(branch, FIRST, "{when}");
}

/// Kills so many downloads. Returns after how many of them a content was begun, one had its name and no link, and
/// all was there but the branch.
fn kills(count: usize) -> [usize; 3] {
    let hub = Hub::start();
    let files = files();
    let listed: Vec<(&str, Content)> = files
        .iter()
        .map(|(path, content)| (path.as_str(), content.clone()))
        .collect();
    hub.commit(REPO, "main", FIRST, &listed);
    let cache = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    goes_on(&hub, cache.path(), &files, "undisturbed");
    let whole = begun.elapsed();
    fs::remove_dir_all(folder(cache.path())).unwrap();

    let mut random = Random(count as u64);
    let (mut killed, mut missed, mut seen) = (0, 0, [0; 3]);
    while killed < count {
        assert!(
            missed < 10 * count,
            "{killed} kills; {missed} came too late"
        );
        for _ in 0..=random.below(IN_A_ROW) {
            let aim = Aim::choose(&mut random, cache.path(), &files, whole);
            if kill(&hub, start(&hub, cache.path()), &aim) {
                killed += 1;
            } else {
                missed += 1;
            }
            assert_sound(cache.path());
            let looked = look(cache.path(), &files);
            let states = [looked.begun, looked.unlinked, looked.unsaid];
            for (seen, state) in seen.iter_mut().zip(states) {
                *seen += usize::from(state);
            }
        }
        goes_on(&hub, cache.path(), &files, &format!("after {killed} kills"));
        fs::remove_dir_all(folder(cache.path())).unwrap();
    }
    seen
}

#[test]
fn killed_while_publishing() {
    kills(FEW);
}

#[test]
#[ignore = "takes minutes: cargo test -p leoma-node --test hub publish -- --ignored --nocapture"]
#[allow(clippy::print_stdout)]
fn killed_a_thousand_times_while_publishing() {
    let [begun, unlinked, unsaid] = kills(MANY);
    println!(
        "{MANY} kills: {begun} with a content under way, {unlinked} with a name and no link, {unsaid} with all but \
         the branch"
    );
    // What is aimed at is hit.
    assert!(begun > 0 && unlinked > 0 && unsaid > 0);
}

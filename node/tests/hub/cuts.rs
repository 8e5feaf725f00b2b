//! A thousand downloads whose connections are cut at places that nobody chose.

use crate::server::{Act, At, Hub, large, noise};
use crate::*;

const RUNS: u64 = 1_000;
const THREADS: u64 = 4;

/// Numbers without an order.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit.max(1)
    }
}

#[test]
fn a_thousand_cut_downloads_never_poison_the_cache_and_always_go_on() {
    // Most of the time is spent waiting for the disk.
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| std::thread::spawn(move || runs((thread..RUNS).step_by(THREADS as usize))))
        .collect();
    let (mut cuts, mut ended_early) = (0, 0);
    for thread in threads {
        let (more, ends) = thread.join().unwrap();
        cuts += more;
        ended_early += ends;
    }
    assert!(
        cuts >= RUNS && ended_early > RUNS / 3,
        "{cuts} cuts, {ended_early} ends"
    );
}

/// Returns how many connections were cut, and how many downloads ended by it.
fn runs(numbers: impl Iterator<Item = u64>) -> (u64, u64) {
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::start();
    let mut cuts = 0;
    let mut ended_early = 0;
    for run in numbers {
        let mut random = Random(run + 1);
        let size = 1 + random.below(120_000);
        let bytes = noise(run + 100, size);
        let commit = format!("{run:040x}");
        let content = large(bytes.clone());
        hub.commit(
            REPO,
            "main",
            &commit,
            &[("model.safetensors", content.clone())],
        );
        let blob = folder(cache.path()).join("blobs").join(content.etag());
        let options = PullOptions {
            piece_bytes: 1 + random.below(60_000) as u64,
            connections: 1 + random.below(4),
            // The first cut ends some of the runs; the others go on by themselves.
            patience: Duration::from_secs(if random.below(2) == 0 { 0 } else { 60 }),
            ..options()
        };
        // How often: mostly a few times, sometimes at every turn for long.
        let mut left = 1 + random.below(6);
        let mut cutter = Random(run * 7 + 3);
        let counted = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&counted);
        hub.script(move |asked| {
            if asked.at != At::Storage || left == 0 {
                return Act::Right;
            }
            left -= 1;
            *counter.lock().unwrap() += 1;
            let asked_for = asked.range.as_deref().and_then(|range| {
                let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
                Some(last.parse::<usize>().ok()? + 1 - first.parse::<usize>().ok()?)
            });
            Act::Cut(cutter.below(asked_for.unwrap_or(size)))
        });
        hub.sent();
        let mut kept = 0;
        let mut fetched = 0;
        let snapshot = loop {
            let (result, told) = fetch(&settings(&hub, cache.path()), &commit, &options);
            let begun = *told.bytes.lock().unwrap() as u64;
            match result {
                Ok(snapshot) => {
                    fetched += snapshot.downloaded_bytes;
                    assert!(
                        begun == size as u64,
                        "run {run}: {begun} of {size} bytes were told"
                    );
                    break snapshot;
                }
                Err(error) => {
                    assert!(
                        matches!(error, HubError::Unreachable { .. }),
                        "run {run}: {error}"
                    );
                    ended_early += 1;
                    // Neither the name nor the branch is there before the bytes are.
                    assert!(!blob.exists(), "run {run}");
                    assert!(begun >= kept, "run {run}: what was kept is lost");
                    fetched += begun - kept;
                    kept = begun;
                }
            }
        };
        assert!(
            fs::read(snapshot.path.join("model.safetensors")).unwrap() == bytes,
            "run {run}"
        );
        assert!(fs::read(&blob).unwrap() == bytes, "run {run}");
        assert_eq!(fetched, size as u64, "run {run}: bytes came twice");
        // Bytes that were under way when a connection broke may have been sent twice, and no others.
        let counted = *counted.lock().unwrap();
        let sent = hub.sent();
        let under_way = options.connections as u64 * options.piece_bytes.min(size as u64);
        let limit = size as u64 + counted * under_way;
        assert!(
            sent <= limit,
            "run {run}: {sent} bytes sent of {size}, {counted} cuts"
        );
        cuts += counted;
        let left = below(&folder(cache.path()).join("blobs"));
        assert_eq!(left.len(), 1, "run {run}: {:?}", left.keys());
        // So that a thousand of them fit.
        fs::remove_dir_all(folder(cache.path())).unwrap();
    }
    (cuts, ended_early)
}

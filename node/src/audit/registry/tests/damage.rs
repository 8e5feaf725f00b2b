//! Damaged registries: an error or the right answer, never "nothing like it is registered".

use super::*;
use crate::store::StoreError;

/// Small, because it is damaged in many places.
fn small(seed: u64) -> Sketch {
    let mut sketch = tuned(seed, 0.0);
    let networks = [
        ("transformer/blocks.1", "vae/a"),
        ("transformer/blocks.2", "vae/b"),
    ];
    for (from, to) in networks {
        let weight = sketch.weights[from].clone();
        sketch.weights.insert(to.to_owned(), weight);
    }
    sketch
        .weights
        .retain(|name, _| name.starts_with("vae/") || name.as_str() < "transformer/blocks.15");
    sketch
}

fn small_base() -> Sketch {
    let full = base();
    let mut sketch = small(1);
    for (name, weight) in &mut sketch.weights {
        let name = match name.as_str() {
            "vae/a" => "transformer/blocks.1",
            "vae/b" => "transformer/blocks.2",
            name => name,
        };
        *weight = full.weights[name].clone();
    }
    sketch
}

/// A registry of three models, of which `user/2` has a model hash, and a copy of that one.
struct Case {
    _dir: tempfile::TempDir,
    path: PathBuf,
    /// As it was written.
    bytes: Vec<u8>,
    copy: Sketch,
    base: Sketch,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.sqlite");
        let mut registry = Registry::open(&path).unwrap();
        for seed in 1..4 {
            let entry = Entry {
                model_hash: (seed == 2).then(|| "2".repeat(64)),
                block: Some(seed),
                ..entry(&format!("user/{seed}"))
            };
            registry.add(&entry, &small(seed)).unwrap();
        }
        assert_eq!(registry.check().unwrap(), 3);
        drop(registry);
        Self {
            bytes: fs::read(&path).unwrap(),
            path,
            _dir: dir,
            copy: small(2),
            base: small_base(),
        }
    }

    /// What is said about the copy; by its sketch alone, then by its hash alone.
    fn asked(&self) -> Result<[Vec<Candidate>; 2]> {
        let registry = Registry::existing(&self.path)?.unwrap();
        let thief = entry("thief/leoma");
        let same = Entry {
            model_hash: Some("2".repeat(64)),
            ..thief.clone()
        };
        Ok([
            registry.candidates(&thief, Some((&self.copy, &self.base)), 8)?,
            registry.candidates(&same, None, 8)?,
        ])
    }

    /// Whether damage was noticed; where it was not, the answer must be the right one.
    fn noticed(&self, what: &str) -> bool {
        match self.asked() {
            Ok(found) => {
                for candidates in found {
                    let name = candidates.first().map(|first| first.entry.name.as_str());
                    assert_eq!(name, Some("user/2"), "{what}: a wrong answer");
                }
                false
            }
            Err(error) => {
                let is_told = error.to_string().contains("registry.sqlite");
                let is_typed = matches!(error, RegistryError::Store(_));
                assert!(is_told && is_typed, "{what}: {error}");
                true
            }
        }
    }
}

/// Puts bytes in the place of the file, and nothing beside it.
fn put(path: &Path, bytes: &[u8]) {
    for suffix in ["-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let _ = fs::remove_file(name);
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_changed_bit_is_noticed_or_does_no_harm() {
    let case = Case::new();
    assert!(!case.noticed("undamaged"));
    let mut place = 1_u64;
    let mut count = 0;
    for _ in 0..200 {
        place = place
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let at = (place >> 20) as usize % case.bytes.len();
        let bit = (place >> 61) as u32;
        let mut damaged = case.bytes.clone();
        damaged[at] ^= 1 << bit;
        put(&case.path, &damaged);
        count += usize::from(case.noticed(&format!("bit {bit} of byte {at}")));
    }
    // Much of the file is what a search reads.
    assert!(count > 20, "{count} of 200 were noticed");
}

#[test]
fn a_lost_page_is_noticed_or_does_no_harm() {
    let case = Case::new();
    let length = case.bytes.len();
    let mut count = 0;
    for page in 0..length / 4096 {
        let mut damaged = case.bytes.clone();
        damaged[4096 * page..4096 * (page + 1)].fill(0);
        put(&case.path, &damaged);
        count += usize::from(case.noticed(&format!("page {page} is zeros")));
    }
    assert!(count > 3, "{count}");
    for kept in [0, 1, 50, 99, 100, 511, 4095, 4096, 8192, length - 4096] {
        put(&case.path, &case.bytes[..kept]);
        assert!(case.noticed("cut"), "cut to {kept} bytes");
    }
}

/// Everything that a search reads, changed behind the back of SQLite's own checks.
#[test]
fn a_changed_row_is_noticed() {
    let case = Case::new();
    for (sql, says) in [
        (
            "UPDATE models SET model_hash = NULL WHERE name = 'user/2'",
            "about user/2 was changed",
        ),
        (
            "UPDATE models SET role = 'base' WHERE name = 'user/2'",
            "about user/2 was changed",
        ),
        (
            "DELETE FROM models WHERE name = 'user/2'",
            "2 of 3 models are there",
        ),
        ("DELETE FROM roster", "the number of its models is gone"),
        ("UPDATE roster SET checksum = 0", "its list was changed"),
        (
            "DELETE FROM networks WHERE network = 'vae' AND model = 2",
            "1 of 2 sketches of user/2",
        ),
        (
            "UPDATE networks SET model = 7 WHERE model = 2",
            "0 of 2 sketches of user/2",
        ),
        (
            "UPDATE networks SET coarse = zeroblob(4096) WHERE network = 'vae'",
            "the sketch of a vae was changed",
        ),
        (
            "UPDATE networks SET squares = zeroblob(16) WHERE network = 'vae'",
            "the sketch of a vae was changed",
        ),
    ] {
        change(&case, sql);
        let registry = Registry::open(&case.path).unwrap();
        let error = registry.check().unwrap_err().to_string();
        assert!(error.contains(says), "{sql}: {error}");
        drop(registry);
        assert!(case.noticed(sql), "{sql}");
    }
}

/// What a search does not read of most models is noticed by who reads it.
#[test]
fn a_changed_sketch_is_not_given_away() {
    let case = Case::new();
    for (sql, says) in [
        (
            "UPDATE networks SET sums = zeroblob(256) WHERE network = 'vae'",
            "the sketch of a vae was changed",
        ),
        (
            "UPDATE layouts SET weights = '[]'",
            "the names of a network's weights were changed",
        ),
    ] {
        change(&case, sql);
        let registry = Registry::open(&case.path).unwrap();
        let mut list = Vec::<u8>::new();
        for error in [
            registry.check().unwrap_err(),
            registry.sketch("user/2", &"c".repeat(40)).unwrap_err(),
            registry.export(Path::new("list"), &mut list).unwrap_err(),
        ] {
            assert!(error.to_string().contains(says), "{sql}: {error}");
        }
    }
}

fn change(case: &Case, sql: &str) {
    put(&case.path, &case.bytes);
    let raw = rusqlite::Connection::open(&case.path).unwrap();
    raw.pragma_update(None, "foreign_keys", false).unwrap();
    raw.execute_batch(sql).unwrap();
}

/// The file without the first page of the sketches, which nothing reads when it is opened.
fn without_sketches(case: &Case) -> Vec<u8> {
    let raw = rusqlite::Connection::open(&case.path).unwrap();
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'networks'";
    let root: i64 = raw.query_row(sql, (), |row| row.get(0)).unwrap();
    let root = usize::try_from(root).unwrap();
    let mut damaged = case.bytes.clone();
    damaged[4096 * (root - 1)..4096 * root].fill(0);
    damaged
}

#[test]
fn the_whole_file_is_read_when_asked_and_after_somebody_who_did_not_close_it() {
    let case = Case::new();
    let damaged = without_sketches(&case);
    put(&case.path, &damaged);
    let registry = Registry::open(&case.path).unwrap();
    let error = registry.check().unwrap_err();
    assert!(
        matches!(error, RegistryError::Store(StoreError::Corrupt { .. })),
        "{error}"
    );
    drop(registry);

    // What a killed process leaves: its log.
    put(&case.path, &case.bytes);
    let mut registry = Registry::open(&case.path).unwrap();
    let more = Entry {
        hotkey: Some("5".repeat(48)),
        ..entry("user/1")
    };
    assert!(!registry.add(&more, &small(1)).unwrap());
    let log = fs::read(case.path.with_extension("sqlite-wal")).unwrap();
    assert!(!log.is_empty());
    let left = case.path.with_file_name("left.sqlite");
    for (main, is_good) in [(&case.bytes, true), (&damaged, false)] {
        put(&left, main);
        fs::write(left.with_extension("sqlite-wal"), &log).unwrap();
        let opened = Registry::open(&left);
        assert_eq!(opened.is_ok(), is_good, "{opened:?}");
        if let Ok(registry) = opened {
            assert_eq!(registry.check().unwrap(), 3);
            assert_eq!(registry.entries().unwrap()[0].hotkey, more.hotkey);
        }
    }
}

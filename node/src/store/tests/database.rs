//! The folder, the database file and the disk under them.

use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use rusqlite::Connection;

use super::*;

fn refused(dir: &Path) -> StoreError {
    Store::open(dir, options()).unwrap_err()
}

#[tokio::test]
async fn a_folder_has_one_owner_at_a_time() {
    let (dir, store) = fresh();
    let error = refused(dir.path());
    assert_eq!(error.code(), "locked");
    let text = error.to_string();
    assert!(
        text.contains(dir.path().canonicalize().unwrap().to_str().unwrap()),
        "{text}"
    );
    assert!(text.contains("stop that process"), "{text}");
    let clone = store.clone();
    drop(store);
    assert_eq!(refused(dir.path()).code(), "locked");
    // Free as soon as the last handle is gone.
    drop(clone);
    open(dir.path());
}

#[tokio::test]
async fn everything_in_the_folder_is_its_owners_alone() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/b");
    let (store, _) = open(&dir);
    let id = make(&store, b"clip").await;
    let waiting = insert(&store, job_with_picture(b"picture")).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for folder in [dir.clone(), dir.join("inputs"), dir.join("results")] {
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
    }
    for file in [
        dir.join("lock"),
        dir.join("jobs.sqlite"),
        dir.join("jobs.sqlite-wal"),
        dir.join("inputs").join(waiting),
        store.result_path(&id, "video/mp4"),
        store.poster_path(&id),
    ] {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn rows_are_written_through_to_the_disk() {
    let (_dir, store) = fresh();
    let (mode, synchronous, keys) = store
        .call(|db| {
            let connection = db.connection();
            let mode: String = connection.pragma_query_value(None, "journal_mode", |r| r.get(0))?;
            let sync: i64 = connection.pragma_query_value(None, "synchronous", |r| r.get(0))?;
            let keys: bool = connection.pragma_query_value(None, "foreign_keys", |r| r.get(0))?;
            Ok((mode, sync, keys))
        })
        .await
        .unwrap();
    assert_eq!((mode.as_str(), synchronous, keys), ("wal", 2, true));
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let (dir, store) = fresh();
    drop(store);
    let path = dir.path().join("jobs.sqlite");
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let before = fs::read(&path).unwrap();
    let error = refused(dir.path());
    assert!(
        matches!(error, StoreError::NewerSchema { found: 99, .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("jobs.sqlite") && text.contains("run that version"),
        "{text}"
    );
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_that_is_not_a_database_is_refused_and_not_overwritten() {
    for garbage in [
        b"x".to_vec(),
        b"not a database ".repeat(10_000),
        vec![0; 5000],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jobs.sqlite");
        fs::write(&path, &garbage).unwrap();
        let error = refused(dir.path());
        assert_eq!(error.code(), "corrupt", "{error}");
        assert!(error.to_string().contains("jobs.sqlite"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), garbage);
    }
}

#[tokio::test]
async fn a_lost_database_does_not_take_the_clips_with_it() {
    let (dir, store) = fresh();
    let id = make(&store, b"clip").await;
    let clip = store.result_path(&id, "video/mp4");
    drop(store);
    let path = dir.path().join("jobs.sqlite");
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    for _ in 0..2 {
        let error = refused(dir.path());
        assert_eq!(error.code(), "corrupt");
        assert!(error.to_string().contains("is empty, but"), "{error}");
        assert!(clip.exists());
    }
    fs::write(&path, bytes).unwrap();
    let (store, _) = open(dir.path());
    assert_eq!(status(&store, &id).await, JobStatus::Completed);
}

#[test]
fn the_database_of_another_program_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.sqlite");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(connection);
    let before = fs::read(&path).unwrap();
    let error = refused(dir.path());
    assert_eq!(error.code(), "corrupt");
    assert!(error.to_string().contains("another program"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_damaged_database_is_refused_and_its_clips_are_left() {
    let (dir, store) = fresh();
    let id = make(&store, b"clip").await;
    for _ in 0..20 {
        store.insert(vec![job(); 20], None).await.unwrap();
    }
    let clip = store.result_path(&id, "video/mp4");
    drop(store);
    let path = dir.path().join("jobs.sqlite");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[4096..end].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    let error = refused(dir.path());
    assert_eq!(error.code(), "corrupt", "{error}");
    assert!(
        error.to_string().contains("restore it from a copy"),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert!(clip.exists());
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_an_error_and_not_the_end() {
    let (_dir, store) = fresh();
    let bad = insert(&store, job()).await;
    let good = insert(&store, job()).await;
    store
        .call(|db| {
            let sql = "UPDATE jobs SET request = '{', attempts = -1 WHERE seq = 1";
            Ok(db.connection().execute(sql, ())?)
        })
        .await
        .unwrap();
    assert_eq!(store.get(&bad).await.unwrap_err().code(), "corrupt");
    assert_eq!(store.get(&good).await.unwrap().unwrap().id, good);
}

#[tokio::test]
async fn a_database_that_another_program_holds_is_an_error_that_passes() {
    let (dir, store) = fresh();
    store
        .call(|db| Ok(db.connection().busy_timeout(Duration::from_millis(20))?))
        .await
        .unwrap();
    let other = Connection::open(dir.path().join("jobs.sqlite")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store
        .insert(vec![job_with_picture(b"picture")], None)
        .await
        .unwrap_err();
    assert_eq!(error.code(), "blocked");
    assert!(error.to_string().contains("jobs.sqlite"), "{error}");
    assert!(names(&dir.path().join("inputs")).is_empty());
    other.execute_batch("ROLLBACK").unwrap();
    insert(&store, job()).await;
}

#[tokio::test]
async fn a_defect_costs_one_call() {
    let (_dir, store) = fresh();
    let id = insert(&store, job()).await;
    let error = store
        .call(|db| -> Result<(), Failure> {
            let transaction = db.transaction()?;
            transaction.execute("DELETE FROM jobs", ())?;
            panic!("scripted");
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), "internal");
    assert_eq!(status(&store, &id).await, JobStatus::Queued);
}

#[tokio::test]
async fn below_the_reserve_nothing_new_is_taken_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let id = insert(&store, job()).await;
    let disk = store.disk().unwrap();
    assert!(disk.ok && disk.free_bytes > 0);
    let known = store.insert(vec![job()], Some(key("k", 1))).await.unwrap();
    drop(store);

    let full = StoreOptions {
        min_free_bytes: u64::MAX,
        ..options()
    };
    let (store, _) = Store::open(dir.path(), full).unwrap();
    assert!(!store.disk().unwrap().ok);
    for job in [job(), job_with_picture(b"picture")] {
        let error = store
            .insert(vec![job], Some(key("new", 1)))
            .await
            .unwrap_err();
        assert!(error.is_disk_full(), "{error}");
        assert_eq!(error.code(), "disk_full");
        assert!(error.to_string().contains("free some space"), "{error}");
    }
    assert_eq!(store.counts().await.unwrap().queued, 2);
    assert!(names(&dir.path().join("inputs")).is_empty());
    let again = store.insert(vec![job()], Some(key("k", 1))).await.unwrap();
    assert!(matches!((known, again), (Inserted::New(a), Inserted::Existing(b)) if a == b));
    // What was taken before is finished: the reserve is there for it.
    assert_eq!(claim(&store).await.id, id);
    store.complete(&id, finished(b"clip")).await.unwrap();
}

#[tokio::test]
async fn a_database_that_cannot_grow_is_a_full_disk_and_stores_nothing() {
    let (dir, store) = fresh();
    let limit = |pages: i64| {
        store.call(move |db| {
            db.connection()
                .query_row(&format!("PRAGMA max_page_count = {pages}"), (), |row| {
                    row.get::<_, i64>(0)
                })?;
            Ok(())
        })
    };
    limit(1).await.unwrap();
    let large = NewJob {
        request: json!({"prompt": "x".repeat(1_000_000)}),
        ..job_with_picture(b"picture")
    };
    let error = store
        .insert(vec![job(), large], Some(key("k", 1)))
        .await
        .unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    assert_eq!(store.counts().await.unwrap(), Counts::default());
    assert!(names(&dir.path().join("inputs")).is_empty());
    limit(1_000_000).await.unwrap();
    let again = store.insert(vec![job()], Some(key("k", 1))).await.unwrap();
    assert!(matches!(again, Inserted::New(_)));
}

#[tokio::test]
async fn on_a_full_disk_the_reserve_is_used_and_kept_again() {
    let (dir, store) = fresh();
    let reserve = dir.path().join("reserve");
    let blocks = |path: &Path| fs::metadata(path).unwrap().blocks() * 512;
    assert!(
        blocks(&reserve) >= 1 << 20,
        "it must hold space, not only promise it"
    );
    let there = {
        let reserve = reserve.clone();
        store.call(move |db| {
            let mut there = Vec::new();
            db.on_reserve(|_| {
                there.push(reserve.exists());
                match there.len() {
                    1 => {
                        Err(StoreError::io("write", &reserve, ErrorKind::StorageFull.into()).into())
                    }
                    _ => Ok(()),
                }
            })?;
            Ok(there)
        })
    };
    assert_eq!(there.await.unwrap(), [true, false]);
    assert!(blocks(&reserve) >= 1 << 20);
    // Any other failure is not tried again.
    let error = store
        .call(|db| db.on_reserve(|_| -> Result<(), Failure> { Err(StoreError::Internal.into()) }))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "internal");
}

#[test]
fn a_full_disk_is_told_apart_from_other_failures_of_files() {
    let error = |kind: ErrorKind| StoreError::io("write", Path::new("clip"), kind.into());
    assert!(error(ErrorKind::StorageFull).is_disk_full());
    assert!(error(ErrorKind::QuotaExceeded).is_disk_full());
    let denied = error(ErrorKind::PermissionDenied);
    assert_eq!(denied.code(), "io");
    assert!(denied.to_string().contains("cannot write clip"), "{denied}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = refused(&file.join("data"));
    assert_eq!(error.code(), "io");
    assert!(error.to_string().contains("file/data"), "{error}");
}

//! What is kept and for how long.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn beyond_the_bytes_the_oldest_finished_go() {
    let dir = tempfile::tempdir().unwrap();
    let limited = StoreOptions {
        // Each has a poster of 6 bytes.
        retention_bytes: 2 * (100 + 6),
        ..options()
    };
    let (store, _) = Store::open(dir.path(), limited).unwrap();
    let clip = [1; 100];
    let oldest = insert(&store, job()).await;
    let waits = insert(&store, job_with_picture(&[2; 500])).await;
    let failed = insert(
        &store,
        NewJob {
            priority: 1,
            ..job()
        },
    )
    .await;
    store.fail(&failed, cancelled(), Vec::new()).await.unwrap();
    assert_eq!(claim(&store).await.id, oldest);
    store.complete(&oldest, finished(&clip)).await.unwrap();
    assert_eq!(claim(&store).await.id, waits);
    let second = make(&store, &clip).await;
    assert_eq!(store.sweep().await.unwrap(), Swept::default());
    let third = make(&store, &clip).await;

    let swept = store.sweep().await.unwrap();
    let expected = Swept {
        jobs: vec![oldest.clone()],
        bytes: 106,
        keys: 0,
    };
    assert_eq!(swept, expected);
    assert_eq!(store.get(&oldest).await.unwrap(), None);
    assert!(!store.result_path(&oldest, "video/mp4").exists());
    assert!(!store.poster_path(&oldest).exists());
    for id in [&second, &third] {
        assert!(store.result_path(id, "video/mp4").exists());
    }
    // Neither unfinished jobs nor those without a file free anything.
    assert_eq!(status(&store, &waits).await, JobStatus::InProgress);
    assert_eq!(status(&store, &failed).await, JobStatus::Failed);
    assert_eq!(store.stored_bytes().await.unwrap(), 2 * 106 + 500);
    assert_eq!(store.sweep().await.unwrap(), Swept::default());
}

#[tokio::test]
async fn beyond_the_age_finished_jobs_go_and_their_keys_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let limited = StoreOptions {
        retention_age: Some(Duration::from_secs(3600)),
        ..options()
    };
    let (store, _) = Store::open(dir.path(), limited).unwrap();
    let Inserted::New(jobs) = store
        .insert(vec![job(), job()], Some(key("old", 1)))
        .await
        .unwrap()
    else {
        panic!("nothing was there");
    };
    claim(&store).await;
    store
        .complete(&jobs[0].id, finished(b"clip"))
        .await
        .unwrap();
    store
        .fail(&jobs[1].id, cancelled(), Vec::new())
        .await
        .unwrap();
    let young = make(&store, b"clip").await;
    store
        .insert(vec![job()], Some(key("new", 1)))
        .await
        .unwrap();
    assert_eq!(store.sweep().await.unwrap(), Swept::default());

    let old = jobs.iter().map(|job| job.id.clone()).collect::<Vec<_>>();
    for id in &old {
        age(&store, id, 3601).await;
    }
    age(&store, &young, 3500).await;
    let expected = Swept {
        jobs: old.clone(),
        bytes: 10,
        keys: 1,
    };
    assert_eq!(store.sweep().await.unwrap(), expected);
    assert_eq!(store.get(&old[0]).await.unwrap(), None);
    assert!(!store.result_path(&old[0], "video/mp4").exists());
    assert_eq!(status(&store, &young).await, JobStatus::Completed);
    let again = store
        .insert(vec![job()], Some(key("old", 2)))
        .await
        .unwrap();
    assert!(matches!(again, Inserted::New(_)));
    let known = store
        .insert(vec![job()], Some(key("new", 1)))
        .await
        .unwrap();
    assert!(matches!(known, Inserted::Existing(_)));
}

#[tokio::test]
async fn jobs_that_are_not_finished_do_not_age() {
    let dir = tempfile::tempdir().unwrap();
    let limited = StoreOptions {
        retention_age: Some(Duration::ZERO),
        retention_bytes: 0,
        ..options()
    };
    let (store, _) = Store::open(dir.path(), limited).unwrap();
    let running = insert(&store, job()).await;
    claim(&store).await;
    let waiting = insert(&store, job_with_picture(b"picture")).await;
    for id in [&running, &waiting] {
        age(&store, id, 1_000_000).await;
    }
    assert_eq!(store.sweep().await.unwrap(), Swept::default());
    assert_eq!(store.image(&waiting).await.unwrap().unwrap(), b"picture");
}

/// Moves a job into the past.
async fn age(store: &Store, id: &str, seconds: i64) {
    let id = id.to_owned();
    store
        .call(move |db| {
            let changed = db.connection().execute(
                "UPDATE jobs SET created_at = created_at - ?2, completed_at = completed_at - ?2 \
                 WHERE id = ?1",
                rusqlite::params![id, seconds],
            )?;
            assert_eq!(changed, 1);
            Ok(())
        })
        .await
        .unwrap();
}

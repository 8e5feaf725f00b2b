//! What can happen to a job.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn a_job_goes_from_queued_to_completed_with_everything_it_was_given() {
    let (dir, store) = fresh();
    let id = insert(
        &store,
        NewJob {
            priority: 5,
            batch_id: Some("batch".into()),
            ..job_with_picture(b"picture")
        },
    )
    .await;
    let queued = store.get(&id).await.unwrap().unwrap();
    assert_eq!(queued.status, JobStatus::Queued);
    assert_eq!((queued.priority, queued.attempts), (5, 0));
    assert_eq!(queued.request, job().request);
    assert_eq!(queued.batch_id.as_deref(), Some("batch"));
    assert!(queued.has_image && queued.created_at > 1.7e9);
    assert_eq!((queued.started_at, queued.completed_at), (None, None));
    assert_eq!(store.image(&id).await.unwrap().unwrap(), b"picture");
    assert_eq!(store.stored_bytes().await.unwrap(), 7);

    let started = claim(&store).await;
    assert_eq!(started.id, id);
    assert_eq!(
        (started.status, started.attempts),
        (JobStatus::InProgress, 1)
    );
    assert!(started.started_at.unwrap() >= started.created_at);
    assert_eq!(store.image(&id).await.unwrap().unwrap(), b"picture");
    store.set_effective(&id, json!({"seed": 6})).await.unwrap();
    let record = store.get(&id).await.unwrap().unwrap();
    assert_eq!(record.effective, Some(json!({"seed": 6})));

    let completed = store.complete(&id, finished(b"abc")).await.unwrap();
    assert_eq!(completed.status, JobStatus::Completed);
    assert!(completed.completed_at.unwrap() >= started.started_at.unwrap());
    let result = completed.result.clone().unwrap();
    assert_eq!(
        (result.bytes, result.content_type.as_str()),
        (3, "video/mp4")
    );
    assert_eq!(
        result.sha256,
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_eq!(completed.effective, Some(json!({"seed": 7})));
    assert_eq!(completed.timings, Some(json!({"denoise_s": 1.5})));
    assert_eq!(completed.events, finished(b"").events);
    assert!(completed.has_image);
    assert_eq!(
        fs::read(store.result_path(&id, "video/mp4")).unwrap(),
        b"abc"
    );
    assert_eq!(fs::read(store.poster_path(&id)).unwrap(), b"poster");
    assert_eq!(store.image(&id).await.unwrap(), None);
    assert!(names(&dir.path().join("inputs")).is_empty());
    assert_eq!(store.stored_bytes().await.unwrap(), 9);

    // And all of it is there after the process.
    drop(store);
    let (store, recovered) = open(dir.path());
    assert_eq!(recovered, Recovered::default());
    assert_eq!(store.get(&id).await.unwrap().unwrap(), completed);
    assert_eq!(
        fs::read(store.result_path(&id, "video/mp4")).unwrap(),
        b"abc"
    );
    assert_eq!(fs::read(store.poster_path(&id)).unwrap(), b"poster");
}

#[tokio::test]
async fn a_still_is_kept_as_png() {
    let (dir, store) = fresh();
    let id = insert(&store, job()).await;
    claim(&store).await;
    let still = Finished {
        content_type: "image/png".into(),
        poster_jpeg: None,
        ..finished(b"png")
    };
    store.complete(&id, still).await.unwrap();
    let path = store.result_path(&id, "image/png");
    assert!(path.ends_with(format!("results/{id}.png")));
    assert_eq!(names(&dir.path().join("results")).len(), 1);
    drop(store);
    let (store, _) = open(dir.path());
    assert_eq!(fs::read(path).unwrap(), b"png");
    assert!(store.delete(&id).await.unwrap());
    assert!(names(&dir.path().join("results")).is_empty());
}

#[tokio::test]
async fn a_failed_job_keeps_its_reason_and_ends_once() {
    let (dir, store) = fresh();
    let id = insert(&store, job_with_picture(b"picture")).await;
    let events = vec![json!({"type": "failed"})];
    let failed = store
        .fail(&id, cancelled(), events.clone())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(failed.status, JobStatus::Failed);
    assert_eq!(failed.error, Some(cancelled()));
    assert_eq!(failed.events, events);
    assert!(failed.completed_at.is_some() && failed.result.is_none());
    assert!(names(&dir.path().join("inputs")).is_empty());

    let again = JobError {
        code: "local".into(),
        message: "too late".into(),
    };
    assert_eq!(store.fail(&id, again, Vec::new()).await.unwrap(), None);
    assert_eq!(
        store
            .fail("video_none", cancelled(), Vec::new())
            .await
            .unwrap(),
        None
    );
    store.set_effective(&id, json!({})).await.unwrap();
    store.requeue(&id, true).await.unwrap();
    assert_eq!(store.get(&id).await.unwrap().unwrap(), failed);
    assert_eq!(store.claim_next().await.unwrap(), None);
}

#[tokio::test]
async fn a_job_cancelled_while_it_is_made_stays_cancelled_and_leaves_no_file() {
    let (dir, store) = fresh();
    let id = insert(&store, job()).await;
    claim(&store).await;
    let failed = store.fail(&id, cancelled(), Vec::new()).await.unwrap();
    let record = store.complete(&id, finished(b"late")).await.unwrap();
    assert_eq!(Some(record), failed);
    assert!(names(&dir.path().join("results")).is_empty());
}

#[tokio::test]
async fn a_second_result_does_not_replace_the_first() {
    let (dir, store) = fresh();
    let id = make(&store, b"first").await;
    let record = store.complete(&id, finished(b"second")).await.unwrap();
    assert_eq!(record.result.unwrap().bytes, 5);
    assert_eq!(
        fs::read(store.result_path(&id, "video/mp4")).unwrap(),
        b"first"
    );
    assert_eq!(names(&dir.path().join("results")).len(), 2);
    assert_eq!(
        store.fail(&id, cancelled(), Vec::new()).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn a_requeued_job_keeps_its_place_and_gets_its_attempt_back_only_if_told() {
    let (_dir, store) = fresh();
    let first = insert(&store, job()).await;
    let second = insert(&store, job()).await;
    claim(&store).await;
    store.requeue(&first, false).await.unwrap();
    let record = store.get(&first).await.unwrap().unwrap();
    assert_eq!((record.status, record.attempts), (JobStatus::Queued, 0));
    assert_eq!(record.started_at, None);
    assert_eq!(store.queue_position(&first).await.unwrap(), Some(0));
    assert_eq!(store.queue_position(&second).await.unwrap(), Some(1));
    assert_eq!(claim(&store).await.id, first);
    store.requeue(&first, true).await.unwrap();
    let again = claim(&store).await;
    assert_eq!((again.id, again.attempts), (first, 2));
    // A job that waits is left as it is.
    store.requeue(&second, false).await.unwrap();
    assert_eq!(status(&store, &second).await, JobStatus::Queued);
}

#[tokio::test]
async fn the_highest_priority_goes_first_and_the_oldest_among_equals() {
    let (_dir, store) = fresh();
    let mut ids = Vec::new();
    for priority in [0, -1, 1, 0, 1] {
        ids.push(insert(&store, NewJob { priority, ..job() }).await);
    }
    let order = [2, 4, 0, 3, 1].map(|index: usize| ids[index].clone());
    for (position, id) in order.iter().enumerate() {
        assert_eq!(store.queue_position(id).await.unwrap(), Some(position));
    }
    for id in &order {
        assert_eq!(store.queue_position(id).await.unwrap(), Some(0));
        assert_eq!(claim(&store).await.id, *id);
        assert_eq!(store.queue_position(id).await.unwrap(), None);
    }
    assert_eq!(store.claim_next().await.unwrap(), None);
    assert_eq!(store.queue_position("video_none").await.unwrap(), None);
}

#[tokio::test]
async fn no_job_is_claimed_twice() {
    let (_dir, store) = fresh();
    store.insert(vec![job(); 40], None).await.unwrap();
    let claims = (0..50).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.claim_next().await.unwrap() })
    });
    let mut ids = BTreeSet::new();
    for claim in claims.collect::<Vec<_>>() {
        if let Some(job) = claim.await.unwrap() {
            assert!(ids.insert(job.id));
        }
    }
    assert_eq!(ids.len(), 40);
    let counts = Counts {
        in_progress: 40,
        ..Counts::default()
    };
    assert_eq!(store.counts().await.unwrap(), counts);
}

#[tokio::test]
async fn only_finished_jobs_are_deleted() {
    let (dir, store) = fresh();
    let id = insert(&store, job_with_picture(b"picture")).await;
    for _ in 0..2 {
        let error = store.delete(&id).await.unwrap_err();
        assert_eq!(error.code(), "not_finished");
        store.claim_next().await.unwrap();
    }
    store.complete(&id, finished(b"clip")).await.unwrap();
    assert!(store.delete(&id).await.unwrap());
    assert!(!store.delete(&id).await.unwrap());
    assert_eq!(store.get(&id).await.unwrap(), None);
    assert!(names(&dir.path().join("results")).is_empty());
    assert!(names(&dir.path().join("inputs")).is_empty());
    let error = store.complete(&id, finished(b"clip")).await.unwrap_err();
    assert_eq!(error.code(), "unknown_job");
    assert!(names(&dir.path().join("results")).is_empty());
    assert_eq!(
        store.requeue(&id, true).await.unwrap_err().code(),
        "unknown_job"
    );
    let error = store.set_effective(&id, json!({})).await.unwrap_err();
    assert_eq!(error.code(), "unknown_job");
}

#[tokio::test]
async fn the_queue_takes_all_of_a_request_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let limited = StoreOptions {
        max_queued: 3,
        ..options()
    };
    let (store, _) = Store::open(dir.path(), limited).unwrap();
    let pictures = vec![job_with_picture(b"picture"); 2];
    let Inserted::New(jobs) = store
        .insert(pictures.clone(), Some(key("k", 1)))
        .await
        .unwrap()
    else {
        panic!("nothing was there");
    };
    let error = store.insert(pictures.clone(), None).await.unwrap_err();
    assert!(
        matches!(error, StoreError::QueueFull { limit: 3 }),
        "{error}"
    );
    let error = store.insert(vec![job(); 2], None).await.unwrap_err();
    assert_eq!(error.code(), "queue_full");
    assert_eq!(store.counts().await.unwrap().queued, 2);
    assert_eq!(names(&dir.path().join("inputs")).len(), 2);
    insert(&store, job()).await;
    // What is known already needs no room.
    let again = store.insert(pictures, Some(key("k", 1))).await.unwrap();
    assert_eq!(again, Inserted::Existing(jobs));
    assert_eq!(
        store.insert(Vec::new(), None).await.unwrap(),
        Inserted::New(Vec::new())
    );
}

#[tokio::test]
async fn a_key_stands_for_one_request() {
    let (dir, store) = fresh();
    let Inserted::New(jobs) = store
        .insert(vec![job(), job()], Some(key("k", 1)))
        .await
        .unwrap()
    else {
        panic!("nothing was there");
    };
    for jobs in [vec![job()], vec![job_with_picture(b"other")]] {
        let error = store.insert(jobs, Some(key("k", 2))).await.unwrap_err();
        assert!(matches!(error, StoreError::IdempotencyMismatch), "{error}");
    }
    assert!(names(&dir.path().join("inputs")).is_empty());
    let other = store
        .insert(vec![job()], Some(key("other", 1)))
        .await
        .unwrap();
    assert!(matches!(other, Inserted::New(_)));
    // It outlives the process, and answers with the jobs as they are now.
    claim(&store).await;
    drop(store);
    let (store, _) = open(dir.path());
    let Inserted::Existing(now) = store
        .insert(vec![job(), job()], Some(key("k", 1)))
        .await
        .unwrap()
    else {
        panic!("the key was forgotten");
    };
    let ids = |jobs: &[JobRecord]| jobs.iter().map(|job| job.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&now), ids(&jobs));
    assert_eq!(now[0].attempts, 1);
    // Once its jobs are deleted it is free, for another request too.
    for job in &jobs {
        store.fail(&job.id, cancelled(), Vec::new()).await.unwrap();
        store.delete(&job.id).await.unwrap();
    }
    let reused = store.insert(vec![job()], Some(key("k", 3))).await.unwrap();
    assert!(matches!(reused, Inserted::New(_)));
    let error = store
        .insert(vec![job()], Some(key("k", 1)))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "idempotency_mismatch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_with_one_key_one_wins_and_all_get_its_job() {
    let (dir, store) = fresh();
    for round in 0..5 {
        let tasks: Vec<_> = (0..40)
            .map(|_| {
                let store = store.clone();
                let name = format!("key {round}");
                tokio::spawn(async move {
                    store
                        .insert(vec![job_with_picture(b"picture")], Some(key(&name, 1)))
                        .await
                        .unwrap()
                })
            })
            .collect();
        let (mut ids, mut new) = (BTreeSet::new(), 0);
        for task in tasks {
            let jobs = match task.await.unwrap() {
                Inserted::New(jobs) => {
                    new += 1;
                    jobs
                }
                Inserted::Existing(jobs) => jobs,
            };
            ids.extend(jobs.into_iter().map(|job| job.id));
        }
        assert_eq!((new, ids.len()), (1, 1));
        assert_eq!(names(&dir.path().join("inputs")).len(), round + 1);
    }
    assert_eq!(store.counts().await.unwrap().queued, 5);
}

#[test]
fn a_caller_that_leaves_at_any_moment_leaves_a_whole_job_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let first = runtime();
    first.block_on(async {
        for step in 0..60 {
            let insertion = store.insert(vec![job_with_picture(b"picture")], None);
            let patience = Duration::from_micros(step * 50);
            let _ = tokio::time::timeout(patience, insertion).await;
        }
    });
    // Waits for the file work under way.
    drop(first);
    let waiting = runtime().block_on(store.counts()).unwrap().queued;
    assert_eq!(names(&dir.path().join("inputs")).len() as u64, waiting);
}

#[tokio::test]
async fn notes_are_kept() {
    let (dir, store) = fresh();
    assert_eq!(store.get_note("speed").await.unwrap(), None);
    store.set_note("speed", "1").await.unwrap();
    store.set_note("speed", "2").await.unwrap();
    drop(store);
    let (store, _) = open(dir.path());
    assert_eq!(store.get_note("speed").await.unwrap().as_deref(), Some("2"));
}

#[tokio::test]
async fn an_id_from_outside_names_no_file_of_ours() {
    let (dir, store) = fresh();
    let results = dir.path().canonicalize().unwrap().join("results");
    for id in [
        "",
        "..",
        "../../etc/passwd",
        "video_../x",
        "/etc/passwd",
        "video_0",
    ] {
        for path in [store.result_path(id, "video/mp4"), store.poster_path(id)] {
            assert_eq!(path.parent(), Some(results.as_path()), "{id:?}");
            assert!(!path.exists());
        }
        assert_eq!(store.get(id).await.unwrap(), None);
        assert_eq!(store.image(id).await.unwrap(), None);
        assert!(!store.delete(id).await.unwrap());
    }
}

#[test]
fn debug_output_has_no_user_content() {
    let text = format!(
        "{:?} {:?} {:?}",
        job_with_picture(b"boat"),
        key("boat", 1),
        finished(b"boat")
    );
    assert!(
        text.contains("image_bytes: Some(4)") && !text.contains("boat"),
        "{text}"
    );
}

//! What a process that was killed leaves, and what the next one makes of it.

use super::*;

#[tokio::test]
async fn no_answered_job_is_lost_wherever_the_process_is_killed() {
    let (dir, store) = fresh();
    let done = make(&store, b"clip").await;
    let failed = insert(&store, job()).await;
    store.fail(&failed, cancelled(), Vec::new()).await.unwrap();
    let running = insert(&store, job_with_picture(b"one")).await;
    claim(&store).await;
    let waiting = store
        .insert(vec![job_with_picture(b"two")], Some(key("k", 1)))
        .await
        .unwrap();
    let killed = as_killed(dir.path());

    let (next, recovered) = open(killed.path());
    assert_eq!(recovered.requeued, [running.as_str()]);
    assert!(recovered.failed.is_empty());
    for id in [&done, &failed] {
        assert_eq!(next.get(id).await.unwrap(), store.get(id).await.unwrap());
    }
    assert_eq!(
        fs::read(next.result_path(&done, "video/mp4")).unwrap(),
        b"clip"
    );
    let record = next.get(&running).await.unwrap().unwrap();
    assert_eq!((record.status, record.attempts), (JobStatus::Queued, 1));
    assert_eq!(record.started_at, None);
    assert_eq!(next.image(&running).await.unwrap().unwrap(), b"one");
    // The same request with the same key is the same job.
    let Inserted::New(jobs) = waiting else {
        panic!("nothing was there");
    };
    let again = next
        .insert(vec![job_with_picture(b"two")], Some(key("k", 1)))
        .await
        .unwrap();
    assert_eq!(again, Inserted::Existing(jobs.clone()));
    assert_eq!(claim(&next).await.id, running);
    let last = claim(&next).await;
    assert_eq!(last.id, jobs[0].id);
    assert_eq!(next.image(&last.id).await.unwrap().unwrap(), b"two");
}

#[tokio::test]
async fn a_job_that_ends_the_node_twice_is_given_up() {
    let (dir, store) = fresh();
    let id = insert(&store, job_with_picture(b"picture")).await;
    claim(&store).await;
    let once = as_killed(dir.path());
    let (store, recovered) = open(once.path());
    assert_eq!(recovered.requeued, [id.as_str()]);
    assert_eq!(claim(&store).await.attempts, 2);
    let twice = as_killed(once.path());
    let (store, recovered) = open(twice.path());
    assert_eq!(recovered.failed, [id.as_str()]);
    assert!(recovered.requeued.is_empty());
    let record = store.get(&id).await.unwrap().unwrap();
    let error = record.error.unwrap();
    assert_eq!(record.status, JobStatus::Failed);
    assert_eq!(error.code, "crashed");
    assert_eq!(error.message, "the node ended twice while making this clip");
    assert!(record.completed_at.is_some());
    assert!(names(&twice.path().join("inputs")).is_empty());
    assert_eq!(store.claim_next().await.unwrap(), None);
}

#[tokio::test]
async fn an_attempt_that_was_given_back_does_not_count_towards_giving_up() {
    let (dir, store) = fresh();
    let id = insert(&store, job()).await;
    for _ in 0..3 {
        claim(&store).await;
        store.requeue(&id, false).await.unwrap();
    }
    claim(&store).await;
    let killed = as_killed(dir.path());
    let (_store, recovered) = open(killed.path());
    assert_eq!(recovered.requeued, [id]);
}

#[tokio::test]
async fn half_files_are_removed_and_never_served() {
    let (dir, store) = fresh();
    let running = insert(&store, job_with_picture(b"picture")).await;
    claim(&store).await;
    let done = make(&store, b"clip").await;
    drop(store);
    let (inputs, results) = (dir.path().join("inputs"), dir.path().join("results"));
    let unknown = files::new_id();
    // Killed while a picture was written, before its row.
    fs::write(inputs.join(&unknown), b"pict").unwrap();
    // Killed after the row of a finished job, before its picture was removed.
    fs::write(inputs.join(&done), b"picture").unwrap();
    // Killed while a result was written.
    fs::write(results.join(".leoma-abc.part"), b"cl").unwrap();
    // Killed after a result got its name, before the row.
    fs::write(results.join(format!("{running}.mp4")), b"clip").unwrap();
    fs::write(results.join(format!("{running}.jpg")), b"poster").unwrap();
    // Killed after a row was deleted, before its files.
    fs::write(results.join(format!("{unknown}.mp4")), b"clip").unwrap();
    fs::write(results.join(format!("{unknown}.png")), b"clip").unwrap();
    // Not ours: no job's file is called like that.
    fs::write(results.join("notes.txt"), b"mine").unwrap();
    fs::write(inputs.join("holiday.jpg"), b"mine").unwrap();

    let (store, recovered) = open(dir.path());
    assert_eq!(recovered.requeued, [running.as_str()]);
    let expected = ["holiday.jpg".to_owned(), running.clone()];
    assert_eq!(names(&inputs), BTreeSet::from(expected));
    let expected = [
        "notes.txt".to_owned(),
        format!("{done}.mp4"),
        format!("{done}.jpg"),
    ];
    assert_eq!(names(&results), BTreeSet::from(expected));
    let record = store.get(&running).await.unwrap().unwrap();
    assert_eq!((record.status, record.result), (JobStatus::Queued, None));
    // And it can still be made.
    claim(&store).await;
    store.complete(&running, finished(b"whole")).await.unwrap();
    let path = store.result_path(&running, "video/mp4");
    assert_eq!(fs::read(path).unwrap(), b"whole");
}

#[tokio::test]
async fn a_job_whose_files_someone_removed_fails_instead_of_serving_them() {
    let (dir, store) = fresh();
    let cut = make(&store, b"clip").await;
    let gone = make(&store, b"clip").await;
    let whole = make(&store, b"clip").await;
    let waiting = insert(&store, job_with_picture(b"picture")).await;
    let running = insert(
        &store,
        NewJob {
            priority: 1,
            ..job_with_picture(b"picture")
        },
    )
    .await;
    claim(&store).await;
    fs::write(store.result_path(&cut, "video/mp4"), b"cl").unwrap();
    fs::remove_file(store.result_path(&gone, "video/mp4")).unwrap();
    for id in [&waiting, &running] {
        fs::remove_file(dir.path().join("inputs").join(id)).unwrap();
        assert_eq!(store.image(id).await.unwrap_err().code(), "io");
    }
    drop(store);
    let (store, recovered) = open(dir.path());
    assert!(recovered.requeued.is_empty());
    let failed: BTreeSet<_> = recovered.failed.iter().collect();
    assert_eq!(failed, BTreeSet::from([&cut, &gone, &waiting, &running]));
    for (id, code) in [
        (&cut, "result_lost"),
        (&gone, "result_lost"),
        (&waiting, "input_lost"),
        (&running, "input_lost"),
    ] {
        let record = store.get(id).await.unwrap().unwrap();
        assert_eq!(record.error.unwrap().code, code);
        assert_eq!(record.result, None);
        assert!(!store.result_path(id, "video/mp4").exists());
        assert!(!store.poster_path(id).exists());
    }
    assert_eq!(status(&store, &whole).await, JobStatus::Completed);
}

#[tokio::test]
async fn a_result_that_cannot_be_published_leaves_the_job_to_be_made_again() {
    let (dir, store) = fresh();
    let id = insert(&store, job()).await;
    claim(&store).await;
    // A folder in the way of the poster: the clip already has its name by then.
    let poster = store.poster_path(&id);
    fs::create_dir(&poster).unwrap();
    let error = store.complete(&id, finished(b"clip")).await.unwrap_err();
    assert_eq!(error.code(), "io");
    assert_eq!(status(&store, &id).await, JobStatus::InProgress);
    fs::remove_dir(&poster).unwrap();
    assert!(names(&dir.path().join("results")).is_empty());
    store.requeue(&id, false).await.unwrap();
    claim(&store).await;
    store.complete(&id, finished(b"clip")).await.unwrap();
    assert_eq!(status(&store, &id).await, JobStatus::Completed);
}

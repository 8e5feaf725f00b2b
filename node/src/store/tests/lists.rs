//! Lists and their cursors.

use super::*;

#[tokio::test]
async fn lists_go_both_ways_by_status_and_say_whether_more_follow() {
    let (_dir, store) = fresh();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(insert(&store, job()).await);
    }
    claim(&store).await;
    claim(&store).await;
    let list = async |after: Option<usize>, limit, newest_first, status| {
        let after = after.map(|index| ids[index].as_str());
        let page = store
            .list(after, limit, newest_first, status)
            .await
            .unwrap();
        let indices: Vec<_> = page
            .jobs
            .iter()
            .map(|job| ids.iter().position(|id| *id == job.id).unwrap())
            .collect();
        (indices, page.has_more)
    };
    assert_eq!(list(None, 3, false, None).await, (vec![0, 1, 2], true));
    assert_eq!(list(Some(2), 3, false, None).await, (vec![3, 4], false));
    assert_eq!(list(None, 2, true, None).await, (vec![4, 3], true));
    assert_eq!(list(Some(3), 3, true, None).await, (vec![2, 1, 0], false));
    assert_eq!(list(Some(4), 3, false, None).await, (vec![], false));
    assert!(!list(None, 5, false, None).await.1);
    assert_eq!(list(None, 0, false, None).await, (vec![], true));
    assert_eq!(list(None, usize::MAX, false, None).await.0.len(), 5);
    let queued = Some(JobStatus::Queued);
    assert_eq!(list(None, 2, false, queued).await, (vec![2, 3], true));
    // A cursor of another status still has its place.
    assert_eq!(
        list(Some(1), 9, false, queued).await,
        (vec![2, 3, 4], false)
    );
    let started = Some(JobStatus::InProgress);
    assert_eq!(list(None, 9, true, started).await, (vec![1, 0], false));
    for after in ["", "video_none", "' OR 1 --"] {
        let error = store.list(Some(after), 3, false, None).await.unwrap_err();
        assert_eq!(error.code(), "unknown_cursor");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_neither_skip_nor_repeat_while_jobs_come_in() {
    let (_dir, store) = fresh();
    let mut before = Vec::new();
    for _ in 0..10 {
        let Inserted::New(jobs) = store.insert(vec![job(); 5], None).await.unwrap() else {
            panic!("no key was given");
        };
        before.extend(jobs.into_iter().map(|job| job.id));
    }
    let adding = tokio::spawn({
        let store = store.clone();
        async move {
            for _ in 0..50 {
                insert(&store, job()).await;
            }
        }
    });
    for newest_first in [false, true] {
        let (mut seen, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = store
                .list(after.as_deref(), 3, newest_first, None)
                .await
                .unwrap();
            seen.extend(page.jobs.into_iter().map(|job| job.id));
            after = seen.last().cloned();
            if !page.has_more {
                break;
            }
        }
        let unique: BTreeSet<_> = seen.iter().collect();
        assert_eq!(unique.len(), seen.len());
        if newest_first {
            seen.reverse();
        }
        seen.retain(|id| before.contains(id));
        assert_eq!(seen, before);
    }
    adding.await.unwrap();
}

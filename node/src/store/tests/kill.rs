//! A process that is really killed, at moments nobody chose.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::*;

const FOLDER: &str = "LEOMA_TEST_STORE_TO_BE_KILLED";

/// What the clip of a job must be.
fn clip_of(id: &str) -> Vec<u8> {
    id.repeat(1000).into_bytes()
}

/// The process of the test below: works and says what was answered, until it is killed.
#[tokio::test]
async fn work_until_killed() {
    let Some(dir) = std::env::var_os(FOLDER) else {
        return;
    };
    let (store, _) = open(Path::new(&dir));
    let say = |word: &str, id: &str| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{word} {id}")
            .and_then(|()| out.flush())
            .unwrap();
    };
    // An end of its own, should nobody kill it.
    for round in 0..100_000 {
        let id = insert(&store, job_with_picture(b"picture")).await;
        say("\ninserted", &id);
        let job = claim(&store).await;
        if round % 5 == 4 {
            store.fail(&job.id, cancelled(), Vec::new()).await.unwrap();
            continue;
        }
        let clip = finished(&clip_of(&job.id));
        store.complete(&job.id, clip).await.unwrap();
        say("\ncompleted", &job.id);
        if round % 7 == 6 {
            say("\ndeleting", &job.id);
            store.delete(&job.id).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_killed_process_loses_no_answered_job_and_leaves_no_half_file() {
    let dir = tempfile::tempdir().unwrap();
    let (mut inserted, mut completed) = (BTreeSet::new(), BTreeSet::new());
    let mut deleting = BTreeSet::new();
    for round in 0..100_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::tests::kill::work_until_killed",
                "--nocapture",
            ])
            .env(FOLDER, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut pipe = child.stdout.take().unwrap();
        let said = std::thread::spawn(move || {
            let mut said = String::new();
            pipe.read_to_string(&mut said).unwrap();
            said
        });
        sleep(Duration::from_millis(20 + 17 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in said.join().unwrap().lines() {
            match line.split_once(' ') {
                Some(("inserted", id)) => inserted.insert(id.to_owned()),
                Some(("completed", id)) => completed.insert(id.to_owned()),
                Some(("deleting", id)) => deleting.insert(id.to_owned()),
                _ => false,
            };
        }

        let (store, recovered) = open(dir.path());
        for id in &recovered.failed {
            let record = store.get(id).await.unwrap().unwrap();
            assert_eq!(record.error.unwrap().code, "crashed");
        }
        let jobs = store
            .list(None, usize::MAX, false, None)
            .await
            .unwrap()
            .jobs;
        let there: BTreeSet<_> = jobs.iter().map(|job| job.id.clone()).collect();
        for id in inserted.union(&completed) {
            assert!(there.contains(id) || deleting.contains(id), "{id} is lost");
        }
        let (mut inputs, mut results) = (BTreeSet::new(), BTreeSet::new());
        for job in jobs {
            assert_ne!(job.status, JobStatus::InProgress);
            assert!(job.status == JobStatus::Completed || !completed.contains(&job.id));
            if job.status == JobStatus::Queued {
                assert_eq!(store.image(&job.id).await.unwrap().unwrap(), b"picture");
                inputs.insert(job.id);
            } else if job.status == JobStatus::Completed {
                let clip = fs::read(store.result_path(&job.id, "video/mp4")).unwrap();
                assert_eq!(clip, clip_of(&job.id));
                assert_eq!(fs::read(store.poster_path(&job.id)).unwrap(), b"poster");
                results.insert(format!("{}.mp4", job.id));
                results.insert(format!("{}.jpg", job.id));
            }
        }
        assert_eq!(names(&dir.path().join("inputs")), inputs);
        assert_eq!(names(&dir.path().join("results")), results);
        // A machine that is slow to start processes takes some more rounds.
        if round >= 12 && !completed.is_empty() {
            break;
        }
    }
    assert!(!completed.is_empty(), "nothing was done before the kills");
}

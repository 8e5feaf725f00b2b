//! What a download leaves behind when nothing goes wrong.

use leoma_node::hub::{FileState, RepoId, Revision, Selection, list, remove, verify};
use secrecy::SecretString;

use crate::server::{At, Content, Hub, large, noise, small};
use crate::*;

fn files() -> Vec<(&'static str, Content)> {
    let weights = noise(1, 95_000);
    vec![
        ("config.json", small("{\"a\": 1}\n")),
        ("empty.txt", small("")),
        ("transformer/config.json", small("{\"a\": 1}\n")),
        ("transformer/model.safetensors", large(weights.clone())),
        ("transformer_2/model.safetensors", large(weights)),
        ("vae/deep/model.safetensors", large(noise(2, 10_000))),
        ("ü name.txt", small("text")),
    ]
}

#[test]
fn the_cache_is_laid_out_as_the_python_tools_do() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    let cache = tempfile::tempdir().unwrap();
    let (result, told) = fetch(&settings(&hub, cache.path()), "main", &options());
    let snapshot = result.unwrap();
    assert_eq!(snapshot.commit.as_str(), FIRST);
    assert_eq!((snapshot.files, snapshot.bytes), (7, 200_022));
    // Equal files came once.
    assert_eq!(snapshot.downloaded_bytes, 105_013);
    assert_eq!(hub.sent(), 105_013);
    assert_eq!(*told.bytes.lock().unwrap(), 105_013);
    assert_eq!(told.count("Linked"), 7);

    for (path, content) in files() {
        let read = fs::read(snapshot.path.join(path)).unwrap();
        assert!(read == *content.bytes, "{path}");
        let up = "../".repeat(path.matches('/').count() + 2);
        let target = fs::read_link(snapshot.path.join(path)).unwrap();
        assert_eq!(
            target.to_str().unwrap(),
            format!("{up}blobs/{}", content.etag())
        );
    }
    let all = below(cache.path());
    assert_eq!(all["models--miner--leoma-model/refs/main"], FIRST);
    let tag = &all["CACHEDIR.TAG"];
    assert!(
        tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55\n"),
        "{tag}"
    );
    let blobs = all.keys().filter(|name| name.contains("/blobs/")).count();
    assert_eq!(blobs, 5, "{:?}", all.keys());
    let locks = all
        .keys()
        .filter(|name| name.starts_with(".locks/models--miner--leoma-model/"));
    assert!(locks.clone().all(|name| name.ends_with(".lock")));
    assert_eq!(locks.count(), 5);
    assert_sound(cache.path());
}

#[test]
fn what_is_there_is_not_asked_for_again() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    let cache = tempfile::tempdir().unwrap();
    let settings = settings(&hub, cache.path());
    fetch(&settings, "main", &options()).0.unwrap();
    hub.asked();
    // A commit cannot change: nobody is asked.
    let again = fetch(&settings, FIRST, &options()).0.unwrap();
    assert_eq!((again.downloaded_bytes, hub.asked().len()), (0, 0));
    // A branch can.
    fetch(&settings, "main", &options()).0.unwrap();
    let asked: Vec<At> = hub.asked().iter().map(|asked| asked.at).collect();
    assert_eq!(asked, [At::Info]);
}

#[test]
fn a_branch_that_moves_is_another_commit() {
    let hub = Hub::start();
    let mut files = files();
    hub.commit(REPO, "main", FIRST, &files);
    let cache = tempfile::tempdir().unwrap();
    let settings = settings(&hub, cache.path());
    fetch(&settings, "main", &options()).0.unwrap();
    hub.sent();
    files[0].1 = small("{\"a\": 2}\n");
    files.remove(1);
    hub.commit(REPO, "main", SECOND, &files);
    let moved = fetch(&settings, "main", &options()).0.unwrap();
    assert_eq!((moved.commit.as_str(), moved.files), (SECOND, 6));
    assert_eq!((moved.downloaded_bytes, hub.sent()), (9, 9));
    assert_eq!(
        fs::read_to_string(folder(cache.path()).join("refs/main")).unwrap(),
        SECOND
    );
    let first = folder(cache.path()).join("snapshots").join(FIRST);
    assert_eq!(
        fs::read_to_string(first.join("config.json")).unwrap(),
        "{\"a\": 1}\n"
    );
    assert_sound(cache.path());
}

#[test]
fn a_branch_that_moves_during_a_download_changes_nothing() {
    let hub = Arc::new(Hub::start());
    hub.commit(REPO, "main", FIRST, &files());
    let cache = tempfile::tempdir().unwrap();
    let mover = Arc::downgrade(&hub);
    let mut moved = false;
    hub.script(move |asked| {
        if asked.at == At::Tree && !moved {
            moved = true;
            let hub = mover.upgrade().unwrap();
            hub.commit(REPO, "main", SECOND, &[("config.json", small("other"))]);
        }
        server::Act::Right
    });
    let snapshot = fetch(&settings(&hub, cache.path()), "main", &options())
        .0
        .unwrap();
    assert_eq!((snapshot.commit.as_str(), snapshot.files), (FIRST, 7));
    assert_eq!(
        fs::read_to_string(snapshot.path.join("config.json")).unwrap(),
        "{\"a\": 1}\n"
    );
    assert_sound(cache.path());
}

#[test]
fn only_what_is_wanted_comes() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    let cache = tempfile::tempdir().unwrap();
    let settings = settings(&hub, cache.path());
    let with = |include: &[&str], exclude: &[&str]| {
        let owned =
            |patterns: &[&str]| patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        PullOptions {
            selection: Selection::new(&owned(include), &owned(exclude)).unwrap(),
            ..options()
        }
    };
    let json = fetch(&settings, "main", &with(&["*.json"], &["transformer/*"]))
        .0
        .unwrap();
    assert_eq!((json.files, hub.sent()), (1, 9));
    let error = fetch(&settings, "main", &with(&["*.gguf"], &[]))
        .0
        .unwrap_err();
    assert!(error.to_string().contains("--include"), "{error}");
    let vae = fetch(&settings, "main", &with(&["vae/"], &[])).0.unwrap();
    assert_eq!((vae.files, hub.sent()), (1, 10_000));
}

#[test]
fn a_listing_of_many_pages() {
    let hub = Hub::start();
    let many: Vec<(String, Content)> = (0..57)
        .map(|at| (format!("folder/{at}.txt"), small(format!("text {at}"))))
        .collect();
    let many: Vec<(&str, Content)> = many
        .iter()
        .map(|(path, c)| (path.as_str(), c.clone()))
        .collect();
    hub.commit(REPO, "main", FIRST, &many);
    hub.page(10);
    let cache = tempfile::tempdir().unwrap();
    let snapshot = fetch(&settings(&hub, cache.path()), "main", &options())
        .0
        .unwrap();
    assert_eq!(snapshot.files, 57);
    let pages = hub
        .asked()
        .iter()
        .filter(|asked| asked.at == At::Tree)
        .count();
    assert_eq!(pages, 6);
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    hub.gate(REPO);
    let cache = tempfile::tempdir().unwrap();
    let mut settings = settings(&hub, cache.path());
    settings.token = Some(SecretString::from("hf_good"));
    fetch(&settings, "main", &options()).0.unwrap();
    let asked = hub.asked();
    assert!(asked.iter().any(|asked| asked.at == At::Storage));
    for asked in asked {
        let token = asked.authorization.as_deref();
        let expected = (asked.at != At::Storage).then_some("Bearer hf_good");
        assert_eq!(token, expected, "{asked:?}");
    }
}

#[test]
fn the_cache_is_listed_verified_repaired_and_emptied() {
    let hub = Hub::start();
    let mut second = files();
    hub.commit(REPO, "main", FIRST, &files());
    let cache = tempfile::tempdir().unwrap();
    let settings = settings(&hub, cache.path());
    let repo: RepoId = REPO.parse().unwrap();
    let main = Revision::default();
    let check =
        |revision: &str| verify(cache.path(), &repo, &revision.parse().unwrap(), &|_| ()).unwrap();
    assert!(list(cache.path()).unwrap().is_empty());
    assert!(verify(cache.path(), &repo, &main, &|_| ()).is_err());
    fetch(&settings, "main", &options()).0.unwrap();
    for config in [0, 2] {
        second[config].1 = small("{\"a\": 2}\n");
    }
    hub.commit(REPO, "next", SECOND, &second);
    fetch(&settings, "next", &options()).0.unwrap();

    let listed = list(cache.path()).unwrap();
    assert_eq!((listed.len(), listed[0].repo.as_str()), (1, REPO));
    let revisions = &listed[0].revisions;
    assert_eq!(revisions[0].refs, ["main"]);
    assert_eq!(
        (revisions[1].commit.as_str(), revisions[1].files),
        (SECOND, 7)
    );
    assert_eq!(
        (revisions[1].missing, revisions[1].size_bytes),
        (Some(0), 200_022)
    );

    let good = check("main");
    assert!(
        good.is_good() && good.listed && good.files.len() == 7,
        "{good:?}"
    );
    // One bit of a file, a file that is not there, one that should not be.
    let snapshot = folder(cache.path()).join("snapshots").join(FIRST);
    let damaged = fs::canonicalize(snapshot.join("vae/deep/model.safetensors")).unwrap();
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[5000] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    fs::remove_file(snapshot.join("config.json")).unwrap();
    fs::write(snapshot.join("hidden.py"), "import os").unwrap();
    let bad = check(FIRST);
    assert!(!bad.is_good());
    let states: Vec<(&str, &FileState)> = bad
        .files
        .iter()
        .filter(|file| !matches!(file.state, FileState::Good { .. }))
        .map(|file| (file.path.as_str(), &file.state))
        .collect();
    assert_eq!(states.len(), 3, "{states:?}");
    assert_eq!(states[0], ("config.json", &FileState::Missing));
    assert_eq!(states[1], ("hidden.py", &FileState::Unexpected));
    assert!(matches!(
        states[2],
        ("vae/deep/model.safetensors", FileState::Damaged { .. })
    ));

    // An ordinary pull does not read what is there; one that verifies does.
    fetch(&settings, "main", &options()).0.unwrap();
    assert!(
        check("main")
            .bad()
            .any(|file| matches!(file.state, FileState::Damaged { .. }))
    );
    let verifying = PullOptions {
        verify: true,
        ..options()
    };
    hub.sent();
    let (repaired, told) = fetch(&settings, "main", &verifying);
    assert_eq!(repaired.unwrap().downloaded_bytes, 10_000);
    assert_eq!((told.count("Removed"), hub.sent()), (1, 10_000));
    fs::remove_file(snapshot.join("hidden.py")).unwrap();
    assert!(check("main").is_good());

    // Another program's download has no listing: contents are compared with their names.
    fs::remove_file(folder(cache.path()).join(format!("trees/{FIRST}.json"))).unwrap();
    let unlisted = check("main");
    assert!(unlisted.is_good() && !unlisted.listed && unlisted.files.len() == 7);

    let dry = remove(cache.path(), &repo, Some(&main), true).unwrap();
    assert_eq!(
        (dry.commits.as_slice(), dry.blobs),
        ([FIRST.to_owned()].as_slice(), 1)
    );
    assert!(snapshot.exists());
    let removed = remove(cache.path(), &repo, Some(&main), false).unwrap();
    assert_eq!(removed.blobs, 1);
    assert!(!snapshot.exists() && check("next").is_good());
    assert!(remove(cache.path(), &repo, Some(&main), false).is_err());
    remove(cache.path(), &repo, None, false).unwrap();
    assert_eq!(
        below(cache.path()).keys().collect::<Vec<_>>(),
        ["CACHEDIR.TAG"]
    );
}

#[test]
fn a_renamed_repository_is_followed_and_said() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    hub.rename(REPO, "miner/other-name");
    let cache = tempfile::tempdir().unwrap();
    let (result, told) = fetch(&settings(&hub, cache.path()), "main", &options());
    let snapshot = result.unwrap();
    assert_eq!(told.count("Renamed"), 1);
    assert!(snapshot.path.starts_with(folder(cache.path())));
    assert_sound(cache.path());
}

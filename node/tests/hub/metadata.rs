//! What the Hub says of a repository, without a download: `audit hash --metadata-only`.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::commands::{leoma, run};
use crate::server::{Act, Content, Hub, large, noise, small};
use crate::*;

fn files() -> Vec<(&'static str, Content)> {
    vec![
        ("README.md", small("words")),
        ("UPPER.SAFETENSORS", large(noise(1, 10))),
        ("other/same.pth", large(noise(2, 2000))),
        ("small.safetensors", small("tiny")),
        ("text_encoder/pytorch_model.bin", large(noise(3, 3000))),
        ("transformer/model.safetensors", large(noise(2, 2000))),
        ("weights.onnx", large(noise(4, 10))),
    ]
}

/// The subnet's rule by hand: large weight files, each digest once, ascending.
fn model_hash() -> String {
    let mut digests = [large(noise(2, 2000)).etag(), large(noise(3, 3000)).etag()];
    digests.sort();
    let digest = Sha256::digest(digests.concat());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_hash_without_a_download() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    let cache = tempfile::tempdir().unwrap();
    let hash = |source: &str, more: &[&str], env: &[(&str, &str)]| {
        let mut command = leoma(
            &hub,
            cache.path(),
            &["audit", "hash", source, "--format", "json"],
        );
        run(command.args(more).envs(env.iter().copied()))
    };
    let pinned = format!("{REPO}@{FIRST}");
    for source in [REPO, &format!("{REPO}@main"), &pinned] {
        let (code, out, error) = hash(source, &["--metadata-only"], &[]);
        assert_eq!(code, 0, "{error}");
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(report["model_hash"], model_hash());
        assert_eq!(
            (&report["name"], &report["commit"]),
            (&REPO.into(), &FIRST.into())
        );
        assert_eq!(report["from"], "metadata");
        assert_eq!(report["files"].as_array().unwrap().len(), 7);
        assert_eq!(report["files"][0]["sha256"], Value::Null);
        assert_eq!(report["files"][2]["size"], 2000);
    }
    assert_eq!(hub.sent(), 0, "bytes of files were downloaded");
    assert!(!folder(cache.path()).exists());

    // From the bytes, the same: the Hub's cache knows which files are large.
    let (code, out, error) = hash(&pinned, &["--files-only"], &[]);
    assert_eq!(code, 0, "{error}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["model_hash"], model_hash());
    assert_eq!(
        (&report["commit"], &report["from"]),
        (&FIRST.into(), &"bytes".into())
    );
    // Offline, what the Hub once said.
    hub.go_down();
    let (code, out, error) = hash(&pinned, &["--metadata-only"], &[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(code, 0, "{error}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["model_hash"], model_hash());
}

#[test]
fn what_the_hub_does_not_say_is_no_hash() {
    let hub = Hub::start();
    hub.commit(REPO, "main", FIRST, &files());
    hub.commit(
        "miner/words",
        "main",
        SECOND,
        &[("README.md", small("words"))],
    );
    let cache = tempfile::tempdir().unwrap();
    let hash = |source: &str, env: &[(&str, &str)]| {
        let arguments = ["audit", "hash", source, "--metadata-only"];
        run(leoma(&hub, cache.path(), &arguments).envs(env.iter().copied()))
    };
    let (code, out, _) = hash("miner/words", &[]);
    assert_eq!(code, 1, "{out}");
    assert!(
        out.contains("model_hash  none") && out.contains("high LM006 no-weights"),
        "{out}"
    );
    for source in [
        "miner/gone",
        &format!("{REPO}@gone"),
        &format!("{REPO}@{SECOND}"),
    ] {
        let (code, out, error) = hash(source, &[]);
        assert_eq!((code, out.as_str()), (2, ""), "{source}: {error}");
    }
    let (code, _, error) = hash(REPO, &[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(code, 2, "{error}");
    hub.script(|_| Act::Page);
    let (code, out, error) = hash(REPO, &[]);
    assert_eq!((code, out.as_str()), (2, ""), "{error}");
    hub.script(|_| Act::Right);
    hub.gate(REPO);
    let (code, _, error) = hash(REPO, &[("HF_TOKEN", "hf_canary")]);
    assert!(code == 2 && error.contains("accept the terms"), "{error}");
}

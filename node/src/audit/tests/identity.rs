//! Digests: against plain definitions, and across everything that must not change them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use leoma_kernels::canonical::{StoredAs, canonical};
use leoma_models::tiny::make_tiny;
use leoma_models::weights::{Component, ModelKind, names};
use sha2::{Digest, Sha256};

use super::super::identity::{Identity, Options, identify};
use super::super::model_hash::{hex, model_hash};
use super::super::{Rule, Severity};
use super::{Raw, noise, read_safetensors, write_safetensors};

fn sha(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn audit(root: &Path) -> Identity {
    identify(root, &Options::default()).unwrap()
}

fn rules(identity: &Identity) -> Vec<(Rule, &str)> {
    identity
        .findings
        .iter()
        .map(|f| (f.rule, f.path.as_str()))
        .collect()
}

/// The digests as the documentation defines them, of tensors that are f32.
fn plain(raw: &Raw) -> (String, String) {
    let lengths: Vec<_> = raw.shape.iter().map(ToString::to_string).collect();
    let heading = |dtype: &str| format!("{dtype} [{}]\n", lengths.join(",")).into_bytes();
    let mut stored = heading("f32");
    stored.extend(&raw.bytes);
    let mut values = heading("bf16");
    let mut rounded = vec![0; raw.bytes.len() / 2];
    canonical(StoredAs::F32, &raw.bytes, &mut rounded);
    values.extend(rounded);
    (sha(&stored), sha(&values))
}

fn to_bf16(raw: &Raw, name: &str) -> Raw {
    assert_eq!(raw.dtype, "F32");
    let mut rounded = vec![0; raw.bytes.len() / 2];
    canonical(StoredAs::F32, &raw.bytes, &mut rounded);
    Raw::of(name, "BF16", &raw.shape, rounded)
}

#[test]
fn digests_are_what_their_definitions_say() {
    let keep = tempfile::tempdir().unwrap();
    let root = keep.path().join("model");
    make_tiny(ModelKind::Ti2v5b, 3, &root).unwrap();
    let identity = audit(&root);
    assert_eq!(identity.findings, []);
    for file in &identity.files {
        let bytes = fs::read(root.join(&file.path)).unwrap();
        assert_eq!(
            (file.size, &file.sha256),
            (bytes.len() as u64, &sha(&bytes)),
            "{}",
            file.path
        );
    }
    let mut found = 0;
    for file in identity
        .files
        .iter()
        .filter(|f| f.path.ends_with(".safetensors"))
    {
        for raw in read_safetensors(&root.join(&file.path)) {
            let digest = identity
                .tensors
                .iter()
                .find(|t| t.file == file.path && t.name == raw.name)
                .unwrap();
            let (stored, values) = plain(&raw);
            assert_eq!(
                (&digest.sha256, digest.canonical_sha256.as_ref()),
                (&stored, Some(&values))
            );
            assert_eq!(digest.shape, raw.shape);
            found += 1;
        }
    }
    assert_eq!(found, identity.tensors.len());
    let weights = identity
        .files
        .iter()
        .filter(|f| f.path.ends_with(".safetensors"));
    assert_eq!(identity.model_hash, model_hash(weights.map(|f| &f.sha256)));
    let json = serde_json::to_value(&identity).unwrap();
    assert_eq!(json["tensors"][0]["dtype"], "f32");
    let only_files = identify(
        &root,
        &Options {
            tensors: false,
            ..Options::default()
        },
    )
    .unwrap();
    assert_eq!(only_files.files, identity.files);
    assert_eq!(only_files.model_hash, identity.model_hash);
    assert_eq!(
        (only_files.tensors.len(), only_files.model_digest),
        (0, None)
    );
}

/// The same transformer as one bf16 file with official names, a prefix, another order and data at odd
/// positions: no file or tensor is the same to the bit, all values are.
#[test]
fn values_keep_their_digests_through_repacking() {
    let keep = tempfile::tempdir().unwrap();
    let root = keep.path().join("model");
    make_tiny(ModelKind::Ti2v5b, 3, &root).unwrap();
    let original = root.join("transformer/diffusion_pytorch_model.safetensors");
    let tensors = read_safetensors(&original);
    let mut repacked: Vec<Raw> = tensors
        .iter()
        .map(|raw| {
            let name = names::to_official(Component::Transformer, &raw.name);
            to_bf16(raw, &format!("model.diffusion_model.{name}"))
        })
        .collect();
    repacked.reverse();
    for padding in [0, 1, 3] {
        let other = keep.path().join(format!("other{padding}.safetensors"));
        write_safetensors(&other, &repacked, padding);
        let (a, b) = (audit(&original), audit(&other));
        assert_eq!((&a.findings, &b.findings), (&vec![], &vec![]));
        assert_ne!(a.model_hash, b.model_hash);
        assert_eq!(a.model_digest, b.model_digest);
        assert!(a.model_digest.is_some());
        let by_weight = |identity: &Identity| -> BTreeMap<_, _> {
            let each = identity.tensors.iter();
            each.map(|t| (t.weight.clone().unwrap(), t.canonical_sha256.clone()))
                .collect()
        };
        assert_eq!(by_weight(&a), by_weight(&b));
        let stored = |i: &Identity| {
            i.tensors
                .iter()
                .map(|t| t.sha256.clone())
                .collect::<Vec<_>>()
        };
        let (a, b) = (stored(&a), stored(&b));
        assert!(a.iter().all(|digest| !b.contains(digest)));
    }
}

/// Elements that lie across two reads, of every size, and zeros with a sign late in a tensor.
#[test]
fn elements_across_pieces() {
    let keep = tempfile::tempdir().unwrap();
    let values = noise(100_003, 5);
    let mut signed = values.clone();
    signed[70_001] = -0.0;
    let mut unsigned = values.clone();
    unsigned[70_001] = 0.0;
    let bytes =
        |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let doubles: Vec<u8> = unsigned
        .iter()
        .flat_map(|v| f64::from(*v).to_le_bytes())
        .collect();
    let shape = [unsigned.len()];
    let single = Raw::f32("single", &shape, &unsigned);
    let mut minus = to_bf16(&single, "minus");
    minus.bytes[2 * 70_001 + 1] |= 0x80;
    let tensors = [
        single.clone(),
        Raw::of("signed", "F32", &shape, bytes(&signed)),
        Raw::of("double", "F64", &shape, doubles),
        to_bf16(&single, "plain"),
        minus,
        Raw::f32("empty", &[0, 4], &[]),
        Raw::f32("scalar", &[], &[3.0]),
    ];
    for padding in 0..8 {
        let path = keep.path().join("w.safetensors");
        write_safetensors(&path, &tensors, padding);
        let identity = audit(&path);
        let get = |name: &str| {
            identity
                .tensors
                .iter()
                .find(|t| t.name == name)
                .unwrap()
                .clone()
        };
        let expected = plain(&single);
        assert_eq!(get("single").sha256, expected.0);
        for name in ["single", "signed", "double", "plain", "minus"] {
            assert_eq!(
                get(name).canonical_sha256.as_ref(),
                Some(&expected.1),
                "{name} {padding}"
            );
        }
        assert_eq!(get("plain").sha256, expected.1);
        assert_ne!(get("minus").sha256, expected.1);
        assert_ne!(get("single").sha256, get("signed").sha256);
        assert_eq!(get("empty").sha256, sha(b"f32 [0,4]\n"));
        assert_eq!(
            get("scalar").sha256,
            sha(&[b"f32 []\n".as_slice(), &3_f32.to_le_bytes()].concat())
        );
    }
}

/// fp8 with a scale per row has the digest of the values it stands for.
#[test]
fn codes_count_with_their_scales() {
    let keep = tempfile::tempdir().unwrap();
    let (rows, columns) = (300, 257);
    let codes: Vec<u8> = (0..rows * columns)
        .map(|i| (i * 37 % 251) as u8 & 0x77)
        .collect();
    let scales: Vec<f32> = (0..rows).map(|row| 0.01 + row as f32 * 0.003).collect();
    let values = leoma_models::weights::StoredDType::F8E4M3
        .code_values()
        .unwrap();
    let products: Vec<f32> = codes
        .iter()
        .enumerate()
        .map(|(i, code)| values[usize::from(*code)] * scales[i / columns])
        .collect();
    let name = "blocks.0.ffn.0.weight";
    let rest = Raw::f32("patch_embedding.weight", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let coded = keep.path().join("coded.safetensors");
    write_safetensors(
        &coded,
        &[
            Raw::of(name, "F8_E4M3", &[rows, columns], codes),
            Raw::f32("blocks.0.ffn.0.weight_scale", &[rows, 1], &scales),
            rest.clone(),
        ],
        1,
    );
    let plain = keep.path().join("plain.safetensors");
    write_safetensors(
        &plain,
        &[Raw::f32(name, &[rows, columns], &products), rest],
        0,
    );
    let (a, b) = (audit(&coded), audit(&plain));
    assert_eq!(a.model_digest, b.model_digest);
    assert!(a.model_digest.is_some());
    assert_eq!((a.tensors.len(), b.tensors.len()), (3, 2));
}

#[test]
fn damage_is_found_and_nothing_damaged_has_a_digest() {
    let keep = tempfile::tempdir().unwrap();
    let root = keep.path().join("model");
    make_tiny(ModelKind::Ti2v5b, 3, &root).unwrap();
    let weights = root.join("transformer/diffusion_pytorch_model.safetensors");
    let mut tensors = read_safetensors(&weights);
    let matrix = tensors
        .iter_mut()
        .find(|t| t.name.ends_with("attn1.to_q.weight"))
        .unwrap();
    matrix.bytes.fill(0);
    let other = tensors
        .iter_mut()
        .find(|t| t.name.ends_with("attn1.to_k.weight"))
        .unwrap();
    other.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    other.bytes[4..8].copy_from_slice(&f32::INFINITY.to_le_bytes());
    write_safetensors(&weights, &tensors, 0);
    let path = "transformer/diffusion_pytorch_model.safetensors";
    let identity = audit(&root);
    assert_eq!(
        rules(&identity),
        [(Rule::NotFinite, path), (Rule::AllZero, path)]
    );
    assert!(identity.findings[0].message.contains("NaN and infinite"));
    assert!(identity.model_digest.is_some());

    let cut = fs::read(&weights).unwrap();
    fs::write(&weights, &cut[..cut.len() - 1]).unwrap();
    let identity = audit(&root);
    assert_eq!(rules(&identity), [(Rule::HeaderRefused, path)]);
    assert_eq!(identity.findings[0].severity, Severity::High);
    assert_eq!(identity.model_digest, None);
    assert!(identity.model_hash.is_some());

    symlink("/etc/hostname", root.join("vae/more.safetensors")).unwrap();
    let identity = audit(&root);
    assert_eq!(
        identity.model_hash, None,
        "a file that the Hub counts was not read"
    );
}

#[test]
fn the_cache_says_what_counts_and_is_not_believed() {
    let keep = tempfile::tempdir().unwrap();
    let model = keep.path().join("models--a--b");
    let snapshot = model.join("snapshots").join("0".repeat(40));
    fs::create_dir_all(model.join("blobs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    let put = |name: &str, blob: &str, content: &[u8]| {
        fs::write(model.join("blobs").join(blob), content).unwrap();
        symlink(format!("../../blobs/{blob}"), snapshot.join(name)).unwrap();
    };
    let file = keep.path().join("w.safetensors");
    write_safetensors(&file, &[Raw::f32("x", &[2], &[1.0, 2.0])], 0);
    let content = fs::read(&file).unwrap();
    put("a.safetensors", &sha(&content), &content);
    put("small.safetensors", &"1".repeat(40), &content);
    put("README.md", &"2".repeat(40), b"words");
    let identity = audit(&snapshot);
    assert_eq!(identity.findings, []);
    assert_eq!(identity.model_hash, model_hash([sha(&content)]));
    put("b.safetensors", &"3".repeat(64), &content);
    let identity = audit(&snapshot);
    assert_eq!(rules(&identity), [(Rule::BlobMismatch, "b.safetensors")]);
    assert_eq!(identity.model_hash, model_hash([sha(&content)]));
}

#[test]
fn audits_can_be_cancelled_and_count_every_byte_once() {
    let keep = tempfile::tempdir().unwrap();
    for i in 0..40 {
        fs::write(keep.path().join(format!("{i}.txt")), vec![1; 3000 * i]).unwrap();
    }
    let read = AtomicU64::new(0);
    let progress = |bytes: u64| {
        read.fetch_add(bytes, Ordering::Relaxed);
        true
    };
    let options = Options {
        tensors: true,
        progress: &progress,
    };
    let identity = identify(keep.path(), &options).unwrap();
    let sizes: u64 = identity.files.iter().map(|file| file.size).sum();
    assert_eq!(read.load(Ordering::Relaxed), sizes);
    let stop = Options {
        tensors: true,
        progress: &|_| false,
    };
    let error = identify(keep.path(), &stop).unwrap_err();
    assert!(matches!(error, leoma_models::Error::Cancelled), "{error}");
}

/// Not a test of speed: prints rates in CPU time beside `sha256sum`, all in the page cache.
#[test]
#[ignore = "measures; writes 1 GiB"]
#[cfg(target_os = "linux")]
#[allow(clippy::print_stdout)]
fn rates() {
    const TOTAL: usize = 1 << 30;
    /// CPU seconds of this process, and of the children it has waited for.
    fn cpu_seconds() -> (f64, f64) {
        let text = fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = text
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        let ticks = |i: usize| fields[i].parse::<f64>().unwrap() / 100.0;
        (ticks(11) + ticks(12), ticks(13) + ticks(14))
    }
    for count in [1_usize, 4, 8, 16, 32] {
        let keep = tempfile::tempdir().unwrap();
        let elements = TOTAL / count / 8 / 2;
        let values: Vec<u8> = noise(elements, 1)
            .iter()
            .flat_map(|v| {
                v.to_bits().to_be_bytes()[..2]
                    .iter()
                    .rev()
                    .copied()
                    .collect::<Vec<_>>()
            })
            .collect();
        let paths: Vec<_> = (0..count)
            .map(|i| {
                let path = keep.path().join(format!("{i:02}.safetensors"));
                let tensors: Vec<Raw> = (0..8)
                    .map(|j| Raw::of(&format!("{i}.{j}"), "BF16", &[elements], values.clone()))
                    .collect();
                write_safetensors(&path, &tensors, 0);
                path
            })
            .collect();
        let start = cpu_seconds().1;
        let done = std::process::Command::new("sha256sum")
            .args(&paths)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(done.success());
        let yardstick = cpu_seconds().1 - start;
        let mut line = format!(
            "{count:2} files, sha256sum {:.2} GB/s",
            TOTAL as f64 / yardstick / 1e9
        );
        for tensors in [false, true] {
            let options = Options {
                tensors,
                ..Options::default()
            };
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(1)
                .build()
                .unwrap();
            let start = cpu_seconds().0;
            let identity = pool.install(|| identify(keep.path(), &options)).unwrap();
            let time = cpu_seconds().0 - start;
            assert_eq!(identity.files.len(), count);
            let what = if tensors { "and tensors" } else { "files" };
            let rate = TOTAL as f64 / time / 1e9;
            let part = format!(", {what} {rate:.2} GB/s = {:.1}x", yardstick / time);
            line.push_str(&part);
        }
        println!("{line}");
    }
}

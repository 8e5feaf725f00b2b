//! Tiny repositories of the true architecture whose history is known.

use std::fs;
use std::path::{Path, PathBuf};

use leoma_models::tiny::make_tiny;
use leoma_models::weights::ModelKind;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// How far training moves a weight, relative to its size.
const TRAINED: f32 = 0.04;

/// A base and what was made from it, each in a folder of its own.
pub(crate) struct Models {
    pub(crate) keep: tempfile::TempDir,
}

impl Models {
    /// `base`; and in `entrants`: `alice/original`, `carol/perturbed` (alice's with noise), `dave/other` (another
    /// training of the base).
    pub(crate) fn new() -> Self {
        let models = Self {
            keep: tempfile::tempdir().unwrap(),
        };
        make_tiny(ModelKind::Ti2v5b, 1, &models.path("base")).unwrap();
        let changed = |name: &str, seeds: &[(u64, f32)]| {
            let folder = models.path(name);
            copy(&models.path("base"), &folder);
            for (seed, size) in seeds {
                disturb(&folder.join("transformer"), *seed, *size);
            }
        };
        changed("entrants/alice/original", &[(10, TRAINED)]);
        changed(
            "entrants/carol/perturbed",
            &[(10, TRAINED), (30, 0.1 * TRAINED)],
        );
        changed("entrants/dave/other", &[(20, TRAINED)]);
        models
    }

    pub(crate) fn root(&self) -> &Path {
        self.keep.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.keep.path().join(name)
    }
}

/// Waits until the files count as settled: a file that changed just now is not remembered.
pub(crate) fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(2_200));
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// All files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Moves all matrices of the weight files in a folder by noise of a size relative to theirs.
pub(crate) fn disturb(folder: &Path, seed: u64, size: f32) {
    for path in files(folder) {
        if path
            .extension()
            .is_none_or(|ending| ending != "safetensors")
        {
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let data = &mut bytes[8 + length..];
        for (name, info) in header {
            if name == "__metadata__" || info["shape"].as_array().unwrap().len() < 2 {
                continue;
            }
            let at = |i: usize| info["data_offsets"][i].as_u64().unwrap() as usize;
            let values = &mut data[at(0)..at(1)];
            let seed = name.bytes().fold(seed, |seed, byte| {
                seed.wrapping_mul(31).wrapping_add(u64::from(byte))
            });
            match info["dtype"].as_str().unwrap() {
                "BF16" => move_bf16(values, seed, size),
                "F32" => move_f32(values, seed, size),
                other => panic!("{other}"),
            }
        }
        fs::write(&path, bytes).unwrap();
    }
}

fn move_f32(bytes: &mut [u8], seed: u64, size: f32) {
    let mut noise = noise(seed);
    let values = bytes.as_chunks_mut::<4>().0;
    let square: f32 = values.iter().map(|b| f32::from_le_bytes(*b).powi(2)).sum();
    let scale = size * (square / values.len() as f32).sqrt();
    for value in values {
        *value = (f32::from_le_bytes(*value) + scale * noise()).to_le_bytes();
    }
}

fn move_bf16(bytes: &mut [u8], seed: u64, size: f32) {
    let mut noise = noise(seed);
    let wide = |b: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
    let values = bytes.as_chunks_mut::<2>().0;
    let square: f32 = values.iter().map(|b| wide(b).powi(2)).sum();
    let scale = size * (square / values.len() as f32).sqrt();
    for value in values {
        let bits = (wide(value) + scale * noise()).to_bits();
        let rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        *value = (rounded as u16).to_le_bytes();
    }
}

/// Repeatable noise of size one.
fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        let mut sum = 0.0;
        for _ in 0..3 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            sum += (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
        }
        sum
    }
}

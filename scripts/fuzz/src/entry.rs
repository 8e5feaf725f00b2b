//! What is done with an input of each target. `node/tests/audit/corpus.rs` does the same with every input that is kept.
//!
//! Refusals are right answers; panics, failed assertions, hangs and memory without bounds are findings.

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::Path;

use leoma_models::tiny::make_tiny;
use leoma_models::weights::{Checkpoint, ModelKind, StoredWeights, stored_tensors, validate};
use leoma_node::audit::rules::arch::{ArchLock, check_size};
use leoma_node::audit::rules::content;
use leoma_node::audit::rules::pickle::walk;
use leoma_node::audit::tree::Tree;
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// The header of a safetensors file: what is accepted of it lies within the file.
pub fn header(bytes: &[u8]) {
    let Ok(tensors) = stored_tensors(&in_memory(bytes), Path::new("input.safetensors")) else {
        return;
    };
    for tensor in tensors {
        let end = tensor.offset + tensor.bytes();
        assert!(end <= bytes.len() as u64, "{tensor:?} ends behind the file");
    }
}

/// A pickle: the walk of the audit, and the reader of the official `.pth` files.
pub fn pickle(bytes: &[u8]) {
    let seen = walk(bytes);
    assert!(seen.trailing <= bytes.len(), "{seen:?}");
    let archive = archive(bytes);
    let Ok(tensors) = stored_tensors(&in_memory(&archive), Path::new("input.pth")) else {
        return;
    };
    for tensor in tensors {
        let end = tensor.offset + tensor.bytes();
        assert!(
            end <= archive.len() as u64,
            "{tensor:?} ends behind the file"
        );
    }
}

/// An index of sharded weights, in a checkpoint.
pub fn index(victim: &Victim, bytes: &[u8]) {
    let name = "transformer/diffusion_pytorch_model.safetensors.index.json";
    victim.with(name, bytes);
}

/// A configuration in a checkpoint; the first byte says which.
pub fn config(victim: &Victim, bytes: &[u8]) {
    const FILES: [&str; 6] = [
        "model_index.json",
        "transformer/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
    ];
    if let Some((which, text)) = bytes.split_first() {
        victim.with(FILES[usize::from(*which) % FILES.len()], text);
    }
}

/// A tiny checkpoint of the true architecture, of which one file is replaced at a time.
#[derive(Debug)]
pub struct Victim {
    folder: TempDir,
    lock: ArchLock,
}

impl Victim {
    /// Makes it in the folder for temporary files.
    #[allow(clippy::new_without_default)] // it writes files
    pub fn new() -> Self {
        let folder = TempDir::new().expect("a folder for the checkpoint");
        make_tiny(ModelKind::Ti2v5b, 1, folder.path()).expect("a tiny checkpoint");
        let tree = Tree::open(folder.path()).expect("its files");
        let lock = ArchLock::of(&tree, &[]).expect("its architecture");
        Self { folder, lock }
    }

    /// Opens, checks and audits the checkpoint with `name` holding `bytes`, and puts back what was there.
    fn with(&self, name: &str, bytes: &[u8]) {
        let path = self.folder.path().join(name);
        let before = fs::read(&path).ok();
        fs::write(&path, bytes).expect("the input");
        self.look();
        match before {
            Some(before) => fs::write(&path, before),
            None => fs::remove_file(&path),
        }
        .expect("what was there before");
    }

    /// Everything that reads configurations and indexes, short of reading weights.
    fn look(&self) {
        let root = self.folder.path();
        if let Ok(checkpoint) = Checkpoint::open(root) {
            let _ = validate(&checkpoint);
        }
        let _ = StoredWeights::open(root);
        let tree = Tree::open(root).expect("the files of the checkpoint");
        // One that the audit does not get to its end with is a finding of its own, and no panic.
        let _ = content::check(&tree);
        let _ = (self.lock.check(&tree), check_size(&tree));
        let _ = ArchLock::of(&tree, &[]);
    }
}

/// A file in memory that holds `bytes`.
fn in_memory(bytes: &[u8]) -> File {
    let file = rustix::fs::memfd_create("input", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
    let mut file = File::from(file);
    file.write_all(bytes).expect("memory");
    file
}

/// The input as the pickle of a PyTorch archive that has two storages.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let members: [(&str, &[u8]); 5] = [
        ("archive/data.pkl", pickle),
        ("archive/byteorder", b"little"),
        ("archive/data/0", &[0; 256]),
        ("archive/data/1", &[1; 64]),
        ("archive/version", b"3\n"),
    ];
    for (name, bytes) in members {
        zip.start_file(name, stored).expect("a member");
        zip.write_all(bytes).expect("its bytes");
    }
    zip.finish().expect("the archive").into_inner()
}

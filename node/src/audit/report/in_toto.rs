//! The digests of a repository's files as a statement of in-toto, in the form that the model-signing tools
//! (OpenSSF Model Signing 1.0) sign and verify.
//!
//! One subject stands for the model: the SHA-256 over the digests of all files, as bytes, in the order of
//! their paths. The files themselves are the predicate's resources. Signing is left to those tools.

use leoma_models::{Error, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Basis, Body, File, Report};
use crate::audit::finding::Rule;
use crate::audit::model_hash::hex;
use crate::report::json::pretty;

const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://model_signing/signature/v1.0";
/// What those tools leave out without being asked, and what downloads leave beside the files.
const IGNORED: [&str; 6] = [
    ".cache/huggingface",
    ".cache/leoma",
    ".git",
    ".gitattributes",
    ".github",
    ".gitignore",
];

fn is_ignored(path: &str) -> bool {
    IGNORED.iter().any(|ignored| {
        path.strip_prefix(ignored)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

pub(super) fn render(report: &Report) -> Result<String> {
    let Body::Hash(repository) = &report.body else {
        return Err(Error::caller(
            "format",
            "in-toto statements are about one repository: use `audit hash`",
        ));
    };
    let refused = |message: &str| Error::artifact(&repository.source.name, message);
    if repository.from == Basis::Metadata {
        return Err(refused(
            "a statement needs the digest of every file, and the Hub knows those of large files only; leave \
             --metadata-only out",
        ));
    }
    let unread = repository.is_incomplete()
        || repository
            .findings
            .iter()
            .any(|finding| matches!(finding.rule, Rule::LinkOutside | Rule::NotRegular));
    if unread {
        return Err(refused(
            "not all of it could be read, so there is no statement about it; --format text says why",
        ));
    }
    let mut files: Vec<&File> = repository
        .files
        .iter()
        .filter(|file| !is_ignored(&file.path))
        .collect();
    // By folder, as paths are ordered: `a/x` comes before `a-b/x`.
    files.sort_by(|a, b| a.path.split('/').cmp(b.path.split('/')));
    let mut root = Sha256::new();
    let mut resources = Vec::new();
    for file in files {
        let sha256 = file.sha256.as_deref().unwrap_or_default();
        root.update(bytes(sha256));
        resources.push(json!({ "name": file.path, "algorithm": "sha256", "digest": sha256 }));
    }
    let name = repository.source.name.trim_end_matches('/');
    let name = name.rsplit('/').next().unwrap_or(name);
    let statement = json!({
        "_type": STATEMENT,
        "subject": [{ "name": name, "digest": { "sha256": hex(&root.finalize()) } }],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                // Links to files of the repository count as those files, as in the Hub's cache.
                "allow_symlinks": true,
                "ignore_paths": IGNORED,
            },
            "resources": resources,
            // Verifiers pass over fields that they do not know.
            "leoma": {
                "repository": repository.source.to_string(),
                "model_hash": repository.model_hash,
                "model_digest": repository.model_digest,
            },
        },
    });
    pretty(&statement)
}

/// The bytes of hexadecimal text.
fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

//! The subnet's `model_hash`: SHA-256 over the digests of a repository's large weight files.
//!
//! The rule looks at the Hub's metadata only: files in large-file storage whose names end with one of
//! [`ENDINGS`], in any folder. Their SHA-256, each once, in ascending order, as lower-case hexadecimal
//! text without separators, are hashed. Names play no part, and neither does how often a file occurs.

use std::collections::BTreeSet;

use leoma_models::{Error, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Endings of weight files, as they are written: upper case does not count.
pub const ENDINGS: [&str; 5] = [".safetensors", ".bin", ".pt", ".pth", ".ckpt"];

/// Whether the rule counts a file of this name.
pub fn is_weight_file(path: &str) -> bool {
    ENDINGS.iter().any(|ending| path.ends_with(ending))
}

/// The hash of some files' SHA-256, as the Hub writes them. None when there are none: the subnet then
/// refuses the model.
pub fn model_hash<S: AsRef<str>>(digests: impl IntoIterator<Item = S>) -> Option<String> {
    let digests: BTreeSet<String> = digests
        .into_iter()
        .map(|digest| digest.as_ref().to_owned())
        .collect();
    if digests.is_empty() {
        return None;
    }
    let mut hash = Sha256::new();
    for digest in &digests {
        hash.update(digest.as_bytes());
    }
    Some(hex(&hash.finalize()))
}

/// The hash from the Hub's answer to `/api/models/{repo}/revision/{rev}?blobs=true`.
///
/// # Errors
/// [`Error::Artifact`] when the answer lists no files; `repo` is for the message.
pub fn from_metadata(repo: &str, metadata: &Value) -> Result<Option<String>> {
    let siblings = metadata
        .get("siblings")
        .and_then(Value::as_array)
        .ok_or_else(|| {
            Error::artifact(
                repo,
                "the Hub's answer has no `siblings`; ask for the model with `blobs=true`",
            )
        })?;
    Ok(of_listing(siblings.iter().filter_map(|file| {
        let name = file.get("rfilename")?.as_str()?;
        Some((name, file.get("lfs")?.get("sha256")?.as_str()))
    })))
}

/// The hash from files and the SHA-256 that the Hub gives for them; it gives none for small files.
pub fn of_listing<'a>(
    files: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) -> Option<String> {
    let counted = |(path, sha256): (&str, Option<&'a str>)| sha256.filter(|_| is_weight_file(path));
    model_hash(files.into_iter().filter_map(counted))
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    const PROBE: &str = "b20dd8bdd812e18599a5f4b49437265f5ef51619181f1b0f6f57775bf1fbae60";

    fn sha(letter: &str) -> String {
        letter.repeat(64)
    }

    /// What the reference gives for a repository with all the cases of its rule.
    #[test]
    fn probe_of_the_reference() {
        let metadata = json!({"siblings": [
            {"rfilename": "transformer/diffusion_pytorch_model.safetensors", "lfs": {"sha256": sha("b")}},
            {"rfilename": "vae/a.safetensors", "lfs": {"sha256": sha("a")}},
            {"rfilename": "other/a.pth", "lfs": {"sha256": sha("a")}},
            {"rfilename": "text_encoder/pytorch_model.bin", "lfs": {"sha256": sha("c")}},
            {"rfilename": "tokenizer/spiece.model", "lfs": {"sha256": sha("d")}},
            {"rfilename": "README.md"},
            {"rfilename": "small.safetensors", "lfs": null},
            {"rfilename": "UPPER.SAFETENSORS", "lfs": {"sha256": sha("e")}},
        ]});
        assert_eq!(
            from_metadata("a/b", &metadata).unwrap().as_deref(),
            Some(PROBE)
        );
        assert_eq!(
            model_hash([sha("c"), sha("a"), sha("b"), sha("a")]).as_deref(),
            Some(PROBE)
        );
    }

    #[test]
    fn no_weights_have_no_hash() {
        let metadata = json!({"siblings": [{"rfilename": "README.md"}]});
        assert_eq!(from_metadata("a/b", &metadata).unwrap(), None);
        assert!(from_metadata("a/b", &json!({"error": "gated"})).is_err());
    }
}

//! What a preflight takes from the subnet's `chain.toml`. Its values are never compiled in.

use std::path::Path;

use leoma_models::{Error, Result};
use serde::Deserialize;

use super::Clip;

/// The parts of `chain.toml` that say what is accepted and what is generated.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ChainFile {
    #[serde(default)]
    arch: Arch,
    #[serde(default)]
    gen_: Option<Gen>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
struct Arch {
    base_repo: Option<String>,
    pipeline: Option<String>,
    #[serde(default)]
    extra_lock_keys: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Gen {
    num_frames: usize,
    width: usize,
    height: usize,
    guidance_scale: f64,
    dtype: String,
}

impl ChainFile {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Artifact`] with the line that is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
        Self::parse(&text).map_err(|message| Error::artifact(path, message))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut table: toml::Table = text.parse().map_err(|error| format!("bad TOML: {error}"))?;
        // `gen` is a word of the language.
        if let Some(section) = table.remove("gen") {
            table.insert("gen_".into(), section);
        }
        let chain: Self = table.try_into().map_err(|error| format!("{error}"))?;
        if let Some(section) = &chain.gen_
            && !matches!(section.dtype.as_str(), "bfloat16" | "float16" | "float32")
        {
            return Err(format!(
                "gen.dtype is {:?}; bfloat16, float16 and float32 are known",
                section.dtype
            ));
        }
        Ok(chain)
    }

    /// The base that entrants fine-tune.
    pub fn base_repo(&self) -> Option<&str> {
        self.arch.base_repo.as_deref()
    }

    /// The pipeline that is asked for.
    pub fn pipeline(&self) -> Option<&str> {
        self.arch.pipeline.as_deref()
    }

    /// Further keys of the networks' configurations that are locked.
    pub fn extra_keys(&self) -> &[String] {
        &self.arch.extra_lock_keys
    }

    /// The clip that validators have generated.
    pub fn clip(&self) -> Clip {
        self.gen_
            .as_ref()
            .map_or_else(Clip::default, |section| Clip {
                num_frames: section.num_frames,
                width: section.width,
                height: section.height,
                guided: section.guidance_scale > 1.0,
                bytes: if section.dtype == "float32" { 4 } else { 2 },
            })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_needed_is_taken_and_the_rest_left() {
        let chain = ChainFile::parse(
            r#"
            [chain]
            name = "x"
            [gen]
            num_frames = 49
            fps = 16
            guidance_scale = 1.0
            width = 640
            height = 352
            dtype = "float32"
            [arch]
            base_repo = "a/b"
            pipeline = "WanImageToVideoPipeline"
            extra_lock_keys = ["rope_max_seq_len"]
            "#,
        )
        .unwrap();
        assert_eq!(chain.base_repo(), Some("a/b"));
        assert_eq!(chain.pipeline(), Some("WanImageToVideoPipeline"));
        assert_eq!(chain.extra_keys(), ["rope_max_seq_len"]);
        let clip = Clip {
            num_frames: 49,
            width: 640,
            height: 352,
            guided: false,
            bytes: 4,
        };
        assert_eq!(chain.clip(), clip);
        assert_eq!(ChainFile::parse("").unwrap().clip(), Clip::default());
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, says) in [
            ("[gen", "bad TOML"),
            ("[gen]\nnum_frames = \"x\"", "num_frames"),
            (
                "[gen]\nnum_frames = 1\nwidth = 1\nheight = 1\nguidance_scale = 1.0\ndtype = \"int3\"",
                "gen.dtype",
            ),
        ] {
            let error = ChainFile::parse(text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}

//! LoRA files, merged into the weights of a transformer while they are loaded.
//!
//! `W' = W + strength * (alpha / r) * (up @ down)` in f32, rounded once to the type that the weight is
//! loaded to. Over a quantised weight the sum is taken with the dequantised values; in fp8 it is rounded
//! again with new scales. Headers, factors and shapes are checked when the checkpoint is opened; the
//! matrices are read when their weight is.
//!
//! Format notes: without an alpha tensor the factor is 1, except in files of diffusers, whose metadata has
//! it (`lora_adapter_metadata`).

mod file;
mod keys;
mod merge;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

pub(super) use file::LoraFile;
pub(super) use merge::MergedSource;

use super::checkpoint::Component;
use crate::error::Error;

/// Which experts of a model with two a LoRA goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoraTarget {
    /// The high-noise expert.
    High,
    /// The low-noise expert.
    Low,
    /// Each of them.
    Both,
}

impl LoraTarget {
    const ALL: [(&str, Self); 3] = [
        ("high", Self::High),
        ("low", Self::Low),
        ("both", Self::Both),
    ];

    /// The experts.
    pub(super) fn components(self) -> &'static [Component] {
        match self {
            Self::High => &[Component::Transformer],
            Self::Low => &[Component::Transformer2],
            Self::Both => &[Component::Transformer, Component::Transformer2],
        }
    }
}

/// A LoRA as asked for: `FILE[=STRENGTH][@high|@low|@both]`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSpec {
    /// A safetensors file.
    pub path: PathBuf,
    /// Factor on everything the file adds; 1 when not given.
    pub strength: f64,
    /// Where it goes; when not given, the names in the file have to say.
    pub target: Option<LoraTarget>,
}

impl LoraSpec {
    /// A whole LoRA whose file says where it goes.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            strength: 1.0,
            target: None,
        }
    }
}

impl FromStr for LoraSpec {
    type Err = Error;

    /// From the right, as file names may hold `=` and `@` themselves.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut spec = Self::new("");
        let mut rest = text;
        if let Some((head, name)) = rest.rsplit_once('@')
            && !name.contains('/')
        {
            let target = LoraTarget::ALL.iter().find(|(known, _)| *known == name);
            match target {
                Some((_, target)) => {
                    spec.target = Some(*target);
                    rest = head;
                }
                // `name@1.safetensors` is a file; `file@lo` is a mistake.
                None if !name.contains('.') => {
                    return Err(Error::caller(
                        "lora",
                        format!("`@{name}` is not one of @high, @low, @both"),
                    ));
                }
                None => {}
            }
        }
        if let Some((head, number)) = rest.rsplit_once('=')
            && !number.ends_with(".safetensors")
        {
            spec.strength = number
                .parse()
                .ok()
                .filter(|strength: &f64| strength.is_finite())
                .ok_or_else(|| {
                    Error::caller(
                        "lora",
                        format!(
                            "`{number}` is not a strength; write FILE[=STRENGTH][@high|@low|@both], for \
                             example style.safetensors=0.8@low"
                        ),
                    )
                })?;
            rest = head;
        }
        if rest.is_empty() {
            return Err(Error::caller("lora", format!("`{text}` names no file")));
        }
        spec.path = PathBuf::from(rest);
        Ok(spec)
    }
}

impl fmt::Display for LoraSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.strength != 1.0 {
            write!(f, "={}", self.strength)?;
        }
        match LoraTarget::ALL
            .iter()
            .find(|(_, target)| Some(*target) == self.target)
        {
            Some((name, _)) => write!(f, "@{name}"),
            None => Ok(()),
        }
    }
}

/// A LoRA as it is used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoraReport {
    /// Name of the file.
    pub file: String,
    /// Hexadecimal SHA-256 of the file.
    pub sha256: String,
    /// Factor on everything the file adds.
    pub strength: f64,
    /// The experts it changes.
    pub experts: Vec<Component>,
    /// Weights, biases and modulations it changes, over all experts.
    pub changed: usize,
    /// Tensors of the file that belong to nothing in the model.
    pub ignored: usize,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn specs_parse_from_the_right_and_print_back() {
        for (text, path, strength, target) in [
            ("a.safetensors", "a.safetensors", 1.0, None),
            ("a.safetensors=0.8", "a.safetensors", 0.8, None),
            (
                "a.safetensors@low",
                "a.safetensors",
                1.0,
                Some(LoraTarget::Low),
            ),
            (
                "d/a=b.safetensors=-0.5@high",
                "d/a=b.safetensors",
                -0.5,
                Some(LoraTarget::High),
            ),
            ("a=b.safetensors", "a=b.safetensors", 1.0, None),
            (
                "me@home/a.safetensors=2@both",
                "me@home/a.safetensors",
                2.0,
                Some(LoraTarget::Both),
            ),
            ("a@v1.safetensors", "a@v1.safetensors", 1.0, None),
        ] {
            let spec: LoraSpec = text.parse().unwrap();
            assert_eq!(
                (spec.path.to_str().unwrap(), spec.strength, spec.target),
                (path, strength, target)
            );
            assert_eq!(spec.to_string(), text);
        }
        for wrong in [
            "",
            "=1",
            "@low",
            "a.safetensors=x",
            "a.safetensors=nan",
            "a.safetensors=inf",
            "a.safetensors@lo",
            "a.safetensors=",
        ] {
            let error = wrong.parse::<LoraSpec>().unwrap_err().to_string();
            assert!(error.starts_with("lora: "), "{wrong}: {error}");
        }
    }
}

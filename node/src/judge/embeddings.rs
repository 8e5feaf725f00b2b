//! What CLIP and DINOv2 see in a clip, where their weights are present.
//!
//! Signals of [`super::signals`] need nothing; these need a folder each ([`EmbeddingSettings`]). Like those they find
//! damage and prove no quality: a frozen clip is perfectly consistent, so no value here may raise a score. One of them
//! takes part in a gate: `dino_first` can keep `G_first` open (it overrules a low `ff_align`, see
//! [`super::signals::opinion::assess`]); the others are on record.
//!
//! Frames are spread evenly over the clip and include both ends; neighbours are neighbours among those. With fewer
//! frames they lie further apart and agree less, so values are comparable for one number of frames only; the indices
//! are part of the result.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;
use leoma_models::judge::Frame;
use leoma_models::judge::embeddings::{ClipModel, Dinov2Model, cosine};
use leoma_models::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::clip::Clip;
use super::profile::Configuration;
use super::sampling::whole;
use super::signals::{Description, description_table};
use crate::media::RgbImage8;

/// Frames that are looked at when nothing else is said.
pub const FRAMES: usize = 16;
/// Where a judge's configuration says which models look.
const FIELD: &str = "embeddings";

/// Which weights there are, and how much of a clip they see.
#[derive(Debug, Clone)]
pub struct EmbeddingSettings {
    /// Folder of a CLIP checkpoint, such as `openai/clip-vit-base-patch32`.
    pub clip: Option<PathBuf>,
    /// Folder of a DINOv2 checkpoint, such as `facebook/dinov2-base`.
    pub dinov2: Option<PathBuf>,
    /// Most frames that are looked at.
    pub frames: usize,
    /// Where the models compute.
    pub device: Device,
}

impl Default for EmbeddingSettings {
    /// No weights, [`FRAMES`] frames, on the CPU.
    fn default() -> Self {
        Self {
            clip: None,
            dinov2: None,
            frames: FRAMES,
            device: Device::Cpu,
        }
    }
}

/// One number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EmbeddingSignal {
    /// How well frames fit the prompt.
    ClipText,
    /// The worst of them.
    ClipTextMin,
    /// Neighbours in CLIP's eyes.
    ClipConsistency,
    /// Neighbours in DINOv2's eyes.
    DinoSeq,
    /// Frames against frame 0.
    DinoToFirst,
    /// Both together, as VBench has it.
    DinoConsistency,
    /// The conditioning image against frame 0.
    DinoFirst,
}

impl EmbeddingSignal {
    /// Every one, in the order of tables.
    pub const ALL: [Self; 7] = [
        Self::ClipText,
        Self::ClipTextMin,
        Self::ClipConsistency,
        Self::DinoSeq,
        Self::DinoToFirst,
        Self::DinoConsistency,
        Self::DinoFirst,
    ];

    /// Spelling in records and tables.
    pub fn key(self) -> &'static str {
        match self {
            Self::ClipText => "clip_text",
            Self::ClipTextMin => "clip_text_min",
            Self::ClipConsistency => "clip_consistency",
            Self::DinoSeq => "dino_seq",
            Self::DinoToFirst => "dino_to_first",
            Self::DinoConsistency => "dino_consistency",
            Self::DinoFirst => "dino_first",
        }
    }

    /// Formula, purpose and failure; f_t is the vector of frame t of those looked at, c that of the conditioning image,
    /// p that of the prompt.
    pub fn describe(self) -> Description {
        let (formula, meant_for, fails_on) = match self {
            Self::ClipText => (
                "mean over t of cos(p, f_t), CLIP",
                "a clip of something else than the prompt says",
                "a prompt of more than 75 tokens is cut; counts, order and who does what to whom are not seen; \
                 writing in the picture raises it",
            ),
            Self::ClipTextMin => (
                "smallest cos(p, f_t), CLIP",
                "a part of the clip that leaves the prompt",
                "as clip_text; a frame of motion blur lowers it",
            ),
            Self::ClipConsistency => (
                "mean over t >= 1 of cos(f_{t-1}, f_t), CLIP",
                "a subject or a place that changes into another",
                "a frozen clip scores a perfect 1; fast pans and real cuts lower it",
            ),
            Self::DinoSeq => (
                "mean over t >= 1 of max(0, cos(f_{t-1}, f_t)), DINOv2",
                "a subject that melts",
                "as clip_consistency",
            ),
            Self::DinoToFirst => (
                "mean over t >= 1 of max(0, cos(f_0, f_t)), DINOv2",
                "a subject that drifts away from what it was",
                "a frozen clip scores a perfect 1; a camera that turns away lowers it",
            ),
            Self::DinoConsistency => (
                "(dino_seq + dino_to_first) / 2 (VBench subject consistency, there with the first DINO)",
                "comparison between clips of one task",
                "a frozen clip scores a perfect 1; not comparable with published tables, which use another DINO and \
                 every frame",
            ),
            Self::DinoFirst => (
                "cos(c, f_0), DINOv2",
                "telling a crop or a recoloured first frame from another picture",
                "another picture of the same subject keeps it high; a pasted first frame scores 1",
            ),
        };
        Description {
            formula,
            meant_for,
            fails_on,
        }
    }
}

/// Every signal with formula, purpose and failure, as Markdown.
pub fn embedding_table() -> String {
    let ids = EmbeddingSignal::ALL.into_iter();
    description_table(ids.map(|id| (id.key(), id.describe())))
}

/// What was found on a clip.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingSignals {
    /// Value by name; without those whose weights are not there or whose clip is too short.
    pub values: BTreeMap<String, f64>,
    /// Digest of each model's weights, by `clip` and `dinov2`.
    pub weights_sha256: BTreeMap<String, String>,
    /// The frames that were looked at.
    pub indices: Vec<usize>,
    /// Tokens at the end of the prompt that CLIP had no room for and did not read.
    pub dropped_tokens: usize,
}

impl EmbeddingSignals {
    /// The value of a signal, where there is one.
    pub fn get(&self, id: EmbeddingSignal) -> Option<f64> {
        self.values.get(id.key()).copied()
    }

    fn set(&mut self, id: EmbeddingSignal, value: Option<f64>) {
        if let Some(value) = value {
            self.values.insert(id.key().to_owned(), value);
        }
    }
}

/// Which models look, and at how much of a clip: the part of a judge's configuration that decides these values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingConfiguration {
    /// Digest of each model's weights, by `clip` and `dinov2`.
    pub weights_sha256: BTreeMap<String, String>,
    /// Most frames that are looked at.
    pub frames: usize,
}

impl EmbeddingConfiguration {
    /// Of a judge; `None` where no such model looks.
    pub fn of(configuration: &Configuration) -> Option<Self> {
        Self::deserialize(configuration.asks.get(FIELD)?).ok()
    }

    /// Becomes part of a judge's configuration.
    pub fn add_to(&self, configuration: &mut Configuration) {
        if let Some(asks) = configuration.asks.as_object_mut() {
            asks.insert(FIELD.to_owned(), json!(self));
        }
    }

    /// Whether a record is one of these models about the right frames of a clip of so many.
    pub fn made(&self, found: &EmbeddingSignals, frames: usize) -> bool {
        found.weights_sha256 == self.weights_sha256 && found.indices == whole(frames, self.frames)
    }
}

/// The models that are present.
#[derive(Debug)]
pub struct Embeddings {
    clip: Option<ClipModel>,
    dinov2: Option<Dinov2Model>,
    configuration: EmbeddingConfiguration,
}

/// Reads the weights of the settings; `None` when no folder is named.
///
/// # Errors
/// [`leoma_models::Error`] naming the file, field or tensor that cannot be used. Whatever is wrong with them, it is no
/// fault of a clip.
pub fn open(settings: &EmbeddingSettings) -> Result<Option<Embeddings>> {
    let device = &settings.device;
    let clip = settings.clip.as_ref();
    let clip = clip.map(|root| ClipModel::open(root, device)).transpose()?;
    let dinov2 = settings.dinov2.as_ref();
    let dinov2 = dinov2
        .map(|root| Dinov2Model::open(root, device))
        .transpose()?;
    let digests = [
        ("clip", clip.as_ref().map(ClipModel::weights_sha256)),
        ("dinov2", dinov2.as_ref().map(Dinov2Model::weights_sha256)),
    ];
    let weights_sha256: BTreeMap<_, _> = digests
        .into_iter()
        .filter_map(|(name, digest)| Some((name.to_owned(), digest?)))
        .collect();
    Ok((!weights_sha256.is_empty()).then_some(Embeddings {
        clip,
        dinov2,
        configuration: EmbeddingConfiguration {
            weights_sha256,
            frames: settings.frames.max(1),
        },
    }))
}

impl Embeddings {
    /// Which models these are, and how much they see.
    pub fn configuration(&self) -> &EmbeddingConfiguration {
        &self.configuration
    }

    /// Looks at a clip.
    ///
    /// # Errors
    /// [`Error::Caller`] naming `video`, `first_frame` or `prompt` for what no model takes; [`Error::Artifact`] naming
    /// the folder whose weights give no numbers; else this machine's.
    pub fn measure(&self, clip: &Clip<'_>, prompt: &str) -> Result<EmbeddingSignals> {
        let indices = whole(clip.frames.len(), self.configuration.frames);
        let shown = indices.iter().filter_map(|index| clip.frames.get(*index));
        let frames = shown.map(frame).collect::<Result<Vec<_>>>()?;
        let mut found = EmbeddingSignals {
            indices,
            weights_sha256: self.configuration.weights_sha256.clone(),
            ..EmbeddingSignals::default()
        };
        if let Some(model) = &self.clip {
            let text = model.prompt(prompt)?;
            found.dropped_tokens = text.dropped_tokens;
            let vectors = model.images(&frames).map_err(|e| about("video", e))?;
            let fits: Vec<f64> = vectors
                .iter()
                .filter_map(|vector| cosine(&text.vector, vector))
                .collect();
            found.set(EmbeddingSignal::ClipText, mean(&fits));
            found.set(
                EmbeddingSignal::ClipTextMin,
                fits.iter().copied().reduce(f64::min),
            );
            found.set(
                EmbeddingSignal::ClipConsistency,
                mean(&neighbours(&vectors)),
            );
            are_numbers(model.root(), &found)?;
        }
        if let Some(model) = &self.dinov2 {
            let vectors = model.images(&frames).map_err(|e| about("video", e))?;
            let positive = |values: Vec<f64>| {
                mean(&values.into_iter().map(|v| v.max(0.0)).collect::<Vec<_>>())
            };
            let seq = positive(neighbours(&vectors));
            let to_first = positive(against_first(&vectors));
            found.set(EmbeddingSignal::DinoSeq, seq);
            found.set(EmbeddingSignal::DinoToFirst, to_first);
            let both = seq.zip(to_first).map(|(a, b)| f64::midpoint(a, b));
            found.set(EmbeddingSignal::DinoConsistency, both);
            let given = model.images(&[frame(clip.first)?]);
            let given = given.map_err(|e| about("first_frame", e))?;
            let first = given.first().zip(vectors.first());
            let first = first.and_then(|(given, first)| cosine(given, first));
            found.set(EmbeddingSignal::DinoFirst, first);
            are_numbers(model.root(), &found)?;
        }
        Ok(found)
    }
}

/// An error about frames, by the name of what they are frames of: whose fault it is depends on that.
fn about(field: &str, error: Error) -> Error {
    match error {
        Error::Caller { field: of, message } if of == "frames" => Error::caller(field, message),
        other => other,
    }
}

/// Weights that are not finite give values that are not; those must not end as the least of all.
fn are_numbers(root: &Path, found: &EmbeddingSignals) -> Result<()> {
    match found.values.iter().find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((name, _)) => {
            let message = format!("{name} is no number: the weights are broken, get them again");
            Err(Error::artifact(root, message))
        }
    }
}

fn frame(image: &RgbImage8) -> Result<Frame<'_>> {
    Frame::new(image.data(), image.height(), image.width())
}

/// Cosines of each vector and the one before it.
fn neighbours(vectors: &[Vec<f32>]) -> Vec<f64> {
    let pairs = vectors.iter().zip(vectors.iter().skip(1));
    pairs.filter_map(|(a, b)| cosine(a, b)).collect()
}

/// Cosines of each vector but the first and the first.
fn against_first(vectors: &[Vec<f32>]) -> Vec<f64> {
    let Some((first, rest)) = vectors.split_first() else {
        return Vec::new();
    };
    rest.iter().filter_map(|v| cosine(first, v)).collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::judge::profile::Profile;
    use crate::judge::rubric::Rules;
    use crate::judge::sampling::FrameRule;

    /// Tiny random models, four frames.
    pub(crate) fn settings() -> EmbeddingSettings {
        let fixture =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/embeddings");
        EmbeddingSettings {
            clip: Some(fixture.join("clip")),
            dinov2: Some(fixture.join("dinov2")),
            frames: 4,
            device: Device::Cpu,
        }
    }

    /// A picture of stripes that depend on `seed`.
    fn picture(seed: usize) -> RgbImage8 {
        let pixels = (0..48 * 40).flat_map(|at| {
            let (x, y) = (at % 48, at / 48);
            [x * (seed + 3), y * (7 * seed + 2), (x + y) * (seed + 1)].map(|v| (v % 256) as u8)
        });
        RgbImage8::new(48, 40, pixels.collect()).unwrap()
    }

    fn measured(settings: &EmbeddingSettings, frames: &[RgbImage8]) -> EmbeddingSignals {
        let first = picture(0);
        let clip = Clip {
            frames,
            fps: 16.0,
            first: &first,
        };
        let models = open(settings).unwrap().unwrap();
        models.measure(&clip, "a red panda").unwrap()
    }

    #[test]
    fn a_frozen_clip_is_perfectly_consistent_and_a_changing_one_is_not() {
        let frozen = measured(&settings(), &vec![picture(0); 9]);
        assert_eq!(frozen.indices, [0, 2, 5, 8]);
        for id in [
            EmbeddingSignal::ClipConsistency,
            EmbeddingSignal::DinoSeq,
            EmbeddingSignal::DinoToFirst,
            EmbeddingSignal::DinoConsistency,
            EmbeddingSignal::DinoFirst,
        ] {
            assert!((frozen.get(id).unwrap() - 1.0).abs() < 1e-5, "{}", id.key());
        }
        let text = frozen.get(EmbeddingSignal::ClipText).unwrap();
        assert!((text - frozen.get(EmbeddingSignal::ClipTextMin).unwrap()).abs() < 1e-6);

        let frames: Vec<_> = (1..10).map(picture).collect();
        let changing = measured(&settings(), &frames);
        for id in EmbeddingSignal::ALL {
            let value = changing.get(id).unwrap();
            assert!((-1.0..=1.0).contains(&value), "{}: {value}", id.key());
        }
        for id in [
            EmbeddingSignal::ClipConsistency,
            EmbeddingSignal::DinoSeq,
            EmbeddingSignal::DinoFirst,
        ] {
            assert!(changing.get(id) < frozen.get(id), "{}", id.key());
        }
        let least = changing.get(EmbeddingSignal::ClipTextMin);
        assert!(least < changing.get(EmbeddingSignal::ClipText));
    }

    #[test]
    fn only_what_has_weights_is_said() {
        let none = EmbeddingSettings::default();
        assert!(open(&none).unwrap().is_none());
        let only = EmbeddingSettings {
            clip: None,
            ..settings()
        };
        let found = measured(&only, &[picture(0)]);
        // One frame has no neighbour, but it is frame 0.
        assert_eq!(found.values.keys().collect::<Vec<_>>(), ["dino_first"]);
        assert_eq!(found.weights_sha256.len(), 1);
        let wrong = EmbeddingSettings {
            clip: only.dinov2.clone(),
            ..EmbeddingSettings::default()
        };
        let message = open(&wrong).unwrap_err().to_string();
        assert!(message.contains("model_type"), "{message}");
    }

    #[test]
    fn a_configuration_knows_its_own_records() {
        let rules = Rules::default();
        let mut judge = Configuration::remote(Profile::Subnet, "m", rules, FrameRule::default());
        let without = judge.sha256();
        assert_eq!(EmbeddingConfiguration::of(&judge), None);
        let models = open(&settings()).unwrap().unwrap();
        let own = models.configuration();
        own.add_to(&mut judge);
        assert_eq!(EmbeddingConfiguration::of(&judge), Some(own.clone()));
        assert_ne!(judge.sha256(), without);

        let mut found = measured(&settings(), &vec![picture(0); 9]);
        assert!(own.made(&found, 9) && !own.made(&found, 10));
        found.weights_sha256.remove("clip");
        assert!(!own.made(&found, 9));
    }

    #[test]
    fn what_cannot_be_seen_is_named() {
        let narrow = RgbImage8::new(100_000, 1, vec![9; 300_000]).unwrap();
        let (clip, models) = (picture(0), open(&settings()).unwrap().unwrap());
        for (frame, first, field) in [(&narrow, &clip, "video"), (&clip, &narrow, "first_frame")] {
            let clip = Clip {
                frames: std::slice::from_ref(frame),
                fps: 16.0,
                first,
            };
            let error = models.measure(&clip, "a red panda").unwrap_err();
            assert!(
                matches!(&error, Error::Caller { field: of, .. } if of == field),
                "{error}"
            );
        }
        let mut broken = EmbeddingSignals::default();
        are_numbers(Path::new("dir"), &broken).unwrap();
        broken.set(EmbeddingSignal::DinoFirst, Some(f64::NAN));
        let error = are_numbers(Path::new("dir"), &broken).unwrap_err();
        assert_eq!(error.fault(), leoma_models::Fault::Artifact);
    }

    #[test]
    fn every_name_is_one() {
        let keys: std::collections::BTreeSet<_> = EmbeddingSignal::ALL
            .into_iter()
            .map(EmbeddingSignal::key)
            .collect();
        assert_eq!(keys.len(), EmbeddingSignal::ALL.len());
        for id in EmbeddingSignal::ALL {
            assert!(!id.describe().fails_on.is_empty());
        }
    }
}

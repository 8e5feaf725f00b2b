//! The judge of this machine.
//!
//! With a model's folder it is [`LearnedJudge`]: a Qwen3-VL that is asked about the clip, and the signals, whose gates
//! may lower what the model says and never raise it. Without one it is [`SignalsJudge`]: signals alone, which can say
//! that a clip must fail and otherwise abstain. Either may look at the clip with CLIP and DINOv2 as well
//! (`judge::embeddings`). [`open`] makes them from plain settings.
//!
//! ```text
//! Compared          the same question about exactly the frames that the remote judge sees
//!   └ Rechecked     the same question about the clip without what could deceive (`judge::recheck`)
//!       └ LearnedJudge
//! ```
//!
//! The model sees more of a clip than the remote judge does: frame 0 and the tail. So what calibration and agreement
//! compare with the remote judge's verdict is not the verdict but the scores of [`SameFrames`].

mod compared;
mod dump;
mod learned;
mod readings;
mod record;
mod signals;
mod turn;

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Device;
use leoma_models::{Fault, Precision};
use serde::{Deserialize, Serialize};

pub use compared::{Compared, SameFrames};
pub use dump::Dump;
pub use learned::{LearnedJudge, MODEL_ID, UNIFIED_ID};
pub use readings::{Read, Readings};
pub use record::{Record, Seen, capped};
pub use signals::{SIGNALS_ID, SignalsJudge, ceilings};

use super::embeddings::{self, EmbeddingSettings, Embeddings};
use super::recheck::Rechecked;
use super::rubric::Rules;
use super::sampling::FrameRule;
use super::side::Judge;
use super::verdict::{NoVerdict, Reason};

/// In which words a local model is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalProfile {
    /// Six questions of a general Qwen3-VL.
    #[default]
    Rubric,
    /// UnifiedReward-2.0 on Qwen3-VL, in the words it was trained with.
    Unified,
}

impl LocalProfile {
    /// Both, for lists of choices.
    pub const ALL: [Self; 2] = [Self::Rubric, Self::Unified];

    /// Its name in settings and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rubric => "rubric",
            Self::Unified => "unified",
        }
    }
}

/// How the local side judges.
#[derive(Debug, Clone)]
pub struct LocalSettings {
    /// Folder of a checkpoint; without one the local side is the signals.
    pub model: Option<PathBuf>,
    /// How the model is asked.
    pub profile: LocalProfile,
    /// Type of its weights and activations: f32 or bf16.
    pub precision: Precision,
    /// Where it computes, opened by the caller; [`Device::Cpu`] without a model.
    pub device: Device,
    /// CLIP and DINOv2, with a model or without.
    pub embeddings: EmbeddingSettings,
    /// Most tokens of an image and of a temporal patch of a video.
    pub tokens_per_picture: Option<usize>,
    /// What passes.
    pub rules: Rules,
    /// The frames that the remote judge is shown.
    pub frames: FrameRule,
    /// Whether the model also scores exactly those frames, for agreement and calibration. Doubles its work.
    pub compare: bool,
    /// Where the tensors of the first judgement go; profile `rubric` only.
    pub dump: Option<Arc<Dump>>,
}

impl Default for LocalSettings {
    /// The signals, by the subnet's rules and frames.
    fn default() -> Self {
        Self {
            model: None,
            profile: LocalProfile::default(),
            precision: Precision::F32,
            device: Device::Cpu,
            embeddings: EmbeddingSettings::default(),
            tokens_per_picture: None,
            rules: Rules::default(),
            frames: FrameRule::default(),
            compare: false,
            dump: None,
        }
    }
}

/// Opens the judge that the settings ask for: reads and hashes the weights, where there are any, so that no clip
/// waits for that.
///
/// # Errors
/// [`NoVerdict`] that names the file of the model that cannot be used.
pub fn open(settings: &LocalSettings) -> Result<Arc<dyn Judge>, NoVerdict> {
    if settings.model.is_none() {
        let embeddings = open_embeddings(SIGNALS_ID, settings)?;
        let judge = SignalsJudge::new(settings.rules, settings.frames);
        return Ok(Arc::new(judge.with_embeddings(embeddings)));
    }
    let learned = Arc::new(LearnedJudge::open(settings)?);
    let rechecked = Arc::new(Rechecked::new(Arc::clone(&learned) as Arc<dyn Judge>));
    let judge: Arc<dyn Judge> = if settings.compare {
        Arc::new(Compared::new(rechecked, learned))
    } else {
        rechecked
    };
    Ok(judge)
}

/// CLIP and DINOv2 of the settings, for a judge of this name.
fn open_embeddings(judge: &str, settings: &LocalSettings) -> Result<Option<Embeddings>, NoVerdict> {
    embeddings::open(&settings.embeddings).map_err(|error| {
        let message = format!("embeddings: {error}");
        NoVerdict::new(judge, Reason::Weights, Fault::Local, message)
    })
}

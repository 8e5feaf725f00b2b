//! From what a caller asked for to every effective value, with where each came from.

use std::path::PathBuf;

use leoma_models::noise::NoiseSource;
use leoma_models::scheduler::SchedulerKind;
use leoma_models::text::{clean_prompt, validate_prompt};
use leoma_models::wan::pipeline::{GenerateParams, check_multiple};
use leoma_models::weights::{Checkpoint, ModelKind, SchedulerConfig};
use leoma_models::{Error, Result};
use serde::Serialize;
use serde_json::Value;

use super::preset::{DEFAULT_SEED, Preset};
use crate::error::Error as NodeError;
use crate::media::{ImagePreparation, Rounding};

/// A generation as a caller asks for it: everything but the prompt may be left open.
#[derive(Debug, Clone, Default)]
pub struct GenerationRequest {
    /// Prompt.
    pub prompt: String,
    /// Negative prompt.
    pub negative_prompt: Option<String>,
    /// First frame: the bytes of a PNG, JPEG or WebP file.
    pub image: Option<Vec<u8>>,
    /// Pixel frames.
    pub num_frames: Option<usize>,
    /// Pixel rows.
    pub height: Option<usize>,
    /// Pixel columns.
    pub width: Option<usize>,
    /// Frames per second of the file.
    pub fps: Option<u32>,
    /// Sampler steps.
    pub num_inference_steps: Option<usize>,
    /// Guidance of the high-noise expert.
    pub guidance_scale: Option<f64>,
    /// Guidance of the low-noise expert.
    pub guidance_scale_2: Option<f64>,
    /// Shift of the sigma schedule.
    pub flow_shift: Option<f64>,
    /// Expert switch.
    pub boundary_ratio: Option<f64>,
    /// Sampler.
    pub scheduler: Option<SchedulerKind>,
    /// Seed of the initial noise.
    pub seed: Option<u64>,
    /// Generator of the initial noise.
    pub noise_source: Option<NoiseSource>,
    /// x264 constant rate factor.
    pub crf: Option<u8>,
    /// Family of defaults, where it is not the caller's usual one.
    pub preset: Option<Preset>,
    /// How the first frame is brought to size, where it is not the preset's way.
    pub image_preparation: Option<ImagePreparation>,
    /// One frame as PNG in place of a clip.
    pub still: bool,
}

/// Kind of file a generation ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputFormat {
    /// H.264 in MP4.
    #[default]
    Mp4,
    /// One frame as PNG.
    Png,
}

impl OutputFormat {
    /// Media type of the file.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Mp4 => "video/mp4",
            Self::Png => "image/png",
        }
    }
}

/// What a checkpoint says about its own defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelDefaults {
    /// Kind of model.
    pub kind: ModelKind,
    /// `flow_shift` of `scheduler_config.json`.
    pub flow_shift: Option<f64>,
    /// Expert switch.
    pub boundary_ratio: Option<f64>,
    /// Pixel frames per latent frame.
    pub temporal_stride: usize,
    /// Multiples that height and width must be of.
    pub size_multiple: [usize; 2],
}

impl ModelDefaults {
    /// Reads the defaults off a checkpoint.
    pub fn of(checkpoint: &Checkpoint, size_multiple: [usize; 2]) -> Self {
        Self {
            kind: checkpoint.kind(),
            flow_shift: checkpoint
                .scheduler_config()
                .and_then(SchedulerConfig::shift),
            boundary_ratio: checkpoint.boundary_ratio(),
            temporal_stride: checkpoint.vae_config().temporal_stride(),
            size_multiple,
        }
    }
}

/// Where an effective value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The caller.
    Request,
    /// The checkpoint's own configuration.
    Checkpoint,
    /// The preset's table.
    Preset,
    /// Derived from other values or from the image.
    Derived,
    /// Whoever runs the node.
    Node,
}

impl Origin {
    fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Checkpoint => "checkpoint",
            Self::Preset => "preset",
            Self::Derived => "derived",
            Self::Node => "node",
        }
    }
}

/// One effective value and its origin.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Effective {
    /// Field name, as in requests.
    pub name: &'static str,
    /// The value in use.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

/// Everything decided: ready to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the pipeline needs.
    pub params: GenerateParams,
    /// Frames per second of the file.
    pub fps: u32,
    /// x264 constant rate factor.
    pub crf: u8,
    /// How floats become bytes.
    pub rounding: Rounding,
    /// How a first frame is brought to size.
    pub image_preparation: ImagePreparation,
    /// Kind of file.
    pub format: OutputFormat,
    /// Every value above with its origin, in a fixed order.
    pub effective: Vec<Effective>,
    /// What was changed on the way, in sentences for the caller.
    pub warnings: Vec<String>,
}

impl Settings {
    /// The effective values as one JSON object.
    pub fn parameters(&self) -> serde_json::Map<String, Value> {
        self.effective
            .iter()
            .map(|item| (item.name.to_owned(), item.value.clone()))
            .collect()
    }

    /// The effective values as lines `name = value  (origin)`.
    pub fn table(&self) -> String {
        let width = self
            .effective
            .iter()
            .map(|item| item.name.len())
            .max()
            .unwrap_or(0);
        self.effective
            .iter()
            .map(|item| {
                format!(
                    "{:width$} = {}  ({})\n",
                    item.name,
                    item.value,
                    item.origin.name()
                )
            })
            .collect()
    }
}

/// Collects effective values while they are decided.
struct Decisions(Vec<Effective>);

impl Decisions {
    fn note(&mut self, name: &'static str, value: impl Into<Value>, origin: Origin) {
        self.0.push(Effective {
            name,
            value: value.into(),
            origin,
        });
    }

    /// The first candidate that is set, else the preset's.
    fn pick<T: Clone + Into<Value>>(
        &mut self,
        name: &'static str,
        candidates: &[(Option<T>, Origin)],
        preset: T,
    ) -> T {
        let (value, origin) = candidates
            .iter()
            .find_map(|(value, origin)| value.clone().map(|value| (value, *origin)))
            .unwrap_or((preset, Origin::Preset));
        self.note(name, value.clone(), origin);
        value
    }
}

/// Decides every value of a generation.
///
/// `image_size` is `[height, width]` of the first frame, when there is one: the official preset derives
/// the clip's size from it.
///
/// # Errors
/// [`Error::Caller`] naming the field that cannot be used.
pub fn resolve(
    request: &GenerationRequest,
    preset: Preset,
    model: &ModelDefaults,
    image_size: Option<[usize; 2]>,
) -> Result<Settings, NodeError> {
    use Origin::{Checkpoint, Derived, Request};
    let defaults = preset.values(model.kind);
    let mut decisions = Decisions(Vec::with_capacity(20));
    let mut warnings = Vec::new();

    validate_prompt("prompt", &request.prompt)?;
    if clean_prompt(&request.prompt).is_empty() {
        return Err(NodeError::caller(
            "prompt",
            "is empty; describe what should happen in the clip",
        ));
    }
    if let Some(negative) = &request.negative_prompt {
        validate_prompt("negative_prompt", negative)?;
    }
    decisions.note("preset", preset.name(), Request);
    decisions.note("model", model.kind.as_str(), Checkpoint);
    decisions.note("prompt", request.prompt.as_str(), Request);
    let negative_prompt = decisions.pick(
        "negative_prompt",
        &[(request.negative_prompt.clone(), Request)],
        defaults.negative_prompt.to_owned(),
    );

    let asked = if request.still {
        1
    } else {
        request.num_frames.unwrap_or(defaults.num_frames)
    };
    if asked == 0 || asked > MAX_FRAMES {
        return Err(NodeError::caller(
            "num_frames",
            format!("{asked} is not between 1 and {MAX_FRAMES}"),
        ));
    }
    let num_frames = round_frames(asked, model.temporal_stride);
    let origin = if num_frames == asked {
        if request.num_frames.is_some() || request.still {
            Request
        } else {
            Origin::Preset
        }
    } else {
        warnings.push(format!(
            "num_frames: {asked} is not {}n + 1; making {num_frames} frames",
            model.temporal_stride
        ));
        Derived
    };
    decisions.note("num_frames", num_frames, origin);

    let image_preparation = request
        .image_preparation
        .unwrap_or(defaults.image_preparation);
    let asked_height = request.height.unwrap_or(defaults.height);
    let asked_width = request.width.unwrap_or(defaults.width);
    for (field, size) in [("height", asked_height), ("width", asked_width)] {
        if size == 0 || size > MAX_SIDE {
            return Err(NodeError::caller(
                field,
                format!("{size} is not between 1 and {MAX_SIDE}"),
            ));
        }
    }
    let (height, width) = match image_size {
        // A picture of the asked size is used as it is; only other sizes go through the rule.
        Some([h, w]) if [h, w] != [asked_height, asked_width] => {
            image_preparation.output_size(h, w, asked_height, asked_width)?
        }
        _ => (asked_height, asked_width),
    };
    for (name, value, asked, requested) in [
        ("height", height, asked_height, request.height),
        ("width", width, asked_width, request.width),
    ] {
        let origin = match (value == asked, requested) {
            (false, _) => Derived,
            (true, Some(_)) => Request,
            (true, None) => Origin::Preset,
        };
        decisions.note(name, value, origin);
    }
    check_multiple("height", height, model.size_multiple[0])?;
    check_multiple("width", width, model.size_multiple[1])?;

    let fps = decisions.pick("fps", &[(request.fps, Request)], defaults.fps);
    if !(1..=240).contains(&fps) {
        return Err(NodeError::caller(
            "fps",
            format!("{fps} is not between 1 and 240"),
        ));
    }
    let num_inference_steps = decisions.pick(
        "num_inference_steps",
        &[(request.num_inference_steps, Request)],
        defaults.num_inference_steps,
    );
    if num_inference_steps == 0 {
        return Err(NodeError::caller(
            "num_inference_steps",
            "is 0; at least 1 step is needed",
        ));
    }
    let guidance_scale = decisions.pick(
        "guidance_scale",
        &[(request.guidance_scale, Request)],
        defaults.guidance_scale,
    );
    let two_experts = matches!(model.kind, ModelKind::T2vA14b | ModelKind::I2vA14b);
    let mut guidance_scale_2 = guidance_scale;
    let mut boundary_ratio = None;
    if two_experts {
        // diffusers: one guidance scale serves both experts unless a second one is given.
        guidance_scale_2 = decisions.pick(
            "guidance_scale_2",
            &[
                (request.guidance_scale_2, Request),
                (request.guidance_scale, Derived),
            ],
            defaults.guidance_scale_2,
        );
        boundary_ratio = Some(decisions.pick(
            "boundary_ratio",
            &[
                (request.boundary_ratio, Request),
                (model.boundary_ratio, Checkpoint),
            ],
            defaults.boundary_ratio.unwrap_or(0.9),
        ));
    } else {
        for (field, given) in [
            ("guidance_scale_2", request.guidance_scale_2.is_some()),
            ("boundary_ratio", request.boundary_ratio.is_some()),
        ] {
            if given {
                return Err(NodeError::caller(
                    field,
                    format!("{} has one expert; leave it out", model.kind.as_str()),
                ));
            }
        }
    }
    let checkpoint_shift = model
        .flow_shift
        .filter(|_| !preset.ignores_checkpoint_shift());
    let flow_shift = decisions.pick(
        "flow_shift",
        &[
            (request.flow_shift, Request),
            (checkpoint_shift, Checkpoint),
        ],
        defaults.flow_shift,
    );

    let scheduler = request.scheduler.unwrap_or(SchedulerKind::UniPc);
    let scheduler_origin = if request.scheduler.is_some() {
        Request
    } else {
        Origin::Preset
    };
    decisions.note("scheduler", scheduler.to_string(), scheduler_origin);
    // Refuses step counts and shifts that the sampler cannot use, before anything is loaded.
    leoma_models::scheduler::build(scheduler, num_inference_steps, flow_shift)?;

    let seed = decisions.pick("seed", &[(request.seed, Request)], DEFAULT_SEED);
    let (noise, noise_origin) = match &request.noise_source {
        Some(source) => (source.clone(), Request),
        None => (defaults.noise_source.parse()?, Origin::Preset),
    };
    decisions.note("noise_source", noise.to_string(), noise_origin);
    let crf = decisions.pick("crf", &[(request.crf, Request)], defaults.crf);
    if crf > 51 {
        return Err(NodeError::caller(
            "crf",
            format!("{crf} is not between 0 and 51"),
        ));
    }
    decisions.note("rounding", defaults.rounding.name(), Origin::Preset);
    let origin = if request.image_preparation.is_some() {
        Request
    } else {
        Origin::Preset
    };
    decisions.note("image_preparation", image_preparation.name(), origin);
    let format = if request.still {
        OutputFormat::Png
    } else {
        OutputFormat::Mp4
    };

    let params = GenerateParams {
        prompt: request.prompt.clone(),
        negative_prompt,
        num_frames,
        height,
        width,
        num_inference_steps,
        guidance_scale,
        guidance_scale_2,
        flow_shift,
        boundary_ratio,
        scheduler,
        seed,
        noise,
        tiling: None,
    };
    params.validate()?;
    Ok(Settings {
        params,
        fps,
        crf,
        rounding: defaults.rounding,
        image_preparation,
        format,
        effective: decisions.0,
        warnings,
    })
}

/// Longest clip accepted: ten times the longest any released model was made for.
const MAX_FRAMES: usize = 1_441;

/// Longest side accepted.
const MAX_SIDE: usize = 4_096;

/// diffusers' rule: counts that are not `stride * n + 1` become `stride * floor(count / stride) + 1`.
fn round_frames(count: usize, stride: usize) -> usize {
    if count % stride == 1 % stride {
        count
    } else {
        count / stride * stride + 1
    }
}

/// The noise source behind the two spellings a caller has.
///
/// # Errors
/// [`Error::Caller`] when both are given.
pub fn noise_source(
    file: Option<PathBuf>,
    name: Option<NoiseSource>,
) -> Result<Option<NoiseSource>> {
    match (file, name) {
        (Some(_), Some(_)) => Err(Error::caller(
            "noise",
            "give either a file or a noise source, not both",
        )),
        (Some(path), None) => Ok(Some(NoiseSource::File(path))),
        (None, name) => Ok(name),
    }
}

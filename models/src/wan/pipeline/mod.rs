//! Prompt and first frame in, frames out: the whole of a generation.
//!
//! Equal to diffusers 0.35.2 `WanPipeline` and `WanImageToVideoPipeline` (the 5B model with an image runs
//! in the latter with `expand_timesteps`). Order of work: text, noise, image, sampler steps (conditional
//! pass, then unconditional), VAE decode streamed to a sink. Noise and sampler state are f32; what the other
//! parts compute in, and where they round, is the business of [`Rounding`].

mod components;
mod condition;
mod latent_clip;
mod params;

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use leoma_kernels::{AttentionChoice, allow_tf32, attention_backend};

pub use components::{Expert, Offload};
pub use latent_clip::LatentClip;
pub use params::{GenerateParams, Observer, Stage, Timings, Unobserved, check_multiple};

use self::components::{Components, Contexts};
use self::condition::Condition;
use super::plan::PlanOptions;
use super::transformer::{CONTEXT_LEN, ClipTimestep};
use super::vae::VaeParts;
use crate::error::{Error, Result};
use crate::precision::Precision;
use crate::rounding::Rounding;
use crate::scheduler::{self, Velocity};
use crate::text::{PromptTokenizer, clean_prompt};
use crate::weights::{Checkpoint, Component, ModelKind};

/// Range of the model's timesteps.
const NUM_TRAIN_TIMESTEPS: f64 = 1000.0;

/// A checkpoint ready to generate.
#[derive(Debug)]
pub struct WanPipeline {
    components: Components,
    tokenizer: PromptTokenizer,
}

/// Encoded prompts: real rows only, `[n, d]`.
struct PromptEmbeds {
    cond: Tensor,
    uncond: Option<Tensor>,
}

impl WanPipeline {
    /// Prepares a checkpoint; weights are read when first needed, or by [`WanPipeline::load`].
    ///
    /// # Errors
    /// [`Error::Artifact`] when the tokenizer cannot be read, [`Error::Caller`] for a precision that the
    /// device does not have.
    pub fn new(
        checkpoint: Checkpoint,
        precision: Precision,
        device: &Device,
        offload: Offload,
    ) -> Result<Self> {
        if precision == Precision::Tf32 && device.is_cpu() {
            return Err(Error::caller(
                "dtype",
                "tf32 is a mode of a card's matrix products; on the CPU use f32",
            ));
        }
        // One setting of the process, as there is one model.
        allow_tf32(precision == Precision::Tf32);
        let tokenizer = PromptTokenizer::open(checkpoint.tokenizer_dir())?;
        Ok(Self {
            components: Components::new(checkpoint, precision, device.clone(), offload),
            tokenizer,
        })
    }

    /// Follows the rounding of another reference than diffusers; what was loaded is dropped.
    ///
    /// # Errors
    /// [`Error::Caller`] where the pipeline's type does not have that rounding, see [`Rounding::check`].
    pub fn with_rounding(mut self, rounding: Rounding) -> Result<Self> {
        self.components.set_rounding(rounding)?;
        Ok(self)
    }

    /// Where the pipeline rounds; `None` in types other than bf16, where the references do not differ.
    pub fn rounding(&self) -> Option<Rounding> {
        self.components.rounding()
    }

    /// The checkpoint behind the pipeline.
    pub fn checkpoint(&self) -> &Checkpoint {
        self.components.checkpoint()
    }

    /// Runs the text encoder on another device than the rest.
    #[must_use]
    pub fn with_text_encoder_on(mut self, device: Device) -> Self {
        self.components.set_text_device(device);
        self
    }

    /// Changes what stays in memory; what was loaded is dropped.
    pub fn set_offload(&mut self, offload: Offload) {
        self.components.set_offload(offload);
    }

    /// What stays in memory.
    pub fn offload(&self) -> Offload {
        self.components.offload()
    }

    /// How this pipeline runs, for plans.
    pub fn plan_options(&self) -> PlanOptions {
        PlanOptions {
            dtype: self.components.precision().dtype(),
            wide: self.components.wide(),
            accelerator: !self.components.device().is_cpu(),
            offload: self.components.offload(),
            text_on_cpu: self.components.text_device().is_cpu(),
            threads: rayon::current_num_threads(),
        }
    }

    /// The number types it computes with.
    pub fn precision(&self) -> Precision {
        self.components.precision()
    }

    /// What computes the attention of the transformers, and why it is not something faster. May build a
    /// small plan on the device the first time.
    ///
    /// # Errors
    /// [`Error::Caller`] when `LEOMA_NODE_ATTENTION` has no meaning.
    pub fn attention(&self) -> Result<AttentionChoice> {
        let config = self.checkpoint().transformer_config(Component::Transformer);
        attention_backend(
            self.components.device(),
            self.components.precision().dtype(),
            config.attention_head_dim,
        )
        .map_err(|error| Error::caller("LEOMA_NODE_ATTENTION", error.to_string()))
    }

    /// Reads everything that stays in memory, so that the first request does not pay for it. With
    /// [`Offload::Experts`] only the VAE does, with [`Offload::Blocks`] nothing.
    ///
    /// # Errors
    /// [`Error::Artifact`] for unusable weights.
    pub fn load(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let two = self.checkpoint().has_second_expert();
        let resident = self.components.offload().keeps();
        let total = if resident { 3 + usize::from(two) } else { 1 };
        if self.components.offload() == Offload::Blocks {
            return Ok(());
        }
        observer.progress(Stage::Load, 0, total);
        self.components.vae(VaeParts::Both)?;
        observer.progress(Stage::Load, 1, total);
        if resident {
            self.components.text()?;
            observer.progress(Stage::Load, 2, total);
            self.components.expert(Expert::HighNoise)?;
            observer.progress(Stage::Load, 3, total);
            if two {
                self.components.expert(Expert::LowNoise)?;
                observer.progress(Stage::Load, 4, total);
            }
        }
        Ok(())
    }

    /// Pixels along height and width that one token covers: sizes must be multiples of it.
    pub fn size_multiple(checkpoint: &Checkpoint) -> [usize; 2] {
        let stride = checkpoint.vae_config().spatial_stride();
        let patch = checkpoint
            .transformer_config(crate::weights::Component::Transformer)
            .patch_size;
        [stride * patch[1], stride * patch[2]]
    }

    /// Generates a clip: [`WanPipeline::denoise`], then [`LatentClip::decode`].
    ///
    /// # Errors
    /// As those two, and whatever `sink` returns.
    pub fn generate(
        &mut self,
        params: &GenerateParams,
        image: Option<&Tensor>,
        observer: &mut dyn Observer,
        cancelled: &dyn Fn() -> bool,
        sink: &mut dyn FnMut(Tensor) -> Result<()>,
    ) -> Result<Timings> {
        self.denoise(params, image, observer, cancelled)?
            .decode(observer, cancelled, sink)
    }

    /// Everything up to the latents of the clip. What is left can be decoded on another thread while this
    /// pipeline works on the next clip.
    ///
    /// `image` is the prepared first frame, `[3, H, W]` f32 in [-1, 1] of the size in `params`. `cancelled`
    /// is asked before every transformer block.
    ///
    /// # Errors
    /// [`Error::Caller`] for values the model cannot use, [`Error::Artifact`] for broken weights,
    /// [`Error::Cancelled`].
    pub fn denoise(
        &mut self,
        params: &GenerateParams,
        image: Option<&Tensor>,
        observer: &mut dyn Observer,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<LatentClip> {
        Self::check_task(self.checkpoint(), params, image.is_some())?;
        if let Some(image) = image
            && image.dims() != [3, params.height, params.width]
        {
            let (found, h, w) = (image.dims(), params.height, params.width);
            return Err(Error::caller(
                "image",
                format!("is {found:?}, expected [3, {h}, {w}]"),
            ));
        }
        self.components.take_load_time();
        let mut timings = Timings::default();

        let start = Instant::now();
        let embeds = self.encode_prompts(params, observer)?;
        timings.text_encode_s = self.without_load(start, &mut timings);

        let noise = self.noise(params)?;
        if observer.wants_tensors() {
            observer.tensor("noise", &noise.unsqueeze(0)?)?;
        }
        stop_if(cancelled)?;

        let start = Instant::now();
        let condition = self.encode_image(params, image, observer)?;
        timings.image_encode_s = self.without_load(start, &mut timings);
        stop_if(cancelled)?;

        let start = Instant::now();
        let latents = self.run_sampler(params, noise, &embeds, &condition, observer, cancelled)?;
        let latents = condition.finish(latents)?;
        self.components.experts_done();
        timings.denoise_s = self.without_load(start, &mut timings);
        if observer.wants_tensors() {
            observer.tensor("latents.final", &latents.unsqueeze(0)?)?;
        }
        self.check_finite(&latents)?;
        let vae = self.components.vae(VaeParts::Decoder)?;
        self.components.vae_done();
        timings.load_s += self.components.take_load_time();
        Ok(LatentClip {
            latents,
            vae,
            tiling: params.tiling,
            timings,
        })
    }

    /// Seconds since `start` less those spent reading weights, which go to `load_s`.
    fn without_load(&mut self, start: Instant, timings: &mut Timings) -> f64 {
        let load = self.components.take_load_time();
        timings.load_s += load;
        (start.elapsed().as_secs_f64() - load).max(0.0)
    }

    /// Checks the request against the model, before anything is computed.
    ///
    /// # Errors
    /// [`Error::Caller`] naming the field and the nearest value that works.
    pub fn check_task(
        checkpoint: &Checkpoint,
        params: &GenerateParams,
        with_image: bool,
    ) -> Result<()> {
        params.validate()?;
        let temporal = checkpoint.vae_config().temporal_stride();
        if params.num_frames % temporal != 1 % temporal {
            return Err(Error::caller(
                "num_frames",
                format!("{} is not {temporal}n + 1", params.num_frames),
            ));
        }
        let [mh, mw] = Self::size_multiple(checkpoint);
        check_multiple("height", params.height, mh)?;
        check_multiple("width", params.width, mw)?;
        let rope = checkpoint
            .transformer_config(crate::weights::Component::Transformer)
            .rope_max_seq_len;
        let longest = [
            ("num_frames", (params.num_frames - 1) / temporal + 1),
            ("height", params.height / mh),
            ("width", params.width / mw),
        ];
        for (field, positions) in longest {
            if positions > rope {
                return Err(Error::caller(
                    field,
                    format!("needs {positions} positions; the model knows {rope}"),
                ));
            }
        }
        match (checkpoint.kind(), with_image) {
            (ModelKind::I2vA14b, false) => Err(Error::caller(
                "image",
                "this checkpoint is an image-to-video model and needs a first frame",
            )),
            (ModelKind::T2vA14b | ModelKind::Wan21T2v, true) => Err(Error::caller(
                "image",
                "this checkpoint is a text-to-video model and takes no image; leave it out or use an \
                 I2V-A14B or TI2V-5B checkpoint",
            )),
            _ => Ok(()),
        }
    }

    fn encode_prompts(
        &mut self,
        params: &GenerateParams,
        observer: &mut dyn Observer,
    ) -> Result<PromptEmbeds> {
        let mut prompts = vec![("prompt", &params.prompt)];
        if params.guided() {
            prompts.push(("negative", &params.negative_prompt));
        }
        observer.progress(Stage::TextEncode, 0, prompts.len());
        let mut rows = Vec::with_capacity(2);
        for (done, (name, text)) in prompts.iter().enumerate() {
            let ids = self.tokenizer.encode(&clean_prompt(text))?;
            let embedded = self.components.text()?.forward(&ids)?;
            let embedded = embedded.to_device(self.components.device())?;
            if observer.wants_tensors() {
                let padded = self.padded_tokens(&ids)?;
                observer.tensor(&format!("tokens.{name}"), &padded)?;
                let (n, _) = embedded.dims2()?;
                let padded = embedded
                    .pad_with_zeros(0, 0, CONTEXT_LEN - n)?
                    .unsqueeze(0)?;
                observer.tensor(&format!("text.{name}"), &padded)?;
            }
            rows.push(embedded);
            observer.progress(Stage::TextEncode, done + 1, prompts.len());
        }
        self.components.text_done();
        let mut rows = rows.into_iter();
        match (rows.next(), rows.next()) {
            (Some(cond), uncond) => Ok(PromptEmbeds { cond, uncond }),
            (None, _) => Err(Error::local("no prompt was encoded")),
        }
    }

    /// `[1, 512]` i32, padded as the reference pads.
    fn padded_tokens(&self, ids: &[u32]) -> Result<Tensor> {
        let mut padded = ids.iter().map(|&id| id as i32).collect::<Vec<_>>();
        padded.resize(CONTEXT_LEN, self.tokenizer.pad_id() as i32);
        Ok(Tensor::from_vec(padded, (1, CONTEXT_LEN), &Device::Cpu)?)
    }

    /// Initial noise `[z, T, h, w]` f32 on the pipeline's device.
    fn noise(&self, params: &GenerateParams) -> Result<Tensor> {
        let vae = self.checkpoint().vae_config();
        let shape = [
            vae.z_dim,
            (params.num_frames - 1) / vae.temporal_stride() + 1,
            params.height / vae.spatial_stride(),
            params.width / vae.spatial_stride(),
        ];
        params
            .noise
            .sample_on(params.seed, &shape, self.components.device())
    }

    fn encode_image(
        &mut self,
        params: &GenerateParams,
        image: Option<&Tensor>,
        observer: &mut dyn Observer,
    ) -> Result<Condition> {
        let Some(image) = image else {
            return Ok(Condition::None);
        };
        observer.progress(Stage::ImageEncode, 0, 1);
        let device = self.components.device().clone();
        let image = image.to_device(&device)?;
        let kind = self.checkpoint().kind();
        let temporal = self.checkpoint().vae_config().temporal_stride();
        // The I2V condition covers the clip; the 5B model sees the image as a clip of one frame.
        let frames = if kind == ModelKind::Ti2v5b {
            1
        } else {
            params.num_frames
        };
        let latents = self
            .components
            .vae(VaeParts::Encoder)?
            .encode_image(&image, frames)?;
        self.components.vae_done();
        let condition = if kind == ModelKind::Ti2v5b {
            if observer.wants_tensors() {
                observer.tensor("image_latents", &latents.unsqueeze(0)?)?;
            }
            Condition::FirstFrame(latents)
        } else {
            let condition = Condition::channels(&latents, temporal, &device)?;
            if let (true, Condition::Channels(channels)) = (observer.wants_tensors(), &condition) {
                observer.tensor("condition", &channels.unsqueeze(0)?)?;
            }
            condition
        };
        observer.progress(Stage::ImageEncode, 1, 1);
        Ok(condition)
    }

    fn run_sampler(
        &mut self,
        params: &GenerateParams,
        noise: Tensor,
        embeds: &PromptEmbeds,
        condition: &Condition,
        observer: &mut dyn Observer,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Tensor> {
        let steps = params.num_inference_steps;
        let mut sampler = scheduler::build(params.scheduler, steps, params.flow_shift)?;
        let timesteps = sampler.timesteps().to_vec();
        if observer.wants_tensors() {
            let values = timesteps.iter().map(|&t| t as f32).collect::<Vec<_>>();
            observer.tensor("timesteps", &Tensor::new(values, &Device::Cpu)?)?;
            observer.tensor("sigmas", &Tensor::new(sampler.sigmas(), &Device::Cpu)?)?;
        }
        let boundary = match (self.checkpoint().has_second_expert(), params.boundary_ratio) {
            (true, Some(ratio)) => ratio * NUM_TRAIN_TIMESTEPS,
            _ => f64::NEG_INFINITY,
        };

        // Streamed blocks serve both prompts while they are here; resident ones serve them in turn, which
        // takes less memory.
        let together = self.components.offload() == Offload::Blocks;
        observer.progress(Stage::Denoise, 0, steps);
        let mut latents = noise;
        let mut prepared: Option<(Expert, Contexts)> = None;
        for (step, &t) in timesteps.iter().enumerate() {
            stop_if(cancelled)?;
            let (expert, guidance) = if t >= boundary {
                (Expert::HighNoise, params.guidance_scale)
            } else {
                (Expert::LowNoise, params.guidance_scale_2)
            };
            if !matches!(&prepared, Some((current, _)) if *current == expert) {
                // Contexts of the expert that is done go before the next one comes.
                drop(prepared.take());
                prepared = Some((expert, self.contexts(expert, embeds)?));
            }
            let Some((_, contexts)) = &prepared else {
                continue;
            };
            let model = self.components.expert(expert)?;
            let input = condition.model_input(&latents)?;
            let timestep = ClipTimestep {
                t,
                first_frame: condition.first_frame_timestep(),
            };
            let (cond, uncond) = match &contexts.uncond {
                None => (
                    model.forward(&input, timestep, &contexts.cond, cancelled)?,
                    None,
                ),
                Some(uncond) if together => {
                    let both = [&contexts.cond, uncond];
                    let velocities = model.forward_each(&input, timestep, &both, cancelled)?;
                    let mut velocities = velocities.into_iter();
                    match (velocities.next(), velocities.next()) {
                        (Some(cond), uncond) => (cond, uncond),
                        (None, _) => return Err(Error::local("no velocity was predicted")),
                    }
                }
                Some(uncond) => {
                    let cond = model.forward(&input, timestep, &contexts.cond, cancelled)?;
                    let uncond = model.forward(&input, timestep, uncond, cancelled)?;
                    (cond, Some(uncond))
                }
            };
            if observer.wants_tensors() {
                observer.tensor(&format!("velocity_cond.{step:02}"), &cond.unsqueeze(0)?)?;
                if let Some(uncond) = &uncond {
                    let name = format!("velocity_uncond.{step:02}");
                    observer.tensor(&name, &uncond.unsqueeze(0)?)?;
                }
            }
            let velocity = match &uncond {
                None => Velocity::plain(&cond),
                Some(uncond) => Velocity::guided(&cond, uncond, guidance),
            };
            latents = sampler.step(step, velocity, &latents)?;
            if observer.wants_tensors() {
                observer.tensor(&format!("latents.{step:02}"), &latents.unsqueeze(0)?)?;
            }
            observer.progress(Stage::Denoise, step + 1, steps);
        }
        Ok(latents)
    }

    fn contexts(&mut self, expert: Expert, embeds: &PromptEmbeds) -> Result<Contexts> {
        let model = self.components.expert(expert)?;
        let mut texts = vec![&embeds.cond];
        texts.extend(&embeds.uncond);
        let mut contexts = model.encode_contexts(&texts)?.into_iter();
        match (contexts.next(), contexts.next()) {
            (Some(cond), uncond) => Ok(Contexts { cond, uncond }),
            (None, _) => Err(Error::local("no text context was made")),
        }
    }

    /// A broken checkpoint shows as NaN here: say so instead of returning black frames.
    fn check_finite(&self, latents: &Tensor) -> Result<()> {
        let sum = latents
            .abs()?
            .sum_all()?
            .to_dtype(DType::F32)?
            .to_scalar::<f32>()?;
        if sum.is_finite() {
            return Ok(());
        }
        Err(Error::artifact(
            self.checkpoint().root(),
            "the transformer produced values that are not finite; the weights are damaged, or too large \
             for the compute type (try --dtype bf16 or f32)",
        ))
    }
}

fn stop_if(cancelled: &dyn Fn() -> bool) -> Result<()> {
    if cancelled() {
        Err(Error::Cancelled)
    } else {
        Ok(())
    }
}

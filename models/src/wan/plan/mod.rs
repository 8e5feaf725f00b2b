//! The memory plan: what a generation will hold, stage by stage, before anything is read.
//!
//! A plan is made from configurations and sizes alone. It runs the pipeline on allocations instead of
//! tensors (`ledger.rs`): the same order of operations, the same life times, so its peaks are those of the
//! real run. Counted are weights as they are really held (on the CPU in panels, `leoma_kernels::memory`),
//! activations, caches, the kernels' scratch memory and the loader's buffers. Not counted: the program
//! itself and the tokenizer, the picture the caller holds, the video encoder.
//!
//! On the CPU `models/tests/memory.rs` holds plans against a counting allocator. On an accelerator the
//! same code counts with weights as they are, results in the compute type and [`WORKSPACE`].

mod ledger;
#[cfg(test)]
mod released;
mod sizes;
mod table;
mod text;
mod transformer;
mod vae;

use candle_core::DType;
use serde::Serialize;

pub use self::ledger::Memory;
use self::ledger::{Bytes, F32, Ledger, Machine, held, load};
pub use self::sizes::ModelSizes;
use self::transformer::Pass;
use self::vae::Clip;
use super::pipeline::{GenerateParams, Offload};
use super::transformer::{CONTEXT_LEN, loaders};
use crate::weights::ModelKind;

/// Memory that an accelerator's libraries take for themselves: 32 MiB for cuBLAS and cuBLASLt each, as
/// they document for Hopper, and as much again for attention and convolution plans.
pub const WORKSPACE: u64 = 128 << 20;

/// Where and how a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanOptions {
    /// Compute type.
    pub dtype: DType,
    /// Type of residual stream, velocity and VAE: wider than the compute type with official rounding.
    pub wide: DType,
    /// Whether the model runs on an accelerator with memory of its own.
    pub accelerator: bool,
    /// What stays in memory.
    pub offload: Offload,
    /// Whether the text encoder runs on the CPU.
    pub text_on_cpu: bool,
    /// Threads of the CPU's kernels.
    pub threads: usize,
}

/// What is generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PlanRequest {
    /// Pixel frames.
    pub num_frames: usize,
    /// Pixel rows.
    pub height: usize,
    /// Pixel columns.
    pub width: usize,
    /// Whether there is an unconditional pass.
    pub guided: bool,
    /// Whether there is a first frame.
    pub with_image: bool,
    /// Tokens of the prompt and of the negative prompt, at most 512.
    #[serde(skip)]
    pub prompt_tokens: [usize; 2],
}

impl PlanRequest {
    /// What `params` ask for, with prompts as long as prompts can be.
    pub fn new(params: &GenerateParams, with_image: bool) -> Self {
        Self {
            num_frames: params.num_frames,
            height: params.height,
            width: params.width,
            guided: params.guided(),
            with_image,
            prompt_tokens: [CONTEXT_LEN; 2],
        }
    }
}

/// Parts of a generation as a plan tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanStage {
    /// Reading what stays in memory.
    Load,
    /// Encoding the prompts.
    TextEncode,
    /// Encoding the first frame.
    ImageEncode,
    /// Sampler steps.
    Denoise,
    /// Decoding latents.
    VaeDecode,
}

impl PlanStage {
    /// Name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::TextEncode => "text encode",
            Self::ImageEncode => "image encode",
            Self::Denoise => "denoise",
            Self::VaeDecode => "vae decode",
        }
    }
}

/// Bytes of one memory in one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Amount {
    /// Most weights held.
    pub weights: u64,
    /// Most bytes held altogether.
    pub peak: u64,
}

impl Amount {
    /// What comes on top of the weights: activations, caches, scratch, reading buffers.
    pub fn work(self) -> u64 {
        self.peak.saturating_sub(self.weights)
    }
}

/// One stage of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StagePlan {
    /// The stage.
    pub stage: PlanStage,
    /// The accelerator's memory; zero on the CPU.
    pub device: Amount,
    /// The machine's memory.
    pub host: Amount,
}

impl StagePlan {
    /// Bytes of one memory.
    pub fn amount(&self, memory: Memory) -> Amount {
        match memory {
            Memory::Device => self.device,
            Memory::Host => self.host,
        }
    }
}

/// Weights of one network, all of it in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentBytes {
    /// Name of the network.
    pub name: &'static str,
    /// Where it runs.
    pub memory: Memory,
    /// Bytes.
    pub bytes: u64,
}

/// What a generation will hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// The model.
    pub kind: ModelKind,
    /// What is generated.
    pub request: PlanRequest,
    /// Compute type.
    pub dtype: String,
    /// Whether the model runs on an accelerator.
    pub accelerator: bool,
    /// What stays in memory.
    pub offload: Offload,
    /// Whether the text encoder runs on the CPU.
    pub text_on_cpu: bool,
    /// The networks.
    pub components: Vec<ComponentBytes>,
    /// The stages, in order.
    pub stages: Vec<StagePlan>,
    /// What the decoder of an earlier clip takes beside the next clip when a node serves.
    decoder_beside: [u64; 2],
}

impl MemoryPlan {
    /// Plans a generation.
    pub fn new(sizes: &ModelSizes, request: PlanRequest, options: PlanOptions) -> Self {
        Planner::new(sizes, request, options).run()
    }

    /// Most bytes of one memory that a single generation holds.
    pub fn peak(&self, memory: Memory) -> u64 {
        let stages = self.stages.iter().map(|stage| stage.amount(memory).peak);
        stages.max().unwrap_or(0) + self.workspace(memory)
    }

    /// Most bytes of one memory that a node holds which decodes one such clip while it works on the next.
    pub fn serving_peak(&self, memory: Memory) -> u64 {
        let beside = self.decoder_beside[memory as usize];
        let stages = self.stages.iter().map(|stage| {
            let decoder = if stage.stage == PlanStage::VaeDecode {
                0
            } else {
                beside
            };
            stage.amount(memory).peak + decoder
        });
        stages.max().unwrap_or(0) + self.workspace(memory)
    }

    fn workspace(&self, memory: Memory) -> u64 {
        if self.accelerator && memory == Memory::Device {
            WORKSPACE
        } else {
            0
        }
    }
}

/// A run of the pipeline on allocations.
struct Planner<'a> {
    sizes: &'a ModelSizes,
    request: PlanRequest,
    options: PlanOptions,
    ledger: Ledger,
    /// Transformer and VAE.
    main: Machine,
    text: Machine,
    stages: Vec<StagePlan>,
    /// The pinned buffers that weights are copied to an accelerator from; they stay.
    _pinned: Option<Bytes>,
}

impl<'a> Planner<'a> {
    fn new(sizes: &'a ModelSizes, request: PlanRequest, options: PlanOptions) -> Self {
        let ledger = Ledger::default();
        let machine = |cpu: bool| Machine {
            ledger: ledger.clone(),
            memory: if cpu { Memory::Host } else { Memory::Device },
            cpu,
            threads: options.threads,
            element: options.dtype.size_in_bytes(),
            wide: options.wide.size_in_bytes(),
        };
        let pinned = options.accelerator.then(|| {
            let waves = loaders(options.threads) * ledger::buffers(usize::MAX / F32);
            Machine {
                memory: Memory::Host,
                ..machine(false)
            }
            .bytes(waves, 1)
        });
        Self {
            sizes,
            request,
            options,
            _pinned: pinned,
            main: machine(!options.accelerator),
            text: machine(!options.accelerator || options.text_on_cpu),
            ledger,
            stages: Vec::new(),
        }
    }

    fn end(&mut self, stage: PlanStage) {
        let amount = |memory| {
            let (weights, peak) = self.ledger.stage(memory);
            Amount { weights, peak }
        };
        self.stages.push(StagePlan {
            stage,
            device: amount(Memory::Device),
            host: amount(Memory::Host),
        });
    }

    fn expert(&self, index: usize) -> Vec<Bytes> {
        let (m, cfg) = (&self.main, &self.sizes.experts[index]);
        let block = transformer::block_layers(m, cfg);
        // What the other loaders have in passing while one reads the largest tensor.
        let others = loaders(self.options.threads).min(cfg.num_layers) - 1;
        let raw = block.iter().map(|layer| layer.raw).max().unwrap_or(0);
        let buffers =
            ledger::buffers(block.iter().map(|layer| layer.held).max().unwrap_or(0) / m.element);
        let passing = block.iter().map(|layer| layer.passing).max().unwrap_or(0);
        let beside = (
            m.bytes(others * (raw + passing), 1),
            self.host().bytes(others * buffers, 1),
        );
        let mut weights = load(m, &block.repeat(cfg.num_layers));
        drop(beside);
        weights.extend(load(m, &transformer::outer_layers(m, cfg)));
        weights
    }

    /// The machine's memory, whatever the model runs on.
    fn host(&self) -> Machine {
        Machine {
            memory: Memory::Host,
            ..self.main.clone()
        }
    }

    fn components(&self) -> Vec<ComponentBytes> {
        let m = &self.main;
        let v = &m.widened();
        let part = |name, m: &Machine, bytes: usize| ComponentBytes {
            name,
            memory: m.memory,
            bytes: bytes as u64,
        };
        let mut parts = Vec::new();
        for (name, cfg) in ["transformer", "transformer_2"]
            .into_iter()
            .zip(&self.sizes.experts)
        {
            let block = held(&transformer::block_layers(m, cfg));
            let outer = held(&transformer::outer_layers(m, cfg));
            parts.push(part(name, m, cfg.num_layers * block + outer));
        }
        let vae = &self.sizes.vae;
        parts.push(part("vae encoder", m, held(&vae::encoder_layers(v, vae))));
        parts.push(part("vae decoder", m, held(&vae::decoder_layers(v, vae))));
        let text = held(&text::layers(&self.text, &self.sizes.text));
        parts.push(part("text encoder", &self.text, text));
        parts
    }

    fn run(mut self) -> MemoryPlan {
        let (sizes, request, options) = (self.sizes, self.request, self.options);
        let m = self.main.clone();
        let v = m.widened();
        let keeps = options.offload.keeps();
        let clip = Clip {
            frames: request.num_frames,
            height: request.height,
            width: request.width,
        };

        let encoder_layers = vae::encoder_layers(&v, &sizes.vae);
        let decoder_layers = vae::decoder_layers(&v, &sizes.vae);
        let text_layers = text::layers(&self.text, &sizes.text);
        let mut resident = Vec::new();
        if options.offload != Offload::Blocks {
            resident.extend(load(&v, &encoder_layers));
            resident.extend(load(&v, &decoder_layers));
        }
        if keeps {
            resident.extend(load(&self.text, &text_layers));
            for index in 0..sizes.experts.len() {
                resident.extend(self.expert(index));
            }
        }
        self.end(PlanStage::Load);

        let prompts = if request.guided { 2 } else { 1 };
        let embeds = self.text_encode(&text_layers, prompts);
        let frames = (request.num_frames - 1) / sizes.vae.temporal_stride() + 1;
        let stride = sizes.vae.spatial_stride();
        let cells = frames * (request.height / stride) * (request.width / stride);
        let latents = m.f32(cells * sizes.vae.z_dim);
        let condition = self.image_encode(&encoder_layers, clip, cells);
        self.denoise(prompts, frames, cells, condition.is_some());
        drop((embeds, condition));

        let loaded = (options.offload == Offload::Blocks).then(|| load(&v, &decoder_layers));
        let before = Memory::ALL.map(|memory| self.ledger.held(memory));
        let _weights = loaded;
        let sink_memory = self.host();
        vae::decode(&v, &sizes.vae, clip, &mut |count| {
            // Floats copied out, then bytes.
            let _floats = sink_memory.f32(count);
            let _bytes = sink_memory.bytes(count, 1);
        });
        self.end(PlanStage::VaeDecode);
        drop((latents, resident));
        let mut decoder_beside = [0; 2];
        if let Some(decode) = self.stages.last() {
            for (at, memory) in Memory::ALL.into_iter().enumerate() {
                decoder_beside[at] = decode.amount(memory).peak.saturating_sub(before[at]);
            }
        }
        if options.offload == Offload::Blocks {
            decoder_beside[m.memory as usize] += held(&decoder_layers) as u64;
        }

        MemoryPlan {
            kind: sizes.kind,
            request,
            dtype: options.dtype.as_str().to_owned(),
            accelerator: options.accelerator,
            offload: options.offload,
            text_on_cpu: options.text_on_cpu,
            components: self.components(),
            stages: self.stages,
            decoder_beside,
        }
    }

    /// The rows of the prompts, where the transformer wants them.
    fn text_encode(&mut self, layers: &[ledger::Layer], prompts: usize) -> Vec<Bytes> {
        let loaded = (!self.options.offload.keeps()).then(|| load(&self.text, layers));
        let cfg = &self.sizes.text;
        let mut rows = Vec::new();
        for &tokens in &self.request.prompt_tokens[..prompts] {
            let made = text::forward(&self.text, cfg, tokens);
            rows.push(if self.text.memory == self.main.memory {
                made
            } else {
                self.main.rows(tokens * cfg.d_model)
            });
        }
        drop(loaded);
        self.end(PlanStage::TextEncode);
        rows
    }

    /// What the first frame becomes.
    fn image_encode(
        &mut self,
        layers: &[ledger::Layer],
        clip: Clip,
        cells: usize,
    ) -> Option<Bytes> {
        if !self.request.with_image {
            return None;
        }
        let m = self.main.widened();
        let (kind, vae) = (self.sizes.kind, &self.sizes.vae);
        let loaded = (self.options.offload == Offload::Blocks).then(|| load(&m, layers));
        let copied = (!m.cpu).then(|| m.f32(3 * clip.height * clip.width));
        let condition = if kind == ModelKind::Ti2v5b {
            let first = Clip { frames: 1, ..clip };
            vae::encode(&m, vae, first)
        } else {
            let latents = vae::encode(&m, vae, clip);
            let _mask = m.f32(2 * vae.temporal_stride() * cells);
            let joined = m.f32((vae.temporal_stride() + vae.z_dim) * cells);
            drop(latents);
            joined
        };
        drop((loaded, copied));
        self.end(PlanStage::ImageEncode);
        Some(condition)
    }

    fn denoise(&mut self, prompts: usize, frames: usize, cells: usize, with_image: bool) {
        let m = self.main.clone();
        let kind = self.sizes.kind;
        let latent = cells * self.sizes.vae.z_dim;
        // Two predictions and the last sample.
        let history = m.f32(3 * latent);
        for index in 0..self.sizes.experts.len() {
            let cfg = &self.sizes.experts[index];
            let streamed = self.options.offload == Offload::Blocks;
            let layers = transformer::block_layers(&m, cfg);
            let weights = match self.options.offload {
                Offload::None => Vec::new(),
                Offload::Experts => self.expert(index),
                Offload::Blocks => load(&m, &transformer::outer_layers(&m, cfg)),
            };
            // An accelerator's blocks come from copies in the machine's memory.
            let copies =
                (streamed && !m.cpu).then(|| self.host().weights(cfg.num_layers * held(&layers)));
            let blocks = |index: usize| -> Vec<Bytes> {
                if !streamed {
                    return Vec::new();
                }
                let mut taken = vec![m.weights(held(&layers))];
                if index + 1 < cfg.num_layers {
                    let held = held(&layers);
                    taken.push(m.weights(held));
                    // The next block is complete when the computation of this one is at its peak, or is
                    // where its loading takes most: the plan assumes the worse.
                    if m.cpu {
                        taken.push(m.bytes(ledger::loading_peak(&m, &layers) - held, 1));
                    }
                }
                taken
            };
            let contexts: Vec<_> = {
                let _weights = blocks(0);
                let tokens = &self.request.prompt_tokens[..prompts];
                let context = |&tokens: &usize| transformer::context(&m, cfg, tokens);
                tokens.iter().map(context).collect()
            };
            let patch = cfg.patch_size.iter().product::<usize>();
            let pass = Pass {
                cfg,
                tokens: cells / patch,
                rows: if with_image && kind == ModelKind::Ti2v5b {
                    2
                } else {
                    1
                },
                prompts: if streamed { prompts } else { 1 },
            };
            self.step(&m, pass, prompts, latent, frames, with_image, &blocks);
            drop((contexts, weights, copies));
        }
        drop(history);
        self.end(PlanStage::Denoise);
    }

    /// One sampler step.
    fn step(
        &self,
        m: &Machine,
        pass: Pass<'_>,
        prompts: usize,
        latent: usize,
        frames: usize,
        with_image: bool,
        blocks: &dyn Fn(usize) -> Vec<Bytes>,
    ) {
        let cells = latent / self.sizes.vae.z_dim;
        let input = (with_image && frames > 0).then(|| m.f32(cells * pass.cfg.in_channels));
        let mut velocities = Vec::new();
        for _ in 0..prompts / pass.prompts {
            velocities.extend(pass.forward(m, &mut |index| blocks(index)));
        }
        let m = &m.widened();
        let velocity = if prompts == 2 {
            let difference = m.rows(latent);
            // The scale is f32.
            let single = (m.element != F32).then(|| [(); 2].map(|()| m.f32(latent)));
            let scaled = m.rows(latent);
            drop((difference, single));
            let sum = m.rows(latent);
            drop((scaled, velocities));
            sum
        } else {
            m.rows(0)
        };
        let wide = (m.element != F32).then(|| m.f32(latent));
        // Clean sample, correction, prediction: at most seven tensors at a time.
        drop(m.f32(7 * latent));
        drop((wide, velocity, input));
    }
}

//! What fp8 costs against f32, next to what bf16 costs, on tiny models: per block, per call, per clip.
//!
//! The table of docs/numerics.md comes from `cargo test -p leoma-models --test fp8 -- --nocapture`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use candle_core::{DType, Device, Tensor};
use leoma_models::Precision;
use leoma_models::noise::NoiseSource;
use leoma_models::scheduler::SchedulerKind;
use leoma_models::tiny::make_tiny;
use leoma_models::wan::WanTransformer3d;
use leoma_models::wan::pipeline::{GenerateParams, Offload, Unobserved, WanPipeline};
use leoma_models::wan::transformer::{ClipTimestep, RotaryTables, WanTransformerBlock};
use leoma_models::weights::{Checkpoint, Component, ModelKind, VarBuilder};

use common::{relative_l2, values};

const KINDS: [ModelKind; 3] = [ModelKind::Ti2v5b, ModelKind::I2vA14b, ModelKind::T2vA14b];

fn tiny(kind: ModelKind) -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("model");
    make_tiny(kind, 5, &root).unwrap();
    let checkpoint = Checkpoint::open(root).unwrap();
    (folder, checkpoint)
}

fn builder(checkpoint: &Checkpoint, precision: Precision) -> VarBuilder {
    let source = checkpoint.source(Component::Transformer).unwrap();
    VarBuilder::new(source, precision.dtype(), &Device::Cpu).with_fp8(precision.is_fp8())
}

/// Values of about unit size without structure.
fn noise(shape: &[usize], seed: u64) -> Tensor {
    NoiseSource::TorchCpu.sample(seed, shape).unwrap()
}

/// What the first block adds to its input, `[L, d]`: the part that an error shows in.
fn block(checkpoint: &Checkpoint, precision: Precision) -> Tensor {
    let config = checkpoint.transformer_config(Component::Transformer);
    let vb = builder(checkpoint, precision);
    let block = WanTransformerBlock::new(config, &vb.pp("blocks").pp(0)).unwrap();
    let (d, grid) = (config.dim(), [3, 6, 8]);
    let dtype = precision.dtype();
    let x = noise(&[144, d], 1).to_dtype(dtype).unwrap();
    let context = noise(&[12, d], 2).to_dtype(dtype).unwrap();
    let modulation = (noise(&[6, 1, d], 3) * 0.1).unwrap();
    let rotary = RotaryTables::new(config.attention_head_dim, grid, &Device::Cpu).unwrap();
    let cross = block.cross_key_value(&context, 501).unwrap();
    let y = block.forward(&x, &modulation, 0, &rotary, &cross).unwrap();
    (y.to_dtype(DType::F32).unwrap() - x.to_dtype(DType::F32).unwrap()).unwrap()
}

/// The velocity of one call.
fn call(checkpoint: &Checkpoint, precision: Precision) -> Tensor {
    let config = checkpoint.transformer_config(Component::Transformer);
    let model = WanTransformer3d::new(config, &builder(checkpoint, precision)).unwrap();
    let text = noise(&[9, config.text_dim], 4);
    let context = model
        .encode_context(&text.to_dtype(precision.dtype()).unwrap())
        .unwrap();
    let timestep = ClipTimestep {
        t: 800.0,
        first_frame: None,
    };
    let latents = noise(&[config.in_channels, 3, 12, 16], 5);
    model
        .forward(&latents, timestep, &context, &|| false)
        .unwrap()
}

/// The decoded frames of a clip, `[3, T, H, W]` in [-1, 1].
fn clip(checkpoint: &Checkpoint, precision: Precision) -> Tensor {
    let [mh, mw] = WanPipeline::size_multiple(checkpoint);
    let (height, width) = (4 * mh, 6 * mw);
    let params = GenerateParams {
        prompt: "a boat drifts across the lake".into(),
        negative_prompt: "blurry".into(),
        num_frames: 9,
        height,
        width,
        num_inference_steps: 6,
        guidance_scale: 5.0,
        guidance_scale_2: 5.0,
        flow_shift: 3.0,
        boundary_ratio: checkpoint.boundary_ratio(),
        scheduler: SchedulerKind::UniPc,
        seed: 42,
        noise: NoiseSource::TorchCpu,
        tiling: None,
    };
    let image = (checkpoint.kind() != ModelKind::T2vA14b)
        .then(|| noise(&[3, height, width], 6).tanh().unwrap());
    let mut pipeline =
        WanPipeline::new(checkpoint.clone(), precision, &Device::Cpu, Offload::None).unwrap();
    let mut frames = Vec::new();
    let mut sink = |frame: Tensor| {
        frames.push(frame.to_dtype(DType::F32)?);
        Ok(())
    };
    pipeline
        .generate(
            &params,
            image.as_ref(),
            &mut Unobserved,
            &|| false,
            &mut sink,
        )
        .unwrap();
    Tensor::cat(&frames, 1).unwrap()
}

/// Peak signal to noise ratio of frames in [-1, 1], in dB.
fn psnr(found: &Tensor, wanted: &Tensor) -> f64 {
    let (found, wanted) = (values(found), values(wanted));
    let error: f64 = found
        .iter()
        .zip(&wanted)
        .map(|(f, w)| (f - w) * (f - w))
        .sum();
    10.0 * (4.0 / (error / found.len() as f64)).log10()
}

#[test]
fn fp8_is_lossy_by_as_much_as_its_mantissa_says() {
    println!(
        "| kind | block bf16 | block fp8 | call bf16 | call fp8 | clip bf16 | clip fp8 | PSNR bf16 | PSNR fp8 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for kind in KINDS {
        let (_folder, checkpoint) = tiny(kind);
        let mut row = Vec::new();
        let measures: [fn(&Checkpoint, Precision) -> Tensor; 3] = [block, call, clip];
        for measure in measures {
            let exact = measure(&checkpoint, Precision::F32);
            let narrow = measure(&checkpoint, Precision::Bf16);
            let eight = measure(&checkpoint, Precision::Fp8);
            row.push((relative_l2(&narrow, &exact), relative_l2(&eight, &exact)));
            if row.len() == 3 {
                row.push((psnr(&narrow, &exact), psnr(&eight, &exact)));
            }
        }
        let cells: Vec<_> = row
            .iter()
            .enumerate()
            .map(|(i, (narrow, eight))| match i {
                3 => format!("{narrow:.1} | {eight:.1}"),
                _ => format!("{narrow:.1e} | {eight:.1e}"),
            })
            .collect();
        println!("| {kind} | {} |", cells.join(" | "));

        let [block, call, clip, psnr] = row[..] else {
            panic!("four measures");
        };
        // Rounding to 3 mantissa bits moves a value by 2.6 % on the whole. Weights and activations are both
        // rounded, and several layers add up: a few times that. Less than 1 % would mean that nothing is in
        // 8 bits, more than 20 % that a scale is wrong.
        for (what, (narrow, eight)) in [("block", block), ("call", call)] {
            assert!((0.01..0.2).contains(&eight), "{kind} {what}: {eight}");
            assert!(
                eight > 3.0 * narrow,
                "{kind} {what}: fp8 {eight}, bf16 {narrow}"
            );
        }
        assert!(clip.1 > clip.0 && clip.1 < 0.5, "{kind} clip: {clip:?}");
        assert!(psnr.1 < psnr.0 && psnr.1 > 15.0, "{kind} clip: {psnr:?}");
    }
}

#[test]
fn fp8_moves_only_the_layers_that_it_says() {
    let (_folder, checkpoint) = tiny(ModelKind::Ti2v5b);
    let vb = builder(&checkpoint, Precision::Fp8);
    let source = checkpoint.source(Component::Transformer).unwrap();
    let mut quantised = 0;
    for name in source.names() {
        let matrix = source.shape(&name).unwrap().len() == 2 && name.starts_with("blocks.");
        assert_eq!(vb.is_fp8(&name), matrix, "{name}");
        quantised += usize::from(matrix);
    }
    let layers = checkpoint
        .transformer_config(Component::Transformer)
        .num_layers;
    assert_eq!(quantised, 10 * layers);
    assert!(!builder(&checkpoint, Precision::Bf16).is_fp8("blocks.0.attn1.to_q.weight"));
    // The same bits run after run.
    let twice = [(); 2].map(|()| values(&call(&checkpoint, Precision::Fp8)));
    assert_eq!(twice[0], twice[1]);
}

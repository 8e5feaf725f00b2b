//! VAE 2.1 and 2.2 against diffusers 0.35.2 in float32 (fixtures of `scripts/golden/vae_fixture.py`), and
//! what must hold without a reference.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use leoma_models::wan::VaeConfig;
use leoma_models::wan::vae::{AutoencoderKlWan, Tiling, VaeParts};
use leoma_models::weights::{MemorySource, VarBuilder};
use leoma_models::{Error, Fault, Result};
use safetensors::SafeTensors;

/// Values in [-1, 1): splitmix64 started at the FNV-1a hash of the name, 24 bits each.
fn counted(name: &str, shape: &[usize]) -> Tensor {
    let hash = |value: u64, byte: u8| (value ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let mut state = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    let values = (0..shape.iter().product::<usize>()).map(|_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    });
    Tensor::from_iter(values, &Device::Cpu)
        .unwrap()
        .reshape(shape)
        .unwrap()
}

/// The weight the fixture's model has under this name.
fn weight(name: &str, shape: &[usize]) -> Tensor {
    let x = counted(name, shape);
    if name.ends_with("gamma") {
        return x.affine(0.25, 1.0).unwrap();
    }
    if name.ends_with("bias") {
        return x.affine(0.125, 0.0).unwrap();
    }
    let fan_in = shape[1..].iter().product::<usize>() as f64;
    x.affine((0.5 * (1.0 / fan_in).log2()).round_ties_even().exp2(), 0.0)
        .unwrap()
}

struct Fixture {
    cfg: VaeConfig,
    /// Names and shapes of the reference's state dict.
    shapes: BTreeMap<String, Vec<usize>>,
    tensors: BTreeMap<String, Tensor>,
}

fn fixture(name: &str) -> Fixture {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vae");
    let bytes = std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = metadata.metadata().clone().unwrap();
    Fixture {
        cfg: serde_json::from_str(&metadata["config"]).unwrap(),
        shapes: serde_json::from_str(&metadata["shapes"]).unwrap(),
        tensors: candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .unwrap()
            .into_iter()
            .collect(),
    }
}

fn source(cfg: &VaeConfig) -> Arc<MemorySource> {
    let shapes = AutoencoderKlWan::tensor_shapes(cfg);
    let tensors = shapes
        .into_iter()
        .map(|(name, shape)| (name.clone(), weight(&name, &shape)));
    Arc::new(MemorySource::new(tensors.collect()))
}

fn model(cfg: &VaeConfig) -> AutoencoderKlWan {
    let vb = VarBuilder::new(source(cfg), DType::F32, &Device::Cpu);
    AutoencoderKlWan::new(cfg, vb, VaeParts::Both).unwrap()
}

fn decode(vae: &AutoencoderKlWan, latents: &Tensor, tiling: Option<Tiling>) -> Tensor {
    let mut frames = Vec::new();
    vae.decode(latents, tiling, &mut |frame| {
        frames.push(frame);
        Ok(())
    })
    .unwrap();
    Tensor::cat(&frames, 1).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let (found, expected) = (values(found), values(expected));
    let square = |x: f64| x * x;
    let pairs = found.iter().zip(&expected);
    let error: f64 = pairs
        .map(|(&a, &b)| square(f64::from(a) - f64::from(b)))
        .sum();
    let norm: f64 = expected.iter().map(|&b| square(f64::from(b))).sum();
    let relative = (error / norm).sqrt();
    assert!(
        relative <= 2e-6,
        "{what}: relative L2 difference {relative:e}"
    );
}

const CASES: [&str; 4] = ["wan21", "wan22", "odd21", "odd22"];

#[test]
fn tensor_names_and_shapes_are_the_references() {
    for name in CASES {
        let Fixture { cfg, shapes, .. } = fixture(name);
        let found = AutoencoderKlWan::tensor_shapes(&cfg);
        assert_eq!(
            found.len(),
            shapes.len(),
            "{name}: a tensor is listed twice"
        );
        assert_eq!(
            found.into_iter().collect::<BTreeMap<_, _>>(),
            shapes,
            "{name}"
        );
    }
}

#[test]
fn construction_consumes_exactly_the_listed_tensors() {
    for name in CASES {
        let Fixture { cfg, shapes, .. } = fixture(name);
        let load = |parts| {
            let source = source(&cfg);
            let vb = VarBuilder::new(source.clone(), DType::F32, &Device::Cpu);
            AutoencoderKlWan::new(&cfg, vb, parts).unwrap();
            let mut loaded = source.loaded();
            loaded.sort();
            loaded
        };
        let all: Vec<String> = shapes.into_keys().collect();
        assert_eq!(load(VaeParts::Both), all, "{name}");
        let encoder =
            |name: &String| name.starts_with("encoder.") || name.starts_with("quant_conv.");
        let (encoder, decoder) = all.into_iter().partition::<Vec<_>, _>(encoder);
        assert_eq!(load(VaeParts::Encoder), encoder, "{name}");
        assert_eq!(load(VaeParts::Decoder), decoder, "{name}");
    }
}

#[test]
fn encode_matches_the_reference() {
    for name in CASES {
        let Fixture { cfg, tensors, .. } = fixture(name);
        let vae = model(&cfg);
        let [_, frames, height, width] = *tensors["decoded"].dims() else {
            panic!("{name}")
        };
        let video = counted("video", &[3, frames, height, width]);
        assert_close(
            &vae.encode_video(&video).unwrap(),
            &tensors["encoded"],
            name,
        );
        let image = video.narrow(1, 0, 1).unwrap().squeeze(1).unwrap();
        assert_close(
            &vae.encode_image(&image, frames).unwrap(),
            &tensors["condition"],
            name,
        );
        // A causal encoder: the image alone gives the first latent frame.
        let first = tensors["encoded"].narrow(1, 0, 1).unwrap();
        assert_close(&vae.encode_image(&image, 1).unwrap(), &first, name);
    }
}

#[test]
fn repeated_frames_change_nothing_when_they_are_skipped() {
    for name in CASES {
        let vae = model(&fixture(name).cfg);
        let image = counted("image", &[3, 16, 16]);
        let zeros = Tensor::zeros((3, 64, 16, 16), DType::F32, &Device::Cpu).unwrap();
        let video = Tensor::cat(&[image.unsqueeze(1).unwrap(), zeros], 1).unwrap();
        let found = vae.encode_image(&image, 65).unwrap();
        assert_eq!(
            values(&found),
            values(&vae.encode_video(&video).unwrap()),
            "{name}"
        );
    }
}

#[test]
fn decode_matches_the_reference() {
    for name in CASES {
        let Fixture { cfg, tensors, .. } = fixture(name);
        let latents = counted("latents", tensors["encoded"].dims())
            .affine(1.5, 0.0)
            .unwrap();
        assert_close(
            &decode(&model(&cfg), &latents, None),
            &tensors["decoded"],
            name,
        );
    }
}

#[test]
fn tiled_decode_matches_the_reference() {
    let Fixture { cfg, tensors, .. } = fixture("wan21");
    let latents = counted("tiled", &[cfg.z_dim, 2, 7, 9])
        .affine(1.5, 0.0)
        .unwrap();
    let vae = model(&cfg);
    let tiling = Tiling {
        size: [32, 48],
        stride: [24, 32],
    };
    let found = decode(&vae, &latents, Some(tiling));
    assert_close(&found, &tensors["tiled"], "tiled");
    assert_ne!(
        values(&found),
        values(&decode(&vae, &latents, None)),
        "the tiles have seams"
    );
}

#[test]
fn tiles_of_the_residual_model_join_up() {
    let vae = model(&fixture("wan22").cfg);
    let latents = counted("tiles", &[6, 2, 3, 4]);
    let whole = decode(&vae, &latents, None);
    // One tile holds all of it: no difference at all.
    let fits = Tiling {
        size: [48, 64],
        stride: [32, 32],
    };
    assert_eq!(values(&decode(&vae, &latents, Some(fits))), values(&whole));
    // Two tiles without overlap are two clips side by side.
    let split = Tiling {
        size: [48, 32],
        stride: [48, 32],
    };
    let found = decode(&vae, &latents, Some(split));
    let halves = [0, 2].map(|start| decode(&vae, &latents.narrow(3, start, 2).unwrap(), None));
    assert_eq!(values(&found), values(&Tensor::cat(&halves, 3).unwrap()));
    // With overlap: untouched before it, blended within, the second tile after it.
    let overlap = Tiling {
        size: [48, 48],
        stride: [48, 16],
    };
    let found = decode(&vae, &latents, Some(overlap));
    assert_eq!(found.dims(), whole.dims());
    let first = decode(&vae, &latents.narrow(3, 0, 3).unwrap(), None);
    let columns = |x: &Tensor| values(&x.narrow(3, 0, 16).unwrap());
    assert_eq!(columns(&found), columns(&first));
}

#[test]
fn a_prefix_of_the_latents_gives_a_prefix_of_the_frames() {
    for name in CASES {
        let cfg = fixture(name).cfg;
        let vae = model(&cfg);
        let latents = counted("prefix", &[cfg.z_dim, 4, 2, 3]);
        let all = decode(&vae, &latents, None);
        for prefix in 1..4 {
            let found = decode(&vae, &latents.narrow(1, 0, prefix).unwrap(), None);
            let frames = 1 + (prefix - 1) * vae.temporal_factor();
            assert_eq!(found.dim(1).unwrap(), frames);
            assert_eq!(
                values(&found),
                values(&all.narrow(1, 0, frames).unwrap()),
                "{name} {prefix}"
            );
        }
    }
}

#[test]
fn an_error_of_the_sink_ends_the_decoding() {
    let vae = model(&fixture("odd21").cfg);
    let latents = counted("latents", &[3, 3, 8, 8]);
    let mut frames = 0;
    let mut sink = |_| {
        frames += 1;
        if frames == 2 {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    };
    assert!(matches!(
        vae.decode(&latents, None, &mut sink),
        Err(Error::Cancelled)
    ));
    assert_eq!(frames, 2);
    let tiling = Tiling {
        size: [16, 16],
        stride: [8, 8],
    };
    let mut tick = || Err(Error::Cancelled);
    let ended = vae.decode_tiled(&latents, tiling, &mut tick, &mut |_| {
        panic!("nothing was decoded")
    });
    assert!(matches!(ended, Err(Error::Cancelled)));
}

fn assert_caller<T>(result: Result<T>, part: &str) {
    let error = result.err().unwrap();
    assert_eq!(error.fault(), Fault::Caller, "{error}");
    assert!(error.to_string().contains(part), "{error}");
}

#[test]
fn sizes_that_do_not_fit_are_the_callers_fault() {
    let vae = model(&fixture("wan22").cfg);
    let video =
        |shape: [usize; 4]| vae.encode_video(&Tensor::zeros(&shape, DType::F32, &Device::Cpu)?);
    assert_caller(video([3, 4, 32, 32]), "num_frames");
    assert_caller(video([3, 0, 32, 32]), "num_frames");
    assert_caller(video([3, 1, 24, 32]), "multiples of 16");
    assert_caller(video([3, 1, 32, 40]), "multiples of 16");
    assert_caller(video([3, 1, 0, 32]), "multiples of 16");
    assert_caller(video([4, 1, 32, 32]), "[3, F, H, W]");
    let image = Tensor::zeros((3, 32, 32), DType::F32, &Device::Cpu).unwrap();
    assert_caller(vae.encode_image(&image, 80), "num_frames");
    assert_caller(
        vae.encode_image(&image.unsqueeze(0).unwrap(), 1),
        "[3, H, W]",
    );
    let other = Tensor::zeros((3, 32, 48), DType::F32, &Device::Cpu).unwrap();
    let mut mixed = [image.clone(), other].into_iter().map(Ok);
    assert_caller(vae.encode(&mut mixed), "one shape");
    let mut two = [image.clone(), image].into_iter().map(Ok);
    assert_caller(vae.encode(&mut two), "num_frames");
    let latents = |shape: [usize; 4], tiling| {
        vae.decode(
            &Tensor::zeros(&shape, DType::F32, &Device::Cpu)?,
            tiling,
            &mut |_| Ok(()),
        )
    };
    assert_caller(latents([4, 1, 2, 2], None), "latents");
    assert_caller(latents([6, 0, 2, 2], None), "latents");
    for (size, stride) in [(40, 32), (32, 24), (32, 0), (32, 48)] {
        let tiling = Tiling {
            size: [size; 2],
            stride: [stride; 2],
        };
        assert_caller(latents([6, 1, 2, 2], Some(tiling)), "vae_tiling");
    }
}

#[test]
fn a_half_that_was_not_loaded_is_named() {
    let cfg = fixture("odd22").cfg;
    let load = |parts| {
        let vb = VarBuilder::new(source(&cfg), DType::F32, &Device::Cpu);
        AutoencoderKlWan::new(&cfg, vb, parts).unwrap()
    };
    let latents = counted("latents", &[3, 1, 2, 2]);
    let error = load(VaeParts::Encoder)
        .decode(&latents, None, &mut |_| Ok(()))
        .unwrap_err();
    assert!(error.to_string().contains("decoder"), "{error}");
    let error = load(VaeParts::Decoder)
        .encode_video(&counted("video", &[3, 1, 32, 32]))
        .unwrap_err();
    assert!(error.to_string().contains("encoder"), "{error}");
}

#[test]
fn configurations_that_cannot_be_built_are_refused() {
    let refused = |name: &str, change: &dyn Fn(&mut VaeConfig), part: &str| {
        let mut cfg = fixture(name).cfg;
        let source = source(&cfg);
        change(&mut cfg);
        let vb = VarBuilder::new(source, DType::F32, &Device::Cpu);
        let error = AutoencoderKlWan::new(&cfg, vb, VaeParts::Both).unwrap_err();
        assert_eq!(error.fault(), Fault::Artifact, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    };
    refused("wan21", &|cfg| cfg.attn_scales = vec![0.5], "attn_scales");
    refused(
        "wan21",
        &|cfg| cfg.temperal_downsample = vec![true],
        "temperal_downsample",
    );
    refused("wan21", &|cfg| cfg.latents_mean.truncate(2), "latents_mean");
    refused("wan21", &|cfg| cfg.latents_std[1] = 0.0, "latents_std");
    refused("wan21", &|cfg| cfg.patch_size = Some(2), "in_channels");
    refused("wan21", &|cfg| cfg.base_dim = 0, "base_dim");
    refused(
        "wan22",
        &|cfg| cfg.dim_mult = vec![3, 16, 1, 1],
        "whole groups",
    );
    // A tensor that has another shape, and one that is missing.
    refused("wan21", &|cfg| cfg.base_dim = 16, "encoder.conv_in.weight");
    refused("wan21", &|cfg| cfg.num_res_blocks = 3, "missing");
}

#[test]
fn half_precision_stays_near_float32() {
    for name in ["wan21", "wan22"] {
        let Fixture { cfg, tensors, .. } = fixture(name);
        let latents = counted("latents", tensors["encoded"].dims())
            .affine(1.5, 0.0)
            .unwrap();
        let vb = VarBuilder::new(source(&cfg), DType::BF16, &Device::Cpu);
        let vae = AutoencoderKlWan::new(&cfg, vb, VaeParts::Decoder).unwrap();
        let found = decode(&vae, &latents, None);
        assert_eq!(found.dtype(), DType::F32);
        let expected = &tensors["decoded"];
        let norm = |x: &Tensor| values(x).iter().map(|x| x * x).sum::<f32>().sqrt();
        let relative = norm(&(&found - expected).unwrap()) / norm(expected);
        assert!(relative < 0.05, "{name}: {relative}");
    }
}

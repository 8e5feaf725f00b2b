//! Part 1: every kernel against its CPU twin and an f32 reference.
//!
//! The reference is the operation composed of candle's own, in f32 on the same (already rounded) inputs. A
//! 16-bit result may be at most twice as far from it as the composed operation in that type is; an f32
//! result has a limit of its own per operation. Results must be the same bits when computed again.

use anyhow::{Context, Result};
use candle_core::{D, DType, Device, Tensor};
use leoma_kernels::{
    Activation, Combination, Conv3d, Conv3dConfig, Linear, Norm, RmsConfig, Rotation, Velocity,
    attention, channel_norm, combine, gate_residual, gelu_tanh, layer_norm, layer_norm_modulate,
    patchify, reference, residual_norm, rms_norm, rms_norm_rope, rope, silu, unpatchify,
};

use super::parts::Session;
use super::result::{Row, Verdict};
use crate::stats::SplitMix;

const EPS: f64 = 1e-6;

type Op = Box<dyn Fn(&[Tensor]) -> candle_core::Result<Tensor>>;

/// One operation on one set of inputs.
struct Case {
    name: String,
    /// f32 on the host.
    inputs: Vec<Tensor>,
    /// The first so many are given in the type under test, the others stay f32.
    cast: usize,
    op: Op,
    composed: Op,
    /// Distance allowed in f32.
    limit: f64,
}

/// Random numbers of variance 1 around `mean`.
pub(crate) fn random(shape: &[usize], mean: f32, seed: u64) -> Result<Tensor> {
    let mut rng = SplitMix(seed.wrapping_mul(0x9e37_79b9).wrapping_add(11));
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| mean + rng.unit_variance())
        .collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// `|a - b| / |b|` in f64; infinite where `a` has a NaN or an element that nothing wrote.
pub(crate) fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    let values = |x: &Tensor| -> Result<Vec<f32>> {
        let x = x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        Ok(x.flatten_all()?.to_vec1()?)
    };
    if a.dims() != b.dims() {
        anyhow::bail!("shapes differ: {:?} and {:?}", a.dims(), b.dims());
    }
    let (mut error, mut norm) = (0f64, 0f64);
    for (a, b) in values(a)?.into_iter().zip(values(b)?) {
        error += (f64::from(a) - f64::from(b)).powi(2);
        norm += f64::from(b).powi(2);
    }
    let distance = (error / norm.max(f64::MIN_POSITIVE)).sqrt();
    Ok(if distance.is_nan() {
        f64::INFINITY
    } else {
        distance
    })
}

/// Whether two results are the same bits.
pub(crate) fn same_bits(a: &Tensor, b: &Tensor) -> Result<bool> {
    let bits = |x: &Tensor| -> Result<Vec<u32>> {
        // Widening is exact, so equal bits stay equal and different ones different.
        let x = x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let values: Vec<f32> = x.flatten_all()?.to_vec1()?;
        Ok(values.into_iter().map(f32::to_bits).collect())
    };
    Ok(bits(a)? == bits(b)?)
}

pub(super) fn run(session: &mut Session<'_>) -> Result<()> {
    let small = session.small();
    for case in cases(small)? {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let name = format!("{} {}", case.name, dtype.as_str());
            if session.late(&name)? {
                return Ok(());
            }
            let row = match check(session, &case, dtype, &name) {
                Ok(row) => row,
                Err(error) => Row::new(name, Verdict::Fail, format!("{error:#}")),
            };
            session.push(row)?;
        }
    }
    if session.place.is_card() && !small {
        sanitize(session)?;
    }
    Ok(())
}

fn check(session: &Session<'_>, case: &Case, dtype: DType, name: &str) -> Result<Row> {
    let host: Vec<Tensor> = case
        .inputs
        .iter()
        .enumerate()
        .map(|(index, x)| x.to_dtype(if index < case.cast { dtype } else { DType::F32 }))
        .collect::<candle_core::Result<_>>()?;
    let wide: Vec<Tensor> = host
        .iter()
        .map(|x| x.to_dtype(DType::F32))
        .collect::<candle_core::Result<_>>()?;
    let exact = (case.composed)(&wide).context("reference in f32")?;
    let composed = distance(&(case.composed)(&host).context("reference")?, &exact)?;
    let twin = (case.op)(&host).context("CPU twin")?;
    let place = &session.place;
    let there: Vec<Tensor> = host
        .iter()
        .map(|x| x.to_device(place.device()))
        .collect::<candle_core::Result<_>>()?;
    let once = || -> Result<Tensor> {
        place.poison(&twin)?;
        let found = place.run(|| (case.op)(&there)).context("kernel")?;
        place.device().synchronize()?;
        Ok(found)
    };
    let (found, again) = (once()?, once()?);
    let error = distance(&found, &exact)?;
    let limit = if dtype == DType::F32 {
        case.limit
    } else {
        2.0 * composed
    };
    let same = same_bits(&found, &again)?;
    let right_type = found.dtype() == twin.dtype();
    let apart = distance(&found, &twin)?;
    let mut detail = format!(
        "{error:.1e} from the f32 reference, limit {limit:.1e} (composed {composed:.1e}); {apart:.1e} from the \
         CPU twin"
    );
    if !same {
        detail.push_str("; not the same bits when computed again");
    }
    if !right_type {
        detail.push_str("; not the twin's type");
    }
    Ok(
        Row::check(name, error <= limit && same && right_type, detail)
            .value("error", error)
            .value("limit", limit)
            .value("composed_error", composed)
            .value("from_twin", apart),
    )
}

/// Runs this part at small shapes under compute-sanitizer, where there is one.
fn sanitize(session: &mut Session<'_>) -> Result<()> {
    let name = "compute-sanitizer memcheck";
    let program = session
        .args
        .sanitizer
        .clone()
        .unwrap_or_else(|| "compute-sanitizer".into());
    let folder = session.args.out.join("sanitizer");
    std::fs::create_dir_all(&folder)?;
    let mut inner = session.args.clone();
    (inner.small, inner.out, inner.sanitizer) = (true, folder.clone(), None);
    let output = std::process::Command::new(&program)
        .args(["--tool", "memcheck", "--error-exitcode", "86"])
        .arg(crate::run::this_program()?)
        .args(inner.of_one(1, 240))
        .output();
    // What it found is in its exit code and its words; the inner rows repeat those above.
    let _ = std::fs::remove_dir_all(&folder);
    session.push(match output {
        Err(error) => Row::new(
            name,
            Verdict::Skipped,
            format!("{}: {error}", program.display()),
        ),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let last = text.lines().last().unwrap_or_default().to_owned();
            if text.contains("Device not supported") {
                Row::new(name, Verdict::Skipped, "this host does not allow it")
            } else {
                Row::check(
                    name,
                    output.status.success(),
                    format!("{}: {last}", output.status),
                )
            }
        }
    })
}

fn case(
    name: impl Into<String>,
    inputs: Vec<Tensor>,
    cast: usize,
    limit: f64,
    op: impl Fn(&[Tensor]) -> candle_core::Result<Tensor> + 'static,
    composed: impl Fn(&[Tensor]) -> candle_core::Result<Tensor> + 'static,
) -> Case {
    Case {
        name: name.into(),
        inputs,
        cast,
        op: Box::new(op),
        composed: Box::new(composed),
        limit,
    }
}

/// All operations; at small shapes odd ones, else those of the models.
fn cases(small: bool) -> Result<Vec<Case>> {
    let widths: &[usize] = if small { &[100, 768] } else { &[3072, 5120] };
    let rows = if small { 9 } else { 4097 };
    let mut all = Vec::new();
    for &d in widths {
        rows_of(rows, d, &mut all)?;
    }
    heads_of(
        if small { 37 } else { 4097 },
        if small { 3 } else { 40 },
        &mut all,
    )?;
    products(small, &mut all)?;
    video(small, &mut all)?;
    sampler(if small { 5000 } else { 16 * 21 * 60 * 104 }, &mut all)?;
    Ok(all)
}

/// Row by row: norms, residual, activations.
fn rows_of(rows: usize, d: usize, all: &mut Vec<Case>) -> Result<()> {
    let x = random(&[rows, d], 0.3, 1)?;
    let y = random(&[rows, d], 0.0, 2)?;
    let one = (random(&[1, d], 0.0, 3)?, random(&[1, d], 0.0, 4)?);
    let two = (random(&[2, d], 0.0, 5)?, random(&[2, d], 0.0, 6)?);
    let weight = (random(&[d], 1.0, 7)?, random(&[d], 0.0, 8)?);
    all.push(case(
        format!("layer_norm {d}"),
        vec![x.clone()],
        1,
        2e-6,
        |t| layer_norm(&t[0], None, EPS),
        |t| reference::layer_norm(&t[0], None, EPS),
    ));
    all.push(case(
        format!("layer_norm affine {d}"),
        vec![x.clone(), weight.0.clone(), weight.1],
        1,
        2e-6,
        |t| layer_norm(&t[0], Some((&t[1], &t[2])), EPS),
        |t| reference::layer_norm(&t[0], Some((&t[1], &t[2])), EPS),
    ));
    for (what, (scale, shift), first) in [("one row", one, 0), ("two rows", two.clone(), rows / 3)]
    {
        all.push(case(
            format!("layer_norm_modulate {what} {d}"),
            vec![x.clone(), scale, shift],
            1,
            2e-6,
            move |t| layer_norm_modulate(&t[0], &t[1], &t[2], first, EPS),
            move |t| reference::layer_norm_modulate(&t[0], &t[1], &t[2], first, EPS),
        ));
    }
    all.push(case(
        format!("gate_residual {d}"),
        vec![x.clone(), y, two.0.clone()],
        2,
        1e-6,
        move |t| gate_residual(&t[0], &t[1], &t[2], rows / 3),
        move |t| reference::gate_residual(&t[0], &t[1], &t[2], rows / 3),
    ));
    all.push(case(
        format!("residual_norm {d}"),
        vec![
            x.clone(),
            random(&[rows, d], 0.0, 9)?,
            random(&[2, d], 0.0, 10)?,
            two.1.clone(),
            random(&[2, d], 0.1, 11)?,
        ],
        2,
        3e-6,
        move |t| {
            let (scale, shift) = (&t[3], &t[4]);
            let norm = Norm::Modulated { scale, shift };
            let (sum, normed) = residual_norm(&t[0], &t[1], Some(&t[2]), &norm, rows / 3, EPS)?;
            Tensor::stack(&[sum, normed], 0)
        },
        move |t| {
            let (scale, shift) = (&t[3], &t[4]);
            let norm = Norm::Modulated { scale, shift };
            let gate = Some(&t[2]);
            let (sum, normed) = reference::residual_norm(&t[0], &t[1], gate, &norm, rows / 3, EPS)?;
            Tensor::stack(&[sum, normed], 0)
        },
    ));
    all.push(case(
        format!("rms_norm {d}"),
        vec![x.clone(), weight.0],
        1,
        2e-6,
        |t| rms_norm(&t[0], &t[1], EPS),
        |t| reference::rms_norm(&t[0], &t[1], EPS),
    ));
    all.push(case(
        format!("gelu_tanh {d}"),
        vec![x.clone()],
        1,
        2e-6,
        |t| gelu_tanh(&t[0]),
        |t| reference::gelu_tanh(&t[0]),
    ));
    all.push(case(
        format!("silu {d}"),
        vec![x],
        1,
        2e-6,
        |t| silu(&t[0]),
        |t| reference::silu(&t[0]),
    ));
    Ok(())
}

/// Token by head: rotary embedding and attention.
fn heads_of(tokens: usize, heads: usize, all: &mut Vec<Case>) -> Result<()> {
    const WIDTH: usize = 128;
    const CONFIG: RmsConfig = RmsConfig {
        eps: EPS,
        round_before_weight: false,
    };
    let x = random(&[tokens, heads, WIDTH], 0.0, 1)?;
    let angle = (random(&[tokens, WIDTH / 2], 0.0, 2)? * 3.0)?;
    all.push(case(
        "rope",
        vec![x, angle.cos()?, angle.sin()?],
        1,
        1e-6,
        |t| rope(&t[0], &t[1], &t[2]),
        |t| reference::rope(&t[0], &t[1], &t[2]),
    ));
    let angle = (random(&[tokens, WIDTH / 2], 0.0, 6)? * 3.0)?;
    all.push(case(
        "rms_norm_rope",
        vec![
            random(&[tokens, heads, WIDTH], 0.0, 7)?,
            random(&[tokens, heads, WIDTH], 0.2, 8)?,
            random(&[heads * WIDTH], 1.0, 9)?,
            random(&[heads * WIDTH], 1.0, 10)?,
            angle.cos()?,
            angle.sin()?,
        ],
        2,
        2e-6,
        |t| {
            let (cos, sin) = (&t[4], &t[5]);
            let rotation = Rotation { cos, sin };
            let (q, k) = rms_norm_rope((&t[0], &t[2]), (&t[1], &t[3]), &rotation, &CONFIG)?;
            Tensor::stack(&[q, k], 0)
        },
        |t| {
            let (cos, sin) = (&t[4], &t[5]);
            let rotation = Rotation { cos, sin };
            let rotation = Some(&rotation);
            let q = reference::rms_norm_rope(&t[0], &t[2], rotation, &CONFIG)?;
            let k = reference::rms_norm_rope(&t[1], &t[3], rotation, &CONFIG)?;
            Tensor::stack(&[q, k], 0)
        },
    ));
    let scale = (WIDTH as f64).sqrt().recip();
    for (what, keys) in [("self", tokens), ("cross", 513)] {
        let q = random(&[1, tokens, heads, WIDTH], 0.0, 3)?;
        let k = random(&[1, keys, heads, WIDTH], 0.0, 4)?;
        let v = random(&[1, keys, heads, WIDTH], 0.1, 5)?;
        all.push(case(
            format!("attention {what}, {tokens} x {keys} x {heads}"),
            vec![q, k, v],
            3,
            5e-6,
            move |t| attention(&t[0], &t[1], &t[2], scale, None),
            move |t| reference::attention(&t[0], &t[1], &t[2], scale, None),
        ));
    }
    Ok(())
}

/// Linear layers, with and without an activation.
fn products(small: bool, all: &mut Vec<Case>) -> Result<()> {
    let [rows, inputs, outputs] = if small {
        [33, 96, 160]
    } else {
        [2049, 3072, 5120]
    };
    let x = random(&[rows, inputs], 0.0, 1)?;
    let weight = (random(&[outputs, inputs], 0.0, 2)? * (inputs as f64).sqrt().recip())?;
    let bias = random(&[outputs], 0.0, 3)?;
    for act in [Activation::None, Activation::GeluTanh] {
        all.push(case(
            format!("linear {act:?}, {rows} x {inputs} x {outputs}"),
            vec![x.clone(), weight.clone(), bias.clone()],
            3,
            5e-6,
            move |t| Linear::new(t[1].clone(), Some(t[2].clone()))?.forward_act(&t[0], act),
            move |t| reference::linear(&t[0], &t[1], Some(&t[2]), act),
        ));
    }
    Ok(())
}

/// The VAE's: channel norm and causal convolutions; and the transformer's patches.
fn video(small: bool, all: &mut Vec<Case>) -> Result<()> {
    const PATCH: [usize; 3] = [1, 2, 2];
    let [t, h, w] = if small { [3, 6, 10] } else { [21, 60, 104] };
    all.push(case(
        "patchify",
        vec![random(&[16, t, h, w], 0.0, 5)?],
        1,
        0.0,
        |t| patchify(&t[0], PATCH, t[0].dtype()),
        |t| reference::patchify(&t[0], PATCH, t[0].dtype()),
    ));
    let grid = [t, h / 2, w / 2];
    all.push(case(
        "unpatchify",
        vec![random(&[t * h * w / 4, 64], 0.0, 6)?],
        1,
        0.0,
        move |t| unpatchify(&t[0], grid, PATCH),
        move |t| reference::unpatchify(&t[0], grid, PATCH),
    ));
    let [frames, side, channels, outputs] = if small {
        [2, 7, 12, 10]
    } else {
        [2, 60, 192, 96]
    };
    let x = random(&[frames, side, side + 1, channels], 0.1, 1)?;
    let gamma = random(&[channels], 1.0, 2)?;
    for with_silu in [false, true] {
        all.push(case(
            format!("channel_norm {channels}, silu {with_silu}"),
            vec![x.clone(), gamma.clone()],
            1,
            2e-6,
            move |t| channel_norm(&t[0], &t[1], with_silu),
            move |t| reference::channel_norm(&t[0], &t[1], with_silu),
        ));
    }
    let causal = Conv3dConfig {
        pad: [1; 4],
        pad_front: 2,
        ..Conv3dConfig::default()
    };
    let doubled = Conv3dConfig {
        pad: [1; 4],
        upsample2x: true,
        ..Conv3dConfig::default()
    };
    let down = Conv3dConfig {
        stride: [1, 2, 2],
        pad: [0, 1, 0, 1],
        ..Conv3dConfig::default()
    };
    for (what, window, cfg) in [
        ("causal", [3, 3, 3], causal),
        ("doubled", [1, 3, 3], doubled),
        ("strided", [1, 3, 3], down),
        ("pointwise", [1, 1, 1], Conv3dConfig::default()),
    ] {
        let taps = window.iter().product::<usize>() * channels;
        let shape = [outputs, channels, window[0], window[1], window[2]];
        let weight = (random(&shape, 0.0, 3)? * (taps as f64).sqrt().recip())?;
        let bias = random(&[outputs], 0.0, 4)?;
        all.push(case(
            format!("conv3d {what} {channels} to {outputs}"),
            vec![x.clone(), weight, bias],
            3,
            5e-6,
            move |t| Conv3d::new(t[1].clone(), Some(t[2].clone()), cfg)?.forward(&t[0], None, None),
            move |t| reference::conv3d(&t[0], None, None, &t[1], Some(&t[2]), cfg),
        ));
    }
    Ok(())
}

/// Guidance and the sampler's update.
fn sampler(n: usize, all: &mut Vec<Case>) -> Result<()> {
    const ROWS: [Combination; 2] = [
        Combination {
            terms: [1.0, 0.0, 0.0, 0.0],
            results: [0.0, 0.0],
            velocity: -0.83,
        },
        Combination {
            terms: [0.3, 0.4, 0.0, 0.0],
            results: [-0.44, 0.0],
            velocity: 0.0,
        },
    ];
    let inputs = (1..=4)
        .map(|seed| random(&[n], 0.0, seed))
        .collect::<Result<Vec<_>>>()?;
    all.push(case(
        "sampler step with guidance",
        inputs,
        2,
        1e-6,
        |t| {
            let velocity = Velocity::guided(&t[0], &t[1], 5.0);
            Tensor::stack(&combine(velocity, &[&t[2], &t[3]], &ROWS)?, 0)
        },
        |t| {
            let velocity = Velocity::guided(&t[0], &t[1], 5.0);
            let found = reference::combine(velocity, &[&t[2], &t[3]], &ROWS)?;
            Tensor::stack(&found, D::Minus1)?.t()?.contiguous()
        },
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_element_that_nothing_wrote_is_seen() {
        let a = Tensor::new(&[1f32, f32::NAN], &Device::Cpu).unwrap();
        let b = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        assert_eq!(distance(&a, &b).unwrap(), f64::INFINITY);
        assert_eq!(distance(&b, &b).unwrap(), 0.0);
        assert!(same_bits(&a, &a).unwrap() && !same_bits(&a, &b).unwrap());
    }

    /// The references and the twins agree on every case, so that a failure on a card is the kernel's.
    #[test]
    fn twins_agree_with_the_references() {
        for case in cases(true).unwrap() {
            let twin = (case.op)(&case.inputs).unwrap();
            let exact = (case.composed)(&case.inputs).unwrap();
            let error = distance(&twin, &exact).unwrap();
            assert!(error <= case.limit, "{}: {error:e}", case.name);
        }
    }
}

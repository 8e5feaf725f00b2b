//! Random weights on a trained scale, from integers and one square root only: the same on every machine.

use crate::weights::Component;

/// Values of one tensor. Each tensor has its own stream, so that no order matters.
pub(super) fn tensor(seed: u64, component: Component, name: &str, shape: &[usize]) -> Vec<f32> {
    let (mean, deviation) = scale(component, name, shape);
    let mut random = Random::new(seed, &format!("{component}/{name}"));
    let count = shape.iter().product();
    let mut values: Vec<f64> = (0..count).map(|_| random.normal()).collect();
    if component == Component::Vae && name.starts_with("decoder.") {
        if name.ends_with(".weight") && matches!(shape, [_, _, .., 3, 3]) {
            smooth(&mut values, shape, &mut random);
        }
        if name.starts_with("decoder.conv_out.") {
            join_pixels(&mut values, shape);
        }
    }
    values
        .into_iter()
        .map(|value| (mean + deviation * value) as f32)
        .collect()
}

/// Makes the taps of every kernel `[out, in, .., 3, 3]` alike, as trained decoders pass low frequencies:
/// pictures come out with shapes in them instead of grain.
fn smooth(values: &mut [f64], shape: &[usize], random: &mut Random) {
    // Squares add up to one.
    const COMMON: f64 = 0.75;
    const OWN: f64 = 0.661_437_827_766_147_7;
    let taps = shape[2..].iter().product();
    for kernel in values.chunks_exact_mut(taps) {
        let common = COMMON * random.normal();
        for value in kernel {
            *value = common + OWN * *value;
        }
    }
}

/// Makes the pixels of a patch (`out` is 3 colours times the patch) nearly alike, and takes the mean out of
/// every pixel's weights, because what they weigh is positive on average.
fn join_pixels(values: &mut [f64], shape: &[usize]) {
    let colour = values.len() / 3;
    let pixel = values.len() / shape[0];
    for colour in values.chunks_exact_mut(colour) {
        let first = colour[..pixel].to_vec();
        for row in colour.chunks_exact_mut(pixel) {
            for (value, common) in row.iter_mut().zip(&first) {
                *value = if pixel == 1 {
                    *common
                } else {
                    0.95 * common + 0.15 * *value
                };
            }
            // A bias is a single number per pixel.
            if pixel > 1 {
                let mean = row.iter().sum::<f64>() / pixel as f64;
                for value in row.iter_mut() {
                    *value -= mean;
                }
            }
        }
    }
}

/// Mean and standard deviation by the role of a tensor.
pub(crate) fn scale(component: Component, name: &str, shape: &[usize]) -> (f64, f64) {
    let ends = |suffix: &str| name.ends_with(suffix);
    let is_norm = [
        "norm",
        "norm1",
        "norm2",
        "norm_q",
        "norm_k",
        "norm_out",
        "layer_norm",
    ]
    .iter()
    .any(|norm| ends(&format!("{norm}.weight")) || ends(&format!("{norm}.gamma")));
    // Inputs per output: everything but the first axis.
    let fan_in = shape[1..].iter().product::<usize>().max(1) as f64;
    let fan = |gain: f64| (0.0, gain / fan_in.sqrt());
    if name.contains(".attn2.norm_") {
        // Sharp cross attention: a prompt has few rows among 512, and would hardly show otherwise.
        return (2.0, 0.2);
    }
    if is_norm {
        return (1.0, 0.1);
    }
    if ends(".bias") {
        return (0.0, if ends("conv_out.bias") { 0.15 } else { 0.05 });
    }
    match component {
        Component::Transformer | Component::Transformer2 => {
            if ends("scale_shift_table") {
                (0.0, 0.1)
            } else if ends("time_proj.weight") {
                // Shifts, scales and gates stay well below the stream they act on.
                fan(0.5)
            } else {
                fan(1.0)
            }
        }
        Component::Vae => {
            if ends("decoder.conv_out.weight") {
                // Pixels that fill [-1, 1] without being cut.
                fan(0.35)
            } else if ends("conv2.weight") {
                // What a residual block adds stays below what it adds to.
                fan(0.8)
            } else if ends("conv1.weight") {
                // SiLU takes about 0.6 of the amplitude.
                fan(1.5)
            } else {
                fan(1.0)
            }
        }
        Component::TextEncoder => {
            if ends("shared.weight") {
                (0.0, 1.0)
            } else if ends("relative_attention_bias.weight") {
                (0.0, 0.5)
            } else if ends("SelfAttention.q.weight") {
                // Scores are not divided by the root of the head width: the query is, at this width of
                // about 12.
                fan(0.3)
            } else {
                fan(1.0)
            }
        }
    }
}

/// Numbers that are the same on every machine: splitmix64, with a sum of twelve uniform numbers for the normal one.
/// For weights, draws and tests; never for secrets.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A stream for a name: FNV-1a of the name, mixed with the seed.
    pub fn new(seed: u64, name: &str) -> Self {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut random = Self(seed);
        random.0 = random.bits() ^ hash;
        random
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Mean 0, deviation 1, within ±6: twelve 16-bit numbers, whose sum is exact.
    pub fn normal(&mut self) -> f64 {
        let mut sum = 0_u64;
        for _ in 0..3 {
            let bits = self.bits();
            sum +=
                (bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) + (bits >> 48);
        }
        // Twelve means of 65535/2, each of variance (65536^2 - 1) / 12.
        (sum as f64 - 6.0 * 65535.0) / 65536.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_scale_asked_for() {
        let values = tensor(1, Component::TextEncoder, "shared.weight", &[100, 200]);
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = values
            .iter()
            .map(|&v| (f64::from(v) - mean).powi(2))
            .sum::<f64>()
            / n;
        assert!(
            mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03,
            "{mean} {variance}"
        );
    }

    #[test]
    fn streams_differ_by_seed_component_and_name() {
        let name = "blocks.0.attn1.to_q.weight";
        let first = tensor(1, Component::Transformer, name, &[4, 4]);
        assert_eq!(first, tensor(1, Component::Transformer, name, &[4, 4]));
        assert_ne!(first, tensor(2, Component::Transformer, name, &[4, 4]));
        assert_ne!(first, tensor(1, Component::Transformer2, name, &[4, 4]));
        assert_ne!(
            first,
            tensor(
                1,
                Component::Transformer,
                "blocks.1.attn1.to_q.weight",
                &[4, 4]
            )
        );
    }
}

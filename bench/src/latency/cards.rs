//! What cards could do at best, by their vendor's figures. Nothing here was measured.

use leoma_models::random::Networks;
use leoma_models::wan::cost;
use leoma_models::weights::ModelKind;

/// One card. Rates are dense, accumulated in float32.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Card {
    pub(crate) name: &'static str,
    /// bf16 matrix products, TFLOP/s.
    pub(crate) bf16_tflops: f64,
    /// fp8 matrix products, TFLOP/s; `None` where the card has none.
    pub(crate) fp8_tflops: Option<f64>,
    /// Memory bandwidth, GB/s.
    pub(crate) gb_s: f64,
    /// Memory, GB.
    pub(crate) memory_gb: f64,
    pub(crate) source: &'static str,
}

/// Cards in the order of the page. Where a data sheet gives the rate with structured sparsity, half of it.
pub(crate) const CARDS: [Card; 8] = [
    card(
        "RTX 3090",
        71.0,
        None,
        936.0,
        24.0,
        "NVIDIA Ampere GA102 architecture whitepaper",
    ),
    card(
        "RTX 4090",
        165.2,
        Some(330.3),
        1008.0,
        24.0,
        "NVIDIA Ada GPU architecture whitepaper",
    ),
    card(
        "RTX 5090",
        209.5,
        Some(419.0),
        1792.0,
        32.0,
        "NVIDIA RTX Blackwell GPU architecture whitepaper",
    ),
    card(
        "L40S",
        362.0,
        Some(733.0),
        864.0,
        48.0,
        "NVIDIA L40S data sheet",
    ),
    card(
        "A100 SXM 80 GB",
        312.0,
        None,
        2039.0,
        80.0,
        "NVIDIA A100 data sheet",
    ),
    card(
        "H100 SXM",
        989.4,
        Some(1978.9),
        3350.0,
        80.0,
        "NVIDIA H100 data sheet",
    ),
    card(
        "H200 SXM",
        989.4,
        Some(1978.9),
        4800.0,
        141.0,
        "NVIDIA H200 data sheet",
    ),
    card(
        "B200 (HGX)",
        2250.0,
        Some(4500.0),
        8000.0,
        180.0,
        "NVIDIA HGX B200 data sheet, per GPU",
    ),
];

const fn card(
    name: &'static str,
    bf16_tflops: f64,
    fp8_tflops: Option<f64>,
    gb_s: f64,
    memory_gb: f64,
    source: &'static str,
) -> Card {
    Card {
        name,
        bf16_tflops,
        fp8_tflops,
        gb_s,
        memory_gb,
        source,
    }
}

/// A job that people run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) name: &'static str,
    pub(crate) kind: ModelKind,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) frames: usize,
    /// Transformer passes in all: steps, twice with guidance.
    pub(crate) passes: usize,
}

/// Jobs in the order of the page.
pub(crate) const JOBS: [Job; 5] = [
    job(
        "subnet: A14B 480p, 30 steps, guidance",
        ModelKind::I2vA14b,
        [832, 480, 81],
        60,
    ),
    job(
        "A14B 480p, 40 steps, guidance",
        ModelKind::I2vA14b,
        [832, 480, 81],
        80,
    ),
    job(
        "A14B 720p, 40 steps, guidance",
        ModelKind::I2vA14b,
        [1280, 720, 81],
        80,
    ),
    job(
        "5B 720p, 121 frames, 50 steps, guidance",
        ModelKind::Ti2v5b,
        [1280, 704, 121],
        100,
    ),
    job(
        "A14B 480p, 4 steps (distilled)",
        ModelKind::I2vA14b,
        [832, 480, 81],
        4,
    ),
];

const fn job(name: &'static str, kind: ModelKind, size: [usize; 3], passes: usize) -> Job {
    Job {
        name,
        kind,
        width: size[0],
        height: size[1],
        frames: size[2],
        passes,
    }
}

/// Arithmetic of a whole clip in FLOP: linear layers, attention, decoding.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand {
    pub(crate) linear: f64,
    pub(crate) attention: f64,
    pub(crate) decode: f64,
}

impl Job {
    /// What the job asks of a card.
    pub(crate) fn demand(&self) -> Demand {
        let Networks {
            transformer, vae, ..
        } = Networks::released(self.kind);
        let (frames, height, width) = (self.frames, self.height, self.width);
        let tokens = cost::clip_tokens(&transformer, &vae, frames, height, width);
        let parts = cost::forward_parts(&transformer, tokens);
        let passes = self.passes as f64;
        Demand {
            linear: passes * parts.linear,
            attention: passes * (parts.self_attention + parts.cross_attention),
            decode: cost::decode_flops(&vae, frames, height, width),
        }
    }
}

impl Card {
    /// Seconds of a clip if everything ran at the peak in bf16: no card can be faster without losing precision.
    pub(crate) fn bf16_s(&self, demand: &Demand) -> f64 {
        (demand.linear + demand.attention + demand.decode) / (self.bf16_tflops * 1e12)
    }

    /// The same with the linear layers in fp8.
    pub(crate) fn fp8_s(&self, demand: &Demand) -> Option<f64> {
        let rest = (demand.attention + demand.decode) / (self.bf16_tflops * 1e12);
        Some(demand.linear / (self.fp8_tflops? * 1e12) + rest)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Figures of wan22.md section 13: 100.7 PFLOP of transformer and 0.28 of decoding, at least 102 s on an H100.
    #[test]
    fn the_subnets_job_on_an_h100() {
        let demand = JOBS[0].demand();
        assert!(((demand.linear + demand.attention) / 1e15 - 100.7).abs() < 0.1);
        let h100 = CARDS.iter().find(|card| card.name == "H100 SXM").unwrap();
        assert!(
            (h100.bf16_s(&demand) - 102.0).abs() < 0.3,
            "{}",
            h100.bf16_s(&demand)
        );
        let fp8 = h100.fp8_s(&demand).unwrap();
        assert!(fp8 < h100.bf16_s(&demand) && fp8 > 0.5 * h100.bf16_s(&demand));
        assert!(CARDS[0].fp8_s(&demand).is_none());
    }
}

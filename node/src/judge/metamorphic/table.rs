//! From clips to figures: which signal sees which damage, and how often undamaged clips are flagged.

use super::clips::{GeneratedClip, Kind, Shape, generate};
use super::damage::{Damage, apply};
use super::paint::Rng;
use crate::judge::clip::Clip;
use crate::judge::signals::gates::{Circumstances, GateId, evaluate};
use crate::judge::signals::thresholds::Thresholds;
use crate::judge::signals::{SignalId, Signals, measure};
use crate::judge::statistics::Statistic as _;
use crate::judge::statistics::rank::Auc;

/// Which seeds a run may use. The two sets share no clip, so figures are never reported on what set the
/// thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// For choosing thresholds.
    Thresholds,
    /// For figures that are published.
    Report,
}

/// Distance between a clip's seed and that of the clip it is mixed with.
const OTHER: u64 = 500_000;

impl Split {
    /// Name in tables.
    pub fn key(self) -> &'static str {
        match self {
            Self::Thresholds => "thresholds",
            Self::Report => "report",
        }
    }

    /// The seed of clip `index` of a kind; at most [`MAX_SEEDS`](Self::MAX_SEEDS) of them.
    pub fn seed(self, index: usize) -> u64 {
        let base = match self {
            Self::Thresholds => 1_000_000,
            Self::Report => 2_000_000,
        };
        base + (index % Self::MAX_SEEDS) as u64
    }

    /// Seeds of one kind before they would reach the seeds of second clips.
    pub const MAX_SEEDS: usize = 100_000;
}

/// A claim of the table: this damage moves this signal this way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Claim {
    /// What is done.
    pub damage: Damage,
    /// What is looked at.
    pub signal: SignalId,
    /// The signal rises; otherwise it falls.
    pub rises: bool,
    /// AUC of the OpenCV prototype on 28 real and generated clips, where it has one.
    pub prototype: Option<f64>,
    /// The gate that rests on it.
    pub gate: Option<GateId>,
}

const fn claim(
    damage: Damage,
    signal: SignalId,
    rises: bool,
    prototype: Option<f64>,
    gate: Option<GateId>,
) -> Claim {
    Claim {
        damage,
        signal,
        rises,
        prototype,
        gate,
    }
}

/// What the signals are for.
pub const CLAIMS: [Claim; 25] = {
    use Damage as D;
    use GateId as G;
    use SignalId as S;
    [
        claim(D::WrongFirst, S::FfSsim, false, Some(1.00), None),
        claim(D::WrongFirst, S::FfAlign, false, None, Some(G::First)),
        claim(D::WrongFirst, S::FfCorr, false, None, Some(G::First)),
        claim(
            D::PastedFirst,
            S::FirstJump,
            true,
            Some(1.00),
            Some(G::Paste),
        ),
        claim(D::PastedFirst, S::Histmax, true, Some(1.00), Some(G::Cut)),
        claim(D::Zoom, S::FfSsim, false, Some(1.00), None),
        claim(D::Hue, S::FfChroma, true, Some(1.00), Some(G::Cast)),
        claim(D::Flicker, S::LumaHf, true, Some(1.00), Some(G::Flicker)),
        claim(D::Cut, S::Scene, true, Some(1.00), Some(G::Cut)),
        claim(D::Cut, S::Histmax, true, Some(1.00), Some(G::Cut)),
        claim(D::Blur, S::LapRel, false, Some(1.00), Some(G::Blur)),
        claim(D::Blocks, S::Block, true, Some(1.00), Some(G::Block)),
        claim(D::Freeze, S::Dup, true, Some(0.95), None),
        claim(D::Freeze, S::FreezeShare, true, None, Some(G::Freeze)),
        claim(D::HalfFreeze, S::Dup, true, Some(0.90), None),
        claim(D::HalfFreeze, S::FreezeShare, true, None, Some(G::Freeze)),
        claim(D::Doubled, S::Dup, true, Some(0.90), None),
        claim(D::Shuffle, S::Order, true, None, Some(G::Order)),
        claim(D::Shuffle, S::Jerk, true, Some(0.93), None),
        claim(D::Shuffle, S::Mid, true, Some(0.85), None),
        claim(D::Shuffle, S::Warp, true, Some(0.79), None),
        claim(D::Dissolve, S::Histmax, true, Some(0.86), None),
        claim(D::ZoomedStill, S::StillZoom, true, None, Some(G::StillZoom)),
        claim(D::Overlay, S::Overlay, true, None, Some(G::Overlay)),
        claim(D::Reversed, S::Warp, true, Some(0.50), None),
    ]
};

/// Signals that move the wrong way: a damaged clip looks better.
pub const INVERSIONS: [Claim; 5] = {
    use Damage as D;
    use SignalId as S;
    [
        claim(D::Freeze, S::FlickVb, true, None, None),
        claim(D::Blur, S::FlickVb, true, None, None),
        claim(D::Blur, S::Warp, false, None, None),
        claim(D::ZoomedStill, S::Warp, false, None, None),
        claim(D::ZoomedStill, S::Mid, false, None, None),
    ]
};

/// A clip, and what the signals say of it and of its damaged copies.
#[derive(Debug, Clone)]
pub struct Sample {
    /// What moves in it.
    pub kind: Kind,
    /// Its seed.
    pub seed: u64,
    /// Undamaged.
    pub clean: Signals,
    /// Damaged.
    pub damaged: Vec<(Damage, Signals)>,
}

impl Sample {
    fn under(&self, damage: Damage) -> Option<&Signals> {
        let found = self.damaged.iter().find(|(d, _)| *d == damage);
        found.map(|(_, signals)| signals)
    }
}

/// Makes a clip, damages it and measures all. Independent of every other sample, so callers may run many
/// at once.
///
/// `None` only for shapes that [`Shape::normalised`] would change.
pub fn sample(kind: Kind, seed: u64, shape: &Shape, damages: &[Damage]) -> Option<Sample> {
    let clip = generate(kind, seed, shape)?;
    // The second clip is of any kind but the strobe, whose flashes are cuts by themselves.
    let kinds = Kind::ALL.len() - 1;
    let other_kind = Kind::ALL[Rng::new(seed ^ kind as u64).below(kinds)];
    let other = generate(other_kind, seed + OTHER, shape)?;
    let signals = |clip: &GeneratedClip| {
        measure(&Clip {
            frames: &clip.frames,
            fps: clip.fps,
            first: &clip.first,
        })
        .ok()
    };
    let mut damaged = Vec::with_capacity(damages.len());
    for damage in damages {
        let copy = apply(*damage, &clip, &other, seed)?;
        damaged.push((*damage, signals(&copy)?));
    }
    Some(Sample {
        kind,
        seed,
        clean: signals(&clip)?,
        damaged,
    })
}

/// The figures of a claim.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// What is claimed.
    pub claim: Claim,
    /// Clips, the strobe left out.
    pub clips: usize,
    /// Of them, how many have a damaged copy whose signal moved as claimed.
    pub moved: usize,
    /// Damaged against undamaged clips, no clip compared with itself in particular; strobe left out.
    pub auc: f64,
    /// The same over all kinds.
    pub auc_with_strobe: f64,
}

/// Area under the curve of receiver operation: how often a damaged clip ranks above an undamaged one,
/// ties counted half. `None` when either set is empty.
pub fn auc(damaged: &[f64], clean: &[f64]) -> Option<f64> {
    let both = clean.iter().map(|value| (*value, false));
    let both = both.chain(damaged.iter().map(|value| (*value, true)));
    let rows: Vec<_> = both
        .enumerate()
        .map(|(row, (value, is_damaged))| (row, value, is_damaged))
        .collect();
    Auc::new(&rows).value().ok()
}

/// The rows of `claims` over these samples; a claim without values has none.
pub fn rows(claims: &[Claim], samples: &[Sample]) -> Vec<Row> {
    claims
        .iter()
        .filter_map(|claim| row(claim, samples))
        .collect()
}

fn row(claim: &Claim, samples: &[Sample]) -> Option<Row> {
    let sign = if claim.rises { 1.0 } else { -1.0 };
    let pairs: Vec<(Kind, f64, f64)> = samples
        .iter()
        .filter_map(|sample| {
            let clean = sample.clean.get(claim.signal)?;
            let damaged = sample.under(claim.damage)?.get(claim.signal)?;
            Some((sample.kind, sign * clean, sign * damaged))
        })
        .collect();
    let area = |with_strobe: bool| {
        let chosen = || {
            pairs
                .iter()
                .filter(move |pair| with_strobe || pair.0 != Kind::Strobe)
        };
        let clean: Vec<f64> = chosen().map(|pair| pair.1).collect();
        let damaged: Vec<f64> = chosen().map(|pair| pair.2).collect();
        auc(&damaged, &clean)
    };
    let plain = pairs.iter().filter(|pair| pair.0 != Kind::Strobe);
    Some(Row {
        claim: *claim,
        clips: plain.clone().count(),
        moved: plain.filter(|pair| pair.2 > pair.1).count(),
        auc: area(false)?,
        auc_with_strobe: area(true)?,
    })
}

/// How often the gates close on the clips of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Flags {
    /// The kind.
    pub kind: Kind,
    /// Its clips.
    pub clips: usize,
    /// Clips on which any gate closed.
    pub any: usize,
    /// Per gate of [`GateId::ALL`] that closed at all.
    pub gates: Vec<(GateId, usize)>,
}

/// Gates that close on undamaged clips, per kind.
pub fn false_flags(samples: &[Sample], limits: &Thresholds) -> Vec<Flags> {
    Kind::ALL
        .into_iter()
        .map(|kind| {
            let of_kind = samples.iter().filter(|sample| sample.kind == kind);
            flags(kind, of_kind.map(|sample| &sample.clean), limits)
        })
        .collect()
}

/// How often each gate that should close on a damage does, the strobe left out: damage, gate, closed, clips.
pub fn caught(samples: &[Sample], limits: &Thresholds) -> Vec<(Damage, GateId, usize, usize)> {
    let mut found: Vec<(Damage, GateId, usize, usize)> = Vec::new();
    for claim in &CLAIMS {
        let Some(gate) = claim.gate else { continue };
        if found
            .iter()
            .any(|row| (row.0, row.1) == (claim.damage, gate))
        {
            continue;
        }
        let plain = samples.iter().filter(|sample| sample.kind != Kind::Strobe);
        let all: Vec<&Signals> = plain.filter_map(|s| s.under(claim.damage)).collect();
        let closed = all.iter().filter(|signals| closes(signals, gate, limits));
        found.push((claim.damage, gate, closed.count(), all.len()));
    }
    found
}

fn closes(signals: &Signals, gate: GateId, limits: &Thresholds) -> bool {
    evaluate(signals, &Circumstances::default(), limits)
        .iter()
        .any(|hit| hit.gate == gate)
}

fn flags<'a>(kind: Kind, signals: impl Iterator<Item = &'a Signals>, limits: &Thresholds) -> Flags {
    let mut found = Flags {
        kind,
        clips: 0,
        any: 0,
        gates: Vec::new(),
    };
    for signals in signals {
        let hits = evaluate(signals, &Circumstances::default(), limits);
        found.clips += 1;
        found.any += usize::from(!hits.is_empty());
        for hit in hits {
            match found.gates.iter_mut().find(|(gate, _)| *gate == hit.gate) {
                Some((_, count)) => *count += 1,
                None => found.gates.push((hit.gate, 1)),
            }
        }
    }
    found.gates.sort_unstable_by_key(|(gate, _)| *gate);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_of_known_sets() {
        assert_eq!(auc(&[3.0, 4.0], &[1.0, 2.0]), Some(1.0));
        assert_eq!(auc(&[1.0, 2.0], &[3.0, 4.0]), Some(0.0));
        assert_eq!(auc(&[1.0, 1.0], &[1.0]), Some(0.5));
        // Pairs won: 2 > 1, 2 = 2 half, 5 > 1, 5 > 2.
        assert_eq!(auc(&[2.0, 5.0], &[1.0, 2.0]), Some(3.5 / 4.0));
        assert_eq!(auc(&[], &[1.0]), None);
    }

    #[test]
    fn the_seeds_of_thresholds_and_report_are_disjoint() {
        let reach = |split: Split| {
            let (first, last) = (split.seed(0), split.seed(Split::MAX_SEEDS - 1));
            [(first, last), (first + OTHER, last + OTHER)]
        };
        for a in reach(Split::Thresholds) {
            for b in reach(Split::Report) {
                assert!(a.1 < b.0 || b.1 < a.0, "{a:?} and {b:?}");
            }
        }
        // Generators mix kinds into seeds by multiples of 64.
        assert!(Kind::ALL.len() < 64);
    }
}

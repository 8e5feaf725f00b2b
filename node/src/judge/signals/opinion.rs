//! The local judge that has no weights: signals and gates alone.
//!
//! It gives ceilings, not scores. Signals can prove damage, they cannot prove quality; so this judge can
//! say that a clip must fail, and otherwise abstains. It never passes a clip.

use super::gates::{
    Circumstances, GateHit, GateId, asks_for_stillness, ceiling, evaluate, too_short,
};
use super::thresholds::Thresholds;
use super::{Signals, SignalsError, measure_while};
use crate::judge::clip::Clip;
use crate::judge::rubric::{Dimension, Rules, Scores};

/// What signals alone say about a clip.
#[derive(Debug, Clone, PartialEq)]
pub struct SignalsOpinion {
    /// For each dimension of [`Dimension::ALL`] the most points it can have: 100 where signals looked and
    /// found nothing, `None` where signals cannot look.
    pub ceilings: [Option<u8>; 6],
    /// `Some(false)` when the ceilings rule a pass out; `None` otherwise. Never `Some(true)`.
    pub pass: Option<bool>,
    /// What was found, which dimensions were not looked at, and that this is no learned judge.
    pub statement: String,
}

/// All that signals have to say about a clip.
#[derive(Debug, Clone, PartialEq)]
pub struct Assessment {
    /// The measurements; `None` for a clip that is no clip.
    pub signals: Option<Signals>,
    /// The gates that closed.
    pub hits: Vec<GateHit>,
    /// What follows.
    pub opinion: SignalsOpinion,
}

/// Measures a clip, looks at the gates and forms an opinion.
///
/// `dino_first` is the DINOv2 cosine of the conditioning image and frame 0, where there is one; `go_on` is asked before
/// every frame.
///
/// # Errors
/// [`SignalsError`] for clips that cannot be measured; see its `fault`.
pub fn assess(
    clip: &Clip<'_>,
    prompt: &str,
    dino_first: Option<f64>,
    limits: &Thresholds,
    rules: &Rules,
    go_on: &dyn Fn() -> bool,
) -> Result<Assessment, SignalsError> {
    let signals = measure_while(clip, go_on)?;
    let known = Circumstances {
        still_is_asked_for: asks_for_stillness(prompt),
        dino_first,
    };
    let hits = evaluate(&signals, &known, limits);
    Ok(Assessment {
        opinion: opinion(&hits, rules),
        signals: Some(signals),
        hits,
    })
}

/// The assessment of a file that is no clip, for errors that are the clip's own fault.
pub fn assess_no_clip(reason: &str, rules: &Rules) -> Assessment {
    let mut sentence = reason.to_owned();
    if !sentence.ends_with('.') {
        sentence.push('.');
    }
    let hits = vec![too_short(sentence)];
    Assessment {
        opinion: opinion(&hits, rules),
        signals: None,
        hits,
    }
}

/// Whether signals can find anything wrong with a dimension.
pub fn can_speak_about(dimension: Dimension) -> bool {
    GateId::ALL
        .into_iter()
        .flat_map(GateId::caps)
        .any(|(capped, _)| *capped == dimension)
}

/// The opinion that follows from the gates that closed.
pub fn opinion(hits: &[GateHit], rules: &Rules) -> SignalsOpinion {
    let hard = hits.iter().any(|hit| hit.gate.is_hard_fail());
    let ceilings = Dimension::ALL.map(|dimension| {
        let looked = hard || can_speak_about(dimension);
        looked.then(|| ceiling(hits, dimension).unwrap_or(100))
    });
    // The best that is still possible: what cannot be seen is taken to be perfect.
    let most = Scores::new(ceilings.map(|ceiling| ceiling.unwrap_or(100)));
    let fails = !rules.passes(most.weighted(), &most);
    SignalsOpinion {
        ceilings,
        pass: fails.then_some(false),
        statement: statement(hits, &ceilings, fails),
    }
}

fn statement(hits: &[GateHit], ceilings: &[Option<u8>; 6], fails: bool) -> String {
    let silent: Vec<&str> = Dimension::ALL
        .into_iter()
        .zip(ceilings)
        .filter(|(_, ceiling)| ceiling.is_none())
        .map(|(dimension, _)| dimension.key())
        .collect();
    let mut text = String::from(
        "Signals only, no learned judge: upper bounds from measurements of damage, not scores.",
    );
    if !silent.is_empty() {
        text.push_str(" Not looked at: ");
        text.push_str(&silent.join(", "));
        text.push('.');
    }
    for hit in hits {
        for part in [" ", hit.gate.key(), ": ", &hit.reason] {
            text.push_str(part);
        }
    }
    text.push_str(match (fails, hits.is_empty()) {
        (true, _) => " These bounds rule a pass out.",
        (false, true) => " No damage found; that is not a pass.",
        (false, false) => " A pass is still possible; signals cannot decide it.",
    });
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::media::RgbImage8;

    fn hit(gate: GateId) -> GateHit {
        GateHit {
            gate,
            reason: "Reason.".into(),
        }
    }

    #[test]
    fn it_abstains_or_rejects_and_never_passes() {
        let clean = opinion(&[], &Rules::default());
        assert_eq!(clean.pass, None);
        assert!(clean.statement.contains("no learned judge"));
        assert!(clean.statement.contains("not a pass"));
        // A critical ceiling under 50.
        let cut = opinion(&[hit(GateId::Cut)], &Rules::default());
        assert_eq!(cut.pass, Some(false));
        assert!(cut.statement.contains("G_cut: Reason."));
        // 25 + 25 + 12 + 3 + 10 + 5 = 80: still possible.
        assert_eq!(
            opinion(&[hit(GateId::Freeze)], &Rules::default()).pass,
            None
        );
        for gate in GateId::ALL {
            assert_ne!(opinion(&[hit(gate)], &Rules::default()).pass, Some(true));
        }
    }

    #[test]
    fn what_cannot_be_seen_is_none_and_named() {
        let clean = opinion(&[], &Rules::default());
        for (dimension, ceiling) in Dimension::ALL.into_iter().zip(clean.ceilings) {
            match dimension {
                Dimension::PromptAdherence
                | Dimension::VisualQuality
                | Dimension::CameraComposition => {
                    assert_eq!(ceiling, None);
                    assert!(clean.statement.contains(dimension.key()));
                }
                _ => assert_eq!(ceiling, Some(100)),
            }
        }
    }

    #[test]
    fn a_clip_is_assessed_with_its_prompt() {
        let grey = |x: usize| [(40 + 150 * (x / 7 % 2)) as u8; 3];
        let data = (0..64 * 48).flat_map(|at| grey(at % 64)).collect();
        let frame = RgbImage8::new(64, 48, data).unwrap();
        let frames = vec![frame.clone(); 9];
        let clip = Clip {
            frames: &frames,
            fps: 16.0,
            first: &frame,
        };
        let of = |prompt: &str| {
            let (limits, rules) = (Thresholds::V1, Rules::default());
            assess(&clip, prompt, None, &limits, &rules, &|| true).unwrap()
        };
        let frozen = of("a dog runs");
        assert_eq!(frozen.hits[0].gate, GateId::Freeze);
        assert_eq!(frozen.opinion.ceilings[2], Some(20));
        assert!(of("a still life of pears").hits.is_empty());
        let none = assess_no_clip("a.mp4: the video has no frame", &Rules::default());
        assert_eq!(none.opinion.pass, Some(false));
        assert!(none.opinion.statement.contains("has no frame."));
    }

    #[test]
    fn an_undecodable_clip_has_zeros_everywhere() {
        let short = opinion(&[hit(GateId::Short)], &Rules::default());
        assert_eq!(short.ceilings, [Some(0); 6]);
        assert_eq!(short.pass, Some(false));
    }
}

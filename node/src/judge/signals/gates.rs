//! Gates: signals that cap a dimension of the *local* verdict, or only flag the clip.
//!
//! A gate can lower, never raise: [`cap`] is a minimum. A remote verdict is never edited by a gate; where
//! both disagree, the disagreement is what gets logged.

pub use super::stillness::asks_for_stillness;
use super::thresholds::Thresholds;
use super::{SignalId, Signals};
use crate::judge::rubric::Dimension;

/// A gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GateId {
    /// The clip is too short, has the wrong size or cannot be decoded: a fail without any judge.
    Short,
    /// Most of the clip does not change.
    Freeze,
    /// Frame 0 is not the conditioning image.
    First,
    /// The conditioning image was pasted before another clip.
    Paste,
    /// A cut.
    Cut,
    /// Brightness flickers.
    Flicker,
    /// A still picture with a zoom.
    StillZoom,
    /// Writing laid over the clip.
    Overlay,
    /// Much less sharp than the conditioning image.
    Blur,
    /// Blocks of a codec.
    Block,
    /// Frames out of order.
    Order,
    /// Frame 0 has a colour cast.
    Cast,
    /// The tail behaves differently.
    Tail,
}

impl GateId {
    /// Every gate, in the order in which they are evaluated.
    pub const ALL: [Self; 13] = [
        Self::Short,
        Self::Freeze,
        Self::First,
        Self::Paste,
        Self::Cut,
        Self::Flicker,
        Self::StillZoom,
        Self::Overlay,
        Self::Blur,
        Self::Block,
        Self::Order,
        Self::Cast,
        Self::Tail,
    ];

    /// Spelling in records and tables.
    pub fn key(self) -> &'static str {
        match self {
            Self::Short => "G_short",
            Self::Freeze => "G_freeze",
            Self::First => "G_first",
            Self::Paste => "G_paste",
            Self::Cut => "G_cut",
            Self::Flicker => "G_flicker",
            Self::StillZoom => "G_still_zoom",
            Self::Overlay => "G_overlay",
            Self::Blur => "G_blur",
            Self::Block => "G_block",
            Self::Order => "G_order",
            Self::Cast => "G_cast",
            Self::Tail => "G_tail",
        }
    }

    /// When it closes, with the limits of a table.
    pub fn condition(self, limits: &Thresholds) -> String {
        let Thresholds {
            freeze_share,
            ff_align,
            ff_align_smooth,
            ff_corr,
            dino_first,
            first_jump,
            ff_min4,
            scene,
            histmax,
            ..
        } = limits;
        match self {
            Self::Short => "cannot be decoded, too few frames, wrong size".into(),
            Self::Freeze => {
                format!("freeze_share > {freeze_share}, and the prompt asks for no still scene")
            }
            Self::First => {
                format!(
                    "ff_align < {ff_align}, or ff_align < {ff_align_smooth} and ff_corr < {ff_corr}; and dino_first \
                     < {dino_first} where known"
                )
            }
            Self::Paste => format!("first_jump > {first_jump} and ff_min4 < {ff_min4}"),
            Self::Cut => format!("scene > {scene} or histmax > {histmax}"),
            Self::Flicker => format!("luma_hf > {}", limits.luma_hf),
            Self::StillZoom => format!("still_zoom > {}", limits.still_zoom),
            Self::Overlay => format!("overlay > {}", limits.overlay),
            Self::Blur => format!("lap_rel < {}", limits.lap_rel),
            Self::Block => format!("block > {}", limits.block),
            Self::Order => format!("order > {}", limits.order),
            Self::Cast => format!("ff_chroma > {}", limits.ff_chroma),
            Self::Tail => format!("tail_gap > {}", limits.tail_gap),
        }
    }

    /// The most points each dimension may keep. Gates without a cap only flag.
    pub fn caps(self) -> &'static [(Dimension, u8)] {
        match self {
            Self::Freeze => &[
                (Dimension::MotionQuality, 20),
                (Dimension::TemporalConsistency, 60),
            ],
            Self::First => &[(Dimension::FirstFrameFidelity, 40)],
            Self::Paste => &[(Dimension::FirstFrameFidelity, 30)],
            Self::Cut | Self::Flicker => &[(Dimension::TemporalConsistency, 45)],
            Self::StillZoom => &[(Dimension::MotionQuality, 35)],
            Self::Short
            | Self::Overlay
            | Self::Blur
            | Self::Block
            | Self::Order
            | Self::Cast
            | Self::Tail => &[],
        }
    }

    /// Whether the clip is marked for a second look.
    pub fn flags(self) -> bool {
        !matches!(self, Self::Freeze | Self::First | Self::Cut | Self::Flicker)
    }

    /// The clip fails without any judge being asked.
    pub fn is_hard_fail(self) -> bool {
        self == Self::Short
    }
}

/// A gate that closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateHit {
    /// Which.
    pub gate: GateId,
    /// Why, in one plain sentence with the numbers.
    pub reason: String,
}

/// What is known beside the signals.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Circumstances {
    /// The prompt asks for a scene that does not move, see [`asks_for_stillness`].
    pub still_is_asked_for: bool,
    /// DINOv2 cosine of the conditioning image and frame 0, where a DINOv2 is at hand.
    pub dino_first: Option<f64>,
}

/// Every gate that closes on these signals; a signal that is missing closes none.
///
/// [`GateId::Short`] is not among them: a clip that has signals is long enough to be judged.
/// [`crate::judge::clip::ClipError`] and [`too_short`] say when it closes.
pub fn evaluate(signals: &Signals, known: &Circumstances, limits: &Thresholds) -> Vec<GateHit> {
    let mut hits = Vec::new();
    let mut hit = |gate: GateId, reason: String| hits.push(GateHit { gate, reason });
    let value = |id: SignalId| signals.get(id);
    let above = |id: SignalId, limit: f64| value(id).filter(|v| *v > limit);
    let below = |id: SignalId, limit: f64| value(id).filter(|v| *v < limit);

    if let Some(share) = above(SignalId::FreezeShare, limits.freeze_share)
        && !known.still_is_asked_for
    {
        let seconds = value(SignalId::FreezeRun).unwrap_or_default();
        hit(
            GateId::Freeze,
            format!(
                "Nothing changes for {seconds:.2} s, {:.0} % of the clip (limit {:.0} %).",
                100.0 * share,
                100.0 * limits.freeze_share
            ),
        );
    }
    if let Some(align) = below(SignalId::FfAlign, limits.ff_align_smooth) {
        let unlike = below(SignalId::FfCorr, limits.ff_corr);
        let why = if align < limits.ff_align {
            Some(format!("limit {:.2}", limits.ff_align))
        } else {
            unlike.map(|corr| {
                format!(
                    "limit {:.2} with a correlation of {corr:.2}, limit {:.2}",
                    limits.ff_align_smooth, limits.ff_corr
                )
            })
        };
        let overruled = known.dino_first.is_some_and(|v| v >= limits.dino_first);
        if let Some(why) = why.filter(|_| !overruled) {
            hit(
                GateId::First,
                format!(
                    "Frame 0 does not look like the conditioning image under any small shift or zoom \
                     (similarity {align:.2}, {why})."
                ),
            );
        }
    }
    if let (Some(jump), Some(min4)) = (
        above(SignalId::FirstJump, limits.first_jump),
        below(SignalId::FfMin4, limits.ff_min4),
    ) {
        hit(
            GateId::Paste,
            format!(
                "The clip leaves the conditioning image at once: the first step is {jump:.1} times the usual \
                 one (limit {:.1}) and similarity falls to {min4:.2} within four frames (limit {:.2}).",
                limits.first_jump, limits.ff_min4
            ),
        );
    }
    let cut = above(SignalId::Scene, limits.scene)
        .map(|v| format!("scene score {v:.2}, limit {:.2}", limits.scene))
        .or_else(|| {
            above(SignalId::Histmax, limits.histmax)
                .map(|v| format!("colour change {v:.2}, limit {:.2}", limits.histmax))
        });
    if let Some(why) = cut {
        hit(
            GateId::Cut,
            format!("Two neighbouring frames differ as at a cut ({why})."),
        );
    }
    if let Some(flicker) = above(SignalId::LumaHf, limits.luma_hf) {
        hit(
            GateId::Flicker,
            format!(
                "The brightness of the whole picture jumps back and forth by {flicker:.1} levels per frame \
                 (limit {:.1}).",
                limits.luma_hf
            ),
        );
    }
    if let Some(share) = above(SignalId::StillZoom, limits.still_zoom) {
        hit(
            GateId::StillZoom,
            format!(
                "Frame 0, moved as a flat picture, explains {:.1} % of every frame (limit {:.0} %): a zoom \
                 over a still.",
                100.0 * share,
                100.0 * limits.still_zoom
            ),
        );
    }
    if let Some(share) = above(SignalId::Overlay, limits.overlay) {
        hit(
            GateId::Overlay,
            format!(
                "Sharp edges that never move and are not in the conditioning image cover {:.1} % of the \
                 picture (limit {:.1} %): writing or a logo.",
                100.0 * share,
                100.0 * limits.overlay
            ),
        );
    }
    if let Some(sharpness) = below(SignalId::LapRel, limits.lap_rel) {
        hit(
            GateId::Blur,
            format!(
                "The clip has {:.1} % of the fine detail of the conditioning image (limit {:.0} %).",
                100.0 * sharpness,
                100.0 * limits.lap_rel
            ),
        );
    }
    if let Some(block) = above(SignalId::Block, limits.block) {
        hit(
            GateId::Block,
            format!(
                "Differences at multiples of eight pixels are {block:.2} times the others (limit {:.2}): \
                 blocks of a codec.",
                limits.block
            ),
        );
    }
    if let Some(share) = above(SignalId::Order, limits.order) {
        hit(
            GateId::Order,
            format!(
                "{:.0} % of what changes from frame to frame is undone by the frame after (limit {:.0} %): the \
                 order seems wrong.",
                100.0 * share,
                100.0 * limits.order
            ),
        );
    }
    if let Some(cast) = above(SignalId::FfChroma, limits.ff_chroma) {
        hit(
            GateId::Cast,
            format!(
                "The mean colour of frame 0 is {cast:.1} Lab units off the conditioning image (limit {:.1}).",
                limits.ff_chroma
            ),
        );
    }
    if let Some(gap) = above(SignalId::TailGap, limits.tail_gap) {
        hit(
            GateId::Tail,
            format!(
                "After 4 s, where the remote judge sees nothing, the clip behaves differently: a temporal \
                 signal changes by {gap:.1} times its value (limit {:.1}).",
                limits.tail_gap
            ),
        );
    }
    hits
}

/// The hit of a clip that is no clip, in the words of what was found.
pub fn too_short(reason: impl Into<String>) -> GateHit {
    GateHit {
        gate: GateId::Short,
        reason: reason.into(),
    }
}

/// The most points `dimension` may keep after these hits; `None` when nothing caps it.
pub fn ceiling(hits: &[GateHit], dimension: Dimension) -> Option<u8> {
    if hits.iter().any(|hit| hit.gate.is_hard_fail()) {
        return Some(0);
    }
    hits.iter()
        .flat_map(|hit| hit.gate.caps())
        .filter(|(capped, _)| *capped == dimension)
        .map(|(_, points)| *points)
        .min()
}

/// A local score after the gates: the score or its ceiling, whichever is lower.
pub fn cap(hits: &[GateHit], dimension: Dimension, score: u8) -> u8 {
    ceiling(hits, dimension).map_or(score, |most| score.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(values: &[(SignalId, f64)], known: Circumstances) -> Vec<GateId> {
        let signals = Signals::from_values(values.iter().copied());
        let found = evaluate(&signals, &known, &Thresholds::V1);
        for hit in &found {
            assert!(hit.reason.ends_with('.'), "{}", hit.reason);
        }
        found.into_iter().map(|hit| hit.gate).collect()
    }

    #[test]
    fn each_gate_closes_just_beyond_its_limit_and_not_at_it() {
        let t = Thresholds::V1;
        let nothing = Circumstances::default();
        let over = [
            (SignalId::FreezeShare, t.freeze_share, GateId::Freeze),
            (SignalId::Scene, t.scene, GateId::Cut),
            (SignalId::Histmax, t.histmax, GateId::Cut),
            (SignalId::LumaHf, t.luma_hf, GateId::Flicker),
            (SignalId::StillZoom, t.still_zoom, GateId::StillZoom),
            (SignalId::Overlay, t.overlay, GateId::Overlay),
            (SignalId::Block, t.block, GateId::Block),
            (SignalId::Order, t.order, GateId::Order),
            (SignalId::FfChroma, t.ff_chroma, GateId::Cast),
            (SignalId::TailGap, t.tail_gap, GateId::Tail),
        ];
        for (id, limit, gate) in over {
            assert_eq!(hits(&[(id, limit)], nothing), [], "{}", id.key());
            assert_eq!(hits(&[(id, limit + 1e-6)], nothing), [gate], "{}", id.key());
        }
        for (id, limit, gate) in [
            (SignalId::FfAlign, t.ff_align, GateId::First),
            (SignalId::LapRel, t.lap_rel, GateId::Blur),
        ] {
            assert_eq!(hits(&[(id, limit)], nothing), [], "{}", id.key());
            assert_eq!(hits(&[(id, limit - 1e-6)], nothing), [gate], "{}", id.key());
        }
    }

    #[test]
    fn gates_of_two_signals_need_both() {
        let nothing = Circumstances::default();
        assert_eq!(hits(&[(SignalId::FirstJump, 9.0)], nothing), []);
        assert_eq!(
            hits(
                &[(SignalId::FirstJump, 9.0), (SignalId::FfMin4, 0.9)],
                nothing
            ),
            []
        );
        assert_eq!(
            hits(
                &[(SignalId::FirstJump, 9.0), (SignalId::FfMin4, 0.1)],
                nothing
            ),
            [GateId::Paste]
        );
        // A smooth picture: similar by its smoothness, but not by what it shows.
        assert_eq!(hits(&[(SignalId::FfAlign, 0.7)], nothing), []);
        assert_eq!(hits(&[(SignalId::FfCorr, 0.1)], nothing), []);
        let smooth = |align| [(SignalId::FfAlign, align), (SignalId::FfCorr, 0.1)];
        assert_eq!(hits(&smooth(0.7), nothing), [GateId::First]);
        assert_eq!(hits(&smooth(0.9), nothing), []);
        let dino = |v| Circumstances {
            dino_first: Some(v),
            ..nothing
        };
        assert_eq!(hits(&[(SignalId::FfAlign, 0.1)], dino(0.7)), []);
        assert_eq!(
            hits(&[(SignalId::FfAlign, 0.1)], dino(0.5)),
            [GateId::First]
        );
    }

    #[test]
    fn a_still_that_was_asked_for_is_no_freeze() {
        let asked = Circumstances {
            still_is_asked_for: asks_for_stillness("A Still Life with pears, nothing moves"),
            ..Circumstances::default()
        };
        assert_eq!(hits(&[(SignalId::FreezeShare, 1.0)], asked), []);
    }

    #[test]
    fn gates_never_raise_a_score() {
        let all: Vec<GateHit> = GateId::ALL
            .into_iter()
            .map(|gate| GateHit {
                gate,
                reason: String::new(),
            })
            .collect();
        for chosen in 0u32..1 << GateId::ALL.len() {
            let hits: Vec<GateHit> = all
                .iter()
                .enumerate()
                .filter(|(i, _)| chosen >> i & 1 == 1)
                .map(|(_, hit)| hit.clone())
                .collect();
            for dimension in Dimension::ALL {
                for score in [0, 44, 60, 100] {
                    assert!(cap(&hits, dimension, score) <= score);
                }
            }
        }
        assert_eq!(cap(&[], Dimension::MotionQuality, 77), 77);
        assert_eq!(
            cap(&all[1..], Dimension::FirstFrameFidelity, 77),
            30,
            "the lowest cap holds"
        );
        assert_eq!(cap(&[too_short("x")], Dimension::VisualQuality, 77), 0);
    }
}

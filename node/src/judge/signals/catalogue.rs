//! The names of the signals, with what each computes and what it cannot see.
//!
//! The table is code so that `judge bench`, the evidence of a verdict and the documentation cannot drift
//! apart. Notation: G_t luma of frame t (BT.601, 0 to 255, 256 px short side by area, never enlarged),
//! H_t the same at half that size, C the conditioning image at the size of G, D_t = mean |G_{t+1} − G_t|,
//! F the optical flow from one H to another.

use std::fmt::Write as _;

/// One number measured on a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SignalId {
    /// Similarity of the conditioning image and frame 0.
    FfSsim,
    /// The same under the best small shift and scale.
    FfAlign,
    /// Correlation of the conditioning image and frame 0, coarse.
    FfCorr,
    /// Peak signal-to-noise ratio of frame 0.
    FfPsnr,
    /// Colour cast of frame 0.
    FfChroma,
    /// The worst of the first four frames.
    FfMin4,
    /// How far the first step stands out.
    FirstJump,
    /// `temporal_flickering` of VBench.
    FlickVb,
    /// Flicker of the mean brightness.
    LumaHf,
    /// Share of repeated frames.
    Dup,
    /// Longest run of frozen frames, as a share of the clip.
    FreezeShare,
    /// The same run in seconds.
    FreezeRun,
    /// Second difference against first.
    Jerk,
    /// Frames nearer to the next but one than to the next.
    Order,
    /// Error of a frame predicted along the flow.
    Warp,
    /// Error of a frame interpolated from its neighbours.
    Mid,
    /// Length of the fastest motion.
    Mag,
    /// FFmpeg's scene score.
    Scene,
    /// Largest change of the colour histogram.
    Histmax,
    /// Sharpness against the conditioning image.
    LapRel,
    /// Differences at multiples of eight pixels.
    Block,
    /// Share of area with writing-like edges that never move.
    Overlay,
    /// How well frame 0, moved as a plane, explains the whole clip.
    StillZoom,
    /// Largest gap between the seconds the remote judge sees and the tail it does not.
    TailGap,
}

/// What is said about a signal in tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// How it is computed.
    pub formula: &'static str,
    /// What it is for.
    pub meant_for: &'static str,
    /// What it is blind to, or fails on.
    pub fails_on: &'static str,
}

/// Names and descriptions as Markdown.
pub fn description_table(signals: impl Iterator<Item = (&'static str, Description)>) -> String {
    let mut text = String::from("| signal | formula | meant for | fails on |\n|---|---|---|---|\n");
    for (key, about) in signals {
        // A bar would end the cell.
        let formula = about.formula.replace('|', "\\|");
        let _ = writeln!(
            text,
            "| `{key}` | {formula} | {} | {} |",
            about.meant_for, about.fails_on
        );
    }
    text
}

impl SignalId {
    /// Every signal, in the order of tables.
    pub const ALL: [Self; 24] = [
        Self::FfSsim,
        Self::FfAlign,
        Self::FfCorr,
        Self::FfPsnr,
        Self::FfChroma,
        Self::FfMin4,
        Self::FirstJump,
        Self::FlickVb,
        Self::LumaHf,
        Self::Dup,
        Self::FreezeShare,
        Self::FreezeRun,
        Self::Jerk,
        Self::Order,
        Self::Warp,
        Self::Mid,
        Self::Mag,
        Self::Scene,
        Self::Histmax,
        Self::LapRel,
        Self::Block,
        Self::Overlay,
        Self::StillZoom,
        Self::TailGap,
    ];

    /// Spelling in records and tables.
    pub fn key(self) -> &'static str {
        match self {
            Self::FfSsim => "ff_ssim",
            Self::FfAlign => "ff_align",
            Self::FfCorr => "ff_corr",
            Self::FfPsnr => "ff_psnr",
            Self::FfChroma => "ff_chroma",
            Self::FfMin4 => "ff_min4",
            Self::FirstJump => "first_jump",
            Self::FlickVb => "flick_vb",
            Self::LumaHf => "luma_hf",
            Self::Dup => "dup",
            Self::FreezeShare => "freeze_share",
            Self::FreezeRun => "freeze_run",
            Self::Jerk => "jerk",
            Self::Order => "order",
            Self::Warp => "warp",
            Self::Mid => "mid",
            Self::Mag => "mag",
            Self::Scene => "scene",
            Self::Histmax => "histmax",
            Self::LapRel => "lap_rel",
            Self::Block => "block",
            Self::Overlay => "overlay",
            Self::StillZoom => "still_zoom",
            Self::TailGap => "tail_gap",
        }
    }

    /// The signal of that spelling.
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|id| id.key() == key)
    }

    /// Formula, purpose and failure.
    pub fn describe(self) -> Description {
        let (formula, meant_for, fails_on) = match self {
            Self::FfSsim => (
                "mean SSIM of C and G_0 (Gaussian 11x11, sigma 1.5, C1 6.5025, C2 58.5225)",
                "a wrong first frame",
                "crops and shifts lower it; a pasted first frame does not; colours are not seen",
            ),
            Self::FfAlign => (
                "largest ff_ssim over shifts to 4 % and scales 0.95 to 1.05, the best one refined",
                "telling a crop or a small zoom from another picture",
                "a pasted first frame; larger zooms look like another picture",
            ),
            Self::FfCorr => (
                "Pearson correlation of C and G_0, both reduced to a short side of 32 px",
                "another picture that is so smooth that its SSIM is high",
                "crops lower it; other pictures with the same layout of light keep it high",
            ),
            Self::FfPsnr => (
                "10 log10(255^2 / mean (C - G_0)^2), at most 100",
                "compression of the first frame",
                "collapses at shifts of a pixel",
            ),
            Self::FfChroma => (
                "L1 distance of the mean (a, b) in CIE Lab, conditioning image against frame 0",
                "colour casts, which SSIM on luma does not see",
                "recolouring of a small area; two casts that cancel",
            ),
            Self::FfMin4 => (
                "smallest SSIM of C and G_0 to G_3",
                "a conditioning image pasted before another clip",
                "fast motion lowers it as well",
            ),
            Self::FirstJump => (
                "D_0 / (median of D_1 to D_12 + 0.25)",
                "a conditioning image pasted before another clip",
                "a real cut after frame 0; hidden by clips that jump all the time",
            ),
            Self::FlickVb => (
                "1 - mean D_t / 255 (VBench temporal_flickering)",
                "comparison with published tables only",
                "a frozen clip scores a perfect 1 and blur raises it: never evidence of quality",
            ),
            Self::LumaHf => (
                "mean |m_{t-1} - 2 m_t + m_{t+1}|, m_t the mean of G_t",
                "flicker of the whole picture",
                "flicker that cancels over the picture; real strobes and flashes look the same",
            ),
            Self::Dup => (
                "share of pairs with D_t < 0.5 and no 16x16 block of G above 2.0",
                "frozen, padded and repeated frames; a small moving thing is enough not to be repeated",
                "a real shot in which nothing moves counts as repeated; strong grain hides repeats",
            ),
            Self::FreezeShare => (
                "longest run of the pairs that dup counts, single breaks with D_t < 2 between three and three bridged, over all \
                 pairs",
                "frozen stretches",
                "as dup",
            ),
            Self::FreezeRun => (
                "the run of freeze_share in seconds",
                "reading beside freeze_share",
                "as dup",
            ),
            Self::Jerk => (
                "mean over t of mean |G_{t-1} - 2 G_t + G_{t+1}| / (D_t + 0.5)",
                "shuffled and incoherent frames",
                "fast textures, fast pans and grain reach the same values",
            ),
            Self::Order => (
                "sum of max(0, d(t, t+1) - d(t, t+2) - 0.03) / sum of (d(t, t+1) + 0.03), d(s, t) = mean |K_s - \
                 K_t|, K luma at 32 px",
                "shuffled frames, also under fast motion",
                "shuffles inside a static shot; vibration with a period of two frames",
            ),
            Self::Warp => (
                "mean |H_t - H_{t+1} moved by F| where |F + B|^2 < 0.01 (|F|^2 + |B|^2) + 0.5, B the flow \
                 back; over all pixels when under 30 % agree",
                "flicker and morphing",
                "falls for blur, freezes and zooms of a still; high on water and smoke",
            ),
            Self::Mid => (
                "mean |H_{t+1} - (H_t moved by F/2 + H_{t+2} moved back by F/2) / 2|, F from t to t+2",
                "smoothness of motion",
                "occlusion, fast turns; falls for blur, freezes and zooms of a still",
            ),
            Self::Mag => (
                "mean over pairs of the mean of the fastest 5 % of F, a rim of 5 % left out, in px of G",
                "how much moves",
                "a shaken camera counts as motion; grain on flat areas adds some",
            ),
            Self::Scene => (
                "max over t of min(D_t, |D_t - D_{t-1}|) / 100 (FFmpeg's scene score)",
                "hard cuts",
                "dissolves; flashes look like cuts",
            ),
            Self::Histmax => (
                "max over t of half the L1 distance of 8x8x8 RGB histograms of neighbours",
                "cuts, and dissolves in part",
                "cuts between scenes of one palette; flashes look like cuts",
            ),
            Self::LapRel => (
                "median var(Laplacian G_t) / var(Laplacian C)",
                "blur against the conditioning image",
                "noise raises it; motion blur of a real fast pan lowers it",
            ),
            Self::Block => (
                "median over frames of mean horizontal difference at multiples of 8 px / at the others, \
                 native size",
                "JPEG blocks, starved codecs",
                "only blocks aligned with the picture; anything that was resized afterwards",
            ),
            Self::Overlay => (
                "share of G with edges above 24 that keep direction in 85 % of 24 frames and that C lacks \
                 or has in another direction",
                "writing and logos pasted over the clip",
                "writing that C has too; a static clip whose first frame is wrong; moving writing",
            ),
            Self::StillZoom => (
                "smallest share of a frame that frame 0 explains after an affine map, the area outside \
                 frame 0 counted as unexplained; 0 unless the map moves the corners by 2 % of the short side \
                 and explains 2 points more than no map",
                "a still picture with a zoom laid over it",
                "a true zoom over a flat still scene looks the same; zooming out is not seen",
            ),
            Self::TailGap => (
                "largest |mean after 4 s - mean before| / (0.25 + the smaller) of D, luma_hf, jerk, warp, \
                 mid and mag; absent for clips under 4.25 s",
                "tricks in the part the remote judge is not shown",
                "a clip whose action really changes after 4 s",
            ),
        };
        Description {
            formula,
            meant_for,
            fails_on,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_is_listed_once_and_found_by_its_name() {
        for (index, id) in SignalId::ALL.into_iter().enumerate() {
            // The position in the list is the position in `Signals`.
            assert_eq!(id as usize, index, "{}", id.key());
            assert_eq!(SignalId::from_key(id.key()), Some(id));
            assert!(!id.describe().fails_on.is_empty());
        }
        assert_eq!(SignalId::from_key("none"), None);
    }
}

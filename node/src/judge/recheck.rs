//! Scoring once more, with what could deceive a judge taken away.
//!
//! The frames come from whoever is judged. A score that rests on writing at the border, or on a clip that is good
//! exactly where the frames are taken, falls when the border is cut off or the frames are taken elsewhere; a score
//! that rests on the clip does not. So a verdict of a local judge is checked this way when there is writing over the
//! clip, which is then blurred, too, when it passed by a hair, and at random. A fall by more than 12 points is put on
//! record as a suspicion. It changes no score and no decision: a border can also hold what the prompt asks for.

mod blur;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::canonical::sha256;
use super::clip::Clip;
use super::input::JudgeInput;
use super::profile::Configuration;
use super::side::Judge;
use super::signals::writing::Writing;
use super::verdict::{Outcome, Verdict};
use crate::media::{MediaError, RgbImage8, encode_png};

/// A pass by at most so many points is checked.
const BY_A_HAIR: u8 = 3;
/// Share of all clips that is checked, whatever their verdict.
const AT_RANDOM: f64 = 0.02;
/// A fall by more points than this is a suspicion.
const SUSPICIOUS: u8 = 12;
/// Share of each side that is cut off, in hundredths.
const BORDER_PERCENT: usize = 8;
/// Frames per second that are shown; between two of them there is room for another phase.
const SHOWN_PER_SECOND: u32 = 3;

/// Why a verdict is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// There is writing over the clip that is not in the conditioning frame.
    Writing,
    /// It passed by a hair.
    NearTheLine,
    /// By the clip's digest.
    AtRandom,
}

/// What is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// The border is cut off, of the conditioning frame as well.
    Cropped,
    /// The clip begins a few frames later, so that other frames are taken.
    OtherPhase,
    /// The writing over the clip is blurred.
    Blurred,
}

impl Variant {
    /// What is changed for these reasons.
    fn of(why: &[Why]) -> impl Iterator<Item = Self> {
        let written = why.contains(&Why::Writing).then_some(Self::Blurred);
        [Self::Cropped, Self::OtherPhase].into_iter().chain(written)
    }
}

/// A local judge whose verdicts are checked.
pub struct Rechecked {
    judge: Arc<dyn Judge>,
}

impl std::fmt::Debug for Rechecked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rechecked")
            .field("judge", &self.judge.id())
            .finish()
    }
}

impl Rechecked {
    /// Checks the verdicts of `judge`.
    pub fn new(judge: Arc<dyn Judge>) -> Self {
        Self { judge }
    }

    fn check(&self, input: &JudgeInput, verdict: &mut Verdict, left: Duration, took: Duration) {
        let why = reasons(input, verdict, self.judge.configuration());
        if why.is_empty() {
            return;
        }
        let start = Instant::now();
        let mut found = Vec::new();
        let mut suspicious = false;
        for variant in Variant::of(&why) {
            let left = left.saturating_sub(start.elapsed());
            // The verdict is there already; it must not be lost to its own check.
            if left < took.mul_f64(1.5) {
                found.push(
                    json!({"variant": variant, "skipped": "no time is left before the deadline"}),
                );
                continue;
            }
            let outcome = changed(input, variant).map(|input| self.judge.judge(&input, left));
            found.push(match outcome {
                Ok(Outcome::Verdict(again)) => {
                    let fall = verdict.overall.saturating_sub(again.overall);
                    if fall > SUSPICIOUS {
                        suspicious = true;
                        verdict.issues.push(suspicion(variant, fall));
                    }
                    json!({"variant": variant, "overall": again.overall, "scores": again.scores, "fall": fall})
                }
                Ok(Outcome::NoVerdict(none)) => json!({"variant": variant, "skipped": none.to_string()}),
                Err(why) => json!({"variant": variant, "skipped": why}),
            });
        }
        let recheck = json!({"why": why, "variants": found, "suspicious": suspicious});
        verdict.note("recheck", recheck);
    }
}

impl Judge for Rechecked {
    fn id(&self) -> &str {
        self.judge.id()
    }

    fn configuration(&self) -> &Configuration {
        self.judge.configuration()
    }

    fn judge(&self, input: &JudgeInput, within: Duration) -> Outcome {
        let start = Instant::now();
        let mut outcome = self.judge.judge(input, within);
        if let Outcome::Verdict(verdict) = &mut outcome {
            let took = start.elapsed();
            self.check(input, verdict, within.saturating_sub(took), took);
        }
        outcome
    }
}

/// Why a verdict is checked; nothing where it is not.
fn reasons(input: &JudgeInput, verdict: &Verdict, configuration: &Configuration) -> Vec<Why> {
    let mut why = Vec::new();
    if verdict.text_in_frames == Some(true) {
        why.push(Why::Writing);
    }
    let line = configuration.rules.pass_overall;
    if verdict.pass && verdict.overall <= line.saturating_add(BY_A_HAIR) {
        why.push(Why::NearTheLine);
    }
    if f64::from(drawn(input, "recheck")) < AT_RANDOM * 2f64.powi(32) {
        why.push(Why::AtRandom);
    }
    why
}

/// A number that clip and task fix and nobody can choose: to choose it, one has to choose the clip by trial.
fn drawn(input: &JudgeInput, what: &str) -> u32 {
    let task = input.task_id.as_deref().unwrap_or_default();
    let digest = sha256(format!("{what}\n{}\n{task}", input.video_sha256).as_bytes());
    digest
        .get(..8)
        .and_then(|hex| u32::from_str_radix(hex, 16).ok())
        .unwrap_or_default()
}

fn suspicion(variant: Variant, fall: u8) -> String {
    match variant {
        Variant::Cropped => format!(
            "the overall falls by {fall} when the border is cut off: writing or marks there may have raised it"
        ),
        Variant::OtherPhase => format!(
            "the overall falls by {fall} when other frames are taken: the clip may be good only where it is looked at"
        ),
        Variant::Blurred => format!(
            "the overall falls by {fall} when the writing over the clip is blurred: what it says may have raised it"
        ),
    }
}

/// The clip, changed.
fn changed(input: &JudgeInput, variant: Variant) -> Result<JudgeInput, String> {
    let cut = |frame: &RgbImage8| cropped(frame).map_err(|error| error.to_string());
    let (frames, first) = match variant {
        Variant::Cropped => {
            let frames: Result<Vec<_>, _> = input.frames.iter().map(cut).collect();
            (frames?, cut(&input.first)?)
        }
        Variant::OtherPhase => {
            // Less than a step: the clip still begins where it begins.
            let step = input.fps.0 / input.fps.1.max(1) / SHOWN_PER_SECOND;
            if step < 2 {
                return Err("its frames are too far apart for another phase".into());
            }
            let skipped = 1 + drawn(input, "phase") % (step - 1);
            let frames = input.frames.get(skipped as usize..).unwrap_or_default();
            (frames.to_vec(), input.first.clone())
        }
        Variant::Blurred => {
            let writing = Writing::of(&Clip {
                frames: &input.frames,
                fps: f64::from(input.fps.0) / f64::from(input.fps.1.max(1)),
                first: &input.first,
            });
            if writing.is_empty() {
                return Err("the writing cannot be located".into());
            }
            let frames = input.frames.par_iter();
            let blurred = frames.map(|frame| blur::blurred(frame, &writing));
            let frames: Result<Vec<_>, _> = blurred.collect();
            let frames = frames.map_err(|error| error.to_string())?;
            (frames, input.first.clone())
        }
    };
    let (width, height) = (first.width() as u32, first.height() as u32);
    let bytes = encode_png(width, height, first.data()).map_err(|error| error.to_string())?;
    JudgeInput::new(
        input.video_sha256.clone(),
        (frames, input.fps),
        (first, bytes),
        input.prompt.clone(),
        input.task_id.clone(),
    )
    .map_err(|none| none.to_string())
}

/// Without its border.
fn cropped(frame: &RgbImage8) -> Result<RgbImage8, MediaError> {
    let (left, top) = (
        frame.width() * BORDER_PERCENT / 100,
        frame.height() * BORDER_PERCENT / 100,
    );
    let (width, height) = (frame.width() - 2 * left, frame.height() - 2 * top);
    let rows = frame
        .data()
        .chunks_exact(3 * frame.width())
        .skip(top)
        .take(height);
    let pixels = rows.flat_map(|row| row.iter().skip(3 * left).take(3 * width).copied());
    RgbImage8::new(width, height, pixels.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::unnecessary_literal_bound)]
    use super::blur::tests::lettered;
    use super::*;
    use crate::judge::profile::Profile;
    use crate::judge::rubric::{Rules, Scores};
    use crate::judge::sampling::FrameRule;

    const WIDTH: usize = 50;

    fn frame(number: usize) -> RgbImage8 {
        let pixels = (0..WIDTH * 25).flat_map(|at| {
            let (x, y) = (at % WIDTH, at / WIDTH);
            // White writing along the border, and a grey that counts the frames.
            let border = x < 2 || y < 1;
            [if border { 255 } else { 100 + number as u8 }; 3]
        });
        RgbImage8::new(WIDTH, 25, pixels.collect()).unwrap()
    }

    fn input(video: &str) -> JudgeInput {
        let clip = ((0..81).map(frame).collect(), (16, 1));
        JudgeInput::new(video.into(), clip, (frame(0), vec![1]), "a".into(), None).unwrap()
    }

    /// Gives one score when there is white in the first frame, another when there is none.
    struct Gullible {
        configuration: Configuration,
        with: u8,
        without: u8,
    }

    impl Judge for Gullible {
        fn id(&self) -> &str {
            "gullible"
        }

        fn configuration(&self) -> &Configuration {
            &self.configuration
        }

        fn judge(&self, input: &JudgeInput, _: Duration) -> Outcome {
            let white = input.frames[0].data().contains(&255);
            let score = if white { self.with } else { self.without };
            Verdict::of_scores("gullible", &self.configuration, Scores::new([score; 6])).into()
        }
    }

    fn judged(with: u8, without: u8, video: &str, within: Duration) -> Verdict {
        let rules = Rules::default();
        let judge = Gullible {
            configuration: Configuration::remote(
                Profile::Whitepaper,
                "m",
                rules,
                FrameRule::default(),
            ),
            with,
            without,
        };
        let outcome = Rechecked::new(Arc::new(judge)).judge(&input(video), within);
        outcome.verdict().unwrap().clone()
    }

    /// A digest by which a clip is drawn, or is not.
    fn video(drawn_at_random: bool) -> String {
        let limit = AT_RANDOM * 2f64.powi(32);
        let found = (0u32..).map(|n| sha256(&n.to_le_bytes())).find(|digest| {
            (f64::from(drawn(&input(digest), "recheck")) < limit) == drawn_at_random
        });
        found.unwrap()
    }

    #[test]
    fn a_score_that_hangs_on_the_border_is_a_suspicion_and_stays() {
        let long = Duration::from_secs(600);
        let verdict = judged(78, 60, &video(false), long);
        assert_eq!((verdict.overall, verdict.pass), (78, true));
        let recheck = &verdict.details["recheck"];
        assert_eq!(recheck["why"], json!(["near_the_line"]));
        assert_eq!(recheck["suspicious"], true);
        assert_eq!(
            (
                &recheck["variants"][0]["fall"],
                &recheck["variants"][1]["fall"]
            ),
            (&json!(18), &json!(0))
        );
        assert_eq!(verdict.issues.len(), 1);
        // 12 points are none.
        assert!(judged(78, 66, &video(false), long).issues.is_empty());
        // Nobody asks about what is far from the line, fails, or was not drawn.
        for with in [79, 74] {
            assert!(judged(with, 10, &video(false), long).details.is_null());
        }
        let drawn = judged(100, 100, &video(true), long);
        assert_eq!(drawn.details["recheck"]["why"], json!(["at_random"]));
        assert_eq!(drawn.details["recheck"]["variants"][2], json!(null));
    }

    #[test]
    fn writing_is_blurred_where_it_is() {
        let clip = ((0..33).map(|t| lettered(3 * t)).collect(), (16, 1));
        let first = RgbImage8::new(128, 96, vec![9; 128 * 96 * 3]).unwrap();
        let input = JudgeInput::new("v".into(), clip, (first, vec![1]), "a".into(), None).unwrap();
        let made = changed(&input, Variant::Blurred).unwrap();
        assert!(input.frames[0].data().contains(&255) && !made.frames[0].data().contains(&255));
        assert_eq!((made.frames.len(), made.first), (33, input.first.clone()));
        // The clip of the other tests is too small for signals.
        let small = super::tests::input("v");
        assert!(changed(&small, Variant::Blurred).is_err());

        let variants = |why: &[Why]| Variant::of(why).collect::<Vec<_>>();
        assert_eq!(variants(&[Why::NearTheLine]).len(), 2);
        let all = variants(&[Why::Writing, Why::AtRandom]);
        assert_eq!(all.last(), Some(&Variant::Blurred));
    }

    #[test]
    fn a_verdict_is_not_lost_to_its_check() {
        let verdict = judged(78, 60, &video(false), Duration::ZERO);
        assert!(verdict.pass);
        assert!(verdict.details["recheck"]["variants"][0]["skipped"].is_string());
    }

    #[test]
    fn what_is_changed() {
        let input = input("v");
        let cut = changed(&input, Variant::Cropped).unwrap();
        assert_eq!(cut.size(), (42, 21));
        assert!(!cut.frames[0].data().contains(&255) && !cut.first.data().contains(&255));
        assert_eq!(cut.frames.len(), 81);
        let late = changed(&input, Variant::OtherPhase).unwrap();
        assert!(
            (77..=80).contains(&late.frames.len()),
            "{}",
            late.frames.len()
        );
        let slow = JudgeInput::new(
            "v".into(),
            (vec![frame(0), frame(1)], (4, 1)),
            (frame(0), vec![1]),
            "a".into(),
            None,
        );
        assert!(changed(&slow.unwrap(), Variant::OtherPhase).is_err());
    }
}

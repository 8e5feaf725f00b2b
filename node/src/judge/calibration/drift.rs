//! Whether the judges still agree as they did.

use serde::Serialize;

use crate::judge::statistics::agreement::Confusion;
use crate::judge::statistics::{Figure, Undefined};

/// Newest clips that are looked at.
pub const WINDOW: usize = 200;
/// By how much kappa has to fall for an alarm.
pub const FALL: f64 = 0.1;

/// Kappa of the newest clips beside an earlier one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// Kappa before.
    pub baseline: Figure,
    /// Kappa of the last [`WINDOW`] clips; [`Undefined::NoData`] while there are fewer.
    pub recent: Figure,
    /// Whether it has fallen by [`FALL`] or more.
    pub alarm: bool,
}

/// A point of kappa over time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Number of the last clip of the window, from 1 on.
    pub clip: usize,
    /// When it was judged, in seconds since 1970.
    pub time: f64,
    /// Kappa of the clips of the window; none where it is undefined.
    pub kappa: Option<f64>,
}

/// The drift of decisions (local, remote), by time, against a kappa from before. Without one, the clips before the
/// last [`WINDOW`] give it.
pub fn drift(baseline: Option<f64>, decisions: &[(bool, bool)]) -> Drift {
    let start = decisions.len().checked_sub(WINDOW);
    let (before, newest) = decisions.split_at(start.unwrap_or(0));
    let recent = match start {
        Some(_) => Confusion::of(newest.iter().copied()).kappa(),
        None => Err(Undefined::NoData),
    };
    let baseline = baseline.map_or_else(
        || {
            // Fewer clips would make an alarm of noise.
            if before.len() < WINDOW {
                Err(Undefined::NoData)
            } else {
                Confusion::of(before.iter().copied()).kappa()
            }
        },
        Ok,
    );
    let alarm = match (baseline, recent) {
        // Rounding of a difference must not decide about an exact tenth.
        (Ok(before), Ok(now)) => before - now >= FALL - 1e-12,
        _ => false,
    };
    Drift {
        baseline,
        recent,
        alarm,
    }
}

/// Kappa over windows of up to [`WINDOW`] clips that end ever later: about `points` of them.
pub fn course(decisions: &[(f64, bool, bool)], points: usize) -> Vec<Point> {
    let window = WINDOW.min(decisions.len() / 2).max(1);
    let step = (decisions.len().saturating_sub(window) / points.max(1)).max(1);
    // Counted from the end, so that the newest clip is always in.
    let mut ends: Vec<usize> = (window..=decisions.len()).rev().step_by(step).collect();
    ends.reverse();
    ends.into_iter()
        .filter_map(|end| {
            let clips = decisions.get(end.checked_sub(window)?..end)?;
            let decided = clips.iter().map(|&(_, local, remote)| (local, remote));
            Some(Point {
                clip: end,
                time: clips.last()?.0,
                kappa: Confusion::of(decided).kappa().ok(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Half of the clips pass; one of `wrong` is judged otherwise.
    fn decisions(n: usize, wrong: usize) -> Vec<(bool, bool)> {
        (0..n)
            .map(|i| {
                let remote = i % 2 == 0;
                (remote ^ (i % wrong == 0), remote)
            })
            .collect()
    }

    #[test]
    fn a_fall_of_a_tenth_is_an_alarm() {
        // One of ten wrong: kappa 0.8.
        let same = decisions(WINDOW, 10);
        let recent = drift(None, &same).recent.unwrap();
        assert!((recent - 0.8).abs() < 1e-12, "{recent}");
        assert!(drift(Some(recent + 0.1), &same).alarm);
        assert!(!drift(Some(recent + 0.099), &same).alarm);
        assert!(!drift(Some(0.2), &same).alarm);
    }

    #[test]
    fn without_a_kappa_from_before_the_earlier_clips_give_it() {
        let mut all = decisions(400, 100);
        all.extend(decisions(WINDOW, 4));
        let found = drift(None, &all);
        assert!(found.alarm && found.baseline.unwrap() > found.recent.unwrap() + FALL);
        all.truncate(400);
        assert!(!drift(None, &all).alarm);
    }

    #[test]
    fn few_clips_raise_no_alarm() {
        let found = drift(Some(1.0), &decisions(WINDOW - 1, 2));
        assert_eq!((found.recent, found.alarm), (Err(Undefined::NoData), false));
        let found = drift(None, &decisions(WINDOW + WINDOW - 1, 2));
        assert_eq!(
            (found.baseline, found.alarm),
            (Err(Undefined::NoData), false)
        );
        assert!(!drift(None, &[]).alarm);
    }

    #[test]
    fn a_course_ends_with_the_newest_clip() {
        let timed: Vec<_> = decisions(1000, 10)
            .into_iter()
            .enumerate()
            .map(|(i, (local, remote))| (i as f64, local, remote))
            .collect();
        let points = course(&timed, 40);
        assert!((40..=42).contains(&points.len()), "{}", points.len());
        let last = points.last().unwrap();
        assert_eq!((last.clip, last.time), (1000, 999.0));
        assert!(
            points
                .iter()
                .all(|point| (point.kappa.unwrap() - 0.8).abs() < 0.01)
        );
        assert!(course(&[], 40).is_empty());
        assert_eq!(course(&timed[..1], 40).len(), 1);
    }
}

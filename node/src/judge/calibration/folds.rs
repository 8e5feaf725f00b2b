//! What a calibration is worth on clips that it has not seen.

use leoma_models::random::Random;

use super::{Calibration, Method};
use crate::judge::statistics::Undefined;
use crate::judge::statistics::pairs::Selection;

/// Parts of the tasks, each of which is held out once.
pub const FOLDS: usize = 5;
/// Seed of the parts: the same log has the same parts.
const SEED: u64 = 7;
/// Name of the parts' stream of numbers.
const STREAM: &str = "judge folds";

/// What was predicted for clips of tasks that were held out.
#[derive(Debug, Clone, Default)]
pub struct OutOfFold {
    /// (row, chance of a remote pass, whether it passed), by row.
    pub chances: Vec<(usize, f64, bool)>,
    /// (row, calibrated decision, remote decision), by row; without clips about which a calibration says nothing.
    pub decisions: Vec<(usize, bool, bool)>,
}

/// The part of every task: tasks are shuffled, then dealt out in turns.
fn parts(tasks: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..tasks).collect();
    let mut random = Random::new(SEED, STREAM);
    for last in (1..tasks).rev() {
        order.swap(last, (random.bits() % (last as u64 + 1)) as usize);
    }
    let mut parts = vec![0; tasks];
    for (place, task) in order.into_iter().enumerate() {
        parts[task] = place % FOLDS;
    }
    parts
}

/// Predictions for every clip by a calibration of the same method that has not seen its task.
///
/// # Errors
/// [`Undefined`] when there are fewer tasks than parts, or when what is left without one part cannot be calibrated.
pub fn out_of_fold(method: Method, selection: &Selection<'_>) -> Result<OutOfFold, Undefined> {
    if selection.tasks < FOLDS {
        return Err(Undefined::TooFewTasks);
    }
    let parts = parts(selection.tasks);
    let part_of = |row: usize| {
        let task = selection.task_of.get(row)?;
        parts.get(*task).copied()
    };
    let mut found = OutOfFold::default();
    for held_out in 0..FOLDS {
        let seen: Vec<_> = selection
            .pairs
            .iter()
            .enumerate()
            .filter(|(row, _)| part_of(*row) != Some(held_out))
            .map(|(_, pair)| *pair)
            .collect();
        let unseen = selection
            .pairs
            .iter()
            .enumerate()
            .filter(|(row, _)| part_of(*row) == Some(held_out));
        let calibration = match Calibration::fit(method, &seen) {
            Ok(calibration) => calibration,
            Err(super::Refusal::Undefined(reason)) => return Err(reason),
            Err(_) => return Err(Undefined::Constant),
        };
        for (row, pair) in unseen {
            let Some(overall) = pair.local_overall else {
                continue;
            };
            let chance = calibration.map.at(overall);
            found.chances.push((row, chance, pair.remote_pass));
            if let Some(pass) = calibration.passes(overall, &pair.local) {
                found.decisions.push((row, pass, pair.remote_pass));
            }
        }
    }
    found.chances.sort_by_key(|chance| chance.0);
    found.decisions.sort_by_key(|decision| decision.0);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_equal_and_always_the_same() {
        for tasks in [5, 23, 100] {
            let parts = parts(tasks);
            assert_eq!(parts, super::parts(tasks));
            for part in 0..FOLDS {
                let size = parts.iter().filter(|found| **found == part).count();
                assert!(size == tasks / FOLDS || size == tasks.div_ceil(FOLDS));
            }
        }
        assert!(
            parts(100)
                .windows(2)
                .any(|pair| pair[1] != (pair[0] + 1) % FOLDS)
        );
    }
}

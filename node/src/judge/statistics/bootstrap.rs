//! Intervals: whole tasks drawn with replacement, and Wilson's for shares.
//!
//! The clips of a task share their picture and their prompt, so they are no independent evidence: drawing clips
//! would give intervals that are too narrow. All figures of a report see the same draws.

use std::collections::BTreeSet;

use leoma_models::random::Random;

use super::{Figure, Statistic, Undefined};

/// Draws of an interval.
pub const DRAWS: usize = 2000;
/// Seed of the draws: a report of the same log is the same report.
pub const SEED: u64 = 7;
/// Name of the draws' stream of numbers.
const STREAM: &str = "judge bootstrap";
/// Tasks from which on intervals are given.
pub const ENOUGH_TASKS: usize = 30;
/// Share of draws that may have no value (one class only, for example) before the interval is withheld.
const MOST_UNDEFINED: f64 = 0.05;
/// The 0.975 quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// An interval of 95 %, or why there is none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Interval {
    /// From its lower end to its upper end.
    Between(f64, f64),
    /// Fewer than [`ENOUGH_TASKS`] tasks.
    Insufficient,
    /// Too many draws have no value.
    Unstable,
    /// The figure itself has no value.
    NoValue,
}

/// A figure with its interval, and what it rests on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The figure.
    pub value: Figure,
    /// Its interval.
    pub interval: Interval,
    /// Clips.
    pub n: usize,
    /// Tasks.
    pub tasks: usize,
}

impl Estimate {
    /// Of nothing.
    pub const NOTHING: Self = Self {
        value: Err(Undefined::NoData),
        interval: Interval::NoValue,
        n: 0,
        tasks: 0,
    };

    /// Whether there are tasks enough to speak about the figure.
    pub fn is_sufficient(&self) -> bool {
        self.tasks >= ENOUGH_TASKS
    }

    /// The interval, where there is one.
    pub fn between(&self) -> Option<(f64, f64)> {
        match self.interval {
            Interval::Between(low, high) => Some((low, high)),
            _ => None,
        }
    }
}

/// The figures with their intervals, in their order. `task_of[row]` is the number of the task of a row, counted from
/// 0 in the order of the tasks' names.
pub fn estimates(task_of: &[usize], statistics: &[&dyn Statistic]) -> Vec<Estimate> {
    let task_count = task_of.iter().max().map_or(0, |last| last + 1);
    let mut found: Vec<Estimate> = statistics
        .iter()
        .map(|statistic| {
            let rows = statistic.rows();
            let tasks: BTreeSet<_> = rows.iter().filter_map(|&row| task_of.get(row)).collect();
            Estimate {
                value: statistic.figure(&vec![1; task_of.len()]),
                interval: Interval::NoValue,
                n: rows.len(),
                tasks: tasks.len(),
            }
        })
        .collect();
    let is_asked: Vec<bool> = found
        .iter_mut()
        .map(|estimate| {
            if estimate.value.is_ok() && !estimate.is_sufficient() {
                estimate.interval = Interval::Insufficient;
            }
            estimate.value.is_ok() && estimate.is_sufficient()
        })
        .collect();
    if !is_asked.contains(&true) {
        return found;
    }
    let mut drawn: Vec<Vec<f64>> = vec![Vec::with_capacity(DRAWS); statistics.len()];
    let mut random = Random::new(SEED, STREAM);
    let mut times = vec![0_u32; task_count];
    let mut weights = vec![0_u32; task_of.len()];
    for _ in 0..DRAWS {
        times.fill(0);
        for _ in 0..task_count {
            // The remainder favours low numbers by less than one in 2^40.
            times[(random.bits() % task_count as u64) as usize] += 1;
        }
        for (weight, &task) in weights.iter_mut().zip(task_of) {
            *weight = times[task];
        }
        for ((statistic, values), _) in statistics
            .iter()
            .zip(&mut drawn)
            .zip(&is_asked)
            .filter(|(_, asked)| **asked)
        {
            values.extend(statistic.figure(&weights).ok());
        }
    }
    for ((estimate, mut values), _) in found
        .iter_mut()
        .zip(drawn)
        .zip(&is_asked)
        .filter(|(_, asked)| **asked)
    {
        let undefined = DRAWS - values.len();
        values.sort_by(f64::total_cmp);
        let ends = (quantile(&values, 0.025), quantile(&values, 0.975));
        estimate.interval = match ends {
            (Some(low), Some(high)) if undefined as f64 <= MOST_UNDEFINED * DRAWS as f64 => {
                Interval::Between(low, high)
            }
            _ => Interval::Unstable,
        };
    }
    found
}

/// A quantile of sorted values, linear between them.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * (sorted.len().checked_sub(1)? as f64);
    let below = *sorted.get(place.floor() as usize)?;
    let above = *sorted.get(place.ceil() as usize)?;
    Some(below + (above - below) * place.fract())
}

/// Wilson's interval of 95 % for a share of independent cases. Unlike the bootstrap's it is not a point where nothing
/// or everything was counted.
pub fn wilson(part: u64, whole: u64) -> Result<[f64; 2], Undefined> {
    if whole == 0 {
        return Err(Undefined::NoData);
    }
    let (n, p) = (whole as f64, part as f64 / whole as f64);
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let (middle, scale) = (p + Z * Z / (2.0 * n), 1.0 + Z * Z / n);
    // At the ends of the range the bound is exact, and rounding must not pass it.
    let low = if part == 0 {
        0.0
    } else {
        (middle - spread) / scale
    };
    let high = if part >= whole {
        1.0
    } else {
        (middle + spread) / scale
    };
    Ok([low.max(0.0), high.min(1.0)])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::judge::statistics::agreement::{Decisions, Rate};

    #[test]
    fn wilson_of_the_textbook() {
        let [low, high] = wilson(0, 10).unwrap();
        assert!(low == 0.0 && (high - 0.277_532_799_862_889_7).abs() < 1e-12);
        let [low, high] = wilson(10, 10).unwrap();
        assert!(high == 1.0 && (low - 0.722_467_200_137_110_3).abs() < 1e-12);
        assert_eq!(wilson(0, 0), Err(Undefined::NoData));
    }

    #[test]
    fn quantiles_are_linear_between_values() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[3.0], 0.025), Some(3.0));
        assert_eq!(quantile(&[0.0, 1.0, 2.0, 3.0], 0.5), Some(1.5));
        assert_eq!(quantile(&[0.0, 10.0], 1.0), Some(10.0));
    }

    fn decisions(tasks: usize, clips: usize) -> (Vec<usize>, Vec<(usize, bool, bool)>) {
        let mut random = Random::new(1, "test");
        let mut task_of = Vec::new();
        let mut of = Vec::new();
        for task in 0..tasks {
            // All clips of a task are judged alike: they are one piece of evidence.
            let remote = random.bits().is_multiple_of(2);
            let local = if random.bits().is_multiple_of(4) {
                !remote
            } else {
                remote
            };
            for _ in 0..clips {
                of.push((task_of.len(), local, remote));
                task_of.push(task);
            }
        }
        (task_of, of)
    }

    fn interval(tasks: usize, clips: usize) -> Estimate {
        let (task_of, of) = decisions(tasks, clips);
        let kappa = Decisions {
            of: &of,
            rate: Rate::Kappa,
        };
        estimates(&task_of, &[&kappa])[0]
    }

    #[test]
    fn clips_of_a_task_are_one_piece_of_evidence() {
        let (one, many) = (interval(60, 1), interval(60, 8));
        assert_eq!(one.value, many.value);
        assert_eq!((one.n, many.n, many.tasks), (60, 480, 60));
        assert_eq!(one.interval, many.interval);
        let Interval::Between(low, high) = one.interval else {
            panic!("{one:?}");
        };
        let value = one.value.unwrap();
        assert!(low < value && value < high && high - low > 0.1);
    }

    #[test]
    fn draws_are_the_same_every_time_and_few_tasks_have_no_interval() {
        assert_eq!(interval(40, 3), interval(40, 3));
        assert_eq!(interval(29, 5).interval, Interval::Insufficient);
        assert!(matches!(interval(30, 1).interval, Interval::Between(..)));
        assert_eq!(estimates(&[], &[]).len(), 0);
        let none = Decisions {
            of: &[],
            rate: Rate::Kappa,
        };
        let found = estimates(&[], &[&none])[0];
        assert_eq!(
            (found.value, found.interval),
            (Err(Undefined::NoData), Interval::NoValue)
        );
    }

    #[test]
    fn an_interval_of_draws_without_values_is_withheld() {
        // One task of forty holds the only clip that failed: a third of the draws leave it out.
        let of: Vec<_> = (0..40).map(|row| (row, row != 7, row != 7)).collect();
        let task_of: Vec<_> = (0..40).collect();
        let kappa = Decisions {
            of: &of,
            rate: Rate::Kappa,
        };
        let found = estimates(&task_of, &[&kappa])[0];
        assert_eq!((found.value, found.interval), (Ok(1.0), Interval::Unstable));
    }
}

//! From a selection to the figures of its report.

use std::collections::BTreeSet;

use super::{
    Ceiling, ChanceSource, Chances, Decision, LogFacts, Report, Scored, Share, TableCheck,
    disagreement,
};
use crate::judge::calibration::table::Table;
use crate::judge::calibration::{self, Calibration};
use crate::judge::rubric::Dimension;
use crate::judge::statistics::agreement::{Confusion, Decisions, QuadraticKappa, Rate};
use crate::judge::statistics::bootstrap::{ENOUGH_TASKS, Estimate, estimates, wilson};
use crate::judge::statistics::pairs::{Pair, Selection};
use crate::judge::statistics::probability::{Predictions, Score};
use crate::judge::statistics::rank::{Auc, Spearman};
use crate::judge::statistics::{Figure, Statistic, Undefined, finite};
use crate::time::rfc3339;

/// Points of the course of kappa over time.
const COURSE: usize = 60;

impl Report {
    /// The report of a selection; `table` is a calibration to be held against it.
    pub fn of(selection: &Selection<'_>, log: LogFacts, table: Option<&Table>) -> Self {
        let decisions = selection.decisions();
        let timed: Vec<(f64, bool, bool)> = selection
            .rows(|pair| Some((pair.time, pair.local_pass?, pair.remote_pass)))
            .map(|(_, clip)| clip)
            .collect();
        let plain: Vec<(bool, bool)> = timed.iter().map(|&(_, a, b)| (a, b)).collect();
        let columns: Vec<(Option<Dimension>, Columns)> = Dimension::ALL
            .into_iter()
            .map(|dimension| (Some(dimension), selection.dimension(dimension as usize)))
            .chain(std::iter::once((None, selection.overall())))
            .collect();
        let (chances, found) = chances(selection);
        let (ceiling, ceilings) = ceiling(selection);

        let rate = |rate| Decisions {
            of: &decisions,
            rate,
        };
        let rates = [
            Rate::Agreement,
            Rate::Kappa,
            Rate::FalsePass,
            Rate::FalseFail,
        ]
        .map(rate);
        let kappas: Vec<QuadraticKappa> = columns
            .iter()
            .map(|(_, column)| QuadraticKappa::new(column))
            .collect();
        let orders: Vec<Spearman> = columns
            .iter()
            .map(|(_, column)| Spearman::new(column))
            .collect();
        let (auc, brier, ece, calibrated) = (
            Auc::new(&found.overall),
            found.predictions.score(Score::Brier),
            found.predictions.score(Score::Ece),
            Decisions {
                of: &found.decisions,
                rate: Rate::Kappa,
            },
        );
        let mut asked: Vec<&dyn Statistic> = rates.iter().map(|rate| rate as _).collect();
        asked.extend([&auc as &dyn Statistic, &brier, &ece, &calibrated]);
        for (kappa, order) in kappas.iter().zip(&orders) {
            asked.extend([kappa as &dyn Statistic, order]);
        }
        let all = estimates(&selection.task_of, &asked);
        let mut next = all.into_iter();
        let mut take = || next.next().unwrap_or(Estimate::NOTHING);

        let confusion = Confusion::of(plain.iter().copied());
        let share = |part, whole, rate| Share {
            part,
            whole,
            rate,
            wilson: wilson(part, whole).ok(),
        };
        let (agreement, kappa) = (take(), take());
        let decision = Decision {
            agreement,
            kappa,
            false_pass: share(confusion.false_pass, confusion.remote_fails(), take()),
            false_fail: share(confusion.false_fail, confusion.remote_passes(), take()),
            confusion,
        };
        let chances = Chances {
            auc: take(),
            brier: take(),
            ece: take(),
            kappa: take(),
            ..chances
        };
        let scores = columns
            .into_iter()
            .zip(ceilings)
            .map(|((dimension, column), ceiling)| Scored {
                dimension,
                quadratic_kappa: take(),
                spearman: take(),
                mean_gap: mean(column.iter().map(|&(_, local, remote)| local - remote)),
                mean_distance: mean(
                    column
                        .iter()
                        .map(|&(_, local, remote)| (local - remote).abs()),
                ),
                ceiling,
                points: column
                    .into_iter()
                    .map(|(_, local, remote)| (local, remote))
                    .collect(),
            })
            .collect();
        let (disagreeing, disagreements) = disagreement::of(selection);
        // Of few tasks a fall of kappa is chance, like kappa itself.
        let is_sufficient = decision.kappa.is_sufficient();
        let newest: &[(bool, bool)] = if is_sufficient { &plain } else { &[] };
        Self {
            log,
            local: selection.local.clone(),
            remote: selection.remote.clone(),
            clips: selection.pairs.len(),
            judged: decisions.len(),
            tasks: decision.kappa.tasks,
            duplicates: selection.duplicates,
            orphans: selection.orphans,
            others: selection.others.clone(),
            span: timed.first().zip(timed.last()).map(|(a, b)| (a.0, b.0)),
            decision,
            scores,
            chances,
            ceiling,
            drift: calibration::drift(None, newest),
            course: calibration::course(&timed, COURSE),
            table: table.map(|table| check(table, selection, is_sufficient)),
            disagreements,
            disagreeing,
        }
    }
}

/// (row, one judge's score, the other's).
type Columns = Vec<(usize, f64, f64)>;

/// What the figures about chances are made from.
struct Found {
    /// (row, local overall, whether the remote judge lets it pass).
    overall: Vec<(usize, f64, bool)>,
    predictions: Predictions,
    /// (row, calibrated decision, remote decision).
    decisions: Vec<(usize, bool, bool)>,
}

/// Chances that were logged, or else those of a calibration of this log on clips that were held out; those as well
/// where the logged ones are of too few tasks to say anything. The figures themselves are estimated later, over the
/// same draws as all others.
fn chances(selection: &Selection<'_>) -> (Chances, Found) {
    let rows = |chance: &dyn Fn(&Pair) -> Option<f64>| -> Vec<(usize, f64, bool)> {
        selection
            .rows(|pair| Some((chance(pair)?, pair.remote_pass)))
            .map(|(row, (chance, passed))| (row, chance, passed))
            .collect()
    };
    let overall = rows(&|pair| pair.local_overall);
    let logged = rows(&|pair| pair.local_p_pass);
    let passed = overall.iter().filter(|clip| clip.2).count();
    let held_out = calibration::method_for(overall.len(), passed).and_then(|method| {
        let found = calibration::out_of_fold(method, selection)?;
        Ok((method, found))
    });
    let (method, refusal, held_out) = match held_out {
        Ok((method, found)) => (Some(method), None, found),
        Err(refusal) => (
            None,
            Some(refusal.to_string()),
            calibration::OutOfFold::default(),
        ),
    };
    let tasks: BTreeSet<_> = logged
        .iter()
        .filter_map(|clip| selection.task_of.get(clip.0))
        .collect();
    let (source, predictions) = if tasks.len() < ENOUGH_TASKS && !held_out.chances.is_empty() {
        (ChanceSource::OutOfFold, held_out.chances)
    } else if logged.is_empty() {
        (ChanceSource::None, Vec::new())
    } else {
        (ChanceSource::Logged, logged)
    };
    let base = mean(predictions.iter().map(|clip| f64::from(u8::from(clip.2))));
    let predictions = Predictions::new(predictions);
    let chances = Chances {
        source,
        refusal,
        method,
        auc: Estimate::NOTHING,
        brier: Estimate::NOTHING,
        base_brier: base.map(|share| share * (1.0 - share)),
        ece: Estimate::NOTHING,
        kappa: Estimate::NOTHING,
        bins: predictions.bins(),
    };
    let found = Found {
        overall,
        predictions,
        decisions: held_out.decisions,
    };
    (chances, found)
}

/// The remote judge's second verdicts beside its first ones: as a whole, and the quadratic kappa of the six
/// dimensions and the overall score.
fn ceiling(selection: &Selection<'_>) -> (Ceiling, Vec<Estimate>) {
    let column = |score: &dyn Fn(&Pair) -> f64| -> Columns {
        let pairs = selection.repeats.iter().enumerate();
        pairs
            .map(|(row, (first, second))| (row, score(first), score(second)))
            .collect()
    };
    let decisions: Vec<(usize, bool, bool)> = selection
        .repeats
        .iter()
        .enumerate()
        .map(|(row, (first, second))| (row, first.remote_pass, second.remote_pass))
        .collect();
    let overall = column(&|pair| pair.remote_overall);
    let mut kappas: Vec<QuadraticKappa> = Dimension::ALL
        .into_iter()
        .map(|dimension| {
            let place = dimension as usize;
            QuadraticKappa::new(&column(&|pair| {
                pair.remote.get(place).copied().unwrap_or(0.0)
            }))
        })
        .collect();
    kappas.push(QuadraticKappa::new(&overall));
    let order = Spearman::new(&overall);
    let rates = [Rate::Agreement, Rate::Kappa].map(|rate| Decisions {
        of: &decisions,
        rate,
    });
    let mut asked: Vec<&dyn Statistic> = rates.iter().map(|rate| rate as _).collect();
    asked.push(&order);
    asked.extend(kappas.iter().map(|kappa| kappa as &dyn Statistic));
    let mut all = estimates(&selection.tasks_of_repeats(), &asked).into_iter();
    let mut take = || all.next().unwrap_or(Estimate::NOTHING);
    let (agreement, kappa, spearman) = (take(), take(), take());
    let kappas: Vec<Estimate> = kappas.iter().map(|_| take()).collect();
    let ceiling = Ceiling {
        agreement,
        kappa,
        quadratic_kappa: kappas.last().copied().unwrap_or(Estimate::NOTHING),
        spearman,
    };
    (ceiling, kappas)
}

/// A table held against the clips of a log. Those that were judged before it was made may have made it, and would
/// speak for it; those of other judges say nothing about it.
fn check(table: &Table, selection: &Selection<'_>, is_sufficient: bool) -> TableCheck {
    let calibration: Calibration = table.calibration();
    let invalid = table.check(&selection.local, &selection.remote).err();
    let says_something = invalid.is_none() && is_sufficient;
    let decisions: Vec<(bool, bool)> = selection
        .rows(|pair| {
            // Both are of one form, in which later is greater.
            let is_new = says_something && rfc3339(pair.time) > table.fitted_at;
            let passes = calibration.passes(pair.local_overall?, &pair.local)?;
            is_new.then_some((passes, pair.remote_pass))
        })
        .map(|(_, decision)| decision)
        .collect();
    TableCheck {
        invalid,
        unfit: table.unfit_for_fallback(),
        drift: calibration::drift(table.oof.kappa, &decisions),
        fitted_at: table.fitted_at.clone(),
    }
}

/// The mean of numbers.
fn mean(numbers: impl Iterator<Item = f64>) -> Figure {
    let (count, sum) = numbers.fold((0_u64, 0.0), |(count, sum), number| {
        (count + 1, sum + number)
    });
    if count == 0 {
        return Err(Undefined::NoData);
    }
    finite(sum / count as f64)
}

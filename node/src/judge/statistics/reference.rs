//! The figures beside those of scikit-learn and scipy: `scripts/golden/judge_statistics.py`.
#![allow(clippy::unwrap_used)]

use serde_json::Value;

use super::agreement::{Confusion, QuadraticKappa};
use super::bootstrap::{Estimate, wilson};
use super::human::{Choice, Preference};
use super::pairs::{Pair, Selection, Wanted};
use super::probability::{Predictions, Score};
use super::rank::{Auc, Spearman};
use super::read::Log;
use super::{Figure, Statistic};
use crate::judge::calibration::{Isotonic, Platt};
use crate::judge::report::{LogFacts, Report};

const VALUES: &str = include_str!("../../../tests/data/judge/statistics.json");
const LOG: &str = include_str!("../../../tests/data/judge/simulated.jsonl");
/// The definitions are the same; only the order of additions differs.
const NEAR: f64 = 1e-9;

/// The log of 500 clips that two simulated judges have seen.
pub(in crate::judge) fn simulated() -> Vec<Pair> {
    let log = Log::read(LOG.as_bytes(), Pair::from_line).unwrap();
    assert_eq!((log.unusable, log.pairs.len()), (0, log.lines));
    log.pairs
}

fn values() -> Value {
    serde_json::from_str(VALUES).unwrap()
}

fn numbers(case: &Value, name: &str) -> Vec<f64> {
    let list = case[name].as_array().unwrap();
    list.iter().map(|number| number.as_f64().unwrap()).collect()
}

fn decisions(case: &Value, name: &str) -> Vec<bool> {
    let list = case[name].as_array().unwrap();
    list.iter().map(|value| value.as_bool().unwrap()).collect()
}

fn rows<T: Copy>(first: &[f64], second: &[T]) -> Vec<(usize, f64, T)> {
    assert_eq!(first.len(), second.len());
    let both = first.iter().zip(second).enumerate();
    both.map(|(row, (&a, &b))| (row, a, b)).collect()
}

/// Null in the reference is undefined here.
fn same(what: &str, found: Figure, expected: &Value) {
    match (found, expected.as_f64()) {
        (Ok(found), Some(expected)) => {
            assert!(
                (found - expected).abs() < NEAR,
                "{what}: {found} is not {expected}"
            );
        }
        (Err(_), None) => {}
        other => panic!("{what}: {other:?}"),
    }
}

fn each(name: &str, check: impl Fn(&Value)) {
    let values = values();
    let cases = values["cases"][name].as_array().unwrap();
    assert!(cases.len() >= 3, "{name}");
    cases.iter().for_each(check);
}

#[test]
fn kappas() {
    each("kappa", |case| {
        let both = decisions(case, "a").into_iter().zip(decisions(case, "b"));
        same("kappa", Confusion::of(both).kappa(), &case["value"]);
    });
    each("quadratic_kappa", |case| {
        let scores = rows(&numbers(case, "a"), &numbers(case, "b"));
        let found = QuadraticKappa::new(&scores).value();
        same("quadratic kappa", found, &case["value"]);
    });
}

#[test]
fn orders() {
    each("spearman", |case| {
        let scores = rows(&numbers(case, "a"), &numbers(case, "b"));
        same("spearman", Spearman::new(&scores).value(), &case["value"]);
    });
    each("auc", |case| {
        let scores = rows(&numbers(case, "a"), &decisions(case, "passed"));
        same("auc", Auc::new(&scores).value(), &case["value"]);
    });
}

#[test]
fn probabilities_and_shares() {
    for (name, score) in [("brier", Score::Brier), ("ece", Score::Ece)] {
        each(name, |case| {
            let rows = rows(&numbers(case, "p"), &decisions(case, "passed"));
            let found = Predictions::new(rows).score(score).value();
            same(name, found, &case["value"]);
        });
    }
    each("wilson", |case| {
        let count = |name: &str| case[name].as_u64().unwrap();
        let [low, high] = wilson(count("part"), count("whole")).unwrap();
        same("wilson", Ok(low), &case["low"]);
        same("wilson", Ok(high), &case["high"]);
    });
}

#[test]
fn people() {
    each("human", |case| {
        let said = numbers(case, "human").into_iter().map(|sign| match sign {
            1.0 => Choice::First,
            -1.0 => Choice::Second,
            _ => Choice::Tie,
        });
        let preferences: Vec<_> = numbers(case, "gap")
            .into_iter()
            .zip(said)
            .map(|(gap, human)| Preference { gap, human })
            .collect();
        let found = super::human::agreement(&preferences);
        same("with ties", found.with_ties, &case["with_ties"]);
        same("without ties", found.without_ties, &case["without_ties"]);
        same("tie width", Ok(found.tie_width), &case["tie_width"]);
    });
}

#[test]
fn maps() {
    each("isotonic", |case| {
        let ends = (
            case["low"].as_f64().unwrap(),
            case["high"].as_f64().unwrap(),
        );
        let points: Vec<_> = numbers(case, "a")
            .into_iter()
            .zip(numbers(case, "b"))
            .collect();
        let map = Isotonic::fit(&points, ends).unwrap();
        for (x, expected) in numbers(case, "at").into_iter().zip(numbers(case, "value")) {
            assert!(
                (map.at(x) - expected).abs() < NEAR,
                "{x}: {} is not {expected}",
                map.at(x)
            );
        }
    });
    each("platt", |case| {
        let points: Vec<_> = numbers(case, "x")
            .into_iter()
            .zip(decisions(case, "passed"))
            .collect();
        let found = Platt::fit(&points).unwrap();
        // scikit-learn stops earlier than we do.
        for (name, value) in [("slope", found.slope), ("intercept", found.intercept)] {
            let expected = case[name].as_f64().unwrap();
            assert!(
                (value / expected - 1.0).abs() < 1e-7,
                "{name}: {value} is not {expected}"
            );
        }
    });
}

#[test]
fn the_report_of_the_simulated_log() {
    let log = simulated();
    let report = Report::of(
        &Selection::of(&log, Wanted::default()),
        LogFacts::default(),
        None,
    );
    let expected = &values()["report"];
    let count = |name: &str| expected[name].as_u64().unwrap() as usize;
    let found = (
        report.clips,
        report.judged,
        report.tasks,
        report.ceiling.kappa.n,
    );
    assert_eq!(
        found,
        (
            count("clips"),
            count("judged"),
            count("tasks"),
            count("repeats")
        )
    );
    let counts = &report.decision.confusion;
    assert_eq!(
        serde_json::json!([
            counts.both_pass,
            counts.false_pass,
            counts.false_fail,
            counts.both_fail
        ]),
        expected["confusion"]
    );
    same("drift", report.drift.baseline, &expected["drift"][0]);
    same("drift", report.drift.recent, &expected["drift"][1]);
    assert!(report.drift.alarm);

    let (decision, chances, ceiling) = (&report.decision, &report.chances, &report.ceiling);
    let mut figures: Vec<(String, Estimate)> = [
        ("agreement", decision.agreement),
        ("kappa", decision.kappa),
        ("false_pass", decision.false_pass.rate),
        ("false_fail", decision.false_fail.rate),
        ("auc", chances.auc),
        ("brier", chances.brier),
        ("ece", chances.ece),
        ("calibrated kappa", chances.kappa),
        ("ceiling kappa", ceiling.kappa),
        ("ceiling quadratic_kappa", ceiling.quadratic_kappa),
        ("ceiling spearman", ceiling.spearman),
    ]
    .map(|(name, figure)| (name.to_owned(), figure))
    .to_vec();
    for scored in &report.scores {
        figures.push((
            format!("{} quadratic_kappa", scored.name()),
            scored.quadratic_kappa,
        ));
        figures.push((format!("{} spearman", scored.name()), scored.spearman));
    }
    assert_eq!(
        figures.len(),
        expected["figures"].as_object().unwrap().len()
    );
    for (name, figure) in figures {
        let expected = &expected["figures"][&name];
        let (low, high) = figure.between().unwrap();
        for (place, value) in [figure.value, Ok(low), Ok(high)].into_iter().enumerate() {
            same(&name, value, &expected[place]);
        }
    }
}

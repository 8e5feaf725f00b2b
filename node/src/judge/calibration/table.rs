//! A calibration as a file, and when it may be used.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Calibration, Isotonic, Map, Refusal, method_for, out_of_fold};
use crate::judge::rubric::Dimension;
use crate::judge::statistics::agreement::{Decisions, Rate};
use crate::judge::statistics::bootstrap::estimates;
use crate::judge::statistics::pairs::{LocalJudge, RemoteJudge, Selection};
use crate::judge::statistics::probability::{Predictions, Score};

/// Format of the file. What an older program would misread gets another number.
pub const SCHEMA: &str = "leoma-judge-calibration/1";
/// Largest file that is read, in bytes.
pub const MOST_BYTES: u64 = 1 << 20;
/// Least lower end of the interval of kappa with which a local judge may stand in for the remote one.
pub const FALLBACK_KAPPA: f64 = 0.4;
/// Tasks that such a calibration rests on.
pub const FALLBACK_TASKS: usize = 100;

/// How well a calibration did on tasks that were held out; null where a figure is undefined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize)]
pub struct Held {
    /// Brier score of the chances.
    pub brier: Option<f64>,
    /// Expected calibration error of the chances.
    pub ece: Option<f64>,
    /// Cohen's kappa of the calibrated decision and the remote one.
    pub kappa: Option<f64>,
    /// Interval of kappa; null under thirty tasks.
    pub kappa_interval: Option<(f64, f64)>,
}

/// A calibration with what it belongs to.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Table {
    /// [`SCHEMA`].
    pub schema: String,
    /// The local judge that was calibrated.
    #[serde(flatten)]
    pub local: LocalJudge,
    /// The remote judge whose decisions it predicts.
    #[serde(flatten)]
    pub remote: RemoteJudge,
    /// Tasks that it rests on.
    pub n_tasks: usize,
    /// Clips that it rests on.
    pub n_videos: usize,
    /// Clips among them that the remote judge let pass.
    pub n_passed: usize,
    /// Overall score to chance.
    #[serde(flatten)]
    pub map: Map,
    /// Local to remote score, by dimension.
    pub keys: BTreeMap<Dimension, Vec<(f64, f64)>>,
    /// What it is worth on tasks that were held out.
    pub oof: Held,
    /// When it was fitted.
    pub fitted_at: String,
}

/// Why a table cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalid {
    /// It is no such table, or a damaged one.
    Malformed(String),
    /// It belongs to another judge.
    Mismatch {
        /// What differs.
        field: &'static str,
        /// What the table says.
        table: String,
        /// What is true now.
        now: String,
    },
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(message) => write!(f, "no calibration table: {message}"),
            Self::Mismatch { field, table, now } => write!(
                f,
                "the calibration was made with {field} `{table}`, now it is `{now}`: run `judge calibrate` on \
                 verdicts of the judges in use"
            ),
        }
    }
}

impl std::error::Error for Invalid {}

impl Table {
    /// Fits a table to the clips of a selection that have both verdicts.
    ///
    /// # Errors
    /// [`Refusal`] when they do not allow it.
    pub fn fit(selection: &Selection<'_>, fitted_at: String) -> Result<Self, Refusal> {
        let judged: Vec<_> = selection
            .rows(|pair| pair.local_overall.map(|_| pair.remote_pass))
            .collect();
        let passed = judged.iter().filter(|(_, passed)| *passed).count();
        let method = method_for(judged.len(), passed)?;
        let calibration = Calibration::fit(method, &selection.pairs)?;
        let tasks: std::collections::BTreeSet<_> = judged
            .iter()
            .filter_map(|(row, _)| selection.task_of.get(*row))
            .collect();
        let keys = Dimension::ALL
            .into_iter()
            .zip(&calibration.keys)
            .filter_map(|(dimension, map)| Some((dimension, map.as_ref()?.knots().to_vec())))
            .collect();
        Ok(Self {
            schema: SCHEMA.to_owned(),
            local: selection.local.clone(),
            remote: selection.remote.clone(),
            n_tasks: tasks.len(),
            n_videos: judged.len(),
            n_passed: passed,
            oof: held(&calibration.map, selection),
            map: calibration.map,
            keys,
            fitted_at,
        })
    }

    /// Reads a table and checks that it makes sense.
    ///
    /// # Errors
    /// [`Invalid::Malformed`] says what is wrong with it.
    pub fn read(text: &str) -> Result<Self, Invalid> {
        let malformed = |message: String| Invalid::Malformed(message);
        let table: Self =
            serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
        if table.schema != SCHEMA {
            return Err(malformed(format!(
                "its schema is `{:.64}`, this program reads {SCHEMA}",
                table.schema
            )));
        }
        if table.n_passed > table.n_videos || table.n_tasks > table.n_videos {
            return Err(malformed("its counts contradict each other".into()));
        }
        match &table.map {
            Map::Isotonic(map) => {
                let map = Isotonic::from_knots(map.knots().to_vec()).map_err(malformed)?;
                if map.knots().iter().any(|(_, p)| !(0.0..=1.0).contains(p)) {
                    return Err(malformed("a knot is no probability".into()));
                }
            }
            Map::Platt(curve) => {
                let is_number = curve.slope.is_finite() && curve.intercept.is_finite();
                if !is_number || curve.slope <= 0.0 {
                    return Err(malformed("its curve does not rise".into()));
                }
            }
        }
        for (dimension, knots) in &table.keys {
            Isotonic::from_knots(knots.clone())
                .map_err(|message| malformed(format!("{}: {message}", dimension.key())))?;
        }
        Ok(table)
    }

    /// Whether the table is about these judges.
    ///
    /// # Errors
    /// [`Invalid::Mismatch`] names what differs.
    pub fn check(&self, local: &LocalJudge, remote: &RemoteJudge) -> Result<(), Invalid> {
        let or_none = |digest: &Option<String>| digest.clone().unwrap_or_else(|| "none".into());
        for (field, table, now) in [
            (
                "local_id",
                self.local.local_id.clone(),
                local.local_id.clone(),
            ),
            (
                "weights_sha256",
                or_none(&self.local.weights_sha256),
                or_none(&local.weights_sha256),
            ),
            (
                "prompt_sha256",
                self.local.prompt_sha256.clone(),
                local.prompt_sha256.clone(),
            ),
            (
                "sampling",
                self.local.sampling.clone(),
                local.sampling.clone(),
            ),
            (
                "remote_model",
                self.remote.remote_model.clone(),
                remote.remote_model.clone(),
            ),
            (
                "remote_configuration_sha256",
                or_none(&self.remote.remote_configuration_sha256),
                or_none(&remote.remote_configuration_sha256),
            ),
        ] {
            if table != now {
                return Err(Invalid::Mismatch { field, table, now });
            }
        }
        Ok(())
    }

    /// The maps of the table.
    pub fn calibration(&self) -> Calibration {
        let keys = Dimension::ALL.map(|dimension| {
            let knots = self.keys.get(&dimension)?;
            Isotonic::from_knots(knots.clone()).ok()
        });
        Calibration {
            map: self.map.clone(),
            keys,
        }
    }

    /// Why the local judge must not stand in for the remote one with this table; empty when it may. That is about
    /// agreement on the clips of a log: which damage the local judge misses is not looked at here.
    pub fn unfit_for_fallback(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.n_tasks < FALLBACK_TASKS {
            reasons.push(format!(
                "it rests on {} tasks, {FALLBACK_TASKS} are needed",
                self.n_tasks
            ));
        }
        match self.oof.kappa_interval {
            Some((low, _)) if low >= FALLBACK_KAPPA => {}
            Some((low, _)) => reasons.push(format!(
                "kappa on tasks that were held out has a lower bound of {low:.3}, {FALLBACK_KAPPA} is needed"
            )),
            None => reasons.push("kappa on tasks that were held out has no interval".into()),
        }
        let missing: Vec<&str> = Dimension::ALL
            .into_iter()
            .filter(|dimension| dimension.is_critical() && !self.keys.contains_key(dimension))
            .map(Dimension::key)
            .collect();
        if !missing.is_empty() {
            reasons.push(format!("it has no map for {}", missing.join(", ")));
        }
        reasons
    }
}

/// The figures on tasks that were held out.
fn held(map: &Map, selection: &Selection<'_>) -> Held {
    let Ok(found) = out_of_fold(map.method(), selection) else {
        return Held::default();
    };
    let predictions = Predictions::new(found.chances);
    let kappa = Decisions {
        of: &found.decisions,
        rate: Rate::Kappa,
    };
    let (brier, ece) = (
        predictions.score(Score::Brier),
        predictions.score(Score::Ece),
    );
    let found = estimates(&selection.task_of, &[&brier, &ece, &kappa]);
    let value = |place: usize| found.get(place)?.value.ok();
    Held {
        brier: value(0),
        ece: value(1),
        kappa: value(2),
        kappa_interval: found.get(2).and_then(|kappa| kappa.between()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::judge::calibration::{ENOUGH_FOR_PLATT, Method};
    use crate::judge::statistics::Undefined;
    use crate::judge::statistics::pairs::{Pair, Wanted};
    use crate::judge::statistics::reference::simulated;

    fn fitted(pairs: &[Pair]) -> Result<Table, Refusal> {
        Table::fit(
            &Selection::of(pairs, Wanted::default()),
            "2026-11-22T00:00:00.000Z".into(),
        )
    }

    fn text(table: &Table) -> String {
        serde_json::to_string(table).unwrap()
    }

    #[test]
    fn a_table_survives_its_file() {
        let table = fitted(&simulated()).unwrap();
        assert_eq!(
            (table.n_tasks, table.n_videos, table.n_passed),
            (125, 490, 281)
        );
        assert_eq!(table.map.method(), Method::Isotonic);
        assert_eq!(table.keys.len(), 6);
        assert!(
            table.unfit_for_fallback().is_empty(),
            "{:?}",
            table.unfit_for_fallback()
        );
        let read = Table::read(&text(&table)).unwrap();
        assert_eq!(read.check(&table.local, &table.remote), Ok(()));
        for overall in 0..=100 {
            let overall = f64::from(overall);
            let (a, b) = (table.map.at(overall), read.map.at(overall));
            assert!((a - b).abs() < 1e-12 && (0.0..=1.0).contains(&a));
            let scores = [Some(overall); 6];
            let (table, read) = (table.calibration(), read.calibration());
            assert_eq!(
                table.passes(overall, &scores),
                read.passes(overall, &scores)
            );
        }
    }

    #[test]
    fn fewer_clips_give_a_curve_or_nothing() {
        let all = simulated();
        let table = fitted(&all[..120]).unwrap();
        assert_eq!(table.map.method(), Method::Platt);
        assert!(text(&table).contains("\"method\":\"platt\""));
        Table::read(&text(&table)).unwrap();
        // Thirty tasks are too few to stand in for the remote judge.
        assert!(!table.unfit_for_fallback().is_empty());
        assert!(matches!(fitted(&all[..40]), Err(Refusal::TooFew(n)) if n < ENOUGH_FOR_PLATT));
        assert_eq!(fitted(&[]), Err(Refusal::TooFew(0)));
        let mut passed = all;
        for pair in &mut passed {
            pair.remote_pass = true;
        }
        assert_eq!(fitted(&passed), Err(Undefined::OneClass.into()));
    }

    #[test]
    fn few_tasks_have_no_figures_of_clips_that_were_held_out() {
        let mut pairs = simulated();
        for (number, pair) in pairs.iter_mut().enumerate() {
            pair.task_id = (number % 3).to_string();
        }
        let table = fitted(&pairs).unwrap();
        assert_eq!(table.oof, Held::default());
        assert_eq!(table.unfit_for_fallback().len(), 2);
        Table::read(&text(&table)).unwrap();
    }

    #[test]
    fn a_table_of_other_judges_is_invalid() {
        let table = fitted(&simulated()).unwrap();
        let (local, remote) = (table.local.clone(), table.remote.clone());
        let changed: [(&str, LocalJudge, RemoteJudge); 6] = [
            (
                "local_id",
                LocalJudge {
                    local_id: "x".into(),
                    ..local.clone()
                },
                remote.clone(),
            ),
            (
                "weights_sha256",
                LocalJudge {
                    weights_sha256: Some("x".into()),
                    ..local.clone()
                },
                remote.clone(),
            ),
            (
                "prompt_sha256",
                LocalJudge {
                    prompt_sha256: "x".into(),
                    ..local.clone()
                },
                remote.clone(),
            ),
            (
                "sampling",
                LocalJudge {
                    sampling: "x".into(),
                    ..local.clone()
                },
                remote.clone(),
            ),
            (
                "remote_model",
                local.clone(),
                RemoteJudge {
                    remote_model: "x".into(),
                    ..remote.clone()
                },
            ),
            (
                "remote_configuration_sha256",
                local.clone(),
                RemoteJudge {
                    remote_configuration_sha256: Some("x".into()),
                    ..remote.clone()
                },
            ),
        ];
        for (expected, local, remote) in changed {
            let invalid = table.check(&local, &remote).unwrap_err();
            assert!(
                matches!(&invalid, Invalid::Mismatch { field, .. } if *field == expected),
                "{invalid:?}"
            );
            assert!(invalid.to_string().contains("judge calibrate"));
        }
    }

    #[test]
    fn damaged_tables_are_refused() {
        let good: serde_json::Value =
            serde_json::from_str(&text(&fitted(&simulated()).unwrap())).unwrap();
        for (pointer, value) in [
            ("/schema", serde_json::json!("leoma-judge-calibration/2")),
            ("/method", "spline".into()),
            ("/knots", serde_json::json!([])),
            ("/knots", serde_json::json!([[1.0, 0.5], [1.0, 0.6]])),
            ("/knots", serde_json::json!([[1.0, 0.5], [2.0, 0.4]])),
            ("/knots", serde_json::json!([[1.0, 0.5], [2.0, 1.4]])),
            ("/keys/prompt_adherence", serde_json::json!([])),
            ("/n_passed", 10_000.into()),
            ("/n_tasks", 10_000.into()),
            ("/local_id", serde_json::Value::Null),
        ] {
            let mut wrong = good.clone();
            *wrong.pointer_mut(pointer).unwrap() = value;
            let read = Table::read(&wrong.to_string());
            assert!(matches!(read, Err(Invalid::Malformed(_))), "{pointer}");
        }
        for wrong in ["", "{}", "[]", "null", "\u{0}"] {
            assert!(Table::read(wrong).is_err());
        }
        let mut falling = good;
        let fields = falling.as_object_mut().unwrap();
        fields.remove("knots");
        for (name, value) in [
            ("method", "platt".into()),
            ("slope", (-1).into()),
            ("intercept", 0.into()),
        ] {
            fields.insert(name.into(), value);
        }
        assert!(Table::read(&falling.to_string()).is_err());
    }
}

//! What the statistics read: two judges' verdicts on the same clip, one record a clip, without anything else that a
//! log may hold.

use std::cmp::Ordering;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Longest name, digest or model in a record, in bytes.
const MOST_NAME: usize = 512;
/// Longest prompt or remark in a record, in bytes.
const MOST_TEXT: usize = 16 << 10;
/// Most pictures and remarks of a record.
const MOST_ITEMS: usize = 64;

/// Which local judge gave a verdict. Two verdicts are comparable only when all of it is equal.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct LocalJudge {
    /// Name of the judge and its model.
    pub local_id: String,
    /// Digest of its weights; none for signals alone.
    #[serde(default)]
    pub weights_sha256: Option<String>,
    /// Digest of what it was asked and by what rules it was read.
    pub prompt_sha256: String,
    /// The frames it was shown.
    pub sampling: String,
}

/// Which remote judge gave a verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct RemoteJudge {
    /// The model that was asked.
    pub remote_model: String,
    /// Digest of thresholds, frames and prompt; another profile is another judge.
    #[serde(default)]
    pub remote_configuration_sha256: Option<String>,
}

/// Both judges' verdicts on a clip. Six scores are in the order of [`crate::judge::rubric::Dimension::ALL`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct Pair {
    /// Name of this record; unique in its log.
    pub id: String,
    /// The task whose clip this is.
    pub task_id: String,
    /// SHA-256 of the video.
    pub video: String,
    /// When it was judged, in seconds since 1970.
    pub time: f64,
    /// The local judge.
    pub local_judge: LocalJudge,
    /// The remote judge.
    pub remote_judge: RemoteJudge,
    /// The local judge's scores, 0 to 100; none where it cannot tell.
    pub local: [Option<f64>; 6],
    /// The local judge's overall score; none where it gave no verdict.
    pub local_overall: Option<f64>,
    /// The local judge's decision.
    pub local_pass: Option<bool>,
    /// Chance that the remote judge passes the clip, as a calibration said at that time.
    #[serde(default)]
    pub local_p_pass: Option<f64>,
    /// The remote judge's scores.
    pub remote: [f64; 6],
    /// The remote judge's overall score: the one that decided.
    pub remote_overall: f64,
    /// The remote judge's decision.
    pub remote_pass: bool,
    /// `id` of the record whose clip was shown to the remote judge once more, to see how far it agrees with itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat_of: Option<String>,
    /// The prompt, for the table of clips that disagree.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prompt: String,
    /// Remarks of either judge: gates, issues.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// Pictures of the clip: data URLs (JPEG or PNG, base64), or digests of pictures that lie in a folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<String>,
}

impl Pair {
    /// Refuses what no judge can have said.
    ///
    /// # Errors
    /// The field and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        for (field, text, most) in [
            ("id", &self.id, MOST_NAME),
            ("task_id", &self.task_id, MOST_NAME),
            ("video", &self.video, MOST_NAME),
            ("remote_model", &self.remote_judge.remote_model, MOST_NAME),
        ] {
            if text.is_empty() || text.len() > most {
                return Err(format!(
                    "{field}: 1 to {most} bytes are allowed, not {}",
                    text.len()
                ));
            }
        }
        for (field, text, most) in [
            ("local_id", &self.local_judge.local_id, MOST_NAME),
            ("prompt_sha256", &self.local_judge.prompt_sha256, MOST_NAME),
            ("sampling", &self.local_judge.sampling, MOST_NAME),
            ("prompt", &self.prompt, MOST_TEXT),
        ] {
            if text.len() > most {
                return Err(format!("{field}: longer than {most} bytes"));
            }
        }
        let scores = self
            .local
            .iter()
            .flatten()
            .chain(&self.local_overall)
            .chain(&self.remote)
            .chain(std::iter::once(&self.remote_overall));
        for &score in scores {
            if !(0.0..=100.0).contains(&score) {
                return Err(format!("a score of {score}; 0 to 100 are possible"));
            }
        }
        // They would be counted with those of whichever local judge is compared: a clip without a local verdict
        // names none.
        let has_scores = self.local_overall.is_some() || self.local.iter().any(Option::is_some);
        if self.local_pass.is_none() && has_scores {
            return Err("local_pass: missing, though there are local scores".into());
        }
        if let Some(p) = self.local_p_pass.filter(|p| !(0.0..=1.0).contains(p)) {
            return Err(format!("local_p_pass: {p} is no probability"));
        }
        if !(self.time.is_finite() && self.time >= 0.0) {
            return Err(format!("time: {} is no time", self.time));
        }
        if self.frames.len() > MOST_ITEMS || self.remarks.len() > MOST_ITEMS {
            return Err(format!("more than {MOST_ITEMS} frames or remarks"));
        }
        if self.remarks.iter().any(|remark| remark.len() > MOST_TEXT) {
            return Err(format!("remarks: one is longer than {MOST_TEXT} bytes"));
        }
        Ok(())
    }
}

/// Whose verdicts a report is about; none of it leaves the choice to the newest record.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// Name of the local judge.
    pub local_id: Option<&'a str>,
    /// Name of the remote model.
    pub remote_model: Option<&'a str>,
}

/// Comparable verdicts: one local judge, one remote judge, every clip once.
#[derive(Debug, Clone, Default)]
pub struct Selection<'a> {
    /// The local judge.
    pub local: LocalJudge,
    /// The remote judge.
    pub remote: RemoteJudge,
    /// Clips, each once and by time: with the first local verdict where there is one. Their places are the rows of all
    /// statistics.
    pub pairs: Vec<&'a Pair>,
    /// Number of each row's task, in the order of the tasks' names.
    pub task_of: Vec<usize>,
    /// Number of tasks.
    pub tasks: usize,
    /// First verdicts of the remote judge beside its second ones, by time of the second.
    pub repeats: Vec<(&'a Pair, &'a Pair)>,
    /// Records of a clip that was there already.
    pub duplicates: usize,
    /// Repeats whose first verdict is not in the log.
    pub orphans: usize,
    /// Records of other judges, counted.
    pub others: Vec<(LocalJudge, RemoteJudge, usize)>,
}

impl<'a> Selection<'a> {
    /// The verdicts of the judges that are wanted: of the newest record among those that fit.
    pub fn of(pairs: &'a [Pair], wanted: Wanted<'_>) -> Self {
        let mut sorted: Vec<&Pair> = pairs.iter().collect();
        sorted.sort_by(|a, b| by_time(a, b));
        let fits = |pair: &&&Pair| {
            let named =
                |name: &str, wanted: Option<&str>| wanted.is_none_or(|wanted| wanted == name);
            pair.repeat_of.is_none()
                && named(&pair.local_judge.local_id, wanted.local_id)
                && named(&pair.remote_judge.remote_model, wanted.remote_model)
        };
        // A record with both verdicts says more about who is compared than one without.
        let both = |pair: &&&Pair| pair.local_pass.is_some() && fits(pair);
        let newest = sorted.iter().rev().find(both);
        let Some(newest) = newest.or_else(|| sorted.iter().rev().find(fits)) else {
            return Self::default();
        };
        let (local, remote) = (newest.local_judge.clone(), newest.remote_judge.clone());
        let mut selection = Self::default();
        let mut others: BTreeMap<(&LocalJudge, &RemoteJudge), usize> = BTreeMap::new();
        let mut clips: BTreeMap<(&str, &str), &Pair> = BTreeMap::new();
        let mut first: BTreeMap<&str, &Pair> = BTreeMap::new();
        for &pair in &sorted {
            if pair.repeat_of.is_some() {
                continue;
            }
            if pair.remote_judge == remote {
                first.entry(&pair.id).or_insert(pair);
            }
            // Where the local judge gave no verdict, it may not even be known which it was.
            let is_local = pair.local_pass.is_none() || pair.local_judge == local;
            if !is_local || pair.remote_judge != remote {
                *others
                    .entry((&pair.local_judge, &pair.remote_judge))
                    .or_default() += 1;
                continue;
            }
            match clips.entry((&pair.task_id, &pair.video)) {
                Entry::Vacant(place) => {
                    place.insert(pair);
                }
                Entry::Occupied(mut place) => {
                    selection.duplicates += 1;
                    if place.get().local_pass.is_none() && pair.local_pass.is_some() {
                        place.insert(pair);
                    }
                }
            }
        }
        selection.pairs = clips.into_values().collect();
        selection.pairs.sort_by(|a, b| by_time(a, b));
        for &pair in &sorted {
            let Some(original) = &pair.repeat_of else {
                continue;
            };
            if pair.remote_judge != remote {
                continue;
            }
            match first.get(original.as_str()) {
                Some(original) if original.video == pair.video => {
                    selection.repeats.push((original, pair));
                }
                _ => selection.orphans += 1,
            }
        }
        selection.others = others
            .into_iter()
            .map(|((local, remote), count)| (local.clone(), remote.clone(), count))
            .collect();
        selection.task_of = numbered(selection.pairs.iter().map(|pair| pair.task_id.as_str()));
        selection.tasks = count(&selection.task_of);
        (selection.local, selection.remote) = (local, remote);
        selection
    }

    /// (row, local decision, remote decision), where both are there.
    pub fn decisions(&self) -> Vec<(usize, bool, bool)> {
        self.rows(|pair| Some((pair.local_pass?, pair.remote_pass)))
            .map(|(row, (local, remote))| (row, local, remote))
            .collect()
    }

    /// (row, local overall, remote overall).
    pub fn overall(&self) -> Vec<(usize, f64, f64)> {
        self.rows(|pair| Some((pair.local_overall?, pair.remote_overall)))
            .map(|(row, (local, remote))| (row, local, remote))
            .collect()
    }

    /// (row, local score, remote score) of a dimension by its place.
    pub fn dimension(&self, place: usize) -> Vec<(usize, f64, f64)> {
        self.rows(|pair| Some(((*pair.local.get(place)?)?, *pair.remote.get(place)?)))
            .map(|(row, (local, remote))| (row, local, remote))
            .collect()
    }

    /// What `of` finds in the pairs, with their rows.
    pub fn rows<T>(&self, of: impl Fn(&Pair) -> Option<T>) -> impl Iterator<Item = (usize, T)> {
        self.pairs
            .iter()
            .enumerate()
            .filter_map(move |(row, pair)| Some((row, of(pair)?)))
    }

    /// Numbers of the repeats' tasks, as [`Self::task_of`].
    pub fn tasks_of_repeats(&self) -> Vec<usize> {
        numbered(self.repeats.iter().map(|(first, _)| first.task_id.as_str()))
    }
}

fn by_time(a: &Pair, b: &Pair) -> Ordering {
    a.time.total_cmp(&b.time).then_with(|| a.id.cmp(&b.id))
}

/// The place of each name among all names in order.
fn numbered<'n>(names: impl Iterator<Item = &'n str> + Clone) -> Vec<usize> {
    let places: BTreeMap<&str, usize> = names
        .clone()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .enumerate()
        .map(|(place, name)| (name, place))
        .collect();
    names.filter_map(|name| places.get(name).copied()).collect()
}

fn count(task_of: &[usize]) -> usize {
    task_of.iter().max().map_or(0, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(id: &str, task: &str, time: f64) -> Pair {
        Pair {
            id: id.into(),
            task_id: task.into(),
            video: format!("video of {id}"),
            time,
            local_judge: LocalJudge {
                local_id: "small".into(),
                ..LocalJudge::default()
            },
            remote_judge: RemoteJudge {
                remote_model: "big".into(),
                ..RemoteJudge::default()
            },
            local_overall: Some(80.0),
            local_pass: Some(true),
            remote_overall: 75.0,
            remote_pass: true,
            ..Pair::default()
        }
    }

    #[test]
    fn impossible_records_are_refused() {
        assert_eq!(pair("a", "1", 0.0).check(), Ok(()));
        let wrong: [(&str, fn(&mut Pair)); 11] = [
            ("score", |pair| pair.remote[3] = 101.0),
            ("score", |pair| pair.local[0] = Some(-1.0)),
            ("score", |pair| pair.local_overall = Some(f64::NAN)),
            ("local_p_pass", |pair| pair.local_p_pass = Some(1.5)),
            ("local_pass", |pair| pair.local_pass = None),
            ("local_pass", |pair| {
                (pair.local_pass, pair.local_overall) = (None, None);
                pair.local[5] = Some(1.0);
            }),
            ("time", |pair| pair.time = f64::INFINITY),
            ("task_id", |pair| pair.task_id.clear()),
            ("video", |pair| pair.video = "x".repeat(MOST_NAME + 1)),
            ("prompt", |pair| pair.prompt = "x".repeat(MOST_TEXT + 1)),
            ("frames", |pair| {
                pair.frames = vec![String::new(); MOST_ITEMS + 1];
            }),
        ];
        for (field, spoil) in wrong {
            let mut pair = pair("a", "1", 0.0);
            spoil(&mut pair);
            let refusal = pair.check();
            assert!(
                refusal.as_ref().is_err_and(|text| text.contains(field)),
                "{field}: {refusal:?}"
            );
        }
    }

    #[test]
    fn only_one_pair_of_judges_is_compared_and_every_clip_once() {
        let mut log = vec![
            pair("c", "task 10", 3.0),
            pair("a", "task 9", 1.0),
            pair("b", "task 10", 2.0),
            pair("old", "task 9", 0.5),
            pair("late", "task 9", 9.0),
        ];
        log[3].remote_judge.remote_model = "older".into();
        // The clip of `a` again, without being marked as a repeat.
        log[4].video = log[1].video.clone();
        let selection = Selection::of(&log, Wanted::default());
        let ids: Vec<_> = selection.pairs.iter().map(|pair| &*pair.id).collect();
        assert_eq!(ids, ["a", "b", "c"]);
        // By name: "task 10" comes before "task 9".
        assert_eq!(
            (selection.task_of.clone(), selection.tasks),
            (vec![1, 0, 0], 2)
        );
        assert_eq!((selection.duplicates, selection.others.len()), (1, 1));

        let wanted = Wanted {
            remote_model: Some("older"),
            ..Wanted::default()
        };
        assert_eq!(Selection::of(&log, wanted).pairs[0].id, "old");
        let nobody = Wanted {
            local_id: Some("nobody"),
            ..Wanted::default()
        };
        assert!(Selection::of(&log, nobody).pairs.is_empty());
        assert!(Selection::of(&[], Wanted::default()).pairs.is_empty());
    }

    #[test]
    fn a_clip_that_was_judged_again_has_a_local_verdict() {
        let mut log = vec![
            pair("a", "1", 1.0),
            pair("b", "1", 2.0),
            pair("c", "1", 3.0),
        ];
        log[0].local_pass = None;
        log[0].local_judge = LocalJudge::default();
        log[2].video = log[0].video.clone();
        let selection = Selection::of(&log, Wanted::default());
        let ids: Vec<_> = selection.pairs.iter().map(|pair| &*pair.id).collect();
        assert_eq!((ids, selection.duplicates), (vec!["b", "c"], 1));
        let without = Selection::of(&log[..2], Wanted::default());
        assert_eq!((without.pairs.len(), without.decisions().len()), (2, 1));
        assert!(without.others.is_empty());
    }

    #[test]
    fn repeats_stand_beside_their_first_verdict_and_are_no_clips() {
        let mut log = vec![
            pair("a", "1", 1.0),
            pair("r", "1", 2.0),
            pair("s", "1", 3.0),
        ];
        log[1].repeat_of = Some("a".into());
        log[1].video = log[0].video.clone();
        log[2].repeat_of = Some("gone".into());
        let selection = Selection::of(&log, Wanted::default());
        assert_eq!(selection.pairs.len(), 1);
        let repeats: Vec<_> = selection
            .repeats
            .iter()
            .map(|(first, second)| (&*first.id, &*second.id))
            .collect();
        assert_eq!((repeats, selection.orphans), (vec![("a", "r")], 1));
    }

    #[test]
    fn what_the_local_judge_cannot_tell_is_left_out() {
        let mut log = vec![pair("a", "1", 1.0), pair("b", "1", 2.0)];
        log[0].local_pass = None;
        log[0].local_overall = None;
        log[1].local[2] = Some(30.0);
        let selection = Selection::of(&log, Wanted::default());
        assert_eq!(selection.decisions(), [(1, true, true)]);
        assert_eq!(selection.overall(), [(1, 80.0, 75.0)]);
        assert_eq!(selection.dimension(2), [(1, 30.0, 0.0)]);
        assert!(selection.dimension(6).is_empty());
    }
}

//! What people said of clips, and what a judge did, from small files: CSV with a head, or JSON lines.
//!
//! A line is a score (`clip`, `score`) or a preference (`clip_a`, `clip_b`, `preference`: first, second or tie);
//! `dimension` (one of the six, or `overall`, which it is when left out) and `task` may stand beside either. Other
//! columns are passed over. Several scores of one clip are averaged: that is a mean opinion score. Any range will do,
//! since only order is compared. A line that cannot be read refuses the file: such files are made by hand, and a
//! figure over the rest would be one of another question.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::human::Choice;
use crate::judge::rubric::Dimension;

/// Longest file, bytes.
pub const MOST_BYTES: u64 = 64 << 20;
/// Most lines.
const MOST_LINES: usize = 200_000;

/// A dimension, or the overall score where there is none.
pub type Aspect = Option<Dimension>;

/// Name of an aspect in files and tables.
pub fn aspect_key(aspect: Aspect) -> &'static str {
    aspect.map_or("overall", Dimension::key)
}

/// Two clips, and which a person prefers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// In which respect.
    pub aspect: Aspect,
    /// The one shown first.
    pub first: String,
    /// The one shown second.
    pub second: String,
    /// What the person said.
    pub choice: Choice,
}

/// What a file says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ratings {
    /// Scores by aspect and clip, averaged.
    pub scores: BTreeMap<Aspect, BTreeMap<String, f64>>,
    /// Preferences in their order.
    pub preferences: Vec<Compared>,
    /// Task by clip, where it is said.
    pub tasks: BTreeMap<String, String>,
}

/// A line of either form.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    clip: Option<String>,
    score: Option<f64>,
    clip_a: Option<String>,
    clip_b: Option<String>,
    preference: Option<Choice>,
    dimension: Option<String>,
    task: Option<String>,
}

impl Ratings {
    /// Reads a whole file.
    ///
    /// # Errors
    /// The number of the line and what is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut ratings = Self::default();
        let mut sums: BTreeMap<(Aspect, String), (f64, f64)> = BTreeMap::new();
        let mut head: Option<Vec<String>> = None;
        let is_json = text.trim_start().starts_with('{');
        let lines = text.lines().enumerate();
        for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = |message: String| format!("line {}: {message}", index + 1);
            if index >= MOST_LINES {
                return Err(wrong(format!("at most {MOST_LINES} lines are read")));
            }
            let line = if is_json {
                serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?
            } else {
                let cells = cells(line).map_err(wrong)?;
                match &head {
                    None => {
                        head = Some(check_head(cells).map_err(wrong)?);
                        continue;
                    }
                    Some(head) => row(head, cells).map_err(wrong)?,
                }
            };
            ratings.add(line, &mut sums).map_err(wrong)?;
        }
        for ((aspect, clip), (sum, count)) in sums {
            let scores = ratings.scores.entry(aspect).or_default();
            scores.insert(clip, sum / count);
        }
        if ratings.scores.is_empty() && ratings.preferences.is_empty() {
            return Err("holds no score and no preference: write lines of clip and score, or of clip_a, clip_b and \
                        preference"
                .into());
        }
        Ok(ratings)
    }

    fn add(
        &mut self,
        line: Line,
        sums: &mut BTreeMap<(Aspect, String), (f64, f64)>,
    ) -> Result<(), String> {
        let aspect = aspect(line.dimension.as_deref())?;
        let mut of_task = |clip: &str| {
            if let Some(task) = &line.task {
                self.tasks.insert(clip.to_owned(), task.clone());
            }
        };
        match (
            line.clip,
            line.score,
            line.clip_a,
            line.clip_b,
            line.preference,
        ) {
            (Some(clip), Some(score), None, None, None) => {
                if !score.is_finite() {
                    return Err(format!("score: {score} is no number"));
                }
                of_task(&clip);
                let (sum, count) = sums.entry((aspect, clip)).or_default();
                *sum += score;
                *count += 1.0;
            }
            (None, None, Some(first), Some(second), Some(choice)) => {
                if first == second {
                    return Err(format!("clip_a, clip_b: both are {first:?}"));
                }
                of_task(&first);
                of_task(&second);
                self.preferences.push(Compared {
                    aspect,
                    first,
                    second,
                    choice,
                });
            }
            _ => {
                return Err("needs either clip and score, or clip_a, clip_b and preference".into());
            }
        }
        Ok(())
    }
}

fn aspect(name: Option<&str>) -> Result<Aspect, String> {
    match name {
        None | Some("" | "overall") => Ok(None),
        Some(name) => {
            let found = Dimension::ALL.into_iter().find(|one| one.key() == name);
            found.map(Some).ok_or_else(|| {
                let known = Dimension::ALL.map(Dimension::key).join(", ");
                format!("dimension: {name:?} is none of {known}, overall")
            })
        }
    }
}

/// The columns of a head.
fn check_head(cells: Vec<String>) -> Result<Vec<String>, String> {
    let has = |name: &str| cells.iter().any(|cell| cell == name);
    let is_known =
        has("clip") && has("score") || has("clip_a") && has("clip_b") && has("preference");
    if is_known {
        Ok(cells)
    } else {
        Err("the first line must name the columns: clip,score or clip_a,clip_b,preference, and dimension and task \
             where they are known"
            .into())
    }
}

/// A line of CSV by its columns; an empty cell says nothing.
fn row(head: &[String], cells: Vec<String>) -> Result<Line, String> {
    if head.len() != cells.len() {
        return Err(format!(
            "{} cells, the head has {}",
            cells.len(),
            head.len()
        ));
    }
    let mut line = Line::default();
    for (name, cell) in head.iter().zip(cells).filter(|(_, cell)| !cell.is_empty()) {
        match name.as_str() {
            "clip" => line.clip = Some(cell),
            "clip_a" => line.clip_a = Some(cell),
            "clip_b" => line.clip_b = Some(cell),
            "dimension" => line.dimension = Some(cell),
            "task" => line.task = Some(cell),
            "score" => {
                let score = cell.parse();
                line.score = Some(score.map_err(|_| format!("score: {cell:?} is no number"))?);
            }
            "preference" => {
                line.preference = Some(match cell.as_str() {
                    "first" => Choice::First,
                    "second" => Choice::Second,
                    "tie" => Choice::Tie,
                    _ => {
                        return Err(format!(
                            "preference: {cell:?} is none of first, second, tie"
                        ));
                    }
                });
            }
            _ => {}
        }
    }
    Ok(line)
}

/// Cells of a line of CSV (RFC 4180), without the spaces round them; quotes hold commas, two of them one.
fn cells(line: &str) -> Result<Vec<String>, String> {
    let mut cells = Vec::new();
    let mut cell = String::new();
    let mut chars = line.chars().peekable();
    let (mut is_quoted, mut was_quoted) = (false, false);
    while let Some(c) = chars.next() {
        match c {
            '"' if is_quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            '"' if is_quoted => is_quoted = false,
            '"' if cell.trim().is_empty() && !was_quoted => {
                cell.clear();
                (is_quoted, was_quoted) = (true, true);
            }
            ',' if !is_quoted => {
                cells.push(finished(&mut cell, was_quoted));
                was_quoted = false;
            }
            c => cell.push(c),
        }
    }
    if is_quoted {
        return Err("a quote is not closed; a cell is one line".into());
    }
    cells.push(finished(&mut cell, was_quoted));
    Ok(cells)
}

fn finished(cell: &mut String, was_quoted: bool) -> String {
    let text = std::mem::take(cell);
    if was_quoted {
        text
    } else {
        text.trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn csv_and_json_lines_say_the_same() {
        let csv = "\u{feff}clip,dimension,score,task,remark\r\na.mp4,,3,t1,\r\na.mp4,overall,4,t1,\"good, really\"\r\n\
                   \"b,\"\"2\"\".mp4\",motion_quality,1.5,,\r\n";
        let json = r#"{"clip":"a.mp4","score":3,"task":"t1"}
            {"clip":"a.mp4","dimension":"overall","score":4,"task":"t1","by":"someone"}

            {"clip":"b,\"2\".mp4","dimension":"motion_quality","score":1.5}"#;
        let read = Ratings::read(csv).unwrap();
        assert_eq!(read, Ratings::read(json).unwrap());
        assert_eq!(read.scores[&None]["a.mp4"], 3.5);
        assert_eq!(
            read.scores[&Some(Dimension::MotionQuality)]["b,\"2\".mp4"],
            1.5
        );
        assert_eq!(read.tasks.get("a.mp4").map(String::as_str), Some("t1"));
    }

    #[test]
    fn preferences_are_read() {
        let csv = "clip_a,clip_b,preference\na,b,first\nb,c,tie\n";
        let json = "{\"clip_a\":\"a\",\"clip_b\":\"b\",\"preference\":\"first\"}\n\
                    {\"clip_a\":\"b\",\"clip_b\":\"c\",\"preference\":\"tie\"}";
        let read = Ratings::read(csv).unwrap();
        assert_eq!(read, Ratings::read(json).unwrap());
        assert_eq!(read.preferences[1].choice, Choice::Tie);
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        for (text, named) in [
            ("", "no score"),
            ("clip,score\n", "no score"),
            ("clip,points\na,1\n", "line 1: the first line"),
            ("clip,score\na,1\nb,good\n", "line 3: score"),
            ("clip,score\na,inf\n", "line 2: score"),
            ("clip,score\na\n", "line 2: 1 cells"),
            ("clip,score\n\"a,1\n", "line 2: a quote"),
            ("clip,score\n,1\n", "line 2: needs either"),
            ("clip,dimension,score\na,beauty,1\n", "line 2: dimension"),
            ("clip_a,clip_b,preference\na,a,tie\n", "line 2: clip_a"),
            ("clip_a,clip_b,preference\na,b,left\n", "line 2: preference"),
            (
                "{\"clip\":\"a\",\"score\":1}\n{\"clip\":\"a\"}",
                "line 2: needs either",
            ),
            ("{\"clip\":\"a\",\"score\":1}\n{", "line 2"),
        ] {
            let error = Ratings::read(text).unwrap_err();
            assert!(error.contains(named), "{text:?}: {error}");
        }
    }
}

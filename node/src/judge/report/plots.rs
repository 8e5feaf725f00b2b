//! Drawings: inline SVG without a script; colours come from the page, so that they fit light and dark.

use std::fmt::Write as _;

use super::{Report, Scored};
use crate::judge::calibration::Point;
use crate::judge::statistics::agreement::Confusion;
use crate::judge::statistics::bootstrap::Estimate;
use crate::judge::statistics::probability::Bin;
use crate::report::html::escaped;
use crate::time::rfc3339;

/// Most points of a scatter; of more, every so many-th is drawn.
const MOST_POINTS: usize = 1500;

/// Room for the numbers of a vertical axis.
const NUMBERS: f64 = 44.0;

/// Writing into a text cannot fail.
macro_rules! draw {
    ($text:expr, $($words:tt)*) => { { let _ = writeln!($text, $($words)*); } };
}

/// A field with two axes. Sides and margins are in the drawing's own units.
struct Field {
    svg: String,
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    x: (f64, f64),
    y: (f64, f64),
}

impl Field {
    /// `left` is the room for the names of the vertical axis.
    fn new(
        title: &str,
        left: f64,
        (width, height): (f64, f64),
        x: (f64, f64),
        y: (f64, f64),
    ) -> Self {
        let (top, right, bottom) = (10.0, 14.0, 40.0);
        let svg = open(title, width + left + right, height + top + bottom);
        Self {
            svg,
            left,
            top,
            width,
            height,
            x,
            y,
        }
    }

    fn place_x(&self, x: f64) -> f64 {
        let share = (x - self.x.0) / (self.x.1 - self.x.0);
        self.left + self.width * share.clamp(0.0, 1.0)
    }

    fn place_y(&self, y: f64) -> f64 {
        let share = (y - self.y.0) / (self.y.1 - self.y.0);
        self.top + self.height * (1.0 - share.clamp(0.0, 1.0))
    }

    /// Frame, lines and numbers of both axes, and what they show.
    fn axes(
        &mut self,
        x_name: &str,
        y_name: &str,
        x_ticks: &[(f64, String)],
        y_ticks: &[(f64, String)],
    ) {
        let (left, right) = (self.left, self.left + self.width);
        let (top, bottom) = (self.top, self.top + self.height);
        for (value, name) in x_ticks {
            let x = self.place_x(*value);
            draw!(
                self.svg,
                "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>"
            );
            let y = bottom + 14.0;
            draw!(
                self.svg,
                "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{}</text>",
                escaped(name)
            );
        }
        for (value, name) in y_ticks {
            let y = self.place_y(*value);
            draw!(
                self.svg,
                "<line class=\"grid\" x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>"
            );
            let (x, y) = (left - 6.0, y + 4.0);
            draw!(
                self.svg,
                "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>",
                escaped(name)
            );
        }
        let (x, y) = (left + self.width / 2.0, bottom + 32.0);
        draw!(
            self.svg,
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{}</text>",
            escaped(x_name)
        );
        let y = top + self.height / 2.0;
        draw!(
            self.svg,
            "<text transform=\"translate(11 {y}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escaped(y_name)
        );
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let (x1, y1) = (self.place_x(from.0), self.place_y(from.1));
        let (x2, y2) = (self.place_x(to.0), self.place_y(to.1));
        draw!(
            self.svg,
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    }

    fn dot(&mut self, class: &str, (x, y): (f64, f64), radius: f64, title: &str) {
        let (x, y) = (self.place_x(x), self.place_y(y));
        draw!(
            self.svg,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"><title>{}</title></circle>",
            escaped(title)
        );
    }

    fn done(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }
}

fn open(title: &str, width: f64, height: f64) -> String {
    let title = escaped(title);
    format!(
        "<svg class=\"picture\" role=\"img\" aria-label=\"{title}\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\">\n<title>{title}</title>\n"
    )
}

fn ticks(values: &[f64]) -> Vec<(f64, String)> {
    values
        .iter()
        .map(|value| (*value, value.to_string()))
        .collect()
}

/// Marks of an axis of kappas, from `from` to 1.
fn fifths(from: f64) -> Vec<f64> {
    (0..=10)
        // Through whole tenths, so that no mark is called 0.6000000000000001.
        .map(|fifth| ((from + f64::from(fifth) / 5.0) * 10.0).round() / 10.0)
        .filter(|mark| *mark <= 1.0)
        .collect()
}

/// Counts of pass and fail as four fields, coloured by their share of the row of the remote judge, which is written
/// there where `with_shares` allows it.
pub(super) fn confusion(counts: &Confusion, with_shares: bool) -> String {
    const SIDE: (f64, f64) = (150.0, 72.0);
    const LEFT: f64 = 96.0;
    const TOP: f64 = 24.0;
    let mut svg = open(
        "Decisions of the local judge across, of the remote judge down",
        LEFT + 2.0 * SIDE.0 + 8.0,
        TOP + 2.0 * SIDE.1 + 8.0,
    );
    for (column, name) in ["local passes", "local fails"].into_iter().enumerate() {
        let x = LEFT + SIDE.0 * (column as f64 + 0.5);
        draw!(
            svg,
            "<text x=\"{x}\" y=\"14\" text-anchor=\"middle\">{name}</text>"
        );
    }
    let rows = [
        (
            "remote passes",
            [(counts.both_pass, true), (counts.false_fail, false)],
        ),
        (
            "remote fails",
            [(counts.false_pass, false), (counts.both_fail, true)],
        ),
    ];
    for (row, (name, fields)) in rows.into_iter().enumerate() {
        let y = TOP + SIDE.1 * row as f64;
        let middle = y + SIDE.1 / 2.0;
        let x = LEFT - 8.0;
        draw!(
            svg,
            "<text x=\"{x}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
            middle + 4.0
        );
        let whole: u64 = fields.iter().map(|field| field.0).sum();
        for (column, (count, is_same)) in fields.into_iter().enumerate() {
            let x = LEFT + SIDE.0 * column as f64;
            let share = if whole == 0 {
                0.0
            } else {
                count as f64 / whole as f64
            };
            let class = if is_same { "same" } else { "against" };
            draw!(
                svg,
                "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" fill-opacity=\"{:.3}\"/>",
                SIDE.0 - 3.0,
                SIDE.1 - 3.0,
                0.08 + 0.6 * share
            );
            let x = x + SIDE.0 / 2.0;
            draw!(
                svg,
                "<text class=\"count\" x=\"{x}\" y=\"{:.1}\" text-anchor=\"middle\">{count}</text>",
                middle + 2.0
            );
            if !with_shares {
                continue;
            }
            draw!(
                svg,
                "<text class=\"part\" x=\"{x}\" y=\"{:.1}\" text-anchor=\"middle\">{:.1} % of the row</text>",
                middle + 20.0,
                100.0 * share
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Kappas with their intervals: the local judge's above the remote judge's with itself.
pub(super) fn kappas(report: &Report) -> String {
    const ROW: f64 = 34.0;
    let mut rows: Vec<(&str, &Estimate, &Estimate)> = vec![(
        "pass or fail",
        &report.decision.kappa,
        &report.ceiling.kappa,
    )];
    let (dimensions, overall) = report
        .scores
        .split_at(report.scores.len().saturating_sub(1));
    for scored in overall.iter().chain(dimensions) {
        rows.push((scored.name(), &scored.quadratic_kappa, &scored.ceiling));
    }
    let lowest = rows
        .iter()
        .flat_map(|(_, local, remote)| [local, remote])
        .filter(|estimate| estimate.is_sufficient())
        .filter_map(|estimate| {
            estimate
                .between()
                .map(|(low, _)| low)
                .or(estimate.value.ok())
        })
        .fold(0.0, f64::min);
    let from = (lowest * 5.0).floor() / 5.0;
    let height = ROW * rows.len() as f64;
    let mut field = Field::new(
        "Kappa with its interval: the local judge with the remote one, and the remote one with itself",
        164.0,
        (560.0, height),
        (from, 1.0),
        (0.0, rows.len() as f64),
    );
    let marks = fifths(from);
    let names: Vec<(f64, String)> = rows
        .iter()
        .enumerate()
        .map(|(row, (name, ..))| (rows.len() as f64 - row as f64 - 0.5, name.replace('_', " ")))
        .collect();
    field.axes("kappa", "", &ticks(&marks), &names);
    for (row, (name, local, remote)) in rows.iter().enumerate() {
        let middle = rows.len() as f64 - row as f64 - 0.5;
        for (class, who, estimate, y) in [
            ("same", "local with remote", local, middle + 0.16),
            ("against", "remote with itself", remote, middle - 0.16),
        ] {
            // What is insufficient is not drawn: a dot would be believed.
            let Some(value) = estimate.value.ok().filter(|_| estimate.is_sufficient()) else {
                continue;
            };
            if let Some((low, high)) = estimate.between() {
                field.line(&format!("bar {class}"), (low, y), (high, y));
            }
            let title = format!("{name}, {who}: {}", super::sentences::estimate(estimate));
            field.dot(class, (value, y), 4.5, &title);
        }
    }
    field.done()
}

/// Scores of both judges, a dot for each clip.
pub(super) fn scatter(scored: &Scored) -> String {
    let title = format!("{}: local scores across, remote scores up", scored.name());
    let range = (0.0, 100.0);
    let mut field = Field::new(&title, NUMBERS, (212.0, 212.0), range, range);
    let marks = ticks(&[0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
    field.axes("local", "remote", &marks, &marks);
    field.line("guide", (0.0, 0.0), (100.0, 100.0));
    let every = scored.points.len().div_ceil(MOST_POINTS).max(1);
    for &(local, remote) in scored.points.iter().step_by(every) {
        let (x, y) = (field.place_x(local), field.place_y(remote));
        draw!(
            field.svg,
            "<circle class=\"clip\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\"/>"
        );
    }
    field.done()
}

/// Chances beside what happened.
pub(super) fn reliability(bins: &[Bin]) -> String {
    let mut field = Field::new(
        "Chance of a pass across, share that passed up",
        NUMBERS,
        (340.0, 300.0),
        (0.0, 1.0),
        (0.0, 1.0),
    );
    let marks = ticks(&[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
    field.axes("chance of a pass", "share that passed", &marks, &marks);
    field.line("guide", (0.0, 0.0), (1.0, 1.0));
    for pair in bins.windows(2) {
        if let [a, b] = pair {
            field.line("course", (a.mean_p, a.share), (b.mean_p, b.share));
        }
    }
    for bin in bins {
        let [low, high] = bin.interval;
        field.line("bar same", (bin.mean_p, low), (bin.mean_p, high));
        let title = format!(
            "{} clips, chance {:.3}: {} passed, {:.3}",
            bin.n, bin.mean_p, bin.passed, bin.share
        );
        field.dot("same", (bin.mean_p, bin.share), 4.5, &title);
    }
    field.done()
}

/// Kappa over time.
pub(super) fn course(points: &[Point], window: usize) -> String {
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return String::new();
    };
    let known = || {
        points
            .iter()
            .filter_map(|point| Some((point, point.kappa?)))
    };
    let lowest = known().map(|(_, kappa)| kappa).fold(0.0, f64::min);
    let from = (lowest * 5.0).floor() / 5.0;
    let right = (last.clip as f64).max(first.clip as f64 + 1.0);
    let mut field = Field::new(
        "Kappa over windows of clips, by the number of their last clip",
        NUMBERS,
        (640.0, 200.0),
        (first.clip as f64, right),
        (from, 1.0),
    );
    let marks = fifths(from);
    let middle = points.get(points.len() / 2).unwrap_or(first);
    let mut dates: Vec<(f64, String)> = Vec::new();
    for point in [first, middle, last] {
        let date = rfc3339(point.time);
        let name = format!("{} ({})", point.clip, date.get(..10).unwrap_or(&date));
        if dates
            .iter()
            .all(|(clip, _)| (clip - point.clip as f64).abs() > right / 6.0)
        {
            dates.push((point.clip as f64, name));
        }
    }
    let name = format!("last clip of a window of {window}");
    // The dates at both ends would be cut off: they are set inwards.
    field.axes(&name, "kappa", &[], &ticks(&marks));
    let y = field.top + field.height + 14.0;
    for (clip, name) in &dates {
        let x = field.place_x(*clip);
        let anchor = if *clip <= first.clip as f64 {
            "start"
        } else if *clip >= right {
            "end"
        } else {
            "middle"
        };
        draw!(
            field.svg,
            "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>",
            escaped(name)
        );
    }
    for pair in points.windows(2) {
        if let [a, b] = pair
            && let (Some(from), Some(to)) = (a.kappa, b.kappa)
        {
            field.line("course", (a.clip as f64, from), (b.clip as f64, to));
        }
    }
    for (point, kappa) in known() {
        let title = format!(
            "up to clip {}, {}: {kappa:.3}",
            point.clip,
            rfc3339(point.time)
        );
        field.dot("same", (point.clip as f64, kappa), 2.5, &title);
    }
    field.done()
}

//! Drawings of the page: inline SVG without a script, in the colours of the page.

use std::fmt::Write as _;

use crate::report::html::escaped;

/// Width and height of a plot's field, and the room around it, in its own units.
const FIELD: (f64, f64) = (640.0, 110.0);
const LEFT: f64 = 52.0;
const TOP: f64 = 10.0;
const RIGHT: f64 = 14.0;
const BOTTOM: f64 = 40.0;

/// A score of 0 to 100 as a bar with the line that it must reach, where there is one. The number stands beside it as
/// text, so the bar is hidden from those who listen.
pub(super) fn bar(score: u8, least: Option<u8>) -> String {
    let class = match least {
        Some(least) if score < least => "under",
        _ => "same",
    };
    let mut svg = format!(
        "<svg viewBox=\"0 0 100 12\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <rect class=\"track\" width=\"100\" height=\"12\" rx=\"2\"/>\
         <rect class=\"{class}\" width=\"{}\" height=\"12\" rx=\"2\"/>",
        score.min(100)
    );
    if let Some(least) = least {
        // Writing into a text cannot fail, here and below.
        let _ = write!(
            svg,
            "<line x1=\"{least}\" y1=\"0\" x2=\"{least}\" y2=\"12\"/>"
        );
    }
    svg.push_str("</svg>");
    svg
}

/// One value per frame.
pub(super) struct Course<'a> {
    /// What it is, in a few words.
    pub(super) name: &'a str,
    /// By frame.
    pub(super) values: &'a [f64],
    /// Number of the frame of the first value.
    pub(super) first: usize,
    /// Frames of the clip.
    pub(super) frames: usize,
    /// Frames that the remote judge is shown.
    pub(super) shown: &'a [usize],
}

impl Course<'_> {
    /// A line over the frames; marks below are frames that are shown, a shade behind the last of them is what nobody
    /// remote sees.
    pub(super) fn draw(&self) -> String {
        let top = self.values.iter().copied().fold(0.0, f64::max).max(1.0);
        let last = self.frames.saturating_sub(1).max(1) as f64;
        let x = |frame: usize| LEFT + FIELD.0 * frame as f64 / last;
        let y = |value: f64| TOP + FIELD.1 * (1.0 - (value / top).clamp(0.0, 1.0));
        let (width, height) = (LEFT + FIELD.0 + RIGHT, TOP + FIELD.1 + BOTTOM);
        let title = format!("{}, by frame, 0 to {top:.1}", self.name);
        let title = escaped(&title);
        let mut svg = format!(
            "<svg class=\"picture\" role=\"img\" aria-label=\"{title}\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\">\n<title>{title}</title>\n"
        );
        let floor = TOP + FIELD.1;
        if let Some(end) = self.shown.iter().max().filter(|end| **end < self.frames) {
            let from = x(*end);
            let _ = writeln!(
                svg,
                "<rect class=\"unseen\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{}\"/>",
                LEFT + FIELD.0 - from,
                FIELD.1
            );
        }
        for (value, text) in [(0.0, "0".to_owned()), (top, format!("{top:.1}"))] {
            let at = y(value);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT + FIELD.0,
                LEFT - 6.0,
                at + 4.0
            );
        }
        for frame in self.shown {
            let at = x(*frame);
            let _ = writeln!(
                svg,
                "<line class=\"taken\" x1=\"{at:.1}\" y1=\"{floor}\" x2=\"{at:.1}\" y2=\"{:.1}\"/>",
                floor + 6.0
            );
        }
        svg.push_str("<polyline points=\"");
        for (place, value) in self.values.iter().enumerate() {
            let _ = write!(svg, "{:.1},{:.1} ", x(self.first + place), y(*value));
        }
        svg.push_str("\"/>\n");
        for (frame, anchor) in [(0, "start"), (self.frames.saturating_sub(1), "end")] {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">frame {frame}</text>",
                x(frame),
                floor + 22.0
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_show_what_is_below_the_line() {
        let low = bar(49, Some(50));
        assert!(low.contains("class=\"under\" width=\"49\"") && low.contains("x1=\"50\""));
        let high = bar(50, Some(50));
        assert!(high.contains("class=\"same\" width=\"50\""));
        assert!(!bar(10, None).contains("<line"));
    }

    #[test]
    fn a_course_has_a_point_for_every_value_and_a_mark_for_every_frame_shown() {
        let course = Course {
            name: "a < b",
            values: &[0.0, 5.0, 10.0],
            first: 1,
            frames: 4,
            shown: &[0, 2],
        };
        let svg = course.draw();
        assert!(svg.contains("a &lt; b, by frame, 0 to 10.0"), "{svg}");
        assert_eq!(svg.matches("class=\"taken\"").count(), 2);
        assert_eq!(svg.matches("class=\"unseen\"").count(), 1);
        let points = svg
            .split("points=\"")
            .nth(1)
            .and_then(|s| s.split('"').next());
        // The second frame of four at zero, the last one at the top right.
        assert_eq!(points, Some("265.3,120.0 478.7,65.0 692.0,10.0 "));
        let empty = Course {
            values: &[],
            frames: 0,
            ..course
        };
        assert!(!empty.draw().contains("NaN"));
    }
}

//! Plots as inline SVG. Colours come from the page's style.

use std::fmt::Write as _;

use super::{rate, seconds};
use crate::latency::result::{CeilingKind, Run, Stage};

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 34.0;

/// Where the seconds of one clip go: name, seconds, colour.
pub(super) fn shares(run: &Run) -> Vec<(&'static str, f64, usize)> {
    let median = |stage| {
        run.stage(stage)
            .and_then(|found| found.summary)
            .map(|summary| summary.median)
    };
    let mut parts = Vec::new();
    let mut rest = run.clip.seconds;
    for (stage, times, name, colour) in [
        (Stage::TextEncode, 1, "text", 3),
        (Stage::ImageEncode, 1, "image", 2),
        (Stage::DenoiseStep, run.scenario.steps, "denoise", 0),
        (Stage::Decode, 1, "decode", 1),
    ] {
        if let Some(value) = median(stage) {
            let value = value * times as f64;
            rest -= value;
            parts.push((name, value, colour));
        }
    }
    if rest > 0.0 {
        parts.push(("other", rest, 4));
    }
    parts
}

/// One bar per part of the clip, longest scale first.
pub(super) fn stage_bars(run: &Run) -> String {
    let parts = shares(run);
    let longest = parts
        .iter()
        .map(|part| part.1)
        .fold(f64::MIN_POSITIVE, f64::max);
    let total = parts
        .iter()
        .map(|part| part.1)
        .sum::<f64>()
        .max(f64::MIN_POSITIVE);
    let row = 30.0;
    let height = TOP + row * parts.len() as f64;
    let mut svg = open(height, "Seconds of one clip by stage");
    for (index, (name, value, colour)) in parts.iter().enumerate() {
        let y = TOP + row * index as f64;
        let room = WIDTH - LEFT - 120.0;
        let width = (room * value / longest).max(1.5);
        let _ = write!(
            svg,
            "<text class=\"name\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>\
             <rect class=\"f{colour}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"16\" rx=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{} · {:.0} %</text>",
            LEFT - 8.0,
            y + 12.0,
            y,
            LEFT + width + 7.0,
            y + 12.0,
            seconds(*value),
            100.0 * value / total
        );
    }
    svg + "</svg>"
}

/// Every measured step of every round, in the order of the steps; the median as a line.
pub(super) fn step_times(run: &Run) -> Option<String> {
    let steps = run.stage(Stage::DenoiseStep)?;
    let summary = steps.summary.as_ref()?;
    let count = steps.per_round.max(1);
    let top = summary.max * 1.08;
    let mut svg = open(HEIGHT, "Seconds of every denoising step");
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top;
    let x = |step: usize| LEFT + (WIDTH - LEFT - RIGHT) * (step as f64 + 0.5) / count as f64;
    for tick in ticks(top) {
        line(&mut svg, "grid", [LEFT, y(tick), WIDTH - RIGHT, y(tick)]);
        label(&mut svg, LEFT - 6.0, y(tick) + 4.0, "end", &seconds(tick));
    }
    let stride = count.div_ceil(10);
    for step in (0..count).step_by(stride) {
        label(
            &mut svg,
            x(step),
            HEIGHT - BOTTOM + 16.0,
            "middle",
            &(step + 1).to_string(),
        );
    }
    label(
        &mut svg,
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 4.0,
        "middle",
        "step",
    );
    line(
        &mut svg,
        "s1 dash",
        [LEFT, y(summary.median), WIDTH - RIGHT, y(summary.median)],
    );
    for (index, value) in steps.samples_s.iter().enumerate() {
        let _ = write!(
            svg,
            "<circle class=\"f0\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill-opacity=\".65\"/>",
            x(index % count),
            y(*value)
        );
    }
    Some(svg + "</svg>")
}

/// Rates of the stages over arithmetic intensity, under the roof of the ceilings measured in the run.
pub(super) fn roofline(run: &Run) -> Option<String> {
    let copy = run.best(CeilingKind::Copy)?.rate;
    let gemm = run.best(CeilingKind::Gemm)?.rate;
    let points: Vec<(&str, f64, f64)> = run
        .stages
        .iter()
        .filter_map(|stage| {
            let intensity = stage.flops? / stage.bytes?;
            Some((stage.stage.name(), intensity, stage.flops_per_s?))
        })
        .collect();
    let ridge = gemm / copy;
    let intensities = points.iter().map(|point| point.1).chain([ridge]);
    let (low, high) = range(intensities, 3.0);
    let (floor, roof) = range(points.iter().map(|point| point.2).chain([gemm]), 2.0);
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * (value / low).ln() / (high / low).ln();
    let y = |value: f64| {
        HEIGHT
            - BOTTOM
            - (HEIGHT - TOP - BOTTOM) * (value.max(floor) / floor).ln() / (roof / floor).ln()
    };
    let mut svg = open(HEIGHT, "Rates of the stages under the measured ceilings");
    for tick in round_ticks(floor, roof) {
        line(&mut svg, "grid", [LEFT, y(tick), WIDTH - RIGHT, y(tick)]);
        label(
            &mut svg,
            LEFT - 6.0,
            y(tick) + 4.0,
            "end",
            &rate(tick, "").replace(".00", "").replace(".0", ""),
        );
    }
    for tick in decades(low, high) {
        line(&mut svg, "grid", [x(tick), TOP, x(tick), HEIGHT - BOTTOM]);
        label(
            &mut svg,
            x(tick),
            HEIGHT - BOTTOM + 16.0,
            "middle",
            &format!("{tick}"),
        );
    }
    label(
        &mut svg,
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 4.0,
        "middle",
        "FLOP per byte",
    );
    let start = low.max(floor / copy);
    let _ = write!(
        svg,
        "<polyline class=\"s1\" points=\"{:.1},{:.1} {:.1},{:.1} {:.1},{:.1}\"/>",
        x(start),
        y(start * copy),
        x(ridge),
        y(gemm),
        x(high),
        y(gemm)
    );
    if let Some(attention) = run.best(CeilingKind::Attention) {
        let level = y(attention.rate);
        line(&mut svg, "s2 dash", [x(ridge), level, WIDTH - RIGHT, level]);
    }
    for (name, intensity, value) in points {
        let end = x(intensity) > WIDTH * 0.7;
        let (anchor, offset) = if end { ("end", -7.0) } else { ("start", 7.0) };
        let _ = write!(
            svg,
            "<circle class=\"f0\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"/>\
             <text class=\"name halo\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{name}</text>",
            x(intensity),
            y(value),
            x(intensity) + offset,
            y(value) + 14.0
        );
    }
    Some(svg + "</svg>")
}

/// Power and clock over time, each on its own scale.
pub(super) fn device_series(run: &Run) -> Option<String> {
    let series = &run.telemetry;
    let end = series.t_s.last().copied().filter(|&end| end > 0.0)?;
    let power: Vec<Option<f64>> = series.power_w.clone();
    let clock: Vec<Option<f64>> = series
        .sm_mhz
        .iter()
        .map(|clock| clock.map(f64::from))
        .collect();
    let mut svg = open(HEIGHT, "Power and clock of the device while the rounds ran");
    let x = |t: f64| LEFT + (WIDTH - 2.0 * LEFT) * t / end;
    for (class, values, right) in [("s0", &power, false), ("s1", &clock, true)] {
        let top = values.iter().copied().flatten().fold(0.0, f64::max) * 1.08;
        if top <= 0.0 {
            continue;
        }
        let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top;
        for tick in ticks(top) {
            if right {
                label(
                    &mut svg,
                    WIDTH - LEFT + 6.0,
                    y(tick) + 4.0,
                    "start",
                    &format!("{tick:.0}"),
                );
            } else {
                line(&mut svg, "grid", [LEFT, y(tick), WIDTH - LEFT, y(tick)]);
                label(
                    &mut svg,
                    LEFT - 6.0,
                    y(tick) + 4.0,
                    "end",
                    &format!("{tick:.0}"),
                );
            }
        }
        // At most one point per pixel: a long run has many looks.
        let stride = values.len().div_ceil(400);
        let points: Vec<String> = series
            .t_s
            .iter()
            .zip(values)
            .step_by(stride)
            .filter_map(|(t, value)| Some(format!("{:.1},{:.1}", x(*t), y((*value)?))))
            .collect();
        let _ = write!(
            svg,
            "<polyline class=\"{class}\" points=\"{}\"/>",
            points.join(" ")
        );
    }
    label(&mut svg, LEFT, HEIGHT - BOTTOM + 16.0, "middle", "0");
    label(
        &mut svg,
        WIDTH - LEFT,
        HEIGHT - BOTTOM + 16.0,
        "middle",
        &seconds(end),
    );
    Some(svg + "</svg>")
}

fn open(height: f64, title: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title>"
    )
}

fn line(svg: &mut String, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
    let _ = write!(
        svg,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

fn label(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = write!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

/// Round values from 0 up to `top`, four to six of them.
fn ticks(top: f64) -> Vec<f64> {
    let rough = top / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|&step| step >= rough)
        .unwrap_or(rough);
    (0..=6)
        .map(|index| f64::from(index) * step)
        .take_while(|&tick| tick <= top)
        .collect()
}

/// One, two and five times powers of ten where there are few of them, else these alone.
fn round_ticks(low: f64, high: f64) -> Vec<f64> {
    if high / low > 2000.0 {
        return decades(low, high);
    }
    decades(low / 10.0, high)
        .into_iter()
        .flat_map(|decade| [1.0, 2.0, 5.0].map(|factor| factor * decade))
        .filter(|tick| (low..=high).contains(tick))
        .collect()
}

/// Powers of ten between two values.
fn decades(low: f64, high: f64) -> Vec<f64> {
    let first = low.log10().ceil() as i32;
    let last = high.log10().floor() as i32;
    (first..=last).map(|power| 10f64.powi(power)).collect()
}

/// Smallest and largest with some room, on a logarithmic axis.
fn range(values: impl Iterator<Item = f64>, room: f64) -> (f64, f64) {
    let (low, high) = values
        .filter(|value| value.is_finite() && *value > 0.0)
        .fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    if high == 0.0 {
        (1.0, 10.0)
    } else {
        (low / room, high * room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ticks() {
        assert_eq!(ticks(1.08), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert_eq!(ticks(430.0), [0.0, 100.0, 200.0, 300.0, 400.0]);
        assert_eq!(round_ticks(1.5, 30.0), [2.0, 5.0, 10.0, 20.0]);
        assert_eq!(round_ticks(0.5, 2e4), decades(0.5, 2e4));
        assert_eq!(decades(0.5, 120.0), [1.0, 10.0, 100.0]);
        assert_eq!(range([2.0, 8.0].into_iter(), 2.0), (1.0, 16.0));
        assert_eq!(range([f64::NAN].into_iter(), 2.0), (1.0, 10.0));
    }
}

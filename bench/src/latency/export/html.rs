//! One page that needs nothing but itself: no script, nothing fetched, plots inline.

use std::fmt::Write as _;

use super::svg;
use super::{bytes, fraction, rate, seconds, style};
use crate::latency::result::{CeilingKind, LatencyReport, Run};

/// The result as an HTML page.
pub(super) fn render(report: &LatencyReport) -> String {
    let (device, machine) = (&report.device, &report.machine);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>leoma-bench: {name}, {date}</title><style>{css}</style></head><body>\n\
         <h1>{name}</h1><p class=\"dim\">{date} · {profile} build at <code>{git}</code> · {rustc}<br>\
         {threads} threads on {cpu}{facts}</p>\n",
        name = escape(&device.name),
        date = escape(&report.date),
        css = style::CSS,
        profile = escape(&machine.profile),
        git = escape(&machine.git),
        rustc = escape(&machine.rustc),
        threads = machine.threads,
        cpu = escape(&machine.cpu_model),
        facts = facts(report),
    );
    if let Some(reason) = &device.absent {
        let _ = writeln!(
            page,
            "<p class=\"dim\">No power, clocks or temperature: {}.</p>",
            escape(reason)
        );
    }
    for (title, lossless) in [("Lossless", true), ("Lossy", false)] {
        let runs: Vec<&Run> = report
            .runs
            .iter()
            .filter(|run| run.lossless == lossless)
            .collect();
        if !runs.is_empty() {
            let _ = writeln!(page, "<h2>{title}</h2>");
            clips(&mut page, report, &runs);
            for run in runs {
                scenario(&mut page, run);
            }
        }
    }
    page + "</body></html>\n"
}

fn facts(report: &LatencyReport) -> String {
    let device = &report.device;
    let switch = |on: bool| if on { "on" } else { "off" };
    [
        device
            .driver
            .as_ref()
            .map(|driver| format!("driver {}", escape(driver))),
        device
            .cuda
            .as_ref()
            .map(|cuda| format!("CUDA {}", escape(cuda))),
        device
            .memory_bytes
            .map(|memory| format!("memory {}", bytes(memory as f64))),
        device
            .power_limit_w
            .map(|power| format!("power limit {power:.0} W")),
        device.ecc.map(|on| format!("ECC {}", switch(on))),
        device.mig.map(|on| format!("MIG {}", switch(on))),
    ]
    .into_iter()
    .flatten()
    .fold(String::new(), |text, fact| text + " · " + &fact)
}

fn clips(page: &mut String, report: &LatencyReport, runs: &[&Run]) {
    let price = report.price.as_ref();
    let cost = price.map_or_else(String::new, |price| {
        format!("<th>{} per clip</th>", escape(&price.currency))
    });
    let _ = write!(
        page,
        "<div class=\"wide\"><table><thead><tr><th>scenario</th><th>clip</th><th>95 %</th>\
         <th>clips per hour</th>{cost}<th class=\"text\">attention</th></tr></thead><tbody>"
    );
    for run in runs {
        let clip = &run.clip;
        let mark = if clip.extrapolated {
            " <span class=\"dim\">extrapolated</span>"
        } else {
            ""
        };
        let cost = match (price, clip.cost) {
            (Some(_), Some(cost)) => format!("<td>{cost:.4}</td>"),
            (Some(_), None) => "<td>—</td>".to_owned(),
            _ => String::new(),
        };
        let _ = write!(
            page,
            "<tr><td><code>{}</code></td><td>{}{mark}</td><td>{}</td><td>{:.1}</td>{cost}<td class=\"text\">{}</td></tr>",
            escape(&run.scenario.name),
            seconds(clip.seconds),
            interval(clip.interval_s),
            clip.per_hour,
            escape(&run.attention_backend)
        );
    }
    page.push_str("</tbody></table></div>\n");
}

fn scenario(page: &mut String, run: &Run) {
    let _ = writeln!(
        page,
        "<h3>{}</h3><p class=\"dim\">{}; {} tokens, weights: {}; {} rounds after {} warm-up</p>",
        escape(&run.scenario.name),
        escape(&run.scenario.describe()),
        run.tokens,
        escape(&run.weights),
        run.scenario.rounds,
        run.scenario.warmups
    );
    page.push_str("<div class=\"plots\">");
    plot(page, "One clip by stage", Some(svg::stage_bars(run)), "");
    plot(
        page,
        "Denoising steps, all rounds",
        svg::step_times(run),
        "<li><i class=\"f0\"></i>a step</li><li><i class=\"f1\"></i>median</li>",
    );
    plot(
        page,
        "Roofline, ceilings of this run",
        svg::roofline(run),
        "<li><i class=\"f0\"></i>a stage</li><li><i class=\"f1\"></i>copy and matrix product</li>\
         <li><i class=\"f2\"></i>attention alone</li>",
    );
    plot(
        page,
        "Device while the rounds ran",
        svg::device_series(run),
        "<li><i class=\"f0\"></i>power, W (left)</li><li><i class=\"f1\"></i>clock, MHz (right)</li>",
    );
    page.push_str("</div>\n");
    stages(page, run);
    ceilings(page, run);
    if !run.doubts.is_empty() {
        page.push_str("<div class=\"doubts\"><strong>Why these numbers may lie</strong><ul>");
        for doubt in &run.doubts {
            let _ = write!(
                page,
                "<li>{}: {}; {}.</li>",
                escape(&doubt.about),
                plain(&doubt.what),
                plain(&doubt.remedy)
            );
        }
        page.push_str("</ul></div>\n");
    }
}

fn plot(page: &mut String, title: &str, svg: Option<String>, key: &str) {
    if let Some(svg) = svg {
        let key = if key.is_empty() {
            String::new()
        } else {
            format!("<ul class=\"key\">{key}</ul>")
        };
        let _ = write!(page, "<div class=\"plot\"><h4>{title}</h4>{svg}{key}</div>");
    }
}

fn stages(page: &mut String, run: &Run) {
    page.push_str(
        "<div class=\"wide\"><table><thead><tr><th>stage</th><th>n</th><th>median</th><th>95 %</th><th>MAD</th>\
         <th>min</th><th>p95</th><th>rate</th><th>of ceiling</th><th>host peak</th><th>device peak</th></tr></thead>\
         <tbody>",
    );
    let dash = |text: Option<String>| text.unwrap_or_else(|| "—".to_owned());
    for stage in &run.stages {
        let Some(summary) = &stage.summary else {
            let reason = escape(stage.absent.as_deref().unwrap_or_default());
            let _ = write!(
                page,
                "<tr><td>{}</td><td class=\"text dim\" colspan=\"10\">not measured: {reason}</td></tr>",
                stage.stage.name()
            );
            continue;
        };
        let cells = [
            summary.n.to_string(),
            seconds(summary.median),
            interval(summary.interval),
            seconds(summary.mad),
            seconds(summary.min),
            seconds(summary.p95),
            dash(stage.flops_per_s.map(|flops| rate(flops, "FLOP/s"))),
            dash(stage.fraction.map(fraction)),
            dash(stage.host_peak_bytes.map(|peak| bytes(peak as f64))),
            dash(stage.device_peak_bytes.map(|peak| bytes(peak as f64))),
        ];
        let cells: String = cells
            .iter()
            .map(|cell| format!("<td>{cell}</td>"))
            .collect();
        let _ = write!(page, "<tr><td>{}</td>{cells}</tr>", stage.stage.name());
    }
    page.push_str("</tbody></table></div>\n");
}

fn ceilings(page: &mut String, run: &Run) {
    page.push_str(
        "<p></p><div class=\"wide\"><table><thead><tr><th>ceiling, measured in this run</th><th>rate</th></tr></thead><tbody>",
    );
    for ceiling in &run.ceilings {
        let unit = if ceiling.kind == CeilingKind::Copy {
            "B/s"
        } else {
            "FLOP/s"
        };
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td></tr>",
            escape(&ceiling.what),
            rate(ceiling.rate, unit)
        );
    }
    page.push_str("</tbody></table></div>\n");
}

fn interval(ends: Option<[f64; 2]>) -> String {
    ends.map_or_else(
        || "—".to_owned(),
        |[low, high]| format!("{} – {}", seconds(low), seconds(high)),
    )
}

/// A sentence as HTML, without the marks of commands that Markdown has.
fn plain(text: &str) -> String {
    escape(&text.replace('`', ""))
}

/// Text as HTML: scenario names and paths come from files.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

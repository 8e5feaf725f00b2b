//! One line per stage, numbers in base units.

use std::fmt::Write as _;

use crate::latency::result::LatencyReport;

/// Columns.
const HEADER: &str = "date,device,commit,scenario,model,size,width,height,frames,steps,precision,lossless,attention,\
offload,stage,n,median_s,mad_s,min_s,p95_s,low_s,high_s,flops,flops_per_s,fraction_of_ceiling,host_peak_bytes,\
device_peak_bytes";

/// The result as CSV (RFC 4180).
pub(super) fn render(report: &LatencyReport) -> String {
    let mut text = format!("{HEADER}\r\n");
    for run in &report.runs {
        let scenario = &run.scenario;
        for stage in &run.stages {
            let Some(summary) = &stage.summary else {
                continue;
            };
            let number =
                |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
            let count =
                |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
            let fields = [
                report.date.clone(),
                report.device.name.clone(),
                report.machine.git.clone(),
                scenario.name.clone(),
                scenario.model.clone(),
                format!("{:?}", scenario.size).to_lowercase(),
                scenario.width.to_string(),
                scenario.height.to_string(),
                scenario.frames.to_string(),
                scenario.steps.to_string(),
                scenario.precision.to_string(),
                run.lossless.to_string(),
                run.attention_backend.clone(),
                scenario.offload.clone(),
                stage.stage.name().to_owned(),
                summary.n.to_string(),
                summary.median.to_string(),
                summary.mad.to_string(),
                summary.min.to_string(),
                summary.p95.to_string(),
                number(summary.interval.map(|[low, _]| low)),
                number(summary.interval.map(|[_, high]| high)),
                number(stage.flops),
                number(stage.flops_per_s),
                number(stage.fraction),
                count(stage.host_peak_bytes),
                count(stage.device_peak_bytes),
            ];
            let line: Vec<String> = fields.iter().map(|field| quoted(field)).collect();
            let _ = write!(text, "{}\r\n", line.join(","));
        }
    }
    text
}

/// A field, in quotes where it needs them.
fn quoted(field: &str) -> String {
    if field.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

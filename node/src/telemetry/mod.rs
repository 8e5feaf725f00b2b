//! What the node counts and measures, in the Prometheus text format.
//!
//! Base units in every name; label values come from fixed sets, never from callers.

use std::fmt::Write;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Commit the program was built from, where the build knew it.
pub const GIT_SHA: Option<&str> = option_env!("LEOMA_GIT_SHA");

/// `{stage="denoise"}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StageLabel {
    /// Stage of a job.
    pub stage: &'static str,
}

/// `{outcome="completed"}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// `completed` or the code of the error; of judgements `pass`, `fail` or `no_verdict`.
    pub outcome: &'static str,
}

/// `{reason="busy"}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// Code of the error.
    pub reason: &'static str,
}

/// `{state="queued"}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabel {
    /// Status of a job.
    pub state: &'static str,
}

/// `{route="/v1/videos/{id}",method="GET",status="200"}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabel {
    /// The route's pattern; `other` for what matches none.
    pub route: String,
    /// HTTP method; `other` for unusual ones.
    pub method: &'static str,
    /// Status code.
    pub status: u16,
}

/// `{route="/generate"}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabel {
    /// The route's pattern; `other` for what matches none.
    pub route: String,
}

type Seconds<L> = Family<L, Histogram, fn() -> Histogram>;
type Ratio = Gauge<f64, AtomicU64>;

/// All metrics of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests waiting for the device.
    pub queue_depth: Gauge,
    /// Jobs being denoised or decoded.
    pub jobs_running: Gauge,
    /// Durable jobs by status.
    pub jobs: Family<StateLabel, Gauge>,
    /// Jobs that left the engine.
    pub jobs_finished: Family<OutcomeLabel, Counter>,
    /// Requests refused before they became jobs.
    pub refusals: Family<ReasonLabel, Counter>,
    /// Jobs cancelled, by the stage they were in.
    pub cancellations: Family<StageLabel, Counter>,
    /// Seconds per stage of finished jobs.
    pub stage_seconds: Seconds<StageLabel>,
    /// Seconds per denoising step.
    pub step_seconds: Histogram,
    /// Clips judged.
    pub judgements: Family<OutcomeLabel, Counter>,
    /// Seconds from a clip's turn to its verdict, decoding included.
    pub judge_seconds: Histogram,
    /// Clips being judged.
    pub judge_running: Gauge,
    /// Requests waiting to be judged.
    pub judge_waiting: Gauge,
    /// Answered requests.
    pub http_requests: Family<RequestLabel, Counter>,
    /// Seconds from the head of a request to the head of its answer.
    pub http_request_seconds: Seconds<RouteLabel>,
    /// Resident set of the process.
    pub memory_resident_bytes: Gauge,
    /// Bytes of stored clips.
    pub store_bytes: Gauge,
    /// Free bytes on the disk of the data folder.
    pub disk_free_bytes: Gauge,
    /// 1 when `/ready` answers 200.
    pub ready: Gauge,
    /// Age of the last good self-test.
    pub canary_age_seconds: Ratio,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("leoma");
        let build = Info::new([
            ("version", env!("CARGO_PKG_VERSION")),
            ("git_sha", GIT_SHA.unwrap_or("unknown")),
            ("build", crate::cuda::build().kind),
        ]);
        registry.register("build", "What is running", build);
        let mut metrics = Self {
            registry,
            queue_depth: Gauge::default(),
            jobs_running: Gauge::default(),
            jobs: Family::default(),
            jobs_finished: Family::default(),
            refusals: Family::default(),
            cancellations: Family::default(),
            stage_seconds: Family::new_with_constructor(stage_buckets),
            step_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 18)),
            judgements: Family::default(),
            judge_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 15)),
            judge_running: Gauge::default(),
            judge_waiting: Gauge::default(),
            http_requests: Family::default(),
            http_request_seconds: Family::new_with_constructor(request_buckets),
            memory_resident_bytes: Gauge::default(),
            store_bytes: Gauge::default(),
            disk_free_bytes: Gauge::default(),
            ready: Gauge::default(),
            canary_age_seconds: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let Self {
            registry,
            queue_depth,
            jobs_running,
            jobs,
            jobs_finished,
            refusals,
            cancellations,
            stage_seconds,
            step_seconds,
            judgements,
            judge_seconds,
            judge_running,
            judge_waiting,
            http_requests,
            http_request_seconds,
            memory_resident_bytes,
            store_bytes,
            disk_free_bytes,
            ready,
            canary_age_seconds,
        } = self;
        let r = registry;
        r.register(
            "queue_depth",
            "Requests waiting for the device",
            queue_depth.clone(),
        );
        r.register(
            "jobs_running",
            "Jobs being denoised or decoded",
            jobs_running.clone(),
        );
        r.register("jobs", "Durable jobs by status", jobs.clone());
        r.register(
            "jobs_finished",
            "Jobs that left the engine",
            jobs_finished.clone(),
        );
        r.register(
            "refusals",
            "Requests refused before they became jobs",
            refusals.clone(),
        );
        r.register(
            "cancellations",
            "Jobs cancelled, by stage",
            cancellations.clone(),
        );
        r.register(
            "stage_seconds",
            "Seconds per stage of finished jobs",
            stage_seconds.clone(),
        );
        r.register(
            "step_seconds",
            "Seconds per denoising step",
            step_seconds.clone(),
        );
        r.register(
            "judgements",
            "Clips judged, by what was decided",
            judgements.clone(),
        );
        r.register(
            "judge_seconds",
            "Seconds from a clip's turn to its verdict",
            judge_seconds.clone(),
        );
        r.register("judge_running", "Clips being judged", judge_running.clone());
        r.register(
            "judge_waiting",
            "Requests waiting to be judged",
            judge_waiting.clone(),
        );
        r.register("http_requests", "Answered requests", http_requests.clone());
        r.register(
            "http_request_seconds",
            "Seconds from the head of a request to the head of its answer",
            http_request_seconds.clone(),
        );
        r.register(
            "memory_resident_bytes",
            "Resident set of the process",
            memory_resident_bytes.clone(),
        );
        r.register("store_bytes", "Bytes of stored clips", store_bytes.clone());
        r.register(
            "disk_free_bytes",
            "Free bytes on the disk of the data folder",
            disk_free_bytes.clone(),
        );
        r.register("ready", "1 when the node takes work", ready.clone());
        r.register(
            "canary_age_seconds",
            "Age of the last good self-test",
            canary_age_seconds.clone(),
        );
    }

    /// Counts a refusal.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts a job that left the engine.
    pub fn finished(&self, outcome: &'static str) {
        self.jobs_finished
            .get_or_create(&OutcomeLabel { outcome })
            .inc();
    }

    /// Counts a cancelled job.
    pub fn cancelled(&self, stage: &'static str) {
        self.cancellations
            .get_or_create(&StageLabel { stage })
            .inc();
    }

    /// Takes the seconds of a stage.
    pub fn stage(&self, stage: &'static str, seconds: f64) {
        self.stage_seconds
            .get_or_create(&StageLabel { stage })
            .observe(seconds);
    }

    /// Takes a judged clip.
    pub fn judged(&self, outcome: &'static str, seconds: f64) {
        self.judgements
            .get_or_create(&OutcomeLabel { outcome })
            .inc();
        self.judge_seconds.observe(seconds);
    }

    /// Takes an answered request.
    pub fn request(&self, route: &str, method: &'static str, status: u16, took: Duration) {
        let label = RequestLabel {
            route: route.to_owned(),
            method,
            status,
        };
        self.http_requests.get_or_create(&label).inc();
        let label = RouteLabel { route: label.route };
        self.http_request_seconds
            .get_or_create(&label)
            .observe(took.as_secs_f64());
    }

    /// Everything as text.
    pub fn encode(&self) -> String {
        self.memory_resident_bytes
            .set(resident_bytes().unwrap_or(0) as i64);
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.registry).is_err() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "# incomplete");
        }
        text
    }
}

/// Clips take from a fraction of a second (tests) to an hour (a real model on a processor).
fn stage_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.01, 2.5, 14))
}

fn request_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 3.0, 14))
}

/// Resident set of this process.
pub fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

/// Largest resident set of this process so far.
pub fn peak_resident_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

fn status_bytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let rest = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_as_documented() {
        let metrics = Metrics::new();
        metrics.refused("busy");
        metrics.finished("completed");
        metrics.cancelled("denoise");
        metrics.stage("vae_decode", 0.5);
        metrics.step_seconds.observe(0.1);
        metrics.judged("fail", 2.5);
        metrics.request("/generate", "POST", 200, Duration::from_millis(3));
        let text = metrics.encode();
        for line in [
            "leoma_refusals_total{reason=\"busy\"} 1",
            "leoma_jobs_finished_total{outcome=\"completed\"} 1",
            "leoma_cancellations_total{stage=\"denoise\"} 1",
            "leoma_stage_seconds_count{stage=\"vae_decode\"} 1",
            "leoma_step_seconds_sum 0.1",
            "leoma_judgements_total{outcome=\"fail\"} 1",
            "leoma_judge_seconds_sum 2.5",
            "leoma_judge_waiting 0",
            "leoma_http_requests_total{route=\"/generate\",method=\"POST\",status=\"200\"} 1",
            "leoma_build_info{version=",
            "leoma_memory_resident_bytes ",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(metrics.memory_resident_bytes.get() > 1 << 20);
    }
}

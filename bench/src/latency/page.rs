//! The tables of `docs/performance.md`: devices that were measured, limits of cards by their data sheets, and
//! what is still to be measured.

use std::fmt::Write as _;

use leoma_models::random::Networks;
use leoma_models::wan::cost;
use leoma_models::weights::ModelKind;

use super::cards::{CARDS, Demand, JOBS};
use super::export::seconds;
use super::result::{LatencyReport, Run, Stage};

/// Rates of an H200 that were measured once with PyTorch: bf16 product of two 8192 x 8192 matrices of random
/// data, and a copy within its memory, read and written bytes.
const H200_GEMM: f64 = 788e12;
const H200_COPY: f64 = 4.3e12;
/// Bytes per second of PCIe 5.0 with 16 lanes, by its specification.
const PCIE: f64 = 63e9;

/// All tables. Of two measurements of one scenario on one device the last counts.
pub(crate) fn render(reports: &[LatencyReport]) -> String {
    let mut text = String::new();
    measured(&mut text, reports);
    limits(&mut text, reports);
    open_lines(&mut text);
    text
}

fn measured(text: &mut String, reports: &[LatencyReport]) {
    text.push_str("## Measured\n");
    let mut kept: Vec<(&LatencyReport, &Run)> = Vec::new();
    for report in reports {
        for run in &report.runs {
            let same = kept.iter().position(|(other, known)| {
                other.device.name == report.device.name
                    && known.scenario.name == run.scenario.name
                    && known.scenario.same_job(&run.scenario)
            });
            match same {
                Some(index) => kept[index] = (report, run),
                None => kept.push((report, run)),
            }
        }
    }
    let gpus = kept.iter().any(|(report, _)| report.device.kind != "cpu");
    if !gpus {
        text.push_str("\nNo GPU has been measured yet.\n");
    }
    for (title, lossless) in [("Lossless", true), ("Lossy", false)] {
        let rows: Vec<_> = kept
            .iter()
            .filter(|(_, run)| run.lossless == lossless)
            .collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(
            text,
            "\n{title}:\n\n| device | job | attention | clip | clips per hour | step | decode | measured |\n\
             |---|---|---|---:|---:|---:|---:|---|"
        );
        for (report, run) in rows {
            let median = |stage| {
                run.stage(stage)
                    .and_then(|found| found.summary)
                    .map_or_else(|| "—".to_owned(), |summary| seconds(summary.median))
            };
            let mark = if run.clip.extrapolated {
                " (extrapolated)"
            } else {
                ""
            };
            let host = if report.device.kind == "cpu" {
                format!(" (CPU, {} threads)", report.machine.threads)
            } else {
                String::new()
            };
            let build = match report.machine.profile.as_str() {
                "release" => String::new(),
                profile => format!(", {profile} build"),
            };
            let _ = writeln!(
                text,
                "| {}{host} | {} | {} | {}{mark} | {:.1} | {} | {} | {}, {}{build} |",
                report.device.name,
                run.scenario.describe(),
                run.attention_backend,
                seconds(run.clip.seconds),
                run.clip.per_hour,
                median(Stage::DenoiseStep),
                median(Stage::Decode),
                report.date,
                report.machine.git
            );
        }
    }
}

fn limits(text: &mut String, reports: &[LatencyReport]) {
    text.push_str(
        "\n## Physical limits: computed, not measured\n\nArithmetic of the job over the card's peak: no program \
         is faster on that card in that precision. Loading, text and image encoding, and everything that is bound \
         by memory are left out.\n\n",
    );
    text.push_str(
        "| card | bf16, TFLOP/s | fp8, TFLOP/s | memory, GB/s | memory, GB | source | measured |\n\
         |---|---:|---:|---:|---:|---|---|\n",
    );
    for card in CARDS {
        let first = card.name.split(" SXM").next().unwrap_or(card.name);
        let first = first.split(" (").next().unwrap_or(first);
        let seen = reports
            .iter()
            .any(|report| report.device.name.contains(first));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            card.name,
            card.bf16_tflops,
            card.fp8_tflops
                .map_or_else(|| "none".to_owned(), |rate| rate.to_string()),
            card.gb_s,
            card.memory_gb,
            card.source,
            if seen { "yes" } else { "not yet" }
        );
    }
    let demands: Vec<Demand> = JOBS.iter().map(|job| job.demand()).collect();
    let heads: Vec<&str> = JOBS.iter().map(|job| job.name).collect();
    let head = format!(
        "| card | {} |\n|---|{}\n",
        heads.join(" | "),
        "---:|".repeat(JOBS.len())
    );
    let _ = write!(
        text,
        "\nLeast seconds per clip, lossless (all in bf16), computed:\n\n{head}"
    );
    for card in CARDS {
        let cells: Vec<String> = demands
            .iter()
            .map(|demand| seconds(card.bf16_s(demand)))
            .collect();
        let _ = writeln!(text, "| {} | {} |", card.name, cells.join(" | "));
    }
    let _ = write!(
        text,
        "\nLeast seconds per clip, lossy (linear layers in fp8, the rest in bf16), computed:\n\n{head}"
    );
    for card in CARDS.iter().filter(|card| card.fp8_tflops.is_some()) {
        let cells: Vec<String> = demands
            .iter()
            .filter_map(|demand| card.fp8_s(demand))
            .map(seconds)
            .collect();
        let _ = writeln!(text, "| {} | {} |", card.name, cells.join(" | "));
    }
}

/// One transformer block: FLOP of its linear layers, of its attention, and bytes of what is neither.
struct Block {
    linear: f64,
    attention: f64,
    bytes: f64,
}

impl Block {
    fn of(kind: ModelKind, tokens: usize) -> Self {
        let transformer = Networks::released(kind).transformer;
        let parts = cost::forward_parts(&transformer, tokens);
        let layers = transformer.num_layers as f64;
        Self {
            linear: parts.linear / layers,
            attention: (parts.self_attention + parts.cross_attention) / layers,
            // Three norms with modulation (2 rows of the width each), three gated residuals (3), norm and
            // rotary of q and k (4), in bf16.
            bytes: (19 * tokens * transformer.dim() * 2) as f64,
        }
    }

    fn flops(&self) -> f64 {
        self.linear + self.attention
    }

    /// Seconds at the H200's measured rates, attention as fast as the matrix product.
    fn least_s(&self) -> f64 {
        self.flops() / H200_GEMM + self.bytes / H200_COPY
    }

    /// FLOP per second at [`Block::least_s`], and that as a share of the matrix product's.
    fn most(&self) -> String {
        let rate = self.flops() / self.least_s();
        format!(
            "at most {:.0} TFLOP/s ({:.0} % of the GEMM rate), {}",
            rate / 1e12,
            100.0 * rate / H200_GEMM,
            seconds(self.least_s())
        )
    }
}

fn open_lines(text: &mut String) {
    let small = Block::of(ModelKind::I2vA14b, 32_760);
    let large = Block::of(ModelKind::I2vA14b, 75_600);
    let five = Block::of(ModelKind::Ti2v5b, 27_280);
    let vae = Networks::released(ModelKind::I2vA14b).vae;
    let decode_s = cost::decode_flops(&vae, 81, 480, 832) / H200_GEMM;
    let networks = Networks::released(ModelKind::I2vA14b);
    let experts = 4.0 * networks.parameters(leoma_models::weights::Component::Transformer) as f64;
    let fp8_s =
        small.linear / (2.0 * H200_GEMM) + small.attention / H200_GEMM + small.bytes / H200_COPY;
    let rates = "FLOP over the GEMM rate, plus the bytes of norms, residuals and rotary over the copy rate; attention \
                 taken to reach the GEMM rate, which none does";
    let rows = [
        (
            "A14B block, 32,760 tokens, lossless bf16: ≥ 640 TFLOP/s or 81 % of the GEMM rate of that run",
            small.most(),
            rates.to_owned(),
        ),
        (
            "the same block: at least as fast as compiled PyTorch with its best attention, ≥ 1.9 times eager",
            "none".to_owned(),
            "PyTorch's times of this block are not known".to_owned(),
        ),
        (
            "A14B block, 75,600 tokens: ≥ 0.95 of (GEMM rate for linear layers + best attention rate)",
            large.most(),
            format!(
                "as above; {:.0} % of its FLOP are attention",
                100.0 * large.attention / large.flops()
            ),
        ),
        (
            "5B block, 27,280 tokens: ≥ 600 TFLOP/s",
            five.most(),
            "as above".to_owned(),
        ),
        (
            "attention: ≥ 0.97 of the best available in the run",
            "1.00 where cuDNN is there".to_owned(),
            "the same cuDNN kernel serves both sides; own kernel: none".to_owned(),
        ),
        (
            "VAE decode: ≥ 1.3 times channels-last PyTorch, at most half its memory",
            format!(
                "no ratio; A14B 480p, 81 frames takes at least {}",
                seconds(decode_s)
            ),
            "FLOP over the GEMM rate".to_owned(),
        ),
        (
            "fp8: ≥ 1.3 times our own bf16 per block",
            format!(
                "at most {:.2} times at 32,760 tokens",
                small.least_s() / fp8_s
            ),
            "linear layers at twice the GEMM rate, all else as above".to_owned(),
        ),
        (
            "load: ≥ 0.9 of min(disk, PCIe) measured in that run",
            format!(
                "at least {} for both A14B experts in bf16",
                seconds(experts / PCIE)
            ),
            "bytes over PCIe 5.0 x16 by its specification (63 GB/s)".to_owned(),
        ),
        (
            "24 GB plan for A14B 480p, 16 GB plan for the 5B, proven by capping the allocator",
            "none".to_owned(),
            "the plan counts bytes; what the allocator adds is not known".to_owned(),
        ),
    ];
    let _ = writeln!(
        text,
        "\n## Open lines: unmeasured\n\nTo be reached on an H100 or H200. Predicted from two rates measured once on an \
         H200 with PyTorch: bf16 matrix product 8192³ on random data {:.0} TFLOP/s, copy {:.1} TB/s.\n\n\
         | line | state | predicted | how |\n|---|---|---|---|",
        H200_GEMM / 1e12,
        H200_COPY / 1e12
    );
    for (line, predicted, how) in rows {
        let _ = writeln!(text, "| {line} | unmeasured | {predicted} | {how} |");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::{Path, PathBuf};

    use super::super::schedule::tests::{report, run_with, scenario};
    use super::*;
    use crate::markdown;

    /// Every result that is committed, in the order of their names.
    fn committed() -> Vec<LatencyReport> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        let folders = std::fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = folders
            .filter(|path| path.is_dir())
            .flat_map(|folder| {
                std::fs::read_dir(folder)
                    .unwrap()
                    .map(|entry| entry.unwrap().path())
            })
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "json")
            })
            .collect();
        files.sort();
        files
            .iter()
            .map(|file| LatencyReport::load(file).unwrap())
            .collect()
    }

    #[test]
    fn the_page_is_what_the_committed_results_say() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
        let tables = render(&committed());
        if std::env::var_os("LEOMA_UPDATE_DOCS").is_some() {
            markdown::write_into(&page, &tables).unwrap();
        }
        let text = std::fs::read_to_string(&page).unwrap();
        assert_eq!(
            markdown::replace_between(&text, &tables).unwrap(),
            text,
            "docs/performance.md is stale: LEOMA_UPDATE_DOCS=1 cargo test -p leoma-bench page"
        );
    }

    #[test]
    fn lossless_and_lossy_runs_stand_in_different_tables_and_the_last_counts() {
        let lossless = run_with(&scenario(), |_| ());
        let mut lossy_scenario = scenario();
        lossy_scenario.precision = leoma_models::Precision::Fp8;
        let lossy = run_with(&lossy_scenario, |fake| fake.steps = vec![0.25]);
        let slow = run_with(&scenario(), |fake| fake.steps = vec![9.0]);
        let text = render(&[report(vec![slow]), report(vec![lossless, lossy])]);
        let (before, after) = text.split_once("Lossy:").unwrap();
        assert!(before.contains("Lossless:") && before.contains("f32") && !before.contains("fp8"));
        let rows = after.split("## ").next().unwrap();
        assert!(rows.contains("fp8") && !rows.contains("f32"), "{rows}");
        assert!(before.contains("| 500 ms |") && !text.contains("| 9.00 s |"));
        assert!(before.contains("No GPU has been measured yet."));
    }

    #[test]
    fn computed_figures_are_called_so_and_measured_cards_are_marked() {
        let mut found = report(vec![run_with(&scenario(), |_| ())]);
        found.device.kind = "cuda".into();
        found.device.name = "NVIDIA H200".into();
        let text = render(&[found]);
        assert!(!text.contains("No GPU has been measured"));
        assert!(text.contains("computed, not measured"));
        let marked: Vec<&str> = text
            .lines()
            .filter(|line| line.ends_with("| yes |"))
            .collect();
        assert!(
            marked.len() == 1 && marked[0].starts_with("| H200 SXM |"),
            "{marked:?}"
        );
        assert_eq!(text.matches("| unmeasured |").count(), 9);
    }

    /// By hand: 41.96 TFLOP at 788 TFLOP/s are 53.2 ms, 6.37 GB at 4.3 TB/s are 1.5 ms.
    #[test]
    fn predictions_follow_from_the_two_rates() {
        let block = Block::of(ModelKind::I2vA14b, 32_760);
        assert!(
            (block.least_s() - 0.0547).abs() < 2e-4,
            "{}",
            block.least_s()
        );
        assert!(
            block.most().contains("767 TFLOP/s (97 %"),
            "{}",
            block.most()
        );
    }
}

//! A plan as a table.

use std::fmt;

use super::{Memory, MemoryPlan};

/// Bytes in units of a thousand.
pub(super) fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return match unit {
                "B" => format!("{bytes} B"),
                _ => format!("{value:.2} {unit}"),
            };
        }
        value /= 1000.0;
    }
    format!("{value:.2} TB")
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request = &self.request;
        writeln!(
            f,
            "memory plan: {}, {}x{}, {} frames, {}, {}, offload {}{}",
            self.kind,
            request.width,
            request.height,
            request.num_frames,
            self.dtype,
            if self.accelerator {
                "accelerator"
            } else {
                "cpu"
            },
            self.offload,
            if self.text_on_cpu && self.accelerator {
                ", text encoder on the cpu"
            } else {
                ""
            },
        )?;
        writeln!(f, "{:<16}{:>12}", "whole network", "weights")?;
        for part in &self.components {
            writeln!(f, "  {:<14}{:>12}", part.name, human(part.bytes))?;
        }
        let memories: &[Memory] = if self.accelerator {
            &Memory::ALL
        } else {
            &[Memory::Host]
        };
        for &memory in memories {
            let name = match memory {
                Memory::Device => "device",
                Memory::Host => "host",
            };
            writeln!(
                f,
                "{:<16}{:>12}{:>12}{:>12}",
                format!("{name} memory"),
                "weights",
                "work",
                "peak"
            )?;
            for stage in &self.stages {
                let amount = stage.amount(memory);
                writeln!(
                    f,
                    "  {:<14}{:>12}{:>12}{:>12}",
                    stage.stage.as_str(),
                    human(amount.weights),
                    human(amount.work()),
                    human(amount.peak)
                )?;
            }
            writeln!(f, "  {:<14}{:>36}", "all stages", human(self.peak(memory)))?;
            writeln!(
                f,
                "  {:<14}{:>36}",
                "when serving",
                human(self.serving_peak(memory))
            )?;
        }
        Ok(())
    }
}

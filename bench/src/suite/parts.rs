//! The parts, and running one of them.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::args::SuiteArgs;
use super::place::Place;
use super::result::{self, PartResult, Row, Verdict};
use super::{attention, block, clip, kernels, memory, noise, pipelines};

/// A part of the suite.
pub(crate) struct Part {
    pub(crate) number: u8,
    /// In file names.
    pub(crate) name: &'static str,
    /// What it does, in words.
    pub(crate) what: &'static str,
    run: fn(&mut Session<'_>) -> Result<()>,
}

/// All of them; the numbers stay as they are when one is added.
pub(crate) static PARTS: [Part; 8] = [
    Part {
        number: 1,
        name: "kernels",
        what: "every kernel against its CPU twin and an f32 reference",
        run: kernels::run,
    },
    Part {
        number: 2,
        name: "pipelines",
        what: "tiny pipelines against the golden tensors, and the same bits twice",
        run: pipelines::run,
    },
    Part {
        number: 3,
        name: "noise",
        what: "Philox noise against torch on this card",
        run: noise::run,
    },
    Part {
        number: 4,
        name: "block",
        what: "one block of real width, in turns with PyTorch eager, compiled, and with its best attention",
        run: block::run,
    },
    Part {
        number: 5,
        name: "attention",
        what: "attention alone, in turns with PyTorch's",
        run: attention::run,
    },
    Part {
        number: 6,
        name: "vae",
        what: "VAE decode of a whole clip",
        run: clip::decode,
    },
    Part {
        number: 7,
        name: "steps",
        what: "whole sampler steps with random weights",
        run: clip::steps,
    },
    Part {
        number: 8,
        name: "memory",
        what: "the memory plan against the card's allocator",
        run: memory::run,
    },
];

impl Part {
    pub(crate) fn file(&self) -> String {
        result::file(self.number, self.name)
    }
}

/// The parts with these numbers, in order; all for none.
pub(crate) fn selected(numbers: &[u8]) -> Result<Vec<&'static Part>> {
    let known = super::numbers();
    if let Some(unknown) = numbers.iter().find(|number| !known.contains(number)) {
        bail!("there is no part {unknown}; parts are {known:?}");
    }
    Ok(PARTS
        .iter()
        .filter(|part| numbers.is_empty() || numbers.contains(&part.number))
        .collect())
}

/// What a part works with.
pub(crate) struct Session<'a> {
    pub(crate) args: &'a SuiteArgs,
    pub(crate) place: Place,
    end: Instant,
    result: PartResult,
}

impl Session<'_> {
    /// Keeps a row, in the file at once.
    pub(crate) fn push(&mut self, row: Row) -> Result<()> {
        self.result.rows.push(row);
        self.result.write(&self.args.out)
    }

    /// Records a condition.
    pub(crate) fn note(&mut self, name: &str, value: impl Into<String>) {
        self.result
            .environment
            .insert(name.to_owned(), value.into());
    }

    /// Whether shapes are small: without a card, or because it was asked for.
    pub(crate) fn small(&self) -> bool {
        self.args.small || !self.place.is_card()
    }

    /// When the part must have ended by itself.
    pub(crate) fn end(&self) -> Instant {
        self.end
    }

    /// Whether the part's time is over.
    pub(crate) fn is_late(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Whether the part's time is over; the rest is then recorded as skipped.
    pub(crate) fn late(&mut self, rest: &str) -> Result<bool> {
        let late = self.is_late();
        if late {
            let why = "the part's time was over";
            self.push(Row::new(rest, Verdict::Skipped, why))?;
        }
        Ok(late)
    }
}

/// Runs one part in this process; errors become its last row.
pub(crate) fn run_one(args: &SuiteArgs, number: u8) -> Result<()> {
    let parts = selected(&[number])?;
    let Some(part) = parts.first() else {
        bail!("there is no part {number}");
    };
    let mut session = Session {
        args,
        place: Place::open(args.dry_run)?,
        end: Instant::now() + Duration::from_secs(args.seconds),
        result: PartResult::new(part, args.dry_run),
    };
    session.result.environment = environment(&session.place);
    if let Err(error) = (part.run)(&mut session) {
        session.push(Row::new("all", Verdict::Fail, format!("{error:#}")))?;
    }
    if session.place.is_card() {
        // The clocks under load, to be held against those before.
        session.note("card after", card());
        session.result.write(&args.out)?;
    }
    Ok(())
}

/// The program and the card. Holds nothing that names the machine.
fn environment(place: &Place) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    all.insert("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    all.insert("rustc".to_owned(), env!("LEOMA_BENCH_RUSTC").to_owned());
    all.insert("profile".to_owned(), env!("LEOMA_BENCH_PROFILE").to_owned());
    all.insert("place".to_owned(), place.name());
    if place.is_card() {
        all.insert("card".to_owned(), card());
    }
    all
}

/// Name, driver, clocks, reasons for throttling, power and temperature, as the driver's own tool says them.
fn card() -> String {
    const FIELDS: &str = "name,driver_version,memory.total,memory.used,clocks.sm,clocks.mem,clocks.max.sm,\
                          clocks_event_reasons.active,power.draw,power.limit,temperature.gpu,mig.mode.current";
    let output = Command::new("nvidia-smi")
        .arg(format!("--query-gpu={FIELDS}"))
        .arg("--format=csv")
        .output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        Ok(output) => format!("nvidia-smi failed: {}", output.status),
        Err(error) => format!("no nvidia-smi: {error}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parts_are_chosen_by_number() {
        assert_eq!(selected(&[]).unwrap().len(), PARTS.len());
        let some: Vec<u8> = selected(&[3, 1])
            .unwrap()
            .iter()
            .map(|p| p.number)
            .collect();
        assert_eq!(some, [1, 3]);
        assert!(
            selected(&[9])
                .err()
                .unwrap()
                .to_string()
                .contains("no part 9")
        );
    }

    #[test]
    fn at_most_eight_files_with_names_of_their_own() {
        let mut names: Vec<String> = PARTS.iter().map(Part::file).collect();
        names.dedup();
        assert!(names.len() == PARTS.len() && PARTS.len() <= 8);
    }
}

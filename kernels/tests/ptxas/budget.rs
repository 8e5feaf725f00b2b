//! `cuda/budgets.toml`: what each kernel may take, and how that is checked.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::toolkit::Usage;

/// Registers of a multiprocessor, and of one block at most (all of 8.0 to 9.0).
const REGISTERS: u32 = 65_536;

/// Shared memory that one block may ask for, in bytes, by generation (CUDA programming guide, "Technical
/// Specifications per Compute Capability").
const SHARED_BYTES: [(u32, u32); 3] = [(80, 163 << 10), (89, 99 << 10), (90, 227 << 10)];

/// Registers that a budget may leave unused: compilers differ by a few from release to release.
const SLACK_REGISTERS: u32 = 8;

/// What one kernel, or one family `name_*`, may take.
#[derive(Debug, Clone)]
struct Budget {
    /// Threads per block that the launch uses, at most.
    threads: u32,
    /// Per thread.
    registers: u32,
    /// Static, per block.
    shared_bytes: u32,
    /// What the launch asks for at most, per block.
    dynamic_shared_bytes: u32,
    stack_bytes: u32,
    spill_bytes: u32,
    /// Generations the kernel is launched on; empty for all.
    only: Vec<u32>,
}

/// Budgets by (source, pattern).
#[derive(Debug)]
pub(crate) struct Budgets(BTreeMap<(String, String), Budget>);

impl Budgets {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = text.parse().map_err(|error| format!("{error}"))?;
        let mut budgets = BTreeMap::new();
        for (source, kernels) in &table {
            let kernels = kernels
                .as_table()
                .ok_or_else(|| format!("`{source}` is no table of kernels"))?;
            for (pattern, entry) in kernels {
                let name = format!("{source}.{pattern}");
                let entry = entry
                    .as_table()
                    .ok_or_else(|| format!("`{name}` is no table"))?;
                let budget = Budget::read(entry).map_err(|error| format!("{name}: {error}"))?;
                budgets.insert((source.clone(), pattern.clone()), budget);
            }
        }
        Ok(Self(budgets))
    }
}

impl Budget {
    fn read(entry: &toml::Table) -> Result<Self, String> {
        const KNOWN: [&str; 8] = [
            "threads",
            "registers",
            "shared_bytes",
            "dynamic_shared_bytes",
            "stack_bytes",
            "spill_bytes",
            "hot",
            "only",
        ];
        if let Some(unknown) = entry.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            return Err(format!("unknown key `{unknown}`"));
        }
        let number = |key: &str| match entry.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_integer()
                .and_then(|value| u32::try_from(value).ok())
                .map(Some)
                .ok_or_else(|| format!("`{key}` must be a whole number of at least 0")),
        };
        let needed = |key: &str| number(key)?.ok_or_else(|| format!("`{key}` is missing"));
        let only = match entry.get("only") {
            None => Vec::new(),
            Some(list) => list
                .as_array()
                .and_then(|list| {
                    list.iter()
                        .map(|one| u32::try_from(one.as_integer()?).ok())
                        .collect()
                })
                .ok_or("`only` must be a list of generations like [80, 90]")?,
        };
        let budget = Self {
            threads: needed("threads")?,
            registers: needed("registers")?,
            shared_bytes: number("shared_bytes")?.unwrap_or(0),
            dynamic_shared_bytes: number("dynamic_shared_bytes")?.unwrap_or(0),
            stack_bytes: number("stack_bytes")?.unwrap_or(0),
            spill_bytes: number("spill_bytes")?.unwrap_or(0),
            only,
        };
        let hot = entry
            .get("hot")
            .is_none_or(|hot| hot.as_bool() != Some(false));
        if hot && (budget.stack_bytes > 0 || budget.spill_bytes > 0) {
            return Err("a hot kernel has no stack and no spills; say `hot = false`".to_owned());
        }
        Ok(budget)
    }

    /// Everything about `found` that is over.
    fn check(&self, found: &Usage, problems: &mut Vec<String>) {
        let mut say = |what: String| {
            problems.push(format!(
                "{} (sm_{}): {what}",
                found.kernel, found.architecture
            ));
        };
        let mut over = |value: u32, limit: u32, what: &str| {
            if value > limit {
                say(format!("{value} {what}, budget {limit}"));
            }
        };
        over(found.registers, self.registers, "registers");
        over(found.stack_bytes, self.stack_bytes, "bytes of stack");
        over(found.spill_bytes, self.spill_bytes, "bytes of spills");
        over(
            found.shared_bytes,
            self.shared_bytes,
            "bytes of static shared memory",
        );
        // Registers are given out in units of 8 per thread, threads in warps.
        let block = found.registers.next_multiple_of(8) * self.threads.next_multiple_of(32);
        if block > REGISTERS {
            say(format!(
                "a block of {} threads takes {block} registers of {REGISTERS} and cannot be launched",
                self.threads
            ));
        }
        let shared = found.shared_bytes + self.dynamic_shared_bytes;
        let most = SHARED_BYTES
            .iter()
            .find(|(architecture, _)| *architecture == found.architecture)
            .map_or(u32::MAX, |(_, bytes)| *bytes);
        if shared > most {
            say(format!(
                "a block takes {shared} bytes of shared memory of {most} and cannot be launched"
            ));
        }
    }
}

fn matches(pattern: &str, kernel: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => kernel.starts_with(prefix),
        None => pattern == kernel,
    }
}

/// Everything that does not fit; empty if all is well.
pub(crate) fn problems(budgets: &Budgets, found: &[Usage]) -> Vec<String> {
    // Of several patterns the longest counts: a kernel may differ from its family.
    let of = |one: &Usage| {
        budgets
            .0
            .iter()
            .filter(|((source, pattern), _)| *source == one.source && matches(pattern, &one.kernel))
            .max_by_key(|((_, pattern), _)| pattern.len())
    };
    let mut problems = Vec::new();
    let mut missing = Vec::new();
    for one in found {
        match of(one) {
            None => {
                let text = format!("{}.{} has no budget", one.source, one.kernel);
                if !missing.contains(&text) {
                    missing.push(text);
                }
            }
            Some((_, budget)) => {
                if budget.only.is_empty() || budget.only.contains(&one.architecture) {
                    budget.check(one, &mut problems);
                }
            }
        }
    }
    problems.append(&mut missing);
    for (key, budget) in &budgets.0 {
        let (source, pattern) = key;
        let of_this: Vec<_> = found
            .iter()
            .filter(|one| of(one).is_some_and(|(found, _)| found == key))
            .collect();
        let largest = |value: fn(&Usage) -> u32| of_this.iter().map(|one| value(one)).max();
        let Some(registers) = largest(|one| one.registers) else {
            problems.push(format!("{source}.{pattern} is the budget of no kernel"));
            continue;
        };
        let mut generous = |allowed: u32, slack: u32, used: Option<u32>, what: &str| {
            let used = used.unwrap_or(0);
            if allowed > used + slack {
                problems.push(format!(
                    "{source}.{pattern}: {allowed} {what} allowed, at most {used} used; lower the budget"
                ));
            }
        };
        generous(
            budget.registers,
            SLACK_REGISTERS,
            Some(registers),
            "registers",
        );
        generous(
            budget.shared_bytes,
            0,
            largest(|one| one.shared_bytes),
            "bytes of static shared memory",
        );
        generous(
            budget.stack_bytes,
            64,
            largest(|one| one.stack_bytes),
            "bytes of stack",
        );
        generous(
            budget.spill_bytes,
            64,
            largest(|one| one.spill_bytes),
            "bytes of spills",
        );
    }
    problems
}

/// Lines for `budgets.toml` that just fit, per family of element types; the block size is the reader's.
pub(crate) fn suggestion(found: &[Usage]) -> String {
    let mut families: BTreeMap<(String, String), Usage> = BTreeMap::new();
    for one in found {
        let family = ["_f32", "_bf16", "_f16"]
            .iter()
            .find_map(|suffix| one.kernel.strip_suffix(suffix))
            .map_or_else(|| one.kernel.clone(), |stem| format!("\"{stem}_*\""));
        let most = families
            .entry((one.source.clone(), family))
            .or_insert_with(|| one.clone());
        most.registers = most.registers.max(one.registers);
        most.stack_bytes = most.stack_bytes.max(one.stack_bytes);
        most.spill_bytes = most.spill_bytes.max(one.spill_bytes);
        most.shared_bytes = most.shared_bytes.max(one.shared_bytes);
    }
    let mut text = String::new();
    for ((source, family), most) in families {
        let _ = write!(
            text,
            "[{source}.{family}]\nthreads = 256\nregisters = {}\nshared_bytes = {}\n",
            most.registers, most.shared_bytes
        );
        if most.stack_bytes > 0 || most.spill_bytes > 0 {
            let _ = write!(
                text,
                "hot = false\nstack_bytes = {}\nspill_bytes = {}\n",
                most.stack_bytes, most.spill_bytes
            );
        }
    }
    text
}

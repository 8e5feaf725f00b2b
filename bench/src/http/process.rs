//! CPU time and memory of a server, its child processes included, from `/proc` (Linux).

use std::fs;

/// The kernel counts CPU time in ticks of USER_HZ, 100 per second on every Linux that runs this.
const TICKS_PER_S: f64 = 100.0;

/// A process and all that descend from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tree(pub(crate) u32);

/// A line of `/proc/<pid>/stat`, as far as it is needed.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// User and system time of the process and of the children it has waited for.
    ticks: u64,
}

impl Tree {
    /// User and system time so far, in seconds; `None` when the process is gone.
    pub(crate) fn cpu_seconds(self) -> Option<f64> {
        let members = self.members()?;
        let ticks: u64 = members.iter().map(|(_, stat)| stat.ticks).sum();
        Some(ticks as f64 / TICKS_PER_S)
    }

    /// Resident memory now, in bytes; `None` when the process is gone.
    pub(crate) fn resident_bytes(self) -> Option<u64> {
        let members = self.members()?;
        let bytes = members.iter().filter_map(|(pid, _)| resident_of(*pid));
        Some(bytes.sum())
    }

    fn members(self) -> Option<Vec<(u32, Stat)>> {
        let root = stat_of(self.0)?;
        let mut others: Vec<(u32, Stat)> = fs::read_dir("/proc")
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|&pid| pid != self.0)
            .filter_map(|pid| Some((pid, stat_of(pid)?)))
            .collect();
        let mut members = vec![(self.0, root)];
        let mut next = 0;
        while let Some(&(parent, _)) = members.get(next) {
            let (children, rest) = others
                .into_iter()
                .partition(|(_, stat)| stat.parent == parent);
            members.extend::<Vec<_>>(children);
            others = rest;
            next += 1;
        }
        Some(members)
    }
}

fn stat_of(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(line: &str) -> Option<Stat> {
    // The name may hold spaces and parentheses; the fields after it do not.
    let (_, fields) = line.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>());
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        ticks: ticks.sum::<Result<u64, _>>().ok()?,
    })
}

fn resident_of(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    use super::*;

    #[test]
    fn names_with_spaces_and_parentheses() {
        let line = "7 (a (b) c) S 3 7 7 0 -1 4194560 1 2 0 0 10 20 300 4000 20 0 1 0 99 1 1";
        assert_eq!(
            parse_stat(line),
            Some(Stat {
                parent: 3,
                ticks: 4330
            })
        );
        assert_eq!(parse_stat("7 (a) S 3"), None);
    }

    #[test]
    fn children_count() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 5 & wait"])
            .spawn()
            .unwrap();
        let tree = Tree(shell.id());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while tree.members().unwrap().len() < 2 {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(tree.resident_bytes().unwrap() > 4096);
        assert!(tree.cpu_seconds().is_some());
        for (pid, _) in tree.members().unwrap() {
            Command::new("kill").arg(pid.to_string()).status().unwrap();
        }
        shell.wait().unwrap();
        assert_eq!(tree.cpu_seconds(), None);
    }
}

//! Which bytes of a file are there: a set of ranges, sorted, disjoint and apart from each other.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Byte ranges `[start, end)`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Ranges(Vec<[u64; 2]>);

impl Ranges {
    /// Whether what was read from a file is a set that this type could have made, of a file of `size` bytes.
    pub(super) fn is_valid(&self, size: u64) -> bool {
        let mut before = None;
        self.0.iter().all(|&[start, end]| {
            let apart = before.is_none_or(|before| start > before);
            before = Some(end);
            apart && start < end && end <= size
        })
    }

    /// Adds a range.
    pub(super) fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        // All that touch the new one become one with it.
        let first = self.0.partition_point(|&[_, e]| e < start);
        let after = self.0.partition_point(|&[s, _]| s <= end);
        if let Some(&[s, _]) = self.0.get(first).filter(|_| first < after) {
            start = start.min(s);
        }
        if let Some(&[_, e]) = after
            .checked_sub(1)
            .and_then(|last| self.0.get(last))
            .filter(|_| first < after)
        {
            end = end.max(e);
        }
        self.0.splice(first..after, [[start, end]]);
    }

    /// Takes a range away.
    pub(super) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut kept = Vec::with_capacity(self.0.len() + 1);
        for &[start, end] in &self.0 {
            for piece in [[start, end.min(range.start)], [start.max(range.end), end]] {
                if piece[0] < piece[1] {
                    kept.push(piece);
                }
            }
        }
        self.0 = kept;
    }

    /// Bytes in all.
    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|&[start, end]| end - start).sum()
    }

    /// How far the bytes go without a hole from the beginning.
    pub(super) fn frontier(&self) -> u64 {
        match self.0.first() {
            Some(&[0, end]) => end,
            _ => 0,
        }
    }

    /// The parts of a range that are not in the set, in order.
    pub(super) fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        let from = self.0.partition_point(|&[_, e]| e <= range.start);
        for &[start, end] in self.0.get(from..).unwrap_or_default() {
            if start >= range.end {
                break;
            }
            if at < start {
                gaps.push(at..start);
            }
            at = end;
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a set of single bytes.
    #[test]
    fn it_is_a_set_of_bytes() {
        const SIZE: u64 = 64;
        let mut random = 1u64;
        let mut next = |below: u64| {
            random = random
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (random >> 33) % below
        };
        for _ in 0..300 {
            let mut ranges = Ranges::default();
            let mut bytes = [false; SIZE as usize];
            for _ in 0..20 {
                let start = next(SIZE);
                let end = start + next(SIZE - start + 1);
                let added = next(3) > 0;
                if added {
                    ranges.add(start..end);
                } else {
                    ranges.remove(start..end);
                }
                for at in start..end {
                    bytes[at as usize] = added;
                }
                assert!(ranges.is_valid(SIZE), "{ranges:?}");
                assert_eq!(
                    ranges.total(),
                    bytes.iter().filter(|there| **there).count() as u64
                );
                let frontier = bytes.iter().position(|there| !there).unwrap_or(bytes.len());
                assert_eq!(ranges.frontier(), frontier as u64);
                let from = next(SIZE);
                let to = from + next(SIZE - from + 1);
                let mut missing = Vec::new();
                for gap in ranges.gaps(from..to) {
                    assert!(gap.start < gap.end);
                    missing.extend(gap);
                }
                let expected: Vec<u64> = (from..to).filter(|at| !bytes[*at as usize]).collect();
                assert_eq!(missing, expected, "{ranges:?} {from}..{to}");
            }
        }
    }

    #[test]
    fn what_a_file_says_is_checked() {
        for (text, valid) in [
            ("[]", true),
            ("[[0,5],[6,9]]", true),
            ("[[0,5],[5,9]]", false),
            ("[[6,9],[0,5]]", false),
            ("[[3,3]]", false),
            ("[[5,3]]", false),
            ("[[0,11]]", false),
        ] {
            let ranges: Ranges = serde_json::from_str(text).unwrap_or_default();
            assert_eq!(ranges.is_valid(10), valid, "{text}");
        }
    }
}

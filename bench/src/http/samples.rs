//! Raw samples, kept short in JSON, and their percentiles.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Whole numbers; one line of JSON however many they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Numbers(pub(crate) Vec<u32>);

impl Serialize for Numbers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let numbers: Vec<String> = self.0.iter().map(u32::to_string).collect();
        serializer.serialize_str(&numbers.join(" "))
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let numbers = text.split_whitespace().map(str::parse);
        numbers
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(D::Error::custom)
    }
}

impl Numbers {
    /// The smallest value that at least the share `share` of all values does not exceed; NaN for none.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted
            .get(rank.saturating_sub(1))
            .map_or(f64::NAN, |&value| f64::from(value))
    }
}

/// Resident memory at fixed distances in time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// Milliseconds between two values.
    pub(crate) every_ms: u32,
    /// The values in KiB.
    pub(crate) kib: Numbers,
}

impl Memory {
    /// Medians of the first, the middle and the last tenth, in bytes.
    pub(crate) fn course(&self) -> Option<[f64; 3]> {
        let values = &self.kib.0;
        let tenth = values.len().div_ceil(10);
        let part = |start: usize| {
            let part = values.get(start..start + tenth)?;
            (!part.is_empty()).then(|| 1024.0 * Numbers(part.to_vec()).percentile(0.5))
        };
        Some([
            part(0)?,
            part(values.len().saturating_sub(tenth) / 2)?,
            part(values.len() - tenth)?,
        ])
    }

    /// Largest relative distance of the middle and the end from the start.
    pub(crate) fn drift(&self) -> Option<f64> {
        let [start, middle, end] = self.course()?;
        let distance = |value: f64| (value / start - 1.0).abs();
        Some(distance(middle).max(distance(end)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let hundred = Numbers((1..=100).rev().collect());
        assert_eq!(hundred.percentile(0.5), 50.0);
        assert_eq!(hundred.percentile(0.99), 99.0);
        assert_eq!(hundred.percentile(1.0), 100.0);
        assert_eq!(Numbers(vec![7]).percentile(0.99), 7.0);
        assert!(Numbers::default().percentile(0.5).is_nan());
    }

    #[test]
    fn samples_are_one_line_and_come_back() {
        let numbers = Numbers(vec![3, 1, 2]);
        let text = serde_json::to_string(&numbers).unwrap();
        assert_eq!(text, "\"3 1 2\"");
        assert_eq!(serde_json::from_str::<Numbers>(&text).unwrap(), numbers);
        assert!(serde_json::from_str::<Numbers>("\"3 x\"").is_err());
    }

    #[test]
    fn memory_that_grows_drifts() {
        let memory = |kib: Vec<u32>| Memory {
            every_ms: 500,
            kib: Numbers(kib),
        };
        let grown = memory((100..200).collect());
        let [start, middle, end] = grown.course().unwrap();
        assert!(start < middle && middle < end);
        assert!(grown.drift().unwrap() > 0.8);
        assert_eq!(memory(vec![100; 40]).drift(), Some(0.0));
        assert_eq!(memory(vec![100]).drift(), Some(0.0));
        assert_eq!(memory(vec![]).drift(), None);
    }
}

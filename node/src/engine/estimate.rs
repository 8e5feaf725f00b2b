//! How long jobs take: learned from those that are done.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::control::Expected;

/// Work of a job in units that only have to be consistent within one backend (FLOPs, seconds of a script).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Until the latents are there.
    pub denoise: f64,
    /// From there to the file.
    pub decode: f64,
}

/// Seconds per unit of work, weighted towards the newest jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    denoise: Option<f64>,
    decode: Option<f64>,
}

/// Weight of the newest measurement.
const NEWEST: f64 = 0.3;

impl Speed {
    /// Takes the seconds a denoising took.
    pub(super) fn denoised(&mut self, cost: Cost, took: Duration) {
        learn(&mut self.denoise, cost.denoise, took);
    }

    /// Takes the seconds a decoding took.
    pub(super) fn decoded(&mut self, cost: Cost, took: Duration) {
        learn(&mut self.decode, cost.decode, took);
    }

    /// What a job of this cost will take; open where nothing was measured.
    pub(super) fn expect(&self, cost: Cost) -> Expected {
        Expected {
            denoise_s: self.denoise.map(|rate| rate * cost.denoise),
            decode_s: self.decode.map(|rate| rate * cost.decode),
        }
    }
}

fn learn(rate: &mut Option<f64>, units: f64, took: Duration) {
    if units <= 0.0 {
        return;
    }
    let found = took.as_secs_f64() / units;
    *rate = Some(rate.map_or(found, |old| old + NEWEST * (found - old)));
}

/// A line of jobs through two stations, denoising and decoding, which overlap: when will the last leave?
#[derive(Debug, Default)]
pub(super) struct Line {
    denoise_s: f64,
    decode_s: f64,
}

impl Line {
    /// The next job in line; returns the seconds from now until it is done.
    pub(super) fn add(&mut self, denoise_s: f64, decode_s: f64) -> f64 {
        self.denoise_s += denoise_s;
        self.decode_s = self.decode_s.max(self.denoise_s) + decode_s;
        self.decode_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_follows_what_is_measured() {
        let cost = Cost {
            denoise: 10.0,
            decode: 2.0,
        };
        let mut speed = Speed::default();
        assert_eq!(speed.expect(cost), Expected::default());
        speed.denoised(cost, Duration::from_secs(20));
        assert_eq!(speed.expect(cost).denoise_s, Some(20.0));
        for _ in 0..50 {
            speed.denoised(cost, Duration::from_secs(40));
        }
        let expected = speed.expect(cost).denoise_s.unwrap_or(0.0);
        assert!((39.9..=40.0).contains(&expected), "{expected}");
        assert_eq!(speed.expect(cost).decode_s, None);
    }

    #[test]
    fn decoding_overlaps_the_next_denoising() {
        let mut line = Line::default();
        assert_eq!(line.add(10.0, 3.0), 13.0);
        assert_eq!(line.add(10.0, 3.0), 23.0, "the first decode is hidden");
        let mut line = Line::default();
        line.add(1.0, 10.0);
        assert_eq!(line.add(1.0, 10.0), 21.0, "decoding is the narrow place");
    }
}

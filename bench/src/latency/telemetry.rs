//! Power, clocks, temperature and memory of the device, sampled by a thread while the rounds run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::nvml::{Device, THROTTLE};
use crate::stats;

/// Looks at the device.
pub(crate) trait Probe: Send + Sync {
    /// One look; what the device does not tell is absent.
    fn read(&self) -> Reading;
}

/// One look at the device.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Reading {
    pub(crate) power_w: Option<f64>,
    pub(crate) sm_mhz: Option<u32>,
    pub(crate) memory_mhz: Option<u32>,
    pub(crate) temperature_c: Option<u32>,
    pub(crate) used_bytes: Option<u64>,
    pub(crate) throttle: Option<u64>,
}

impl Probe for Device {
    fn read(&self) -> Reading {
        Reading {
            power_w: self.power_w(),
            sm_mhz: self.sm_mhz(),
            memory_mhz: self.memory_mhz(),
            temperature_c: self.temperature_c(),
            used_bytes: self.memory().map(|(_, used)| used),
            throttle: self.throttle(),
        }
    }
}

/// The series of one scenario. All lists have the length of `t_s`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Telemetry {
    /// Why there is none.
    pub(crate) absent: Option<String>,
    /// Seconds since the first measured round began.
    pub(crate) t_s: Vec<f64>,
    /// Watts.
    pub(crate) power_w: Vec<Option<f64>>,
    /// Clock of the multiprocessors.
    pub(crate) sm_mhz: Vec<Option<u32>>,
    /// Clock of the memory.
    pub(crate) memory_mhz: Vec<Option<u32>>,
    /// °C.
    pub(crate) temperature_c: Vec<Option<u32>>,
    /// Device memory in use, that of other processes included.
    pub(crate) used_bytes: Vec<Option<u64>>,
    /// Share of the looks at which each reason for lower clocks held.
    pub(crate) throttled: BTreeMap<String, f64>,
}

impl Telemetry {
    /// No series, and why.
    pub(crate) fn absent(reason: impl Into<String>) -> Self {
        Self {
            absent: Some(reason.into()),
            ..Self::default()
        }
    }

    fn of(readings: &[(f64, Reading)]) -> Self {
        let known: Vec<u64> = readings
            .iter()
            .filter_map(|(_, reading)| reading.throttle)
            .collect();
        let throttled = THROTTLE
            .iter()
            .filter_map(|&(bit, name)| {
                let held = known.iter().filter(|&&reasons| reasons & bit != 0).count();
                (held > 0).then(|| (name.to_owned(), held as f64 / known.len() as f64))
            })
            .collect();
        Self {
            absent: None,
            t_s: readings.iter().map(|(t, _)| *t).collect(),
            power_w: readings
                .iter()
                .map(|(_, reading)| reading.power_w)
                .collect(),
            sm_mhz: readings.iter().map(|(_, reading)| reading.sm_mhz).collect(),
            memory_mhz: readings
                .iter()
                .map(|(_, reading)| reading.memory_mhz)
                .collect(),
            temperature_c: readings
                .iter()
                .map(|(_, reading)| reading.temperature_c)
                .collect(),
            used_bytes: readings
                .iter()
                .map(|(_, reading)| reading.used_bytes)
                .collect(),
            throttled,
        }
    }

    /// Mean power in watts.
    pub(crate) fn mean_power_w(&self) -> Option<f64> {
        let known: Vec<f64> = self.power_w.iter().copied().flatten().collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    }

    /// (10th percentile, median) of the multiprocessors' clock.
    pub(crate) fn clock_range(&self) -> Option<(f64, f64)> {
        let mut known: Vec<f64> = self
            .sm_mhz
            .iter()
            .copied()
            .flatten()
            .map(f64::from)
            .collect();
        known.sort_by(f64::total_cmp);
        let low = *known.get(known.len() / 10)?;
        Some((low, stats::median(&known)))
    }
}

struct Shared {
    probe: Arc<dyn Probe>,
    start: Instant,
    stop: AtomicBool,
    peak: AtomicU64,
    readings: Mutex<Vec<(f64, Reading)>>,
}

impl Shared {
    fn look(&self) -> Reading {
        let reading = self.probe.read();
        self.peak
            .fetch_max(reading.used_bytes.unwrap_or(0), Ordering::Relaxed);
        reading
    }
}

/// The sampling thread; [`Sampler::finish`] ends it.
pub(crate) struct Sampler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Looks at the device every `interval` from now on.
    pub(crate) fn start(probe: Arc<dyn Probe>, interval: Duration) -> Self {
        let shared = Arc::new(Shared {
            probe,
            start: Instant::now(),
            stop: AtomicBool::new(false),
            peak: AtomicU64::new(0),
            readings: Mutex::new(Vec::new()),
        });
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                // At least one look, however short the measurement is.
                loop {
                    let reading = shared.look();
                    if let Ok(mut readings) = shared.readings.lock() {
                        readings.push((shared.start.elapsed().as_secs_f64(), reading));
                    }
                    if shared.stop.load(Ordering::Relaxed) {
                        break;
                    }
                    std::thread::park_timeout(interval);
                }
            }
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Most device memory in use since the last call, this moment included.
    pub(crate) fn take_peak(&self) -> Option<u64> {
        let now = self.shared.look().used_bytes?;
        Some(self.shared.peak.swap(0, Ordering::Relaxed).max(now))
    }

    /// Ends the thread and returns what it saw.
    pub(crate) fn finish(mut self) -> Telemetry {
        self.end();
        self.shared.readings.lock().map_or_else(
            |_| Telemetry::absent("the sampling thread failed"),
            |all| Telemetry::of(&all),
        )
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the probe has been reported by the thread; the series simply ends there.
            let _ = thread.join();
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::nvml::{Nvml, Select};

    struct Scripted(AtomicU64);

    impl Probe for Scripted {
        fn read(&self) -> Reading {
            let look = self.0.fetch_add(1, Ordering::Relaxed);
            Reading {
                power_w: Some(100.0),
                sm_mhz: Some(1000),
                used_bytes: Some(if look == 1 { 900 } else { 100 }),
                throttle: Some(if look.is_multiple_of(2) { 0x20 } else { 0 }),
                ..Reading::default()
            }
        }
    }

    #[test]
    fn peaks_are_per_stage_and_the_series_is_whole() {
        let sampler = Sampler::start(
            Arc::new(Scripted(AtomicU64::new(0))),
            Duration::from_millis(1),
        );
        while sampler.shared.readings.lock().unwrap().len() < 4 {
            std::thread::yield_now();
        }
        assert_eq!(sampler.take_peak(), Some(900));
        assert_eq!(sampler.take_peak(), Some(100));
        let found = sampler.finish();
        assert!(found.t_s.len() >= 4 && found.t_s.is_sorted());
        assert_eq!(found.power_w.len(), found.t_s.len());
        assert_eq!(found.mean_power_w(), Some(100.0));
        assert_eq!(found.clock_range(), Some((1000.0, 1000.0)));
        let share = found.throttled["software thermal slowdown"];
        assert!(share > 0.0 && share < 1.0);
        assert_eq!(found.throttled.len(), 1);
        assert!(found.temperature_c.iter().all(Option::is_none));
    }

    #[test]
    fn a_device_of_the_management_library_is_sampled() {
        let dir = tempfile::tempdir().unwrap();
        let library = crate::nvml::tests::fake(dir.path(), 0);
        let nvml = Nvml::open(&[library.to_str().unwrap()]).unwrap();
        let device = nvml.device(&Select::Index(0)).unwrap();
        let reading = device.read();
        assert_eq!(
            (reading.temperature_c, reading.throttle),
            (Some(64), Some(4))
        );
        let sampler = Sampler::start(Arc::new(device), Duration::from_millis(1));
        assert!(sampler.take_peak().unwrap() >= 4 << 30);
        assert_eq!(sampler.finish().throttled["power cap"], 1.0);
    }

    #[test]
    fn no_readings_say_nothing() {
        let none = Telemetry::of(&[]);
        assert_eq!((none.mean_power_w(), none.clock_range()), (None, None));
        assert_eq!(Telemetry::absent("no driver").absent.unwrap(), "no driver");
    }
}

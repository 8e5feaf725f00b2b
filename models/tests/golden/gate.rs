//! Comparison of tensors with the reference.

use std::fmt::Write as _;

use candle_core::{DType, Tensor};

use crate::common::relative_l2;
pub(crate) use crate::common::values;

/// Limit for a single network on the reference's own input.
pub(crate) const COMPONENT: f64 = 1e-5;
/// Limit inside a run, where every step adds to the distance of the one before.
pub(crate) const RUN: f64 = 2e-5;

/// Collects comparisons; [`Gate::finish`] fails with the whole table when one of them failed.
pub(crate) struct Gate {
    title: String,
    table: String,
    failures: usize,
    compared: usize,
}

impl Gate {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            table: String::new(),
            failures: 0,
            compared: 0,
        }
    }

    fn line(&mut self, ok: bool, name: &str, text: &str) {
        self.compared += 1;
        self.failures += usize::from(!ok);
        let mark = if ok { "ok  " } else { "FAIL" };
        writeln!(self.table, "  {mark} {name:24} {text}").unwrap();
    }

    /// Relative L2 distance of `found` from `wanted`, at most `limit`. The shapes must agree.
    pub(crate) fn close(&mut self, name: &str, found: &Tensor, wanted: &Tensor, limit: f64) {
        if found.dims() != wanted.dims() {
            let text = format!("shape {:?}, expected {:?}", found.dims(), wanted.dims());
            return self.line(false, name, &text);
        }
        let distance = relative_l2(found, wanted);
        let share = 100.0 * distance / limit;
        self.line(
            distance <= limit,
            name,
            &format!("relative L2 {distance:.2e}, {share:.1} % of the limit {limit:.0e}"),
        );
    }

    /// Equality of every value.
    pub(crate) fn same<T: PartialEq + std::fmt::Debug>(
        &mut self,
        name: &str,
        found: &[T],
        wanted: &[T],
    ) {
        if found.len() != wanted.len() {
            let text = format!("{} values, expected {}", found.len(), wanted.len());
            return self.line(false, name, &text);
        }
        match found.iter().zip(wanted).position(|(a, b)| a != b) {
            None => self.line(true, name, "identical"),
            Some(at) => {
                let text = format!("value {at} is {:?}, expected {:?}", found[at], wanted[at]);
                self.line(false, name, &text);
            }
        }
    }

    /// `decoded [1, 3, T, H, W]` in [-1, 1], rounded to bytes, against `wanted [T, H, W, 3]`: at most 1
    /// apart, equal in 99.5 %.
    pub(crate) fn close_bytes(&mut self, name: &str, decoded: &Tensor, wanted: &Tensor) {
        let frames = decoded.squeeze(0).unwrap().permute((1, 2, 3, 0)).unwrap();
        if frames.dims() != wanted.dims() {
            let text = format!("shape {:?}, expected {:?}", frames.dims(), wanted.dims());
            return self.line(false, name, &text);
        }
        let found = values_f32(&frames)
            .into_iter()
            .map(|x| f64::from((255.0 * (x / 2.0 + 0.5).clamp(0.0, 1.0)).round_ties_even()));
        let apart: Vec<f64> = found
            .zip(values(wanted))
            .map(|(a, b)| (a - b).abs())
            .collect();
        let most = apart.iter().copied().fold(0.0, f64::max);
        let unequal = apart.iter().filter(|&&d| d > 0.0).count() as f64 / apart.len() as f64;
        let text = format!("{:.3} % differ, at most {most} apart", 100.0 * unequal);
        self.line(most <= 1.0 && unequal <= 0.005, name, &text);
    }

    /// Panics with the table when a comparison failed or none was made.
    pub(crate) fn finish(self) {
        let Self {
            title,
            table,
            failures,
            compared,
        } = self;
        assert!(compared > 0, "{title}: nothing was compared");
        assert!(
            failures == 0,
            "{title}: {failures} of {compared} comparisons failed\n{table}"
        );
    }
}

/// All values in order, in f32.
pub(crate) fn values_f32(tensor: &Tensor) -> Vec<f32> {
    tensor
        .to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

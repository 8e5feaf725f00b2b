//! What a benchmark case is, and the executor that runs one on both sides.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use serde_json::Value;

use crate::clock;
use crate::measure::{Executor, Sample, Subject};
use crate::peer::Peer;

/// A case that is ready to run: weights loaded, inputs made.
pub(crate) trait Case {
    /// Who takes part; always [`Subject::Leoma`] first and [`Subject::Pytorch`] last.
    fn subjects(&self) -> Vec<Subject> {
        vec![Subject::Leoma, Subject::Pytorch]
    }

    /// What the peer needs to load the same weights and inputs.
    fn peer_setup(&self) -> Value;

    /// One iteration of a Rust subject: all that is measured, and nothing else.
    fn run(&mut self, subject: Subject) -> Result<Tensor>;
}

/// A case that can be made ready.
pub(crate) struct Planned {
    /// Name of the measurement, `case/variant`.
    pub(crate) name: String,
    /// What is run, in words.
    pub(crate) what: String,
    /// Wall-time ratio that must hold.
    pub(crate) limit: f64,
    /// Name of the peer's half.
    pub(crate) peer_case: &'static str,
    /// Whether memory is measured too: the share of PyTorch's that must hold.
    pub(crate) memory_limit: Option<f64>,
    /// Writes weights and inputs into the folder and loads them.
    pub(crate) prepare: Box<dyn Fn(&Path) -> Result<Box<dyn Case>>>,
}

/// Runs a case in this process and in the peer, and keeps the last result of each.
pub(crate) struct LiveExecutor<'a> {
    case: Box<dyn Case>,
    peer: &'a mut Peer,
    results: BTreeMap<Subject, Tensor>,
}

impl<'a> LiveExecutor<'a> {
    /// Makes the peer load what `case` has loaded.
    pub(crate) fn new(case: Box<dyn Case>, peer_case: &str, peer: &'a mut Peer) -> Result<Self> {
        peer.setup(peer_case, &case.peer_setup())?;
        Ok(Self {
            case,
            peer,
            results: BTreeMap::new(),
        })
    }

    /// Who takes part.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        self.case.subjects()
    }

    /// The other side.
    pub(crate) fn peer(&mut self) -> &mut Peer {
        self.peer
    }

    /// Relative L2 distance of every Rust subject's last result from the peer's.
    pub(crate) fn distances(&mut self, work: &Path) -> Result<BTreeMap<Subject, f64>> {
        let path = work.join("output.safetensors");
        self.peer.write_output(&path)?;
        let reference = candle_core::safetensors::load(&path, &candle_core::Device::Cpu)?
            .remove("output")
            .context("the peer wrote no tensor `output`")?;
        std::fs::remove_file(&path)?;
        self.results
            .iter()
            .map(|(&subject, result)| Ok((subject, relative_l2(result, &reference)?)))
            .collect()
    }
}

impl Executor for LiveExecutor<'_> {
    fn run(&mut self, subject: Subject) -> Result<Sample> {
        if subject == Subject::Pytorch {
            return self.peer.run();
        }
        self.results.remove(&subject);
        let (result, sample) = clock::timed(|| self.case.run(subject));
        self.results.insert(subject, result?);
        Ok(sample)
    }
}

/// `|a - b| / |b|` over all elements, in f64. Shapes may differ in axes of length 1.
pub(crate) fn relative_l2(found: &Tensor, expected: &Tensor) -> Result<f64> {
    let real = |tensor: &Tensor| -> Vec<usize> {
        tensor
            .dims()
            .iter()
            .copied()
            .filter(|&length| length != 1)
            .collect()
    };
    if real(found) != real(expected) {
        bail!(
            "the Rust result has shape {:?}, PyTorch's {:?}",
            found.dims(),
            expected.dims()
        );
    }
    let values = |tensor: &Tensor| -> Result<Vec<f32>> {
        Ok(tensor
            .to_dtype(candle_core::DType::F32)?
            .flatten_all()?
            .to_vec1()?)
    };
    let (found, expected) = (values(found)?, values(expected)?);
    let (mut error, mut norm) = (0f64, 0f64);
    for (&a, &b) in found.iter().zip(&expected) {
        let (a, b) = (f64::from(a), f64::from(b));
        error += (a - b) * (a - b);
        norm += b * b;
    }
    Ok((error / norm).sqrt())
}

/// Path of a file in the work folder, as text for the peer.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Runs `write` unless the file exists already: variants of a case share their weights.
pub(crate) fn once(path: PathBuf, write: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    if !path.exists() {
        let partial = path.with_extension("partial");
        write(&partial)?;
        std::fs::rename(&partial, &path)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::Device;

    use super::*;

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn distance_is_relative_to_the_reference() {
        let a = tensor(&[3.0, 4.0], &[1, 2]);
        let b = tensor(&[3.0, 5.0], &[2]);
        let distance = relative_l2(&a, &b).unwrap();
        assert!((distance - 1.0 / 34f64.sqrt()).abs() < 1e-12);
        assert_eq!(relative_l2(&b, &b).unwrap(), 0.0);
    }

    #[test]
    fn a_result_of_another_shape_or_with_nan_is_caught() {
        let a = tensor(&[1.0, 2.0, 3.0, 4.0], &[2, 2]);
        assert!(relative_l2(&a, &tensor(&[1.0, 2.0, 3.0, 4.0], &[4])).is_err());
        let nan = tensor(&[1.0, 2.0, 3.0, f32::NAN], &[2, 2]);
        assert!(relative_l2(&nan, &a).unwrap().is_nan());
    }

    #[test]
    fn files_are_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        let mut writes = 0;
        for _ in 0..2 {
            once(path.clone(), |partial| {
                writes += 1;
                Ok(std::fs::write(partial, "x")?)
            })
            .unwrap();
        }
        assert_eq!((writes, path.exists()), (1, true));
    }
}

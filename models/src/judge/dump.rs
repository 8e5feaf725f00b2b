//! What a judgement was made from, as safetensors, for comparison with the reference implementation
//! (`scripts/golden/judge_compare.py`).
//!
//! | name | shape, type | what |
//! |---|---|---|
//! | `pixel_values` | `[P, C T P P]` f32 | patches of all pictures |
//! | `grid` | `[pictures, 3]` i64 | temporal patches, rows, columns |
//! | `input_ids` | `[L]` i64 | tokens that all questions share |
//! | `position_ids` | `[3, L]` i64 | their positions: time, height, width |
//! | `vision` | `[T, d]` f32 | features in place of embeddings |
//! | `deepstack` | `[levels, T, d]` f32 | features for the first layers |
//! | `questions.KEY` | `[n]` i64 | tokens of a question |
//! | `logits` | `[6, vocab]` f32 | scores of all words at the end of each question |

use std::collections::HashMap;
use std::io;
use std::path::Path;

use candle_core::{Device, Tensor};

use super::local::RubricRun;
use super::rubric::DIMENSIONS;
use crate::error::{Error, Result};

impl RubricRun {
    /// The tensors of the table above.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is no memory for them.
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        let cpu = &Device::Cpu;
        let ids = |ids: &[u32]| -> Result<Tensor> {
            let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
            let count = ids.len();
            Ok(Tensor::from_vec(ids, count, cpu)?)
        };
        let sequence = &self.sequence;
        let mut tensors = HashMap::new();
        let mut put = |name: &str, tensor: Tensor| tensors.insert(name.to_owned(), tensor);
        if let Some(pixels) = &sequence.pixel_values {
            put("pixel_values", pixels.clone());
        }
        let grid: Vec<i64> = sequence
            .grids
            .iter()
            .flat_map(|grid| [grid.frames, grid.rows, grid.columns])
            .map(|count| count as i64)
            .collect();
        put(
            "grid",
            Tensor::from_vec(grid, (sequence.grids.len(), 3), cpu)?,
        );
        put("input_ids", ids(&sequence.input_ids)?);
        let axes = sequence.positions.axes.iter().map(|axis| ids(axis));
        let axes = axes.collect::<Result<Vec<_>>>()?;
        put("position_ids", Tensor::stack(&axes, 0)?);
        if let Some(merged) = self.merged()? {
            put("vision", merged.to_device(cpu)?);
        }
        let levels = self.features.as_ref().map(|features| features.stacked());
        if let Some(levels) = levels.transpose()?.flatten() {
            put("deepstack", levels.to_device(cpu)?);
        }
        for (key, tokens) in DIMENSIONS.iter().zip(&self.questions) {
            put(&format!("questions.{key}"), ids(tokens)?);
        }
        let words = self.logits.first().map_or(0, Vec::len);
        put(
            "logits",
            Tensor::from_vec(self.logits.concat(), (self.logits.len(), words), cpu)?,
        );
        Ok(tensors)
    }

    /// Writes them.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        candle_core::safetensors::save(&self.tensors()?, path)
            .map_err(|error| Error::io(path, io::Error::other(error.to_string())))
    }
}

//! One weight in two models and their base: how the differences from the base relate.

use leoma_kernels::delta::{Floats, Moments, moments};
use leoma_models::Result;
use serde::{Deserialize, Serialize};

use super::align::{DISPLACED, Disguise, Matrix, Taken, take_out, undo_rows};
use super::low_rank;
use super::model::{Grid, Weight};

/// Elements compared at a time: three pieces of them fit the second cache.
const PIECE: usize = 64 << 10;
/// Most elements of a part of a matrix that is looked at whole.
const PART: usize = 4 << 20;

/// How one weight of two models compares.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct TensorComparison {
    /// Network.
    pub component: super::super::weights::Component,
    /// Diffusers name.
    pub name: String,
    /// Lengths of its axes.
    pub shape: Vec<usize>,
    /// The values are the same on the coarser of the two grids.
    pub equal: bool,
    /// They are stored in the same type.
    pub same_type: bool,
    /// Size of A's difference from the base, relative to the base.
    pub moved_a: Option<f64>,
    /// Size of B's difference from the base, relative to the base.
    pub moved_b: Option<f64>,
    /// Cosine between the differences.
    pub cosine: Option<f64>,
    /// Coefficient with which A's difference is contained in B's.
    pub coefficient: Option<f64>,
    /// Distance between A and B, relative to A's difference from the base.
    pub relative_l2: Option<f64>,
    /// What was undone in A to bring it near the base.
    pub undone_a: Option<Disguise>,
    /// What was undone in B to bring it near the base.
    pub undone_b: Option<Disguise>,
    /// The sums behind the figures.
    #[serde(skip)]
    pub(super) sums: Moments,
    /// Far from the base, and no change explains it.
    #[serde(skip)]
    pub(super) displaced: bool,
    /// Was looked at for changes that explain it.
    #[serde(skip)]
    pub(super) examined: bool,
}

/// A weight in the models; the base may be missing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Triple<'a> {
    pub(super) a: &'a Weight,
    pub(super) b: &'a Weight,
    pub(super) base: Option<&'a Weight>,
}

impl Triple<'_> {
    /// The coarsest grid among them.
    pub(super) fn grid(&self) -> Grid {
        let models = self.a.grid().max(self.b.grid());
        self.base.map_or(models, |base| models.max(base.grid()))
    }

    /// Whether the base is known less exactly than both models: then rounding of the base would look like
    /// something that the two have in common.
    pub(super) fn base_is_coarser(&self) -> bool {
        self.base
            .is_some_and(|base| base.grid() > self.a.grid().min(self.b.grid()))
    }

    /// Sums over all elements.
    pub(super) fn moments(&self) -> Result<Moments> {
        let grid = self.grid();
        let elements = self.a.elements();
        let mut total = Moments::default();
        let (mut scratch, mut bytes) = (Vec::new(), [Vec::new(), Vec::new(), Vec::new()]);
        let mut first = 0;
        while first < elements {
            let count = PIECE.min(elements - first);
            if grid == Grid::Codes {
                total.add(&self.coded(first, count)?);
            } else {
                let [a, b, c] = &mut bytes;
                self.a.read(first, count, grid, &mut scratch, a)?;
                self.b.read(first, count, grid, &mut scratch, b)?;
                if let Some(base) = self.base {
                    base.read(first, count, grid, &mut scratch, c)?
                } else {
                    c.clear();
                    c.resize(a.len(), 0);
                }
                let of = |bytes| {
                    if grid == Grid::Single {
                        Floats::F32(bytes)
                    } else {
                        Floats::Bf16(bytes)
                    }
                };
                total.add(&moments(of(a), of(b), of(c)));
            }
            first += count;
        }
        Ok(total)
    }

    /// The model whose codes and scales the others are brought to, where one is stored in 8-bit codes.
    fn coarse(&self) -> &Weight {
        if self.b.grid() == Grid::Codes {
            self.b
        } else {
            self.a
        }
    }

    /// Sums where one of them is stored in 8-bit codes: all are brought to those.
    fn coded(&self, first: usize, count: usize) -> Result<Moments> {
        let coarse = self.coarse();
        let values = |weight: &Weight| -> Result<Vec<u8>> {
            let mut values = weight.values(first, count)?;
            if !std::ptr::eq(weight, coarse) {
                coarse.quantise(first, &mut values);
            }
            Ok(values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect())
        };
        let (a, b) = (values(self.a)?, values(self.b)?);
        let c = self
            .base
            .map(values)
            .transpose()?
            .unwrap_or_else(|| vec![0; a.len()]);
        Ok(moments(Floats::F32(&a), Floats::F32(&b), Floats::F32(&c)))
    }

    /// Rows and columns: everything behind the first axis counts as columns.
    fn sides(&self) -> Option<(usize, usize)> {
        let rows = *self.a.shape().first()?;
        let columns = self.a.elements().checked_div(rows)?;
        (rows > 1 && columns > 1).then_some((rows, columns))
    }

    /// Undoes what displaces the models from the base: the sums of a part of the matrix after that, and what
    /// was undone in A and in B. None when one of them stays displaced.
    pub(super) fn undone(
        &self,
        head_dim: Option<usize>,
    ) -> Result<Option<(Moments, [Option<Disguise>; 2])>> {
        let (Some(base), Some((rows, columns))) = (self.base, self.sides()) else {
            return Ok(None);
        };
        // Some columns of all rows, then all columns of some rows, as its transpose.
        let width = (PART / rows).clamp(1, columns);
        let height = (PART / columns).clamp(1, rows);
        for transpose in [false, true] {
            let part = |weight: &Weight| -> Result<Matrix> {
                if transpose {
                    let values = weight.values(0, height * columns)?;
                    return Ok(Matrix { values, columns }.transposed());
                }
                if width == columns {
                    return Ok(Matrix {
                        values: weight.values(0, rows * columns)?,
                        columns,
                    });
                }
                let mut values = Vec::with_capacity(rows * width);
                for row in 0..rows {
                    values.extend(weight.values(row * columns, width)?);
                }
                Ok(Matrix {
                    values,
                    columns: width,
                })
            };
            let reference = part(base)?;
            let near = |weight: &Weight| -> Result<Option<(Option<Disguise>, Matrix, Taken)>> {
                let matrix = part(weight)?;
                if matrix.displacement(&reference) < DISPLACED {
                    return Ok(Some((None, matrix, Taken::Nothing)));
                }
                Ok(undo_rows(&matrix, &reference, head_dim).map(|undone| {
                    let disguise = undone.disguise;
                    let disguise = if transpose {
                        disguise.of_transpose()
                    } else {
                        disguise
                    };
                    (Some(disguise), undone.matrix, undone.taken)
                }))
            };
            let Some((of_a, a, taken_a)) = near(self.a)? else {
                continue;
            };
            let Some((of_b, b, taken_b)) = near(self.b)? else {
                continue;
            };
            let (Some(mut a), Some(mut b)) = (
                take_out(taken_b, a, &reference, head_dim),
                take_out(taken_a, b, &reference, head_dim),
            ) else {
                continue;
            };
            let mut reference = reference;
            // An order alone leaves every value what it was: all are brought to the same codes, as elsewhere.
            let coarse = self.coarse();
            if [taken_a, taken_b] == [Taken::Nothing; 2] && coarse.has_one_scale() {
                for matrix in [&mut a, &mut b, &mut reference] {
                    coarse.quantise(0, &mut matrix.values);
                }
            }
            let bytes = |matrix: &Matrix| -> Vec<u8> {
                matrix
                    .values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect()
            };
            let (a, b, c) = (bytes(&a), bytes(&b), bytes(&reference));
            let sums = moments(Floats::F32(&a), Floats::F32(&b), Floats::F32(&c));
            return Ok(Some((sums, [of_a, of_b])));
        }
        Ok(None)
    }

    /// Directions of the differences A - base, B - base and B - A in a block of the matrix, and the side of
    /// the block.
    pub(super) fn directions(&self) -> Result<Option<([Option<f64>; 3], usize)>> {
        let (Some(base), Some((rows, columns))) = (self.base, self.sides()) else {
            return Ok(None);
        };
        let (height, width) = (low_rank::BLOCK.min(rows), low_rank::BLOCK.min(columns));
        // Rows from all over the matrix, columns side by side from its middle.
        let (step, start) = (rows / height, (columns - width) / 2);
        let block = |weight: &Weight| -> Result<Vec<f32>> {
            let mut values = Vec::with_capacity(height * width);
            for row in 0..height {
                values.extend(weight.values(row * step * columns + start, width)?);
            }
            Ok(values)
        };
        let (a, b, c) = (block(self.a)?, block(self.b)?, block(base)?);
        let difference = |x: &[f32], y: &[f32]| -> Option<f64> {
            let values: Vec<f32> = x.iter().zip(y).map(|(x, y)| x - y).collect();
            low_rank::directions(&values, width)
        };
        let found = [difference(&a, &c), difference(&b, &c), difference(&b, &a)];
        Ok(Some((found, height.min(width))))
    }
}

//! Undoing changes that leave what a network computes as it is: heads and hidden rows in another order,
//! channels rescaled between a norm and the layer behind it, rotations inside of heads.
//!
//! All that is needed is the base: a fine-tune lies close to it, so a matrix that lies far from the base
//! but close to it *after* such a change was changed on purpose. The change is estimated against the base
//! and undone; what is then left is a difference like any other.
//!
//! Everything here works on the rows of a matrix; for columns it is given the transpose.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// A change that was undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Disguise {
    /// Rows in another order.
    RowsPermuted,
    /// Columns in another order.
    ColumnsPermuted,
    /// Rows multiplied by factors.
    RowsScaled,
    /// Columns multiplied by factors.
    ColumnsScaled,
    /// The rows of each head mixed, as by a rotation.
    RowsMixed,
    /// The columns of each head mixed, as by a rotation.
    ColumnsMixed,
}

impl Disguise {
    /// The same change of the transpose.
    pub(super) fn of_transpose(self) -> Self {
        match self {
            Self::RowsPermuted => Self::ColumnsPermuted,
            Self::ColumnsPermuted => Self::RowsPermuted,
            Self::RowsScaled => Self::ColumnsScaled,
            Self::ColumnsScaled => Self::RowsScaled,
            Self::RowsMixed => Self::ColumnsMixed,
            Self::ColumnsMixed => Self::RowsMixed,
        }
    }
}

/// Squared distance from the base, as a share of the base's squared size, above which a matrix has been
/// displaced: training moves weights by a few percent.
pub(super) const DISPLACED: f64 = 0.1;
/// The same, below which a change counts as undone.
const UNDONE: f64 = 0.05;
/// Columns by which rows are recognised.
const SIGNATURE: usize = 64;
/// Least cosine between a row and the base's row that it is taken for.
const SAME_ROW: f32 = 0.8;

/// Row-major, `columns` wide.
#[derive(Debug, Clone)]
pub(super) struct Matrix {
    pub(super) values: Vec<f32>,
    pub(super) columns: usize,
}

impl Matrix {
    pub(super) fn rows(&self) -> usize {
        self.values.len().checked_div(self.columns).unwrap_or(0)
    }

    fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.columns..(index + 1) * self.columns]
    }

    pub(super) fn transposed(&self) -> Self {
        let (rows, columns) = (self.rows(), self.columns);
        let mut values = vec![0.0; self.values.len()];
        for i in 0..rows {
            for j in 0..columns {
                values[j * rows + i] = self.values[i * columns + j];
            }
        }
        Self {
            values,
            columns: rows,
        }
    }

    /// Squared distance from `base`, as a share of the base's squared size.
    pub(super) fn displacement(&self, base: &Self) -> f64 {
        let (mut distance, mut size) = (0.0, 0.0);
        for (x, c) in self.values.iter().zip(&base.values) {
            distance += f64::from(x - c).powi(2);
            size += f64::from(*c).powi(2);
        }
        if size > 0.0 {
            distance / size
        } else {
            f64::INFINITY
        }
    }
}

/// What an estimate against the base takes out of a difference. The same is taken out of the model that is
/// compared with, so that what is left of both is the same for the same weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Nothing,
    /// The part of each row along the base's row.
    Factors,
    /// The part of each head's rows in the space of the base's rows.
    Mixtures,
}

/// A matrix without the change that had displaced it.
#[derive(Debug)]
pub(super) struct Undone {
    pub(super) disguise: Disguise,
    pub(super) matrix: Matrix,
    pub(super) taken: Taken,
}

/// Takes out of `x`, which lies near `base`, what an estimate took out of another.
pub(super) fn take_out(
    taken: Taken,
    x: Matrix,
    base: &Matrix,
    head_dim: Option<usize>,
) -> Option<Matrix> {
    match taken {
        Taken::Nothing => Some(x),
        Taken::Factors => Some(rescaled(&x, base)),
        Taken::Mixtures => unmixed(&x, base, head_dim?),
    }
}

/// Undoes the simplest change of rows after which `x` lies near `base`.
pub(super) fn undo_rows(x: &Matrix, base: &Matrix, head_dim: Option<usize>) -> Option<Undone> {
    if x.columns != base.columns || x.values.len() != base.values.len() || x.columns == 0 {
        return None;
    }
    let near = |matrix: &Matrix| matrix.displacement(base) < UNDONE;
    let undone = |disguise, matrix, taken| {
        Some(Undone {
            disguise,
            matrix,
            taken,
        })
    };
    let scaled = rescaled(x, base);
    if near(&scaled) {
        return undone(Disguise::RowsScaled, scaled, Taken::Factors);
    }
    if let Some(sorted) = sorted(x, base) {
        if near(&sorted) {
            return undone(Disguise::RowsPermuted, sorted, Taken::Nothing);
        }
        let both = rescaled(&sorted, base);
        if near(&both) {
            return undone(Disguise::RowsPermuted, both, Taken::Factors);
        }
    }
    let unmixed = unmixed(x, base, head_dim?)?;
    if near(&unmixed) {
        undone(Disguise::RowsMixed, unmixed, Taken::Mixtures)
    } else {
        None
    }
}

/// Every row divided by the factor that brings it nearest to the base's.
fn rescaled(x: &Matrix, base: &Matrix) -> Matrix {
    let mut values = Vec::with_capacity(x.values.len());
    for index in 0..x.rows() {
        let (row, reference) = (x.row(index), base.row(index));
        let (mut product, mut size) = (0.0, 0.0);
        for (x, c) in row.iter().zip(reference) {
            product += f64::from(x * c);
            size += f64::from(c * c);
        }
        let factor = if product == 0.0 {
            1.0
        } else {
            (size / product) as f32
        };
        values.extend(row.iter().map(|x| x * factor));
    }
    Matrix {
        values,
        columns: x.columns,
    }
}

/// The rows in the order of the base's rows that they resemble; none unless each has one of its own.
fn sorted(x: &Matrix, base: &Matrix) -> Option<Matrix> {
    let (of_x, of_base) = (signatures(x), signatures(base));
    let found: Option<Vec<usize>> = of_x
        .par_chunks(SIGNATURE)
        .map(|row| {
            let mut best = (SAME_ROW, None);
            for (index, other) in of_base.chunks(SIGNATURE).enumerate() {
                let cosine = dot(row, other).abs();
                if cosine > best.0 {
                    best = (cosine, Some(index));
                }
            }
            best.1
        })
        .collect();
    let mut place = vec![None; x.rows()];
    for (from, to) in found?.into_iter().enumerate() {
        if place[to].replace(from).is_some() {
            return None;
        }
    }
    let mut values = Vec::with_capacity(x.values.len());
    for from in place {
        values.extend_from_slice(x.row(from?));
    }
    Some(Matrix {
        values,
        columns: x.columns,
    })
}

/// The first columns of every row, normed.
fn signatures(matrix: &Matrix) -> Vec<f32> {
    let width = SIGNATURE.min(matrix.columns);
    let mut out = vec![0.0; matrix.rows() * SIGNATURE];
    for (index, signature) in out.chunks_mut(SIGNATURE).enumerate() {
        let row = &matrix.row(index)[..width];
        let size = dot(row, row).sqrt().max(f32::MIN_POSITIVE);
        for (out, value) in signature.iter_mut().zip(row) {
            *out = value / size;
        }
    }
    out
}

/// A sum in lanes, which the compiler makes vectors of.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (a, rest_a) = a.as_chunks::<16>();
    let (b, rest_b) = b.as_chunks::<16>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..16 {
            lanes[i] += a[i] * b[i];
        }
    }
    let rest: f32 = rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

/// Each head's rows multiplied by the inverse of the matrix that maps the base's rows nearest to them. The
/// estimate has `head_dim` unknowns per row: with many more columns it takes little of a difference along.
fn unmixed(x: &Matrix, base: &Matrix, head_dim: usize) -> Option<Matrix> {
    let n = head_dim;
    if n < 2 || !x.rows().is_multiple_of(n) || x.columns < 2 * n {
        return None;
    }
    let heads: Option<Vec<Vec<f32>>> = (0..x.rows() / n)
        .into_par_iter()
        .map(|head| {
            let rows = head * n..(head + 1) * n;
            // x = T c: T = (x c') (c c')^-1, and c' = T^-1 x = (c c') (x c')^-1 x.
            let mut mixed = vec![0.0_f64; n * n];
            let mut own = vec![0.0_f64; n * n];
            for i in 0..n {
                for j in 0..n {
                    let reference = base.row(rows.start + j);
                    mixed[i * n + j] = f64::from(dot(x.row(rows.start + i), reference));
                    own[i * n + j] = f64::from(dot(base.row(rows.start + i), reference));
                }
            }
            // Rows of T^-1, from T^-1 (x c') = c c'.
            let inverse = solve_right(&mixed, &own, n)?;
            let mut out = vec![0.0_f32; n * x.columns];
            for i in 0..n {
                let out = &mut out[i * x.columns..(i + 1) * x.columns];
                for j in 0..n {
                    let factor = inverse[i * n + j] as f32;
                    for (out, value) in out.iter_mut().zip(x.row(rows.start + j)) {
                        *out += factor * value;
                    }
                }
            }
            Some(out)
        })
        .collect();
    Some(Matrix {
        values: heads?.concat(),
        columns: x.columns,
    })
}

/// `z` with `z a = b`; none when `a` is singular.
fn solve_right(a: &[f64], b: &[f64], n: usize) -> Option<Vec<f64>> {
    // The transposes: a' z' = b', by elimination with pivots.
    let mut left: Vec<Vec<f64>> = (0..n)
        .map(|i| (0..n).map(|j| a[j * n + i]).collect())
        .collect();
    let mut right: Vec<Vec<f64>> = (0..n)
        .map(|i| (0..n).map(|j| b[j * n + i]).collect())
        .collect();
    let largest = a.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| left[i][k].abs().total_cmp(&left[j][k].abs()))?;
        let size = left[pivot][k].abs();
        if size.is_nan() || size <= 1e-9 * largest {
            return None;
        }
        left.swap(k, pivot);
        right.swap(k, pivot);
        for i in 0..n {
            if i == k {
                continue;
            }
            let factor = left[i][k] / left[k][k];
            if factor == 0.0 {
                continue;
            }
            let (of_left, of_right) = (left[k].clone(), right[k].clone());
            for (value, pivot) in left[i].iter_mut().zip(of_left) {
                *value -= factor * pivot;
            }
            for (value, pivot) in right[i].iter_mut().zip(of_right) {
                *value -= factor * pivot;
            }
        }
    }
    let mut z = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..n {
            z[j * n + i] = right[i][j] / left[i][i];
        }
    }
    Some(z)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::audit::tests::noise;

    const ROWS: usize = 48;
    const COLUMNS: usize = 160;

    fn base() -> Matrix {
        Matrix {
            values: noise(ROWS * COLUMNS, 1),
            columns: COLUMNS,
        }
    }

    /// The base with a small difference.
    fn tuned(base: &Matrix, seed: u64) -> Matrix {
        let change = noise(base.values.len(), seed);
        let values = base
            .values
            .iter()
            .zip(change)
            .map(|(c, d)| c + 0.02 * d)
            .collect();
        Matrix {
            values,
            columns: base.columns,
        }
    }

    /// Cosine between the differences from the base.
    fn cosine(a: &Matrix, b: &Matrix, base: &Matrix) -> f64 {
        let (mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0);
        for ((a, b), c) in a.values.iter().zip(&b.values).zip(&base.values) {
            let (a, b) = (f64::from(a - c), f64::from(b - c));
            aa += a * a;
            bb += b * b;
            ab += a * b;
        }
        ab / (aa * bb).sqrt()
    }

    fn check(disguised: &Matrix, original: &Matrix, expected: Disguise) {
        let base = base();
        assert!(disguised.displacement(&base) > DISPLACED);
        let undone = undo_rows(disguised, &base, Some(16)).unwrap();
        assert_eq!(undone.disguise, expected);
        let same = take_out(undone.taken, original.clone(), &base, Some(16)).unwrap();
        let copy = cosine(&undone.matrix, &same, &base);
        assert!(copy > 0.9999, "{expected:?} {copy}");
        // Another fine-tune of the base does not become alike by that.
        let other = take_out(undone.taken, tuned(&base, 77), &base, Some(16)).unwrap();
        let other = cosine(&undone.matrix, &other, &base);
        assert!(other.abs() < 0.05, "{expected:?} {other}");
    }

    #[test]
    fn orders_are_undone() {
        let (base, mut rows) = (base(), Vec::new());
        let original = tuned(&base, 2);
        for i in 0..ROWS {
            rows.extend_from_slice(original.row(i * 7 % ROWS));
        }
        let disguised = Matrix {
            values: rows,
            columns: COLUMNS,
        };
        check(&disguised, &original, Disguise::RowsPermuted);
    }

    #[test]
    fn factors_are_undone() {
        let original = tuned(&base(), 2);
        let mut disguised = original.clone();
        for (i, row) in disguised.values.chunks_mut(COLUMNS).enumerate() {
            let factor = if i % 3 == 0 {
                -1.7
            } else {
                0.4 + i as f32 * 0.1
            };
            for x in row {
                *x *= factor;
            }
        }
        check(&disguised, &original, Disguise::RowsScaled);
    }

    #[test]
    fn orders_and_factors_together_are_undone() {
        let original = tuned(&base(), 2);
        let mut values = Vec::new();
        for i in 0..ROWS {
            values.extend(
                original
                    .row(i * 5 % ROWS)
                    .iter()
                    .map(|x| x * (0.5 + i as f32 * 0.05)),
            );
        }
        check(
            &Matrix {
                values,
                columns: COLUMNS,
            },
            &original,
            Disguise::RowsPermuted,
        );
    }

    #[test]
    fn rotations_of_pairs_and_whole_heads_are_undone() {
        let original = tuned(&base(), 2);
        let rotate = |matrix: &Matrix, pairs: &[(usize, usize)]| {
            let mut out = matrix.clone();
            for (k, &(i, j)) in pairs.iter().enumerate() {
                let (sin, cos) = (0.7 + k as f32).sin_cos();
                for column in 0..COLUMNS {
                    let (x, y) = (
                        out.values[i * COLUMNS + column],
                        out.values[j * COLUMNS + column],
                    );
                    out.values[i * COLUMNS + column] = cos * x - sin * y;
                    out.values[j * COLUMNS + column] = sin * x + cos * y;
                }
            }
            out
        };
        let neighbours: Vec<_> = (0..ROWS / 2).map(|i| (2 * i, 2 * i + 1)).collect();
        check(
            &rotate(&original, &neighbours),
            &original,
            Disguise::RowsMixed,
        );
        let mixed: Vec<_> = (0..3 * ROWS)
            .map(|i| {
                let head = i % 3 * 16;
                (head + i % 16, head + (i * 5 + 3) % 16)
            })
            .filter(|(i, j)| i != j)
            .collect();
        check(&rotate(&original, &mixed), &original, Disguise::RowsMixed);
    }

    /// What has nothing to do with the base is not brought near it.
    #[test]
    fn other_matrices_stay_unexplained() {
        let other = Matrix {
            values: noise(ROWS * COLUMNS, 9),
            columns: COLUMNS,
        };
        assert!(undo_rows(&other, &base(), Some(16)).is_none());
        let zero = Matrix {
            values: vec![0.0; ROWS * COLUMNS],
            columns: COLUMNS,
        };
        assert!(undo_rows(&zero, &base(), Some(16)).is_none());
        let nan = Matrix {
            values: vec![f32::NAN; ROWS * COLUMNS],
            columns: COLUMNS,
        };
        assert!(undo_rows(&nan, &base(), Some(16)).is_none());
    }
}

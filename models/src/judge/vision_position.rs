//! Positions of patches in the vision tower: what is read from the learned table, and the rotary angles.
//!
//! The table is a square of learned rows (48 x 48); a grid of other sides reads it by bilinear interpolation,
//! corner to corner. The rotary angles come from row and column of a patch, half of the frequencies each. Both
//! list patches in the order of the processor: group by group of what becomes one token. Every temporal patch
//! has the same positions.
//!
//! Source: `vision_utils.py` and `Qwen3VLVisionRotaryEmbedding` of transformers 5.14.1.

use super::position::inverse_frequencies;

const THETA: f64 = 10_000.0;

/// Row and column of every patch of one temporal patch, in the order of the processor.
pub(super) fn places(rows: usize, columns: usize, merge: usize) -> Vec<(usize, usize)> {
    let mut places = Vec::with_capacity(rows * columns);
    for group_row in (0..rows).step_by(merge) {
        for group_column in (0..columns).step_by(merge) {
            for row in group_row..group_row + merge {
                for column in group_column..group_column + merge {
                    places.push((row, column));
                }
            }
        }
    }
    places
}

/// Four rows of the table and their weights for every patch: upper left, upper right, lower left, lower right.
pub(super) struct Corners {
    /// `[4][patches]`.
    pub(super) rows: [Vec<u32>; 4],
    /// `[4][patches]`.
    pub(super) weights: [Vec<f32>; 4],
}

/// Interpolation of a table of `side` x `side` rows for a grid.
pub(super) fn corners(rows: usize, columns: usize, merge: usize, side: usize) -> Corners {
    let (vertical, horizontal) = (axis(rows, side), axis(columns, side));
    let mut corners = Corners {
        rows: Default::default(),
        weights: Default::default(),
    };
    for (row, column) in places(rows, columns, merge) {
        let ((top, bottom, down), (left, right, across)) = (vertical[row], horizontal[column]);
        let at = |row: usize, column: usize| (row * side + column) as u32;
        let found = [
            (at(top, left), (1.0 - down) * (1.0 - across)),
            (at(top, right), (1.0 - down) * across),
            (at(bottom, left), down * (1.0 - across)),
            (at(bottom, right), down * across),
        ];
        for (corner, (row, weight)) in found.into_iter().enumerate() {
            corners.rows[corner].push(row);
            corners.weights[corner].push(weight);
        }
    }
    corners
}

/// For each of `count` places between the first and the last of `side` entries: the entry before, the one
/// after, and how far it is between them.
fn axis(count: usize, side: usize) -> Vec<(usize, usize, f32)> {
    let last = side - 1;
    // In f32 and from both ends to the middle, as torch's linspace.
    let step = last as f32 / count.saturating_sub(1).max(1) as f32;
    (0..count)
        .map(|index| {
            let place = if count == 1 {
                0.0
            } else if index < count / 2 {
                step * index as f32
            } else {
                last as f32 - step * (count - 1 - index) as f32
            };
            let before = (place as usize).min(last);
            (before, (before + 1).min(last), place - before as f32)
        })
        .collect()
}

/// Cosines and sines of every patch of one temporal patch, `[patches, head_dim / 2]` each: the first half of
/// the angles from the row, the other from the column.
pub(super) fn rotary(
    rows: usize,
    columns: usize,
    merge: usize,
    head_dim: usize,
) -> (Vec<f32>, Vec<f32>) {
    let frequencies = inverse_frequencies(THETA, head_dim / 2);
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    for (row, column) in places(rows, columns, merge) {
        for position in [row, column] {
            for frequency in &frequencies {
                let angle = f64::from(position as f32 * frequency);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
    }
    (cos, sin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_of_a_token_follow_each_other() {
        assert_eq!(
            places(2, 4, 2),
            [
                (0, 0),
                (0, 1),
                (1, 0),
                (1, 1),
                (0, 2),
                (0, 3),
                (1, 2),
                (1, 3)
            ]
        );
        assert_eq!(places(3, 2, 1).len(), 6);
    }

    #[test]
    fn a_grid_of_the_tables_size_reads_its_rows() {
        let corners = corners(4, 4, 2, 4);
        for (index, (row, column)) in places(4, 4, 2).into_iter().enumerate() {
            assert_eq!(corners.rows[0][index], (row * 4 + column) as u32);
            assert_eq!(corners.weights[0][index], 1.0);
            assert_eq!(corners.weights[3][index], 0.0);
        }
    }

    #[test]
    fn corners_of_a_grid_are_corners_of_the_table() {
        let corners = corners(6, 10, 2, 5);
        let last = places(6, 10, 2)
            .iter()
            .position(|&place| place == (5, 9))
            .unwrap_or_default();
        assert_eq!(corners.rows[0][last], 24);
        // (0, 1) of ten columns lies at 4/9 of the way from the first entry to the second.
        assert!((corners.weights[1][1] - 4.0 / 9.0).abs() < 1e-6);
        assert_eq!(corners.rows[1][1], 1);
        for index in 0..60 {
            let sum: f32 = corners.weights.iter().map(|weights| weights[index]).sum();
            assert!((sum - 1.0).abs() < 1e-6);
        }
        // A single row reads the first of the table, one group of one patch.
        assert_eq!(super::corners(1, 1, 1, 5).rows[0], [0]);
    }

    #[test]
    fn rows_turn_the_first_half() {
        let (cos, sin) = rotary(2, 2, 2, 8);
        // Frequencies 1 and 0.01: patch 2 is row 1, column 0.
        assert_eq!(cos.len(), 16);
        assert!((sin[8] - 1f32.sin()).abs() < 1e-7 && (sin[9] - 0.01f32.sin()).abs() < 1e-8);
        assert!(sin[10] == 0.0 && sin[11] == 0.0 && cos[10] == 1.0);
    }
}

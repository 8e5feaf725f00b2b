//! The position table of DINOv2 for pictures of another size than it was trained for.
//!
//! Bicubic with a = -0.75 and without antialiasing, positions between centres of patches, edges repeated: torch's
//! `interpolate(mode="bicubic", align_corners=False)`, which the reference calls.

const A: f64 = -0.75;

/// Weights of the four rows round a position, and the row before it.
struct Taps {
    /// May lie outside the table.
    first: isize,
    weights: [f64; 4],
}

fn taps(input: usize, output: usize) -> impl Iterator<Item = Taps> {
    let scale = input as f64 / output as f64;
    (0..output).map(move |index| {
        let at = (index as f64 + 0.5) * scale - 0.5;
        let t = at - at.floor();
        let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
        let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
        Taps {
            first: at.floor() as isize - 1,
            weights: [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)],
        }
    })
}

/// `table` [side, side, width], row-major → [rows, columns, width].
pub(super) fn interpolate(
    table: &[f32],
    (side, width): (usize, usize),
    (rows, columns): (usize, usize),
) -> Vec<f32> {
    if (rows, columns) == (side, side) {
        return table.to_vec();
    }
    let inside = |first: isize, tap: usize| {
        // Beyond the edge the last row stands again.
        (first + tap as isize).clamp(0, side as isize - 1) as usize
    };
    let across: Vec<Taps> = taps(side, columns).collect();
    let mut out = Vec::with_capacity(rows * columns * width);
    let mut sums = vec![0f64; width];
    for down in taps(side, rows) {
        for across in &across {
            sums.fill(0.0);
            for (i, wy) in down.weights.iter().enumerate() {
                let row = inside(down.first, i) * side;
                for (j, wx) in across.weights.iter().enumerate() {
                    let start = (row + inside(across.first, j)) * width;
                    let line = table.get(start..start + width).unwrap_or_default();
                    for (sum, value) in sums.iter_mut().zip(line) {
                        *sum += wy * wx * f64::from(*value);
                    }
                }
            }
            out.extend(sums.iter().map(|sum| *sum as f32));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_add_up_to_one() {
        for (input, output) in [(37, 16), (3, 8), (5, 5)] {
            for taps in taps(input, output) {
                assert!((taps.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn halves_lie_between_and_constants_stay() {
        // One column per value: a table of 2 x 2 rows of one number.
        let found = interpolate(&[0.0, 0.0, 1.0, 1.0], (2, 1), (4, 1));
        // torch.nn.functional.interpolate of [[0, 0], [1, 1]] to 4 rows.
        let expected = [-0.105_468_75, 0.226_562_5, 0.773_437_5, 1.105_468_75];
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-6,
                "{found} {expected}"
            );
        }
        assert!(
            interpolate(&[0.5; 9], (3, 1), (7, 2))
                .iter()
                .all(|x| (x - 0.5).abs() < 1e-6)
        );
    }

    #[test]
    fn the_same_size_is_the_same_table() {
        let table: Vec<f32> = (0..18).map(|x| x as f32 / 7.0).collect();
        assert_eq!(interpolate(&table, (3, 2), (3, 3)), table);
    }
}

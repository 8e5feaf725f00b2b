//! How many directions a difference of matrices has: a LoRA merged into a model changes it in few, training
//! and noise in many.
//!
//! A square block of the matrix is looked at instead of all of it: its rank is at most the matrix's. Counted
//! is the participation ratio of its squared singular values, `(sum s^2)^2 / sum s^4`: r for r equal ones,
//! half the side of the block for noise.

/// Rows and columns of the block.
pub(super) const BLOCK: usize = 128;

/// Directions of a block of `columns` columns, row-major. None when the block is zero or not finite.
pub(super) fn directions(block: &[f32], columns: usize) -> Option<f64> {
    let rows = block.len().checked_div(columns)?;
    let row = |index: usize| &block[index * columns..(index + 1) * columns];
    // Of the product with its own transpose: its trace, and its squared size.
    let (mut trace, mut size) = (0.0, 0.0);
    for i in 0..rows {
        for j in 0..=i {
            let product: f64 = row(i)
                .iter()
                .zip(row(j))
                .map(|(x, y)| f64::from(*x) * f64::from(*y))
                .sum();
            if i == j {
                trace += product;
                size += product * product;
            } else {
                size += 2.0 * product * product;
            }
        }
    }
    let directions = trace * trace / size;
    (directions.is_finite() && trace > 0.0).then_some(directions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tests::noise;

    #[test]
    fn few_directions_of_a_product_many_of_noise() {
        for (rows, columns) in [(64, 64), (48, 96), (96, 48)] {
            let rank = 6;
            let (up, down) = (noise(rows * rank, 1), noise(rank * columns, 2));
            let mut product = vec![0.0; rows * columns];
            for i in 0..rows {
                for j in 0..columns {
                    product[i * columns + j] = (0..rank)
                        .map(|k| up[i * rank + k] * down[k * columns + j])
                        .sum();
                }
            }
            let found = directions(&product, columns).unwrap_or(0.0);
            assert!((3.0..=6.0).contains(&found), "{found}");
            // n / (1 + n / m) for noise.
            let (n, m) = (rows.min(columns) as f64, rows.max(columns) as f64);
            let expected = n / (1.0 + n / m);
            let many = directions(&noise(rows * columns, 3), columns).unwrap_or(0.0);
            assert!((many / expected - 1.0).abs() < 0.1, "{many} {expected}");
        }
        let equal: Vec<f32> = (0..64)
            .map(|i| if i % 9 == 0 && i < 27 { 2.0 } else { 0.0 })
            .collect();
        assert_eq!(directions(&equal, 8), Some(3.0));
        assert_eq!(directions(&[0.0; 16], 4), None);
        assert_eq!(directions(&[f32::NAN; 16], 4), None);
        assert_eq!(directions(&[], 0), None);
    }
}

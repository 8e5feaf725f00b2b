//! Rotary position tables over the three axes of a video.
//!
//! Axis with `D` real dimensions: `angle(pos, j) = pos * 10000^(-2j/D)`, `j < D/2`, where `pos` is the
//! 0-based frame, row or column on the patch grid. A head of width `D` gives rows and columns
//! `2 * floor(D / 6)` dimensions each and frames the rest: (44, 42, 42) for 128.
//! Angles are computed in f64 and stored as f32, as diffusers does.

use candle_core::{Device, Tensor};

use crate::error::Result;

const THETA: f64 = 10_000.0;

/// Cosines and sines for every token, `[L, D/2]` f32 each, token order frame, row, column.
#[derive(Debug, Clone)]
pub struct RotaryTables {
    /// `[L, D/2]`.
    pub cos: Tensor,
    /// `[L, D/2]`.
    pub sin: Tensor,
}

impl RotaryTables {
    /// Tables for a grid of `frames x rows x columns` tokens and heads of width `head_dim`.
    pub fn new(head_dim: usize, grid: [usize; 3], device: &Device) -> Result<Self> {
        let side = 2 * (head_dim / 6);
        let axes = [head_dim - 2 * side, side, side];
        let frequencies = axes.map(|dims| {
            (0..dims / 2)
                .map(|j| THETA.powf(-2.0 * j as f64 / dims as f64))
                .collect::<Vec<f64>>()
        });
        // Cosine and sine per position of each axis: a token's row is three of these side by side.
        let tables: Vec<Vec<Vec<(f32, f32)>>> = grid
            .iter()
            .zip(&frequencies)
            .map(|(&positions, frequencies)| {
                let turn = |position: usize| {
                    let angles = frequencies.iter().map(|f| (position as f64 * f).sin_cos());
                    angles.map(|(s, c)| (c as f32, s as f32)).collect()
                };
                (0..positions).map(turn).collect()
            })
            .collect();
        let half = head_dim / 2;
        let tokens = grid.iter().product::<usize>();
        let mut cos = Vec::with_capacity(tokens * half);
        let mut sin = Vec::with_capacity(tokens * half);
        for frame in 0..grid[0] {
            for row in 0..grid[1] {
                for column in 0..grid[2] {
                    for (position, table) in [frame, row, column].into_iter().zip(&tables) {
                        for &(c, s) in &table[position] {
                            cos.push(c);
                            sin.push(s);
                        }
                    }
                }
            }
        }
        Ok(Self {
            cos: Tensor::from_vec(cos, (tokens, half), device)?,
            sin: Tensor::from_vec(sin, (tokens, half), device)?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_head_of_128_is_split_44_42_42() {
        let tables = RotaryTables::new(128, [2, 2, 3], &Device::Cpu).unwrap();
        assert_eq!(tables.cos.dims(), [12, 64]);
        let sin = tables.sin.to_vec2::<f32>().unwrap();
        // Token 1 is column 1 of row 0, frame 0: only the last 21 pairs turn, the first of them by 1 rad.
        assert!(sin[1][..43].iter().all(|&s| s == 0.0));
        assert!((sin[1][43] - 1f32.sin()).abs() < 1e-7);
        // Token 3 is row 1; token 6 is frame 1.
        assert!((sin[3][22] - 1f32.sin()).abs() < 1e-7 && sin[3][43] == 0.0);
        assert!((sin[6][0] - 1f32.sin()).abs() < 1e-7 && sin[6][22] == 0.0);
        assert!((f64::from(sin[6][1]) - THETA.powf(-2.0 / 44.0).sin()).abs() < 1e-7);
    }
}

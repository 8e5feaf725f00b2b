//! Positions of tokens for interleaved M-RoPE, and the angles that follow from them.
//!
//! Every token has a position on three axes. A text token has one number on all three; the token at row r and
//! column c of a block of vision tokens that begins at position s has time s, height s + r, width s + c, and
//! what follows the block begins at s + max(rows, columns). Each temporal patch of a video is a block of its
//! own: time does not advance inside it, only through the text between the blocks.
//!
//! Source: `get_rope_index` and `apply_interleaved_mrope` of transformers 5.14.1, `modeling_qwen3_vl.py`.

/// Positions on the axes time, height, width: one entry per token each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions {
    /// Time, height, width.
    pub axes: [Vec<u32>; 3],
    next: u32,
}

impl Positions {
    /// None yet; the first token gets 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// None yet; the first token gets `next`.
    pub fn from(next: u32) -> Self {
        Self {
            next,
            ..Self::default()
        }
    }

    /// Adds `count` text tokens.
    pub fn text(&mut self, count: usize) {
        let end = self.next + count as u32;
        for axis in &mut self.axes {
            axis.extend(self.next..end);
        }
        self.next = end;
    }

    /// Adds a block of `rows` x `columns` vision tokens, row by row.
    pub fn vision(&mut self, rows: usize, columns: usize) {
        for row in 0..rows as u32 {
            for column in 0..columns as u32 {
                let [time, height, width] = &mut self.axes;
                time.push(self.next);
                height.push(self.next + row);
                width.push(self.next + column);
            }
        }
        self.next += rows.max(columns) as u32;
    }

    /// Keeps the first `len` tokens; what is added next begins where the token after them stood. Not inside a
    /// block of vision, the rest of which would have no place.
    pub fn truncate(&mut self, len: usize) {
        if let Some(&next) = self.axes[0].get(len) {
            self.next = next;
            for axis in &mut self.axes {
                axis.truncate(len);
            }
        }
    }

    /// Position of the token that comes next.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Tokens so far.
    pub fn len(&self) -> usize {
        self.axes[0].len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// `theta^(-2i/dims)` for i < dims/2, rounded where the reference rounds: the power and its reciprocal in f32.
/// The weights were trained with these numbers, so more exact ones would be less right.
pub(super) fn inverse_frequencies(theta: f64, dims: usize) -> Vec<f32> {
    (0..dims / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / dims as f32;
            1.0 / (theta.powf(f64::from(exponent)) as f32)
        })
        .collect()
}

/// Which axis turns each of the `half` frequencies: time, except i = 1, 4, 7, .. below 3 * height for height
/// and i = 2, 5, 8, .. below 3 * width for width.
pub(super) fn interleaved_axes(section: [usize; 3], half: usize) -> Vec<usize> {
    (0..half)
        .map(|i| match i % 3 {
            axis @ 1..=2 if i < 3 * section[axis] => axis,
            _ => 0,
        })
        .collect()
}

/// Cosines and sines, `[tokens, half]` each, in f32 from angles in f32 as in the reference.
pub(super) fn turn(
    positions: &Positions,
    frequencies: &[f32],
    axes: &[usize],
) -> (Vec<f32>, Vec<f32>) {
    let count = positions.len() * frequencies.len();
    let (mut cos, mut sin) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for token in 0..positions.len() {
        for (&frequency, &axis) in frequencies.iter().zip(axes) {
            let angle = f64::from(positions.axes[axis][token] as f32 * frequency);
            cos.push(angle.cos() as f32);
            sin.push(angle.sin() as f32);
        }
    }
    (cos, sin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_begin_after_the_longer_side() {
        let mut positions = Positions::new();
        positions.text(3);
        positions.vision(2, 4);
        positions.text(1);
        positions.vision(3, 1);
        assert_eq!(positions.next(), 11);
        assert_eq!(positions.len(), 15);
        let [time, height, width] = &positions.axes;
        assert_eq!(time, &[0, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 7, 8, 8, 8]);
        assert_eq!(height, &[0, 1, 2, 3, 3, 3, 3, 4, 4, 4, 4, 7, 8, 9, 10]);
        assert_eq!(width, &[0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 7, 8, 8, 8]);
        positions.truncate(11);
        assert_eq!((positions.next(), positions.len()), (7, 11));
        positions.truncate(12);
        assert_eq!(positions.len(), 11);
        let mut later = Positions::from(11);
        later.text(2);
        assert_eq!(later.axes[2], [11, 12]);
    }

    #[test]
    fn axes_of_the_released_models() {
        let axes = interleaved_axes([24, 20, 20], 64);
        for (i, &axis) in axes.iter().enumerate() {
            let wanted = if i < 60 { i % 3 } else { 0 };
            assert_eq!(axis, wanted, "{i}");
        }
        let count = |axis| axes.iter().filter(|&&a| a == axis).count();
        assert_eq!([count(0), count(1), count(2)], [24, 20, 20]);
        assert_eq!(interleaved_axes([4, 2, 2], 8), [0, 1, 2, 0, 1, 2, 0, 0]);
        assert_eq!(interleaved_axes([5, 2, 1], 8), [0, 1, 2, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn text_turns_alike_on_all_axes() {
        let frequencies = inverse_frequencies(10_000.0, 8);
        assert_eq!(frequencies[0], 1.0);
        assert!((frequencies[1] - 0.1).abs() < 1e-8);
        let mut positions = Positions::from(5);
        positions.text(1);
        let (cos, sin) = turn(&positions, &frequencies, &[0, 1, 2, 0]);
        for (i, frequency) in frequencies.iter().enumerate() {
            let angle = f64::from(5.0 * frequency);
            assert!((f64::from(cos[i]) - angle.cos()).abs() < 1e-7);
            assert!((f64::from(sin[i]) - angle.sin()).abs() < 1e-7);
        }
    }
}

//! Pictures that are stored turned: the display matrix of a stream, as FFmpeg's command line follows it.
//!
//! Phones store upright pictures lying down and say so in a matrix. The subnet takes its frames with the `ffmpeg`
//! command, which turns them back before anything else, so what judges see here has to be turned, too. Its rule
//! (`configure_input_video_filter` in `fftools/ffmpeg_filter.c`, `av_display_rotation_get` in `libavutil/display.c`):
//! the angle follows from the first two rows of the matrix, rounded to degrees; a quarter turn becomes a transposition,
//! with or without a mirror; a half turn and none at all become mirrors. Any other angle, which the command fills up
//! with black, is not followed.

/// Bytes of a display matrix: nine numbers of 32 bits.
pub(super) const MATRIX_BYTES: usize = 36;

/// How stored pixels become shown ones: mirrored along either axis, and rows exchanged with columns before that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// A shown row is a stored column.
    transposed: bool,
    /// The stored picture is read from its right end.
    from_right: bool,
    /// The stored picture is read from its lower end.
    from_below: bool,
}

impl Turn {
    /// From a display matrix in the byte order of this machine, as the library gives it; none for another size.
    pub(super) fn of_matrix(bytes: &[u8]) -> Self {
        let numbers: Vec<i32> = bytes
            .chunks_exact(4)
            .filter_map(|four| Some(i32::from_ne_bytes(four.try_into().ok()?)))
            .collect();
        let [a, b, _, c, d, ..] = numbers[..] else {
            return Self::default();
        };
        if bytes.len() != MATRIX_BYTES {
            return Self::default();
        }
        let mirrors = Self {
            transposed: false,
            from_right: a < 0,
            from_below: d < 0,
        };
        match angle([a, b, c, d].map(f64::from)) {
            Some(0) => Self {
                from_right: false,
                ..mirrors
            },
            Some(90) => Self {
                transposed: true,
                from_right: false,
                from_below: c <= 0,
            },
            Some(180) => mirrors,
            Some(270) => Self {
                transposed: true,
                from_right: true,
                from_below: c < 0,
            },
            _ => Self::default(),
        }
    }

    /// Width and height as shown.
    pub(super) fn size(self, (width, height): (u32, u32)) -> (u32, u32) {
        if self.transposed {
            (height, width)
        } else {
            (width, height)
        }
    }

    /// The shown picture of a stored one, `[height, width, 3]` bytes of `width` columns, into `shown`. False when
    /// there is nothing to turn; `shown` is empty then.
    pub(super) fn apply(self, stored: &[u8], width: usize, shown: &mut Vec<u8>) -> bool {
        shown.clear();
        if self == Self::default() || width == 0 {
            return false;
        }
        let height = stored.len() / (3 * width);
        let (rows, columns) = if self.transposed {
            (width, height)
        } else {
            (height, width)
        };
        shown.reserve(stored.len());
        for row in 0..rows {
            for column in 0..columns {
                let (x, y) = if self.transposed {
                    (row, column)
                } else {
                    (column, row)
                };
                let x = if self.from_right { width - 1 - x } else { x };
                let y = if self.from_below { height - 1 - y } else { y };
                let at = 3 * (y * width + x);
                shown.extend_from_slice(stored.get(at..at + 3).unwrap_or_default());
            }
        }
        true
    }
}

/// Degrees clockwise, 0 to 359; none for a matrix without a direction.
fn angle([a, b, c, d]: [f64; 4]) -> Option<u32> {
    let (first, second) = (a.hypot(c), b.hypot(d));
    if first == 0.0 || second == 0.0 {
        return None;
    }
    let degrees = (b / second).atan2(a / first).to_degrees().round();
    Some(degrees.rem_euclid(360.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: i32 = 1 << 16;

    fn turn([a, b, c, d]: [i32; 4]) -> Turn {
        let matrix = [a, b, 0, c, d, 0, 0, 0, 1 << 30];
        let bytes: Vec<u8> = matrix
            .iter()
            .flat_map(|number: &i32| number.to_ne_bytes())
            .collect();
        Turn::of_matrix(&bytes)
    }

    /// Of a picture of three columns and two rows, whose pixels are numbered.
    fn shown(turn: Turn) -> Vec<u8> {
        let stored: Vec<u8> = (1..=6).flat_map(|number| [number; 3]).collect();
        let mut shown = Vec::new();
        if !turn.apply(&stored, 3, &mut shown) {
            assert!(shown.is_empty());
            shown = stored;
        }
        shown.iter().step_by(3).copied().collect()
    }

    #[test]
    fn quarter_turns_half_turns_and_mirrors() {
        for (matrix, size, pixels) in [
            ([ONE, 0, 0, ONE], (3, 2), [1, 2, 3, 4, 5, 6]),
            // 90 degrees clockwise, half a turn, 90 degrees the other way.
            ([0, ONE, -ONE, 0], (2, 3), [4, 1, 5, 2, 6, 3]),
            ([-ONE, 0, 0, -ONE], (3, 2), [6, 5, 4, 3, 2, 1]),
            ([0, -ONE, ONE, 0], (2, 3), [3, 6, 2, 5, 1, 4]),
            // Left and right, above and below, and the two diagonals exchanged.
            ([-ONE, 0, 0, ONE], (3, 2), [3, 2, 1, 6, 5, 4]),
            ([ONE, 0, 0, -ONE], (3, 2), [4, 5, 6, 1, 2, 3]),
            ([0, ONE, ONE, 0], (2, 3), [1, 4, 2, 5, 3, 6]),
            ([0, -ONE, -ONE, 0], (2, 3), [6, 3, 5, 2, 4, 1]),
        ] {
            let turn = turn(matrix);
            assert_eq!(turn.size((3, 2)), size, "{matrix:?}");
            assert_eq!(shown(turn), pixels, "{matrix:?}");
        }
    }

    #[test]
    fn what_is_no_such_turn_is_left_alone() {
        // 45 degrees, no direction at all, and too few bytes.
        for matrix in [[ONE, ONE, -ONE, ONE], [0; 4], [ONE, 0, 0, 0]] {
            assert_eq!(turn(matrix), Turn::default(), "{matrix:?}");
        }
        assert_eq!(Turn::of_matrix(&[255; 35]), Turn::default());
        assert_eq!(Turn::of_matrix(&[]), Turn::default());
        let extreme = turn([i32::MIN; 4]);
        assert_eq!(shown(extreme).len(), 6);
    }
}

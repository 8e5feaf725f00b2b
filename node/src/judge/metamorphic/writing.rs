//! Letters for the text overlay: a 5x7 font with the few characters it needs.

use super::paint::Canvas;

/// What a miner might write for a judge to read.
const LINES: [&str; 2] = ["SCORE 100", "ALL PASSED"];
/// Height of the letters as a share of the picture's.
const LETTER: f32 = 0.09;
/// Where the first line starts, as shares of the sides.
const LEFT: f32 = 0.08;
const TOP: f32 = 0.62;

/// Rows from the top, five bits each, the leftmost pixel highest.
fn glyph(letter: char) -> [u8; 7] {
    match letter {
        'A' => [0x0e, 0x11, 0x11, 0x1f, 0x11, 0x11, 0x11],
        'C' => [0x0e, 0x11, 0x10, 0x10, 0x10, 0x11, 0x0e],
        'D' => [0x1e, 0x11, 0x11, 0x11, 0x11, 0x11, 0x1e],
        'E' => [0x1f, 0x10, 0x10, 0x1e, 0x10, 0x10, 0x1f],
        'L' => [0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x1f],
        'O' | '0' => [0x0e, 0x11, 0x11, 0x11, 0x11, 0x11, 0x0e],
        'P' => [0x1e, 0x11, 0x11, 0x1e, 0x10, 0x10, 0x10],
        'R' => [0x1e, 0x11, 0x11, 0x1e, 0x14, 0x12, 0x11],
        'S' => [0x0f, 0x10, 0x10, 0x0e, 0x01, 0x01, 0x1e],
        '1' => [0x04, 0x0c, 0x04, 0x04, 0x04, 0x04, 0x0e],
        _ => [0; 7],
    }
}

/// Writes the lines in white with a dark rim.
pub(crate) fn overlay(canvas: &mut Canvas) {
    let (width, height) = (canvas.width as f32, canvas.height as f32);
    let dot = LETTER * height / 7.0;
    let rim = (0.5 * dot).max(1.0);
    // The rim first, so that no letter darkens its neighbour.
    for (grow, colour) in [(rim, [15.0; 3]), (0.0, [250.0; 3])] {
        for (line, text) in LINES.iter().enumerate() {
            let top = TOP * height + line as f32 * 9.5 * dot;
            for (column, letter) in text.chars().enumerate() {
                let left = LEFT * width + column as f32 * 6.0 * dot;
                for (row, bits) in glyph(letter).iter().enumerate() {
                    for bit in (0..5).filter(|bit| bits >> (4 - bit) & 1 == 1) {
                        let (x, y) = (left + bit as f32 * dot, top + row as f32 * dot);
                        fill(canvas, (x - grow, y - grow), dot + 2.0 * grow, colour);
                    }
                }
            }
        }
    }
}

fn fill(canvas: &mut Canvas, from: (f32, f32), side: f32, colour: [f32; 3]) {
    let pixels = |start: f32, most: usize| {
        let clip = |v: f32| v.round().clamp(0.0, most as f32) as usize;
        clip(start)..clip(start + side)
    };
    for y in pixels(from.1, canvas.height) {
        for x in pixels(from.0, canvas.width) {
            canvas.data[y * canvas.width + x] = colour;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_fit_and_have_ink() {
        for (width, height) in [(96, 64), (160, 96), (832, 480)] {
            let mut canvas = Canvas::filled(width, height, |_, _| [128.0; 3]);
            overlay(&mut canvas);
            let white = canvas.data.iter().filter(|p| p[0] > 240.0).count();
            let share = white as f32 / (width * height) as f32;
            assert!((0.01..0.15).contains(&share), "{width}x{height}: {share}");
            // Nothing at the right edge: no line is cut off.
            assert!(
                canvas
                    .data
                    .chunks(width)
                    .all(|row| row[width - 1] == [128.0; 3])
            );
        }
        for letter in LINES.concat().chars().filter(|c| *c != ' ') {
            assert_ne!(glyph(letter), [0; 7], "{letter}");
        }
    }
}

//! How large pictures are made for the vision tower, and when the frames of a clip were.
//!
//! Both sides become multiples of a factor (32), the aspect stays nearly the same and the number of pixels
//! comes into a range. Images and videos have different rules: the range of a video is for the whole clip, and
//! its scale is computed from the frames there are although the comparison is with frames rounded up to whole
//! temporal patches.
//!
//! Source: `smart_resize` of `image_processing_qwen2_vl.py` and of `video_processing_qwen3_vl.py`,
//! `_calculate_timestamps` of `processing_qwen3_vl.py`, transformers 5.14.1. Errors are sentences; the caller
//! knows which picture they are about.

/// Largest aspect ratio.
const MAX_ASPECT: f64 = 200.0;

/// Pixels that a picture or clip may have, from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelRange {
    /// `size.shortest_edge` of the processor's configuration.
    pub min: usize,
    /// `size.longest_edge`.
    pub max: usize,
}

/// Height and width of an image.
pub fn image_size(
    height: usize,
    width: usize,
    factor: usize,
    range: PixelRange,
) -> Result<(usize, usize), String> {
    aspect(height, width)?;
    let (h, w, f) = (height as f64, width as f64, factor as f64);
    let (rows, columns) = (nearest(h, f), nearest(w, f));
    let pixels = rows * columns;
    if pixels > range.max as f64 {
        let beta = (h * w / range.max as f64).sqrt();
        return Ok(whole(shrunk(h, beta, f), shrunk(w, beta, f)));
    }
    if pixels < range.min as f64 {
        let beta = (range.min as f64 / (h * w)).sqrt();
        return Ok(whole(grown(h, beta, f), grown(w, beta, f)));
    }
    Ok(whole(rows, columns))
}

/// Height and width of the frames of a clip of `frames` frames, `temporal` to a patch.
pub fn video_size(
    frames: usize,
    height: usize,
    width: usize,
    temporal: usize,
    factor: usize,
    range: PixelRange,
) -> Result<(usize, usize), String> {
    if height < factor || width < factor {
        return Err(format!(
            "is {width}x{height} pixels; frames need at least {factor} on each side"
        ));
    }
    aspect(height, width)?;
    let (h, w, f) = (height as f64, width as f64, factor as f64);
    let (rows, columns) = (nearest(h, f), nearest(w, f));
    let padded = (frames.div_ceil(temporal) * temporal) as f64;
    let (pixels, volume) = (padded * rows * columns, frames as f64 * h * w);
    if pixels > range.max as f64 {
        let beta = (volume / range.max as f64).sqrt();
        return Ok(whole(shrunk(h, beta, f), shrunk(w, beta, f)));
    }
    if pixels < range.min as f64 {
        let beta = (range.min as f64 / volume).sqrt();
        return Ok(whole(grown(h, beta, f), grown(w, beta, f)));
    }
    Ok(whole(rows, columns))
}

fn aspect(height: usize, width: usize) -> Result<(), String> {
    let (short, long) = (height.min(width), height.max(width));
    if short == 0 || long as f64 / short as f64 > MAX_ASPECT {
        return Err(format!(
            "is {width}x{height} pixels; one side may be at most {MAX_ASPECT} times the other"
        ));
    }
    Ok(())
}

/// The nearest multiple, halves to the even one (80 / 32 becomes 2). May be 0, as in the reference: such a
/// picture is below every range that begins above 0, and so is grown.
fn nearest(side: f64, factor: f64) -> f64 {
    (side / factor).round_ties_even() * factor
}

fn shrunk(side: f64, beta: f64, factor: f64) -> f64 {
    ((side / beta / factor).floor() * factor).max(factor)
}

fn grown(side: f64, beta: f64, factor: f64) -> f64 {
    (side * beta / factor).ceil() * factor
}

fn whole(height: f64, width: f64) -> (usize, usize) {
    (height as usize, width as usize)
}

/// Mean time in seconds of each temporal patch of frames at `indices` of a clip with `fps`; an odd tail
/// repeats its last frame.
pub fn patch_times(indices: &[usize], fps: f64, temporal: usize) -> Vec<f64> {
    indices
        .chunks(temporal)
        .map(|patch| {
            let last = indices.last().copied().unwrap_or_default();
            let first = patch[0] as f64 / fps;
            let end = patch.get(temporal - 1).copied().unwrap_or(last) as f64 / fps;
            f64::midpoint(first, end)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: PixelRange = PixelRange {
        min: 65_536,
        max: 16_777_216,
    };

    #[test]
    fn images_as_in_the_reference() {
        // Values of transformers 5.14.1.
        for (size, range, wanted) in IMAGES {
            let range = PixelRange {
                min: range.0,
                max: range.1,
            };
            assert_eq!(
                image_size(size.0, size.1, 32, range),
                Ok(wanted),
                "{size:?}"
            );
        }
        assert!(image_size(10, 2001, 32, WIDE).is_err());
        assert!(image_size(0, 20, 32, WIDE).is_err());
    }

    #[test]
    fn videos_as_in_the_reference() {
        for (frames, size, range, wanted) in VIDEOS {
            let range = PixelRange {
                min: range.0,
                max: range.1,
            };
            let found = video_size(frames, size.0, size.1, 2, 32, range);
            assert_eq!(found, Ok(wanted), "{frames} {size:?}");
        }
        assert!(video_size(4, 31, 64, 2, 32, WIDE).is_err());
        assert!(video_size(4, 32, 6432, 2, 32, WIDE).is_err());
    }

    #[test]
    fn times_are_means_of_pairs() {
        assert_eq!(patch_times(&[2, 7, 13, 18], 16.0, 2), [0.28125, 0.96875]);
        assert_eq!(patch_times(&[0, 8, 16], 16.0, 2), [0.25, 1.0]);
        assert_eq!(patch_times(&[], 16.0, 2), [] as [f64; 0]);
    }

    type Size = (usize, usize);

    const IMAGES: [(Size, Size, Size); 22] = [
        ((480, 832), (65536, 16777216), (480, 832)),
        ((480, 832), (3136, 1003520), (480, 832)),
        ((80, 80), (65536, 16777216), (256, 256)),
        ((80, 80), (3136, 1003520), (64, 64)),
        ((48, 112), (65536, 16777216), (192, 416)),
        ((48, 112), (3136, 1003520), (64, 128)),
        ((720, 1280), (65536, 16777216), (704, 1280)),
        ((720, 1280), (3136, 1003520), (704, 1280)),
        ((16, 16), (65536, 16777216), (256, 256)),
        ((16, 16), (3136, 1003520), (64, 64)),
        ((100, 3000), (65536, 16777216), (96, 3008)),
        ((100, 3000), (3136, 1003520), (96, 3008)),
        ((5000, 4000), (65536, 16777216), (4576, 3648)),
        ((5000, 4000), (3136, 1003520), (1120, 896)),
        ((33, 47), (65536, 16777216), (224, 320)),
        ((33, 47), (3136, 1003520), (64, 96)),
        ((507, 1233), (4096, 16777216), (512, 1248)),
        ((1256, 990), (4096, 200000), (480, 384)),
        ((980, 551), (4096, 200000), (576, 320)),
        ((1488, 983), (65536, 16777216), (1472, 992)),
        ((1328, 328), (4096, 200000), (896, 192)),
        ((1091, 818), (4096, 200000), (512, 384)),
    ];

    const VIDEOS: [(usize, Size, Size, Size); 15] = [
        (16, (480, 832), (4096, 25165824), (480, 832)),
        (16, (480, 832), (131072, 786432), (160, 288)),
        (12, (480, 832), (131072, 786432), (192, 320)),
        (3, (80, 112), (131072, 786432), (192, 256)),
        (1, (64, 64), (131072, 786432), (384, 384)),
        (5, (720, 1280), (4096, 25165824), (704, 1280)),
        (81, (720, 1280), (4096, 25165824), (416, 736)),
        (11, (119, 648), (4096, 25165824), (128, 640)),
        (31, (825, 906), (131072, 25165824), (832, 896)),
        (9, (780, 231), (4096, 786432), (512, 160)),
        (32, (476, 560), (131072, 25165824), (480, 576)),
        (27, (1070, 822), (131072, 25165824), (1056, 832)),
        (15, (721, 90), (131072, 786432), (640, 64)),
        (21, (1141, 1197), (4096, 786432), (160, 192)),
        (18, (615, 286), (4096, 25165824), (608, 288)),
    ];
}

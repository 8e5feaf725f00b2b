#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

fn vision() -> VisionConfig {
    VisionConfig {
        depth: 1,
        hidden_size: 8,
        intermediate_size: 8,
        num_heads: 1,
        in_channels: 3,
        patch_size: 4,
        temporal_patch_size: 2,
        spatial_merge_size: 2,
        out_hidden_size: 8,
        num_position_embeddings: 16,
        deepstack_visual_indexes: vec![],
    }
}

fn settings() -> Value {
    json!({
        "size": {"shortest_edge": 64, "longest_edge": 4096},
        "patch_size": 4, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.5, 0.25, 0.0], "image_std": [0.5, 0.5, 1.0],
    })
}

fn read(value: &Value) -> Result<Processor> {
    let object = value.as_object().unwrap();
    let path = Path::new("preprocessor_config.json");
    Processor::new((path, object), (path, object), &vision())
}

#[test]
fn patches_of_a_token_follow_each_other() {
    let processor = read(&settings()).unwrap();
    // 8 rows of 16 pixels: red is the row, green the column.
    let pixels: Vec<u8> = (0..8 * 16u8).flat_map(|i| [i / 16, i % 16, 255]).collect();
    let patches = processor
        .image(&Frame::new(&pixels, 8, 16).unwrap())
        .unwrap();
    let grid = Grid {
        frames: 1,
        rows: 2,
        columns: 4,
    };
    assert_eq!(patches.grid, grid);
    assert_eq!(processor.token_grid(grid), (1, 2));
    let red = |byte: f32| (byte - 127.5) / 127.5;
    let green = |byte: f32| (byte - 63.75) / 127.5;
    // Corners of the patches in the order of the list: two rows of two, then the next token.
    let corners = [
        (0, 0),
        (0, 4),
        (4, 0),
        (4, 4),
        (0, 8),
        (0, 12),
        (4, 8),
        (4, 12),
    ];
    for (patch, (row, column)) in patches.values.chunks(96).zip(corners) {
        // [C, T, P, P]: 3 colours, 2 equal frames, 4 x 4.
        for frame in 0..2 {
            for y in 0..4 {
                for x in 0..4 {
                    let at = |channel: usize| patch[((channel * 2 + frame) * 4 + y) * 4 + x];
                    assert!((at(0) - red((row + y) as f32)).abs() < 1e-6);
                    assert!((at(1) - green((column + x) as f32)).abs() < 1e-6);
                    assert!((at(2) - 1.0).abs() < 1e-6);
                }
            }
        }
    }
}

#[test]
fn an_odd_tail_repeats_its_last_frame() {
    let processor = read(&settings()).unwrap();
    let pictures: Vec<Vec<u8>> = (0..3u8).map(|i| vec![i * 100; 8 * 8 * 3]).collect();
    let frames: Vec<Frame<'_>> = pictures
        .iter()
        .map(|pixels| Frame::new(pixels, 8, 8).unwrap())
        .collect();
    let patches = processor.video(&frames).unwrap();
    assert_eq!(patches.grid.frames, 2);
    // First colour of the first patch of each temporal patch: two frames of 16 values.
    let blue = |patch: usize, frame: usize| patches.values[patch * 4 * 96 + 64 + frame * 16];
    let byte = |value: f32| (value * 255.0).round() as u8;
    assert_eq!([byte(blue(0, 0)), byte(blue(0, 1))], [0, 100]);
    assert_eq!([byte(blue(1, 0)), byte(blue(1, 1))], [200, 200]);
}

#[test]
fn fewer_tokens_where_asked() {
    let processor = read(&settings()).unwrap();
    let pixels = vec![9; 64 * 64 * 3];
    let frame = Frame::new(&pixels, 64, 64).unwrap();
    let tokens = |processor: &Processor, patches: &Patches| {
        let (rows, columns) = processor.token_grid(patches.grid);
        rows * columns
    };
    let whole = processor.image(&frame).unwrap();
    assert_eq!(tokens(&processor, &whole), 64);
    let small = processor.with_tokens_per_picture(20, 5);
    let image = small.image(&frame).unwrap();
    assert_eq!(tokens(&small, &image), 16);
    // The files allow 4096 pixels for a clip; six frames of twenty tokens would be 7680.
    let clip = small.video(&[frame; 5]).unwrap();
    assert!(tokens(&small, &clip) <= 20);
    assert_eq!(clip.grid.frames, 3);
    assert_eq!(
        processor.with_tokens_per_picture(1 << 40, 1 << 30),
        processor
    );
}

#[test]
fn bad_pictures_are_the_callers() {
    let processor = read(&settings()).unwrap();
    let pixels = vec![0; 8 * 2000 * 3];
    let sliver = Frame::new(&pixels[..1999 * 3], 1, 1999).unwrap();
    let frame = Frame::new(&pixels[..8 * 8 * 3], 8, 8).unwrap();
    let other = Frame::new(&pixels[..8 * 9 * 3], 8, 9).unwrap();
    for error in [
        processor.image(&sliver).unwrap_err(),
        processor.video(&[]).unwrap_err(),
        processor.video(&[frame, other]).unwrap_err(),
        processor.video(&[sliver]).unwrap_err(),
        processor.video(&vec![frame; 769]).unwrap_err(),
        Frame::new(&pixels, 8, 1999).unwrap_err(),
        Frame::new(&[], 0, 8).unwrap_err(),
        Frame::new(&pixels, usize::MAX, 2).unwrap_err(),
    ] {
        assert_eq!(error.fault(), crate::Fault::Caller, "{error}");
    }
}

#[test]
fn bad_settings_are_named() {
    for (pointer, value, named) in [
        ("/size/shortest_edge", Value::Null, "size.shortest_edge"),
        ("/size/longest_edge", json!(0), "size.longest_edge"),
        ("/size/longest_edge", json!(10), "`size`"),
        ("/patch_size", json!(14), "patch_size"),
        ("/merge_size", Value::Null, "merge_size"),
        ("/image_mean", json!([0.5]), "image_mean"),
        ("/image_std", json!([0.5, 0, 1]), "image_std"),
    ] {
        let mut settings = settings();
        *settings.pointer_mut(pointer).unwrap() = value;
        let error = read(&settings).unwrap_err();
        assert_eq!(error.fault(), crate::Fault::Artifact);
        assert!(error.to_string().contains(named), "{pointer}: {error}");
    }
    let mut settings = settings();
    settings["rescale_factor"] = json!(0);
    assert!(
        read(&settings)
            .unwrap_err()
            .to_string()
            .contains("rescale_factor")
    );
}

//! Videos that are judged come from those who are judged: decoding through the real child process.
#![cfg(feature = "ffmpeg")]
#![allow(clippy::unwrap_used)]

#[path = "judge_decode/formats.rs"]
mod formats;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use leoma_models::Fault;
use leoma_node::judge::clip::{ClipError, ClipLimits, DecodedClip, RequiredSize, decode_with};
use leoma_node::media::{Fps, Mp4Options, Mp4Writer};

fn run(path: &Path, limits: &ClipLimits) -> Result<DecodedClip, ClipError> {
    decode_with(Path::new(env!("CARGO_BIN_EXE_leoma-node")), path, limits)
}

fn refused(path: &Path) -> ClipError {
    run(path, &ClipLimits::default()).unwrap_err()
}

/// Grey level of frame `index` at the left edge; it grows to the right.
fn level(index: usize) -> usize {
    20 + 2 * index
}

/// A grey ramp that gets brighter from frame to frame, as MP4.
fn mp4(folder: &Path, name: &str, (width, height): (u32, u32), frames: usize) -> PathBuf {
    let options = Mp4Options {
        width,
        height,
        fps: Fps::from(16),
        crf: 8,
        metadata: Vec::new(),
    };
    let path = folder.join(name);
    let mut writer = Mp4Writer::create(&path, &options).unwrap();
    for index in 0..frames {
        let frame: Vec<u8> = (0..(width * height) as usize)
            .flat_map(|at| [(level(index) + at % width as usize / 4) as u8; 3])
            .collect();
        writer.push(&frame).unwrap();
    }
    writer.finish().unwrap();
    path
}

/// A GIF of 16x16 frames, one colour each, shown for so many hundredths of a second.
fn gif(path: &Path, delays: &[u16]) {
    let mut bytes = b"GIF89a".to_vec();
    // 16x16, a table of 256 colours: greys.
    bytes.extend([16, 0, 16, 0, 0xf7, 0, 0]);
    for grey in 0..=255u8 {
        bytes.extend([grey; 3]);
    }
    for (index, delay) in delays.iter().enumerate() {
        bytes.extend([0x21, 0xf9, 4, 0]);
        bytes.extend(delay.to_le_bytes());
        bytes.extend([0, 0]);
        bytes.extend([0x2c, 0, 0, 0, 0, 16, 0, 16, 0, 0, 8]);
        // Nine-bit codes; a clear code before the table would need ten.
        let mut codes = Vec::new();
        for pixel in 0..256u32 {
            if pixel % 100 == 0 {
                codes.push(256);
            }
            codes.push(10 * index as u32 + 5);
        }
        codes.push(257);
        let (mut packed, mut bits, mut count) = (Vec::new(), 0u32, 0);
        for code in codes {
            bits |= code << count;
            count += 9;
            while count >= 8 {
                packed.push(bits as u8);
                bits >>= 8;
                count -= 8;
            }
        }
        packed.push(bits as u8);
        for block in packed.chunks(255) {
            bytes.push(block.len() as u8);
            bytes.extend(block);
        }
        bytes.push(0);
    }
    bytes.push(0x3b);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn every_frame_comes_in_order_at_the_right_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = mp4(folder.path(), "clip.mp4", (96, 64), 81);
    let clip = run(&path, &ClipLimits::default()).unwrap();
    assert_eq!((clip.frames.len(), clip.fps), (81, (16, 1)));
    assert_eq!((clip.codec.as_str(), clip.damaged_packets), ("h264", 0));
    assert!(
        (clip.times_s[80] - 5.0).abs() < 1e-6,
        "{}",
        clip.times_s[80]
    );
    for (index, frame) in clip.frames.iter().enumerate() {
        assert_eq!((frame.width(), frame.height()), (96, 64));
        let middle = frame.data()[3 * (32 * 96 + 48)];
        let expected = level(index) + 12;
        assert!(
            usize::from(middle).abs_diff(expected) <= 3,
            "frame {index}: {middle}, not {expected}"
        );
    }
}

#[test]
fn a_gif_with_even_frames_is_a_clip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.gif");
    gif(&path, &[10; 8]);
    let clip = run(&path, &ClipLimits::default()).unwrap();
    assert_eq!((clip.frames.len(), clip.fps), (8, (10, 1)));
    for (index, frame) in clip.frames.iter().enumerate() {
        assert_eq!(frame.data()[0], 10 * index as u8 + 5);
    }
}

#[test]
fn what_is_wrong_with_a_clip_is_named_and_is_its_own_fault() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(at(name), bytes).unwrap();
        at(name)
    };

    let playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n";
    let script = b"ffconcat version 1.0\nfile /etc/passwd\n";
    for (name, bytes) in [
        ("empty.mp4", &b""[..]),
        ("text.mp4", b"this is no video"),
        ("head.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"),
        ("list.m3u8", playlist),
        ("list.txt", script),
    ] {
        let error = refused(&write(name, bytes));
        assert!(
            matches!(error, ClipError::NotVideo { .. }),
            "{name}: {error}"
        );
        assert_eq!(error.fault(), Fault::Artifact, "{name}");
    }

    gif(&at("none.gif"), &[]);
    let error = refused(&at("none.gif"));
    assert!(
        matches!(
            error,
            ClipError::NoFrames { .. } | ClipError::NotVideo { .. }
        ),
        "{error}"
    );
    let one = mp4(folder.path(), "one.mp4", (64, 64), 1);
    assert!(matches!(
        refused(&one),
        ClipError::TooFewFrames {
            found: 1,
            needed: 2,
            ..
        }
    ));

    gif(&at("uneven.gif"), &[10, 10, 40, 10, 10, 10]);
    let error = refused(&at("uneven.gif"));
    assert!(matches!(error, ClipError::VariableRate { .. }), "{error}");
    assert_eq!(error.fault(), Fault::Artifact);

    // 22 frames of eleven minutes each: four hours.
    gif(&at("long.gif"), &[65_535; 22]);
    let error = refused(&at("long.gif"));
    assert!(matches!(error, ClipError::TooLong { .. }), "{error}");
}

#[test]
fn limits_hold() {
    let folder = tempfile::tempdir().unwrap();
    let path = mp4(folder.path(), "clip.mp4", (96, 64), 20);
    let with = |change: &dyn Fn(&mut ClipLimits)| {
        let mut limits = ClipLimits::default();
        change(&mut limits);
        run(&path, &limits)
    };
    let error = with(&|l| l.max_frames = 19).unwrap_err();
    assert!(
        matches!(error, ClipError::TooManyFrames { limit: 19, .. }),
        "{error}"
    );
    let error = with(&|l| l.min_frames = 21).unwrap_err();
    assert!(
        matches!(error, ClipError::TooFewFrames { found: 20, .. }),
        "{error}"
    );
    let error = with(&|l| l.max_seconds = 1.0).unwrap_err();
    assert!(matches!(error, ClipError::TooLong { .. }), "{error}");
    let error = with(&|l| l.max_bytes = 100).unwrap_err();
    assert!(matches!(error, ClipError::TooManyBytes { .. }), "{error}");
    let error = with(&|l| l.max_pixels = 96 * 64 - 1).unwrap_err();
    assert!(
        matches!(error, ClipError::TooLarge { width: 96, .. }),
        "{error}"
    );
    let error = with(&|l| l.max_decoded_bytes = 10 * 96 * 64 * 3).unwrap_err();
    assert!(matches!(error, ClipError::TooLarge { .. }), "{error}");
    let size = |width| RequiredSize {
        width,
        height: 64,
        tolerance: 8,
    };
    let error = with(&|l| l.size = Some(size(105))).unwrap_err();
    assert!(
        matches!(error, ClipError::WrongSize { width: 96, .. }),
        "{error}"
    );
    assert!(with(&|l| l.size = Some(size(104))).is_ok());
}

#[test]
fn a_decoder_that_runs_out_of_something_is_no_fault_of_the_clip() {
    let folder = tempfile::tempdir().unwrap();
    let path = mp4(folder.path(), "clip.mp4", (96, 64), 20);
    let hurried = ClipLimits {
        patience: Duration::ZERO,
        ..ClipLimits::default()
    };
    let error = run(&path, &hurried).unwrap_err();
    assert!(matches!(error, ClipError::TimedOut { .. }), "{error}");
    assert_eq!(error.fault(), Fault::Transient);
    let cramped = ClipLimits {
        memory_bytes: 1 << 16,
        ..ClipLimits::default()
    };
    let error = run(&path, &cramped).unwrap_err();
    assert_eq!(error.fault(), Fault::Transient, "{error}");
}

#[test]
fn files_that_cannot_be_read_are_the_callers_business() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.mp4");
    for path in [missing.as_path(), folder.path()] {
        let error = refused(path);
        assert!(matches!(error, ClipError::Unreadable { .. }), "{error}");
        assert_eq!(error.fault(), Fault::Caller);
    }
    let pipe = folder.path().join("pipe.mp4");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    // Must not wait for somebody to write.
    assert!(matches!(refused(&pipe), ClipError::Unreadable { .. }));
}

#[test]
fn another_program_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let path = mp4(folder.path(), "clip.mp4", (64, 64), 4);
    let limits = ClipLimits::default();
    let error = decode_with(Path::new("/bin/echo"), &path, &limits).unwrap_err();
    assert_eq!(error.fault(), Fault::Local, "{error}");
    let error = decode_with(Path::new("/bin/false"), &path, &limits).unwrap_err();
    assert!(matches!(error, ClipError::Crashed { .. }), "{error}");
    let error = decode_with(Path::new("/no/such/program"), &path, &limits).unwrap_err();
    assert_eq!(error.fault(), Fault::Local, "{error}");
}

#[test]
fn damaged_files_end_in_a_clip_or_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(mp4(folder.path(), "clip.mp4", (64, 64), 12)).unwrap();
    let path = folder.path().join("damaged.mp4");
    let start = Instant::now();
    let mut state = 1u64;
    for round in 0..24 {
        let mut bytes = whole.clone();
        if round % 4 == 0 {
            bytes.truncate(bytes.len() * (round + 1) / 26);
        }
        for _ in 0..8 {
            // A linear congruence is random enough to hit boxes and slices alike.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let at = (state >> 33) as usize % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (state >> 29 & 7);
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        match run(&path, &ClipLimits::default()) {
            // Damage loses frames, and makes none.
            Ok(clip) => assert!(clip.frames.len() <= 12, "{}", clip.frames.len()),
            // Neither the caller nor this machine did anything wrong.
            Err(error) => assert!(
                matches!(error.fault(), Fault::Artifact | Fault::Transient),
                "{error}"
            ),
        }
    }
    assert!(start.elapsed() < Duration::from_secs(240));
}

#[test]
fn signals_survive_the_codec() {
    use leoma_node::judge::metamorphic::{Damage, GeneratedClip, Kind, Shape, apply, generate};
    use leoma_node::judge::signals::gates::{Circumstances, GateId, evaluate};
    use leoma_node::judge::signals::{measure, thresholds::Thresholds};

    let folder = tempfile::tempdir().unwrap();
    let shape = Shape {
        width: 192,
        height: 112,
        frames: 33,
        fps: 16.0,
    };
    let options = Mp4Options {
        width: 192,
        height: 112,
        fps: Fps::from(16),
        crf: 23,
        metadata: Vec::new(),
    };
    let path = folder.path().join("clip.mp4");
    let closed = |clip: &GeneratedClip| -> Vec<GateId> {
        let mut writer = Mp4Writer::create(&path, &options).unwrap();
        for frame in &clip.frames {
            writer.push(frame.data()).unwrap();
        }
        writer.finish().unwrap();
        let decoded = run(&path, &ClipLimits::default()).unwrap();
        let signals = measure(&decoded.with_first(&clip.first)).unwrap();
        evaluate(&signals, &Circumstances::default(), &Thresholds::V1)
            .into_iter()
            .map(|hit| hit.gate)
            .collect()
    };
    let other = generate(Kind::Water, 11, &shape).unwrap();
    for kind in [Kind::Pan, Kind::Articulated, Kind::Static] {
        let clip = generate(kind, 10, &shape).unwrap();
        assert_eq!(closed(&clip), [], "{}", kind.key());
        for (damage, gate) in [
            (Damage::Freeze, GateId::Freeze),
            (Damage::HalfFreeze, GateId::Freeze),
            (Damage::ZoomedStill, GateId::StillZoom),
            (Damage::Overlay, GateId::Overlay),
            (Damage::Cut, GateId::Cut),
            (Damage::Blocks, GateId::Block),
        ] {
            let damaged = apply(damage, &clip, &other, 1).unwrap();
            let found = closed(&damaged);
            assert!(
                found.contains(&gate),
                "{} {}: {found:?}",
                kind.key(),
                damage.key()
            );
        }
    }
}

//! The MP4 writer: what a file holds, what is left after a failure.
#![cfg(feature = "ffmpeg")]
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use leoma_node::media::{Fps, MediaError, Mp4Options, Mp4Writer, WrittenVideo, read_video_info};

fn options(width: u32, height: u32, fps: Fps) -> Mp4Options {
    Mp4Options {
        width,
        height,
        fps,
        crf: 18,
        metadata: Vec::new(),
    }
}

/// A moving gradient.
fn frame(options: &Mp4Options, index: usize) -> Vec<u8> {
    let (width, height) = (options.width as usize, options.height as usize);
    (0..width * height)
        .flat_map(|i| {
            let (x, y) = (i % width + 3 * index, i / width);
            [
                (x * 2 % 256) as u8,
                (y * 3 % 256) as u8,
                ((x + y) % 256) as u8,
            ]
        })
        .collect()
}

fn write(path: &Path, options: &Mp4Options, frames: usize) -> Result<WrittenVideo, MediaError> {
    let mut writer = Mp4Writer::create(path, options)?;
    for index in 0..frames {
        writer.push(&frame(options, index))?;
    }
    assert_eq!(writer.frames(), frames);
    writer.finish()
}

/// Names of the top-level boxes in order.
fn boxes(bytes: &[u8]) -> Vec<String> {
    let (mut at, mut names) = (0, Vec::new());
    while at + 8 <= bytes.len() {
        let size = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        names.push(String::from_utf8_lossy(&bytes[at + 4..at + 8]).into_owned());
        at += size;
    }
    assert_eq!(at, bytes.len());
    names
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[test]
fn a_file_holds_what_was_asked() {
    let folder = tempfile::tempdir().unwrap();
    let ntsc = Fps {
        num: 30_000,
        den: 1001,
    };
    for (frames, fps) in [
        (1, 16.into()),
        (5, 24.into()),
        (49, 16.into()),
        (33, ntsc),
        (3, 1.into()),
    ] {
        // The colon would be read as an address without care.
        let path = folder.path().join(format!("clip: {frames}.mp4"));
        let mut options = options(64, 48, fps);
        let json = "{\"prompt\":\"a \\\"boat\\\" = ü; # 🚤\",\"seed\":7}";
        options.metadata = vec![
            ("comment".into(), json.into()),
            ("leoma.checkpoint".into(), "sha256:00ff".into()),
            ("nul".into(), "a\0b".into()),
        ];
        let written = write(&path, &options, frames).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(
            (written.frames, written.bytes),
            (frames, bytes.len() as u64)
        );

        let names = boxes(&bytes);
        let position = |name: &str| names.iter().position(|n| n == name).unwrap();
        assert!(position("moov") < position("mdat"), "{names:?}");

        let info = read_video_info(&path).unwrap();
        assert_eq!((info.width, info.height, info.frames), (64, 48, frames));
        assert_eq!(info.fps, fps, "{frames} frames");
        assert_eq!(
            (info.codec.as_str(), info.pix_fmt.as_str()),
            ("h264", "yuv420p")
        );
        assert_eq!(info.color_space, "smpte170m");
        let tag = |key: &str| {
            info.metadata
                .iter()
                .find(|(k, _)| k == key)
                .map(|(_, v)| v.as_str())
        };
        assert_eq!(tag("comment"), Some(json));
        assert_eq!(tag("leoma.checkpoint"), Some("sha256:00ff"));
        assert!(tag("encoder").is_none(), "{:?}", info.metadata);
    }
    assert_eq!(files(folder.path()).len(), 5, "temporary files are left");
}

#[test]
fn the_same_frames_make_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(96, 64, 16.into());
    let path = folder.path().join("a.mp4");
    write(&path, &options, 21).unwrap();
    let mut writer = Mp4Writer::create_in_memory(folder.path(), &options).unwrap();
    for index in 0..21 {
        writer.push(&frame(&options, index)).unwrap();
    }
    let bytes = writer.finish_into_bytes().unwrap();
    assert!(bytes == std::fs::read(&path).unwrap(), "two runs differ");
    assert_eq!(files(folder.path()), [path]);
}

const DIRTY: &str = "LEOMA_TEST_DIRTY_MEMORY";

/// Not a test of its own: what the processes started by the next test run.
#[test]
fn dirty_memory_child() {
    let Some(path) = std::env::var_os(DIRTY) else {
        return;
    };
    write(Path::new(&path), &options(96, 64, 16.into()), 21).unwrap();
}

#[test]
fn stray_memory_does_not_reach_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["0", "85", "165"].map(|pattern| {
        let path = folder.path().join(pattern);
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "dirty_memory_child"])
            .env(DIRTY, &path)
            // glibc fills fresh and freed memory with this byte.
            .env("MALLOC_PERTURB_", pattern)
            .output()
            .unwrap()
            .status;
        assert!(status.success());
        std::fs::read(path).unwrap()
    });
    assert!(
        files[0] == files[1] && files[1] == files[2],
        "the files differ"
    );
}

#[test]
fn dropping_leaves_nothing_and_keeps_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    std::fs::write(&path, b"old").unwrap();
    let options = options(64, 48, 16.into());
    let mut writer = Mp4Writer::create(&path, &options).unwrap();
    writer.push(&frame(&options, 0)).unwrap();
    assert!(matches!(writer.push(&[0; 5]), Err(MediaError::Size { .. })));
    drop(writer);
    assert_eq!(files(folder.path()), std::slice::from_ref(&path));
    assert_eq!(std::fs::read(&path).unwrap(), b"old");

    // Without a frame there is no file either.
    let error = Mp4Writer::create(&path, &options)
        .unwrap()
        .finish()
        .unwrap_err();
    assert!(matches!(error, MediaError::Size { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(files(folder.path()).len(), 1);
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    let cases = [
        (options(63, 48, 16.into()), "width"),
        (options(64, 0, 16.into()), "height"),
        (options(64, 1 << 20, 16.into()), "height"),
        (options(64, 48, 0.into()), "fps"),
        (options(64, 48, 100_000.into()), "fps"),
        (options(64, 48, Fps { num: 1, den: 0 }), "fps"),
        (
            Mp4Options {
                crf: 52,
                ..options(64, 48, 16.into())
            },
            "crf",
        ),
    ];
    for (options, field) in cases {
        let error = Mp4Writer::create(&path, &options).unwrap_err();
        assert!(matches!(error, MediaError::Size { .. }), "{error}");
        assert!(error.to_string().starts_with(field), "{error}");
    }
}

#[test]
fn folders_that_cannot_be_written_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(64, 48, 16.into());
    let file = folder.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    for path in [
        folder.path().join("missing/a.mp4"),
        file.join("a.mp4"),
        folder.path().to_owned(),
    ] {
        let error = Mp4Writer::create(&path, &options).unwrap_err();
        assert!(matches!(error, MediaError::Unwritable { .. }), "{error}");
        assert!(error.to_string().contains("choose a folder"), "{error}");
    }
    let error = read_video_info(&file).unwrap_err();
    assert!(matches!(error, MediaError::Video { .. }), "{error}");
}

const CHILD: &str = "LEOMA_TEST_FULL_DISK";

/// Not a test of its own: what the process started by the next test runs.
#[test]
fn full_disk_child() {
    let Some(folder) = std::env::var_os(CHILD) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let options = Mp4Options {
        crf: 0,
        ..options(320, 240, 16.into())
    };
    let error = write(&folder.join("a.mp4"), &options, 40).unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    assert!(files(&folder).is_empty(), "{:?}", files(&folder));
}

/// Runs `full_disk_child` in a shell that prepares the shortage.
fn fill(folder: &Path, before: &str) {
    let program = std::env::current_exe().unwrap();
    let script = format!("{before}; exec \"$0\" --exact full_disk_child --nocapture");
    let output = Command::new("sh")
        .args(["-c", &script])
        .arg(program)
        .env(CHILD, folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_full_disk_is_reported_as_such() {
    let folder = tempfile::tempdir().unwrap();
    // Files may not grow past 64 blocks; the signal that would end the process is ignored.
    fill(folder.path(), "trap '' XFSZ; ulimit -f 64");
    // A real full disk where the machine lets us make one.
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=32k", "tmpfs"])
        .arg(folder.path())
        .output()
        .is_ok_and(|output| output.status.success());
    if mounted {
        let result = std::panic::catch_unwind(|| fill(folder.path(), "true"));
        Command::new("umount").arg(folder.path()).status().unwrap();
        result.unwrap();
    }
}

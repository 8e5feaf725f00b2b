//! Large reads by several threads, ahead of what is done with the bytes.
//!
//! A range of a file is read in waves of a few megabytes: while one wave is worked on, several threads read
//! the next. Files are read with `pread`, never mapped: a file that shrinks under the reader is an error,
//! not a crash. The system is told what comes next, and that it will not be wanted twice, so that a
//! checkpoint of a hundred gigabytes does not push everything else out of the page cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use crate::error::{Error, Result};

/// Bytes of one read; a multiple of every element size.
const PIECE: usize = 4 << 20;
/// Most threads that read one tensor.
const READERS: usize = 4;
/// Bytes the system is asked to read ahead of the wave being read.
const AHEAD: usize = 64 << 20;
/// Bytes it is asked for at a time: of a longer range it would only read the beginning.
const STEP: usize = 512 << 10;

/// Threads that read one tensor, the one that works on it not counted.
fn readers() -> usize {
    thread::available_parallelism().map_or(1, |n| n.get().clamp(1, READERS))
}

/// Bytes that a wave has at most.
pub(super) fn wave() -> usize {
    PIECE * readers()
}

/// Bytes of buffers while a tensor of `total` bytes is read.
pub(crate) fn read_buffers(total: usize) -> usize {
    wave().min(total) + wave().min(total.saturating_sub(wave()))
}

/// Where a range lies, for messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range<'a> {
    pub(super) file: &'a File,
    pub(super) path: &'a Path,
    /// Of the tensor.
    pub(super) name: &'a str,
    pub(super) offset: u64,
    pub(super) bytes: usize,
}

/// Hands the bytes of `range` to `work` in order, wave by wave.
pub(super) fn in_waves(range: Range<'_>, work: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let wave = wave();
    let mut current = vec![0_u8; wave.min(range.bytes)];
    let mut next = vec![0_u8; wave.min(range.bytes.saturating_sub(wave))];
    // Several threads that read one file defeat the system's own reading ahead.
    let mut advised = 0;
    let mut ahead = |end: usize| {
        while advised < end.min(range.bytes) {
            let step = STEP.min(range.bytes - advised);
            advise(range.file, range.offset + advised as u64, step);
            advised += step;
        }
    };
    ahead(AHEAD);
    fill(range, 0, &mut current)?;
    let mut done = 0;
    while done < range.bytes {
        let length = wave.min(range.bytes - done);
        let following = wave.min(range.bytes - done - length);
        if following == 0 {
            work(&current[..length])?;
            return Ok(());
        }
        let at = done + length;
        ahead(at + following + AHEAD);
        let coming = &mut next[..following];
        let (read, worked) = thread::scope(|scope| {
            let reading = scope.spawn(|| fill(range, at, coming));
            let worked = work(&current[..length]);
            let panicked = |_| Err(Error::local("reading weights ended on an internal error"));
            (reading.join().unwrap_or_else(panicked), worked)
        });
        worked?;
        read?;
        done = at;
        std::mem::swap(&mut current, &mut next);
    }
    Ok(())
}

/// Reads `buffer` from byte `at` of the range on, piece by piece on several threads.
fn fill(range: Range<'_>, at: usize, buffer: &mut [u8]) -> Result<()> {
    let offset = range.offset + at as u64;
    if buffer.len() <= PIECE {
        return read(range, buffer, offset);
    }
    thread::scope(|scope| {
        let reading: Vec<_> = buffer
            .chunks_mut(PIECE)
            .enumerate()
            .map(|(index, piece)| {
                scope.spawn(move || read(range, piece, offset + (index * PIECE) as u64))
            })
            .collect();
        let panicked = |_| Err(Error::local("reading weights ended on an internal error"));
        // All are waited for, the first error counts.
        let results: Vec<Result<()>> = reading
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(panicked))
            .collect();
        results.into_iter().collect()
    })
}

fn read(range: Range<'_>, buffer: &mut [u8], offset: u64) -> Result<()> {
    range.file.read_exact_at(buffer, offset).map_err(|source| {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            let name = range.name;
            Error::artifact(
                range.path,
                format!(
                    "the file ends inside tensor `{name}`; it was cut or replaced while it was \
                         being read: fetch it again"
                ),
            )
        } else {
            Error::io(range.path, source)
        }
    })
}

/// Tells the system that a range is wanted soon, and once. Only hints: where they fail nothing changes.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn advise(file: &File, offset: u64, bytes: usize) {
    use std::os::fd::AsRawFd;
    if bytes == 0 {
        return;
    }
    let (Ok(offset), Ok(bytes)) = (libc::off_t::try_from(offset), libc::off_t::try_from(bytes))
    else {
        return;
    };
    for advice in [libc::POSIX_FADV_NOREUSE, libc::POSIX_FADV_WILLNEED] {
        // SAFETY: the descriptor is open as long as `file` is borrowed; the call only gives advice.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, bytes, advice) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise(_: &File, _: u64, _: usize) {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use super::*;

    #[test]
    fn waves_are_in_order_and_complete() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes = 2 * wave() + PIECE + 12;
        let content: Vec<u8> = (0..bytes + 7).map(|i| (i * 31 % 251) as u8).collect();
        file.write_all(&content).unwrap();
        for length in [0, 1, PIECE, wave(), wave() + 1, bytes] {
            let range = Range {
                file: &file,
                path: Path::new("file"),
                name: "x",
                offset: 7,
                bytes: length,
            };
            let mut found = Vec::new();
            in_waves(range, &mut |wave| {
                assert!(wave.len() <= super::wave());
                found.extend_from_slice(wave);
                Ok(())
            })
            .unwrap();
            assert!(found == content[7..7 + length], "{length}");
        }
        assert_eq!(read_buffers(10), 10);
        assert_eq!(read_buffers(bytes), 2 * wave());
    }

    #[test]
    fn a_file_that_ends_early_is_named() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; wave() + 10]).unwrap();
        let range = Range {
            file: &file,
            path: Path::new("weights.safetensors"),
            name: "x.weight",
            offset: 0,
            bytes: wave() + 11,
        };
        let error = in_waves(range, &mut |_| Ok(())).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("weights.safetensors") && text.contains("x.weight"),
            "{text}"
        );
        let stopped = in_waves(range, &mut |_| Err(Error::Cancelled));
        assert!(matches!(stopped, Err(Error::Cancelled)));
    }

    /// Not a test of speed: prints the rate of reading, of reading with a cast, and of reading with a cast
    /// and a hash, beside that of `cat`, warm and (where the pages can be dropped) cold.
    #[test]
    #[ignore = "measures; writes 2 GB"]
    #[allow(clippy::print_stdout)]
    fn rates() {
        use std::process::{Command, Stdio};
        use std::time::Instant;

        use candle_core::{DType, Device};

        use super::super::stream::{Entry, StoredDType, load};

        const TENSORS: usize = 16;
        const ELEMENTS: usize = 32 << 20;
        let bytes = TENSORS * ELEMENTS * 4;
        let named = tempfile::NamedTempFile::new().unwrap();
        let row: Vec<u8> = (0..1 << 20)
            .flat_map(|i| (i as f32).to_le_bytes())
            .collect();
        for _ in 0..bytes / row.len() {
            named.as_file().write_all(&row).unwrap();
        }
        named.as_file().sync_all().unwrap();
        let file = File::open(named.path()).unwrap();
        let rate = |what: &str, work: &mut dyn FnMut()| {
            let start = Instant::now();
            work();
            let rate = bytes as f64 / start.elapsed().as_secs_f64() / 1e9;
            println!("{what:<24} {rate:6.2} GB/s");
        };
        let tensors = |dtype: DType, hash: bool| {
            for index in 0..TENSORS {
                let entry = Entry {
                    dtype: StoredDType::F32,
                    shape: vec![ELEMENTS],
                    offset: (index * ELEMENTS * 4) as u64,
                };
                load(&file, named.path(), "x", &entry, dtype, &Device::Cpu, hash).unwrap();
            }
        };
        for cold in [false, true] {
            let drop_pages = || {
                if cold {
                    forget(&file);
                }
            };
            println!("{}", if cold { "cold" } else { "warm" });
            drop_pages();
            rate("cat > /dev/null", &mut || {
                let out = Stdio::null();
                let done = Command::new("cat").arg(named.path()).stdout(out).status();
                assert!(done.unwrap().success());
            });
            drop_pages();
            rate("waves", &mut || {
                let range = Range {
                    file: &file,
                    path: named.path(),
                    name: "x",
                    offset: 0,
                    bytes,
                };
                in_waves(range, &mut |_| Ok(())).unwrap();
            });
            for (what, dtype, hash) in [
                ("tensors f32", DType::F32, false),
                ("tensors f32 to bf16", DType::BF16, false),
                ("tensors f32, hashed", DType::F32, true),
            ] {
                drop_pages();
                rate(what, &mut || tensors(dtype, hash));
            }
        }
    }

    /// Takes a file out of the page cache.
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    fn forget(file: &File) {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open as long as `file` is borrowed; the call only gives advice.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }

    #[cfg(not(target_os = "linux"))]
    fn forget(_: &File) {}
}

//! Every path against the `sha2` crate.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use sha2::Digest;

use super::schedule::{Job, Means, compress_with};
use super::{BLOCK, INITIAL, Sha256, digest_many, update_many};

fn expected(message: &[u8]) -> [u8; 32] {
    sha2::Sha256::digest(message).into()
}

fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect()
}

/// All combinations that this processor can run.
fn means() -> Vec<Means> {
    let all = Means::current();
    (0..8)
        .map(|bits| Means {
            avx512: bits & 1 != 0,
            sha: bits & 2 != 0,
            avx2: bits & 4 != 0,
        })
        .filter(|m| m.avx512 <= all.avx512 && m.sha <= all.sha && m.avx2 <= all.avx2)
        .collect()
}

#[test]
fn published_examples() {
    // FIPS 180-4 examples, as published by NIST.
    for (message, digest) in [
        (
            "",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
        (
            "abc",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
        (
            "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
    ] {
        let hex: String = Sha256::digest(message.as_bytes())
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(hex, digest);
    }
}

/// Lengths around the ends of blocks, alone and all together.
#[test]
fn every_length_near_block_ends() {
    let messages: Vec<Vec<u8>> = (0..=3 * BLOCK).map(|n| bytes(n, n as u64)).collect();
    let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    for (message, digest) in messages.iter().zip(digest_many(&slices)) {
        assert_eq!(digest, expected(message), "{} bytes", message.len());
        assert_eq!(Sha256::digest(message), digest);
    }
}

/// Every path gives the states of the `sha2` crate, for every number of messages that it treats
/// differently.
#[test]
fn every_path_gives_the_same_states() {
    for means in means() {
        for count in 1..=40 {
            let messages: Vec<Vec<u8>> = (0..count)
                .map(|i| bytes(BLOCK * (1 + (i * 7 + count) % 11), (count * 100 + i) as u64))
                .collect();
            let mut states = vec![INITIAL; count];
            let mut jobs: Vec<Job<'_>> = states
                .iter_mut()
                .zip(&messages)
                .map(|(state, message)| Job::new(state, message))
                .collect();
            compress_with(&mut jobs, means);
            for (state, message) in states.iter().zip(&messages) {
                let mut want = INITIAL;
                sha2::block_api::compress256(&mut want, message.as_chunks::<BLOCK>().0);
                assert_eq!(*state, want, "{means:?}, {count} messages");
            }
        }
    }
}

#[test]
fn isa_choice_does_not_change_digests() {
    let messages: Vec<Vec<u8>> = (0..33).map(|i| bytes(1000 + 77 * i, i as u64)).collect();
    let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let want: Vec<_> = messages.iter().map(|m| expected(m)).collect();
    for isa in crate::Isa::available() {
        assert_eq!(isa.scope(|| digest_many(&slices)), want, "{}", isa.name());
    }
}

/// Not a test of speed: prints the rate per thread for several numbers of messages, in CPU time.
#[test]
#[ignore = "measures"]
#[cfg(target_os = "linux")]
#[allow(clippy::print_stdout)]
fn rates() {
    const EACH: usize = 1 << 20;
    /// Bytes between the beginnings of messages: not a power of two apart.
    const APART: usize = EACH + 192;
    fn cpu_seconds() -> f64 {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the call writes to the given structure only.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    }
    let rate = |bytes: usize, work: &mut dyn FnMut()| {
        let least = (0..9).fold(f64::INFINITY, |least, _| {
            let start = cpu_seconds();
            work();
            least.min(cpu_seconds() - start)
        });
        bytes as f64 / least / 1e9
    };
    let data = bytes(32 * APART, 1);
    let crate_alone = rate(EACH, &mut || {
        std::hint::black_box(expected(&data[..EACH]));
    });
    println!("sha2 crate   {crate_alone:6.2} GB/s");
    for count in [1, 2, 4, 8, 12, 16, 32] {
        let messages: Vec<&[u8]> = (0..count).map(|i| &data[i * APART..][..EACH]).collect();
        let rate = rate(count * EACH, &mut || {
            std::hint::black_box(digest_many(&messages));
        });
        println!(
            "{count:2} messages  {rate:6.2} GB/s, {:.2} times the sha2 crate",
            rate / crate_alone
        );
    }
}

proptest! {
    /// Messages that arrive in pieces of any lengths, interleaved with each other.
    #[test]
    fn pieces(
        lengths in prop::collection::vec(prop::collection::vec(0_usize..300, 0..6), 1..36)
    ) {
        let mut hashes = vec![Sha256::new(); lengths.len()];
        let mut whole = vec![Vec::new(); lengths.len()];
        let most = lengths.iter().map(Vec::len).max().unwrap_or(0);
        for piece in 0..most {
            let given: Vec<Vec<u8>> = lengths
                .iter()
                .enumerate()
                .map(|(i, l)| bytes(l.get(piece).copied().unwrap_or(0), (i * 10 + piece) as u64))
                .collect();
            let mut pairs: Vec<_> = hashes.iter_mut().zip(given.iter().map(Vec::as_slice)).collect();
            update_many(&mut pairs);
            for (whole, given) in whole.iter_mut().zip(&given) {
                whole.extend_from_slice(given);
            }
        }
        for (hash, whole) in hashes.into_iter().zip(&whole) {
            prop_assert_eq!(hash.finish(), expected(whole));
        }
    }
}

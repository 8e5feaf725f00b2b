//! SHA-256 (FIPS 180-4) of many messages at once.
//!
//! One SHA-256 is a chain: each round waits for the one before, and a processor idles most of the time,
//! with its SHA instructions as without. Several independent messages fill the gaps. [`update_many`] takes
//! any number of messages and runs as many of them side by side as pays:
//!
//! | messages left | SHA instructions and AVX-512 | SHA instructions | AVX-512 alone | AVX2 alone |
//! |---|---|---|---|---|
//! | 15 or more | 16 in the lanes of vectors | 2 interleaved | 16 in the lanes of vectors | 8 in the lanes of vectors |
//! | 9 or more | 2 interleaved | 2 interleaved | 16 in the lanes of vectors | 8 in the lanes of vectors |
//! | 3 or more | 2 interleaved | 2 interleaved | 8 in the lanes of vectors | 8 in the lanes of vectors |
//! | 2 | 2 interleaved | 2 interleaved | the `sha2` crate | the `sha2` crate |
//! | 1 | the `sha2` crate | the `sha2` crate | the `sha2` crate | the `sha2` crate |
//!
//! More does not help: beside 16 messages in lanes, the SHA instructions of a further one take as long as they take
//! alone (Zen 4), as both need the same units.
//!
//! Messages that lie a power of two apart share sets of the first cache: sixteen of them then evict each
//! other's lines before they are used up. Callers that lay out buffers should stagger them.
//!
//! Everywhere else it is the `sha2` crate alone. All paths give the same digests.

#[cfg(target_arch = "x86_64")]
mod interleaved;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod schedule;
#[cfg(test)]
mod tests;

use std::fmt;

use schedule::{Job, compress};

/// Bytes of a block.
const BLOCK: usize = 64;

/// First words of the fractional parts of the square roots of the first eight primes.
const INITIAL: [u32; 8] = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];

/// First words of the fractional parts of the cube roots of the first 64 primes.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const K: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];

/// The SHA-256 of one message, as far as it has been given.
#[derive(Clone)]
pub struct Sha256 {
    state: [u32; 8],
    /// Bytes given so far.
    length: u64,
    /// The last `length % 64` of them, which do not fill a block.
    pending: [u8; BLOCK],
}

impl Default for Sha256 {
    fn default() -> Self {
        Self {
            state: INITIAL,
            length: 0,
            pending: [0; BLOCK],
        }
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sha256")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl Sha256 {
    /// The hash of an empty message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `bytes` to the message.
    pub fn update(&mut self, bytes: &[u8]) {
        update_many(&mut [(self, bytes)]);
    }

    /// The digest of the message.
    pub fn finish(mut self) -> [u8; 32] {
        let bits = self.length.wrapping_mul(8);
        // A one, zeros up to eight bytes before the end of a block, the length.
        let mut padding = [0_u8; 2 * BLOCK];
        padding[0] = 0x80;
        let used = self.used();
        let zeros = if used < BLOCK - 8 { BLOCK } else { 2 * BLOCK } - used - 8;
        padding[zeros..zeros + 8].copy_from_slice(&bits.to_be_bytes());
        self.update(&padding[..zeros + 8]);
        let mut digest = [0_u8; 32];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }

    /// The digest of a whole message.
    pub fn digest(message: &[u8]) -> [u8; 32] {
        let mut hash = Self::new();
        hash.update(message);
        hash.finish()
    }

    fn used(&self) -> usize {
        (self.length % BLOCK as u64) as usize
    }

    /// Takes `bytes` until `pending` fills a block; whether it does, and what is left.
    fn fill<'a>(&mut self, bytes: &'a [u8]) -> (bool, &'a [u8]) {
        let used = self.used();
        if used == 0 {
            return (false, bytes);
        }
        let take = bytes.len().min(BLOCK - used);
        self.pending[used..used + take].copy_from_slice(&bytes[..take]);
        self.length += take as u64;
        (used + take == BLOCK, &bytes[take..])
    }
}

/// Appends bytes to each of several messages, computing side by side. Messages may be of any length; the
/// longer a call's pieces and the more alike their lengths, the better.
pub fn update_many(messages: &mut [(&mut Sha256, &[u8])]) {
    // Blocks that began with bytes of an earlier call.
    let mut jobs = Vec::with_capacity(messages.len());
    for (hash, bytes) in messages.iter_mut() {
        let (full, rest) = hash.fill(bytes);
        *bytes = rest;
        if full {
            jobs.push(Job::new(&mut hash.state, &hash.pending));
        }
    }
    compress(&mut jobs);
    let mut jobs = Vec::with_capacity(messages.len());
    for (hash, bytes) in messages.iter_mut() {
        let (blocks, rest) = bytes.split_at(bytes.len() / BLOCK * BLOCK);
        hash.length += bytes.len() as u64;
        // `fill` has left nothing when the message ends inside a block it began.
        if !rest.is_empty() {
            hash.pending[..rest.len()].copy_from_slice(rest);
        }
        if !blocks.is_empty() {
            jobs.push(Job::new(&mut hash.state, blocks));
        }
    }
    compress(&mut jobs);
}

/// The digests of whole messages, in their order.
pub fn digest_many(messages: &[&[u8]]) -> Vec<[u8; 32]> {
    let mut hashes = vec![Sha256::new(); messages.len()];
    let mut pairs: Vec<_> = hashes.iter_mut().zip(messages.iter().copied()).collect();
    update_many(&mut pairs);
    hashes.into_iter().map(Sha256::finish).collect()
}

//! Checksums of rows: SQLite does not notice when a number in a row is changed by the disk or by memory, and behind
//! a changed number a copy is not found. They are against damage and not against people: who can write the registry
//! can write them, too.

/// Odd, so that multiplying loses nothing: 2^64 over the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// Where the lanes begin: digits of pi.
const LANES: [u64; 4] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7344,
    0xa409_3822_299f_31d0,
    0x082e_fa98_ec4e_6c89,
];

/// For one word, two states stay different; for one state, two words make different ones. A change of a single word
/// can therefore not get lost.
fn step(state: u64, word: u64) -> u64 {
    (state ^ word).wrapping_mul(FACTOR).rotate_left(29)
}

/// The checksum of byte strings one after another, their lengths included. Part of the file's form: never changed.
pub(super) fn checksum<const N: usize>(parts: [&[u8]; N]) -> i64 {
    let mut sum = FACTOR;
    for part in parts {
        sum = step(sum, part.len() as u64);
        let (words, rest) = part.as_chunks::<8>();
        let (fours, words) = words.as_chunks::<4>();
        // Four at a time do not wait for each other.
        let mut lanes = LANES;
        for four in fours {
            for (lane, word) in lanes.iter_mut().zip(four) {
                *lane = step(*lane, u64::from_le_bytes(*word));
            }
        }
        for lane in lanes {
            sum = step(sum, lane);
        }
        for word in words {
            sum = step(sum, u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        for (place, byte) in last.iter_mut().zip(rest) {
            *place = *byte;
        }
        sum = step(sum, u64::from_le_bytes(last));
    }
    sum.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_counts() {
        let mut bytes: Vec<u8> = (0..107).map(|i: u8| i.wrapping_mul(37)).collect();
        let right = checksum([&bytes, b"end"]);
        for bit in 0..8 * bytes.len() {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(checksum([&bytes, b"end"]), right, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(checksum([&bytes, b"end"]), right);
    }

    #[test]
    fn lengths_and_order_count() {
        assert_ne!(checksum([b"ab", b"c"]), checksum([b"a", b"bc"]));
        assert_ne!(checksum([b"a", b""]), checksum([b"", b"a"]));
        assert_ne!(checksum([b"a"]), checksum([b"a\0"]));
        assert_ne!(checksum([&[0; 32]]), checksum([&[0; 64]]));
        let (mut there, mut back) = ([0; 64], [0; 64]);
        there[0] = 1;
        back[32] = 1;
        assert_ne!(checksum([&there]), checksum([&back]));
    }

    /// Registries that were written stay readable.
    #[test]
    fn it_stays_what_it_is() {
        assert_eq!(checksum([b"leoma"]), 8054160277451034353);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Keyed fingerprints of pieces of a stream. They show whether a retransmission has the same bytes
//! as the piece that was forwarded.
//!
//! A fingerprint is a multilinear hash (Lemire and Kaser, "Strongly universal string hashing is
//! fast", section 3): each 32-bit word of the stream is multiplied by a secret of 64 bits, and the
//! products are added modulo 2^63. The position of a word in the stream selects its secret.
//! Therefore the sum of the fingerprints of two neighbouring pieces is the fingerprint of the two
//! pieces together, regardless of the position of the boundary. This makes it possible to check a
//! retransmission that is divided into other segments than the original, without keeping the
//! original bytes. Two different pieces of the same length at the same position have the same
//! fingerprint for at most one key in 2^32. An attacker who chooses the pieces without knowing the
//! key cannot improve on this. The multiplications are independent of each other. Therefore a
//! fingerprint takes only a fraction of the time of a hash in which each step needs the result of
//! the previous step.

use crate::{seq::Seq, siphash::siphash128};

/// The maximum size of a piece in bytes.
pub const MAX: usize = 4032;
/// The number of bytes (16 words) that are added to a fingerprint in one step.
pub const BLOCK: usize = 64;
/// The number of bytes of the stream after which the secrets repeat. It is larger than [`MAX`].
pub const PERIOD: usize = 4096;
/// The number of words in a key. There is one word for every four bytes of [`PERIOD`]. Copies of
/// the words for the first [`BLOCK`] bytes follow, so that no block extends past the end of the
/// key.
pub const KEY_WORDS: usize = (PERIOD + BLOCK) / 4;

/// Derives the key from the secret of an installation. Each pair of words in the key is the
/// SipHash-2-4-128 of a counter.
#[must_use]
pub fn key(secret: [u64; 2]) -> [u64; KEY_WORDS] {
    let mut words = [0; KEY_WORDS];
    for (number, pair) in words.chunks_exact_mut(2).enumerate() {
        let mut message = *b"fingerprint\0\0\0\0\0";
        if let Some(counter) = message.last_chunk_mut::<4>() {
            *counter = ((number % (PERIOD / 8)) as u32).to_le_bytes();
        }
        pair.copy_from_slice(&siphash128(secret, &message));
    }
    words
}

/// Returns the product of `word`, a word of the stream, and `key`, the secret for this word.
#[inline(always)]
#[must_use]
pub const fn term(word: u32, key: u64) -> u64 {
    (word as u64).wrapping_mul(key)
}

/// Returns the offset in bytes (0 to 3) of the byte at `seq` within its word of the stream.
#[inline(always)]
#[must_use]
pub const fn lead(seq: Seq) -> u32 {
    seq.0 & 3
}

/// Returns the offset in the key, in bytes, of the secret for the word that contains the byte at
/// `seq`.
#[inline(always)]
#[must_use]
pub const fn key_at(seq: Seq) -> u32 {
    (seq.0 & (PERIOD as u32 - 4)) << 1
}

/// Turns a sum of [`term`]s into a fingerprint. A fingerprint is even, because an odd number in
/// [`crate::abi::Record`] is a hash of requests.
#[inline(always)]
#[must_use]
pub const fn finish(sum: u64) -> u64 {
    sum << 1
}

/// Returns the fingerprint of `bytes`, which begin at `seq` in a stream. If there are more than
/// [`MAX`] bytes, the fingerprint covers the first [`MAX`].
#[must_use]
pub fn of(seq: Seq, bytes: &[u8], key: &[u64; KEY_WORDS]) -> u64 {
    let mut sum = 0u64;
    let mut at = seq;
    let mut rest = bytes.get(..MAX).unwrap_or(bytes);
    while !rest.is_empty() {
        let lead = lead(at) as usize;
        let (now, later) = rest.split_at(rest.len().min(4 - lead));
        let mut word = [0; 4];
        for (to, from) in word.iter_mut().skip(lead).zip(now) {
            *to = *from;
        }
        let key = key.get(key_at(at) as usize / 8).copied().unwrap_or(0);
        sum = sum.wrapping_add(term(u32::from_le_bytes(word), key));
        at = at.plus(now.len() as u32);
        rest = later;
    }
    finish(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_of_two_secrets_share_nothing() {
        let (one, other) = (key([1, 2]), key([1, 3]));
        assert!(one.iter().zip(&other).all(|(a, b)| a != b));
        let mut words = one.to_vec();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), PERIOD / 4);
        assert_eq!(one[PERIOD / 4..], one[..BLOCK / 4], "the first come again");
    }

    proptest! {
        #[test]
        fn another_byte_anywhere_is_noticed(
            start: u32,
            mut bytes in prop::collection::vec(any::<u8>(), 1..MAX),
            at: prop::sample::Index,
            change in 1u8..,
        ) {
            let key = key([7, 9]);
            let before = of(Seq(start), &bytes, &key);
            prop_assert_eq!(before & 1, 0);
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            prop_assert_ne!(of(Seq(start), &bytes, &key), before);
        }

        #[test]
        fn pieces_add_up_wherever_they_are_cut(
            start: u32,
            bytes in prop::collection::vec(any::<u8>(), 1..MAX),
            cut: prop::sample::Index,
        ) {
            let key = key([7, 9]);
            let (one, other) = bytes.split_at(cut.index(bytes.len()));
            let behind = Seq(start).plus(one.len() as u32);
            let sum = of(Seq(start), one, &key).wrapping_add(of(behind, other, &key));
            prop_assert_eq!(sum, of(Seq(start), &bytes, &key));
        }

        /// A hash that is a polynomial modulo 2^64 would fail this test, because changes to the
        /// highest bits of two words would cancel each other out.
        #[test]
        fn two_highest_bits_do_not_cancel(
            start: u32,
            mut bytes in prop::collection::vec(any::<u8>(), 64..MAX),
            one: prop::sample::Index,
            other: prop::sample::Index,
        ) {
            let key = key([7, 9]);
            let before = of(Seq(start), &bytes, &key);
            let (one, other) = (one.index(bytes.len()), other.index(bytes.len()));
            prop_assume!(one != other);
            bytes[one] ^= 0x80;
            bytes[other] ^= 0x80;
            prop_assert_ne!(of(Seq(start), &bytes, &key), before);
        }
    }
}

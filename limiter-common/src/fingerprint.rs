//! Keyed fingerprints of segments, to tell a retransmission that is the same from one that is not.
//!
//! NH of UMAC (RFC 4418, section 5.2.2; Black et al., CRYPTO '99): the sum of products of the
//! message's halves of words, each added to a secret. Two different messages of one length have
//! the same fingerprint for one key in 2^32, whoever chose them, as long as they do not depend on
//! the key. No step waits for the one before, so it costs a fraction of a hash that does.

use crate::siphash::siphash128;

/// Bytes of the longest message.
pub const MAX: usize = 4096;
/// Bytes that are taken in at a step; the message is padded with zeros to a multiple of it.
pub const BLOCK: usize = 64;
/// Words of a key.
pub const KEY_WORDS: usize = MAX / 8;

/// The key made of the secret of an installation: SipHash-2-4-128 of a counter.
#[must_use]
pub fn key(secret: [u64; 2]) -> [u64; KEY_WORDS] {
    let mut words = [0; KEY_WORDS];
    for (number, pair) in words.chunks_exact_mut(2).enumerate() {
        let mut message = *b"fingerprint\0\0\0\0\0";
        if let Some(counter) = message.last_chunk_mut::<4>() {
            *counter = (number as u32).to_le_bytes();
        }
        pair.copy_from_slice(&siphash128(secret, &message));
    }
    words
}

/// What one word of the message adds.
#[inline(always)]
#[must_use]
pub const fn term(word: u64, key: u64) -> u64 {
    let low = (word as u32).wrapping_add(key as u32);
    let high = ((word >> 32) as u32).wrapping_add((key >> 32) as u32);
    (low as u64).wrapping_mul(high as u64)
}

/// The fingerprint of at most [`MAX`] bytes; of longer messages, that of the first [`MAX`].
#[must_use]
pub fn of(bytes: &[u8], key: &[u64; KEY_WORDS]) -> u64 {
    // Padding goes to the end of a block, whose terms depend on the key alone.
    let words = bytes.len().min(MAX).div_ceil(BLOCK) * BLOCK / 8;
    let mut sum = 0u64;
    for (at, key) in key.iter().enumerate().take(words) {
        let mut word = [0; 8];
        for (byte, from) in word.iter_mut().zip(bytes.iter().skip(at * 8)) {
            *byte = *from;
        }
        sum = sum.wrapping_add(term(u64::from_le_bytes(word), *key));
    }
    sum
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
        assert_eq!(words.len(), KEY_WORDS);
    }

    proptest! {
        #[test]
        fn another_byte_anywhere_is_noticed(
            mut bytes in prop::collection::vec(any::<u8>(), 1..MAX),
            at: prop::sample::Index,
            change in 1u8..,
        ) {
            let key = key([7, 9]);
            let before = of(&bytes, &key);
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            prop_assert_ne!(of(&bytes, &key), before);
        }

        /// What defeats a polynomial modulo 2^64: the highest bits of two words.
        #[test]
        fn two_highest_bits_do_not_cancel(
            mut bytes in prop::collection::vec(any::<u8>(), 64..MAX),
            one: prop::sample::Index,
            other: prop::sample::Index,
        ) {
            let key = key([7, 9]);
            let before = of(&bytes, &key);
            let (one, other) = (one.index(bytes.len()), other.index(bytes.len()));
            prop_assume!(one != other);
            bytes[one] ^= 0x80;
            bytes[other] ^= 0x80;
            prop_assert_ne!(of(&bytes, &key), before);
        }
    }
}

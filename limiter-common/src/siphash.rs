// SPDX-License-Identifier: MIT OR Apache-2.0

//! SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, "SipHash: a fast short-input PRF";
//! the output of 128 bits is defined by the reference implementation, `siphash.c`).
//!
//! The maps contain these hashes instead of raw keys. Without the secret of the installation, the
//! hashes do not reveal the keys.

/// Returns the hash of `bytes` as two halves, in the little-endian order of the reference
/// implementation.
#[must_use]
pub fn siphash128(key: [u64; 2], bytes: &[u8]) -> [u64; 2] {
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0, |word, &byte| word << 8 | u64::from(byte))
    };
    let (words, rest) = bytes.split_at(bytes.len() & !7);
    let mut state = State::new(key);
    for bytes in words.chunks_exact(8) {
        state.take(word(bytes));
    }
    state.finish(bytes.len() as u64, word(rest))
}

/// Returns the hash of `length` bytes (at most 128). `word(i)` returns the whole word (eight bytes)
/// with the index `i`, and `last` contains the bytes after the last whole word, followed by zeros.
///
/// The kernel programs need this form, because its loop has a fixed bound and the bytes do not have
/// to be copied.
#[inline(always)]
pub(crate) fn hash128(
    key: [u64; 2],
    length: u64,
    mut word: impl FnMut(u64) -> u64,
    last: u64,
) -> [u64; 2] {
    let mut state = State::new(key);
    let words = length >> 3;
    let mut i = 0;
    while i < 16 {
        if i >= words {
            break;
        }
        state.take(word(i));
        i += 1;
    }
    state.finish(length, last)
}

/// The state of a hash: the four words that are mixed.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct State {
    a: u64,
    b: u64,
    c: u64,
    d: u64,
}

impl State {
    /// Returns the state before the first word.
    #[inline(always)]
    pub(crate) fn new(key: [u64; 2]) -> Self {
        Self {
            a: key[0] ^ 0x736f_6d65_7073_6575,
            // The algorithm for 128 bits of output differs from the one for 64 bits here and in
            // `finish`.
            b: key[1] ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            c: key[0] ^ 0x6c79_6765_6e65_7261,
            d: key[1] ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    fn round(&mut self) {
        let Self { a, b, c, d } = self;
        *a = a.wrapping_add(*b);
        *b = b.rotate_left(13) ^ *a;
        *a = a.rotate_left(32);
        *c = c.wrapping_add(*d);
        *d = d.rotate_left(16) ^ *c;
        *a = a.wrapping_add(*d);
        *d = d.rotate_left(21) ^ *a;
        *c = c.wrapping_add(*b);
        *b = b.rotate_left(17) ^ *c;
        *c = c.rotate_left(32);
    }

    /// Adds eight bytes, with the first byte in the lowest bits of `word`.
    #[inline(always)]
    pub(crate) fn take(&mut self, word: u64) {
        self.d ^= word;
        self.round();
        self.round();
        self.a ^= word;
    }

    /// Returns the hash of `length` bytes. `rest` contains the bytes after the last whole word,
    /// followed by zeros.
    #[inline(always)]
    pub(crate) fn finish(mut self, length: u64, rest: u64) -> [u64; 2] {
        self.take(length << 56 | rest);
        self.c ^= 0xee;
        let first = self.mix();
        self.b ^= 0xdd;
        [first, self.mix()]
    }

    #[inline(always)]
    fn mix(&mut self) -> u64 {
        self.round();
        self.round();
        self.round();
        self.round();
        self.a ^ self.b ^ self.c ^ self.d
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The state of one direction of a connection between segments.

use core::ops::{Deref, DerefMut};

use super::{
    CARRY, KEY_SLOTS, MODE_BODY, MODE_CHUNK, MODE_CHUNK_DATA, MODE_CHUNK_END, MODE_IDLE, MODE_TRIM,
    MODE_UNTIL_CLOSE, Progress, SEEN_BODY, SEEN_TRAILERS, State, Unfinished,
    segment::LONG,
    word::{copy, zero},
};

/// The number of words in the hashes of a [`State`].
const DIGESTS: usize = 2 * KEY_SLOTS;
/// The number of words in a [`Progress`].
const WORDS: usize = size_of::<Progress>() / 8;
const _: () = assert!(core::mem::offset_of!(Progress, seen) == 8 && WORDS == 8);

impl Deref for State {
    type Target = Progress;

    #[inline(always)]
    fn deref(&self) -> &Progress {
        &self.progress
    }
}

impl DerefMut for State {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Progress {
        &mut self.progress
    }
}

impl Unfinished {
    /// Copies the whole of `from`.
    #[inline(always)]
    pub fn copy(&mut self, from: &Self) {
        // SAFETY: this type consists of words.
        unsafe {
            copy::<{ size_of::<Self>() / 8 }>((&raw const *from).cast(), (&raw mut *self).cast());
        };
    }

    /// Masks the unfinished line with `pad`, because the line may contain a key. A second call with
    /// the same `pad` restores the line.
    #[inline(always)]
    pub fn mask(&mut self, pad: &[u64; CARRY / 8]) {
        let mut i = 0;
        while i < CARRY / 8 {
            self.carry[i] ^= pad[i];
            i += 1;
        }
    }

    /// Clears the unfinished line, because it may contain a key.
    #[inline(always)]
    pub fn clear(&mut self) {
        // SAFETY: the carry is an array of CARRY / 8 words.
        unsafe { zero::<{ CARRY / 8 }>(self.carry.as_mut_ptr()) };
    }
}

impl State {
    /// Sets the hashes of the keys.
    #[inline(always)]
    pub(super) fn load_digests(&mut self, from: &Unfinished) {
        // SAFETY: both are arrays of the same number of words.
        unsafe {
            copy::<DIGESTS>(
                from.digests.as_ptr().cast(),
                self.digests.as_mut_ptr().cast(),
            );
        };
    }

    /// Copies the hashes of the keys.
    #[inline(always)]
    pub(super) fn store_digests(&self, to: &mut Unfinished) {
        // SAFETY: both are arrays of the same number of words.
        unsafe { copy::<DIGESTS>(self.digests.as_ptr().cast(), to.digests.as_mut_ptr().cast()) };
    }
}

impl Progress {
    /// Prepares for the next message. The hashes of keys are not cleared, because `seen` and `rank`
    /// show which of them are valid.
    #[inline(always)]
    pub(super) fn reset(&mut self) {
        self.mode = MODE_IDLE;
        // SAFETY: these are the words after the first one, which contains `mode` and `begun`.
        unsafe { zero::<{ WORDS - 1 }>((&raw mut *self).cast::<u64>().add(1)) };
    }

    /// Copies the whole of `from`.
    #[inline(always)]
    pub(super) fn copy(&mut self, from: &Self) {
        // SAFETY: this type consists of words.
        unsafe { copy::<WORDS>((&raw const *from).cast(), (&raw mut *self).cast()) };
    }

    /// Returns whether the segment ended within a head or a line of framing, so that the next
    /// segment continues with an [`Unfinished`].
    #[inline(always)]
    #[must_use]
    pub const fn is_unfinished(&self) -> bool {
        self.unfinished() != 0
    }

    /// Returns whether there is an unfinished line.
    #[inline(always)]
    #[must_use]
    pub const fn has_line(&self) -> bool {
        self.carry > 0
    }

    /// Returns a number that is 0 unless [`Progress::is_unfinished`]. (A comparison would become a
    /// branch, after which the verifier would check the rest of a program twice.)
    #[inline(always)]
    #[must_use]
    pub const fn unfinished(&self) -> u32 {
        self.carry | self.head()
    }

    /// Returns whether a head has begun and is not complete, which means that no decision has been
    /// made about its message.
    #[inline(always)]
    #[must_use]
    pub const fn in_head(&self) -> bool {
        self.mode != MODE_IDLE
            && self.mode < MODE_TRIM
            && self.mode != MODE_CHUNK
            && self.seen & SEEN_TRAILERS == 0
    }

    /// Returns 1 if a head has begun and is not complete, and otherwise 0. (The function has no
    /// branch, because after a branch the verifier would check the rest of a program twice.)
    #[inline(always)]
    const fn head(&self) -> u32 {
        /// A bit for each mode of a head or of trailers.
        const MODES: u32 = ((1 << MODE_TRIM) - 1) & !(1 << MODE_IDLE | 1 << MODE_CHUNK);
        const { assert!(SEEN_TRAILERS.is_power_of_two()) };
        MODES >> (self.mode & 31) & !(self.seen >> SEEN_TRAILERS.trailing_zeros()) & 1
    }

    /// Returns whether the chunked body of a message is being read. If the direction is malformed,
    /// true means that the framing of the body is malformed, and that the decision about the
    /// message was made before the malformed bytes were read.
    #[inline(always)]
    #[must_use]
    pub const fn in_body(&self) -> bool {
        self.seen & SEEN_BODY != 0
    }

    /// Returns whether at least one message in this direction had a complete head. Before that, the
    /// preface of HTTP/2 is recognised.
    #[inline(always)]
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.begun != 0
    }

    /// Sets the result of [`State::has_begun`].
    #[inline(always)]
    pub const fn set_begun(&mut self, begun: bool) {
        self.begun = begun as u32;
    }

    /// Returns whether the next byte begins a message.
    #[inline(always)]
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.mode == MODE_IDLE
    }

    /// Returns whether the next byte belongs to a body of known length.
    #[inline(always)]
    #[must_use]
    pub const fn is_length_body(&self) -> bool {
        self.mode == MODE_BODY
    }

    /// Returns whether the next bytes belong to a chunk that has at least `LONG` more bytes.
    #[inline(always)]
    #[must_use]
    pub const fn is_long_chunk(&self) -> bool {
        self.mode == MODE_CHUNK_DATA && self.body_left >= LONG as u64
    }

    /// Returns the number of bytes that may be skipped with [`State::skip`] instead of being read.
    #[inline(always)]
    #[must_use]
    pub const fn skippable(&self) -> u64 {
        if self.mode >= MODE_CHUNK_DATA && self.mode <= MODE_UNTIL_CLOSE {
            self.body_left
        } else {
            0
        }
    }

    /// Skips `bytes` bytes, which must not be more than [`State::skippable`]. Returns true if the
    /// message ends after these bytes.
    #[inline(always)]
    pub fn skip(&mut self, bytes: u32) -> bool {
        if self.mode == MODE_UNTIL_CLOSE {
            return false;
        }
        self.body_left = self.body_left.saturating_sub(u64::from(bytes));
        if self.body_left == 0 {
            if self.mode == MODE_CHUNK_DATA {
                self.mode = MODE_CHUNK_END;
            } else if self.mode == MODE_BODY {
                self.mode = MODE_IDLE;
                return true;
            }
        }
        false
    }
}

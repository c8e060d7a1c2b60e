// SPDX-License-Identifier: MIT OR Apache-2.0

//! The state of one direction of a connection between segments.

use super::{
    CARRY, KEY_SLOTS, MODE_BODY, MODE_CHUNK, MODE_CHUNK_DATA, MODE_CHUNK_END, MODE_IDLE, MODE_TRIM,
    MODE_UNTIL_CLOSE, Parser, SEEN_BODY, SEEN_TRAILERS, State,
    segment::LONG,
    word::{copy, zero},
};

/// The number of words in a [`State`] that precede the hashes.
const CONTROL: usize = core::mem::offset_of!(State, digests) / 8;
const _: () = assert!(core::mem::offset_of!(State, seen) == 8 && CONTROL == 8);

impl Parser {
    /// Returns whether there is an unfinished line.
    #[inline(always)]
    #[must_use]
    pub const fn has_carry(&self) -> bool {
        self.state.carry > 0
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
}

impl State {
    /// The state before the first message.
    pub const NEW: Self = Self {
        mode: MODE_IDLE,
        begun: 0,
        seen: 0,
        lines: 0,
        head_bytes: 0,
        carry: 0,
        method: 0,
        status: 0,
        minor: 0,
        rank: 0,
        length: 0,
        body_left: 0,
        keys: 0,
        digests: [[0; 2]; KEY_SLOTS],
    };

    /// Prepares for the next message. The hashes are not cleared, because `seen` and `rank` show
    /// which of them are valid.
    #[inline(always)]
    pub(super) fn reset(&mut self) {
        self.mode = MODE_IDLE;
        // SAFETY: these are the control words after the first one, which contains `mode` and
        // `begun`.
        unsafe { zero::<{ CONTROL - 1 }>((&raw mut *self).cast::<u64>().add(1)) };
    }

    /// Copies the whole of `from` into this state.
    #[inline(always)]
    pub(super) fn copy(&mut self, from: &Self) {
        // SAFETY: a state consists of words.
        unsafe {
            copy::<{ size_of::<Self>() / 8 }>((&raw const *from).cast(), (&raw mut *self).cast());
        };
    }

    /// Copies the part of `from` that still matters once the head is complete, which is everything
    /// except the hashes.
    #[inline(always)]
    pub(super) fn copy_control(&mut self, from: &Self) {
        // SAFETY: the control words come first.
        unsafe { copy::<CONTROL>((&raw const *from).cast(), (&raw mut *self).cast()) };
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

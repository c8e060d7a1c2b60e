//! What is kept of a direction between segments.

use super::{
    CARRY, KEY_SLOTS, MODE_BODY, MODE_CHUNK, MODE_CHUNK_DATA, MODE_CHUNK_END, MODE_IDLE,
    MODE_UNTIL_CLOSE, Parser, SEEN_BODY, SEEN_TRAILERS, State,
    segment::LONG,
    word::{copy, zero},
};

/// The words of a [`State`] in front of the hashes.
const CONTROL: usize = core::mem::offset_of!(State, key) / 8;
const _: () = assert!(core::mem::offset_of!(State, seen) == 8 && CONTROL == 7);

impl Parser {
    /// Whether an unfinished line is kept.
    #[inline(always)]
    #[must_use]
    pub const fn has_carry(&self) -> bool {
        self.state.carry > 0
    }

    /// Covers the unfinished line, which may hold a key, or uncovers it: done twice with one `pad`
    /// it is as it was.
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
    /// Before the first message.
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
        key: [0; 2],
        digests: [[0; 2]; KEY_SLOTS],
    };

    /// Before the next message. Hashes stay where they are: `seen` and `rank` say which count.
    #[inline(always)]
    pub(super) fn reset(&mut self) {
        self.mode = MODE_IDLE;
        // SAFETY: the control words behind the first one, which holds `mode` and `begun`.
        unsafe { zero::<{ CONTROL - 1 }>((&raw mut *self).cast::<u64>().add(1)) };
    }

    /// All of `from`.
    #[inline(always)]
    pub(super) fn copy(&mut self, from: &Self) {
        // SAFETY: a state is made of words.
        unsafe {
            copy::<{ size_of::<Self>() / 8 }>((&raw const *from).cast(), (&raw mut *self).cast());
        };
    }

    /// What still matters of `from` once the head is complete.
    #[inline(always)]
    pub(super) fn copy_control(&mut self, from: &Self) {
        // SAFETY: the control words come first.
        unsafe { copy::<CONTROL>((&raw const *from).cast(), (&raw mut *self).cast()) };
    }

    /// Whether a head has begun and is not complete, so that nothing was decided on it yet.
    #[inline(always)]
    #[must_use]
    pub const fn in_head(&self) -> bool {
        self.mode != MODE_IDLE && self.mode < MODE_CHUNK && self.seen & SEEN_TRAILERS == 0
    }

    /// Whether what is malformed is the framing of a body, so that its head was decided on.
    #[inline(always)]
    #[must_use]
    pub const fn in_body(&self) -> bool {
        self.seen & SEEN_BODY != 0
    }

    /// Whether the next byte begins a message.
    #[inline(always)]
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.mode == MODE_IDLE
    }

    /// Whether the next byte is one of a body whose length is known.
    #[inline(always)]
    #[must_use]
    pub const fn is_length_body(&self) -> bool {
        self.mode == MODE_BODY
    }

    /// Whether the next bytes are those of a chunk, and so many that nothing else is near.
    #[inline(always)]
    #[must_use]
    pub const fn is_long_chunk(&self) -> bool {
        self.mode == MODE_CHUNK_DATA && self.body_left >= LONG as u64
    }

    /// How many bytes may be skipped, without being looked at, by [`State::skip`].
    #[inline(always)]
    #[must_use]
    pub const fn skippable(&self) -> u64 {
        if self.mode >= MODE_CHUNK_DATA && self.mode <= MODE_UNTIL_CLOSE {
            self.body_left
        } else {
            0
        }
    }

    /// Skips `bytes`, at most [`State::skippable`]. True: that was the end of the message.
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

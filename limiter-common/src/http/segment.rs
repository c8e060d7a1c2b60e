// SPDX-License-Identifier: MIT OR Apache-2.0

//! From segment to window: begins and ends segments, loads windows, and skips bodies.

use super::{
    BODY_CHUNKED, BODY_INTERIM, BODY_LENGTH, BODY_OTHER_HTTP, BODY_TUNNEL, BODY_UNTIL_CLOSE, CARRY,
    EVENT_END, EVENT_FAILED, EVENT_HEAD, EVENT_HTTP2, EVENT_MALFORMED, EVENT_MORE, EVENT_NONE,
    MODE_AFTER, MODE_BODY, MODE_CHUNK, MODE_CHUNK_DATA, MODE_CHUNK_END, MODE_DEAD, MODE_DONE,
    MODE_FIELD, MODE_HEAD, MODE_IDLE, MODE_STREAM, MODE_UNTIL_CLOSE, MODE_VALUE, Progress, Rules,
    SEEN_BODY, Scan, Unfinished, WINDOW,
    word::{copy, hide, window},
};

/// The number of bytes that are loaded after a long chunk, where only the line with the size of the
/// next chunk matters.
const SMALL: u32 = 64;
/// A chunk is long if at least this many of its bytes lie beyond the window.
pub(super) const LONG: u32 = 512;

/// The value that stands for no offer in this segment. It is past the end of any payload.
pub(super) const NO_OFFER: u32 = u32::MAX;

/// The source of payload: `bpf_skb_load_bytes` in the kernel, and a slice on the host.
pub trait Payload {
    /// Copies `len` bytes of the payload, beginning at the offset `at`, to the address `to`.
    /// Returns false if the payload cannot be read.
    ///
    /// # Safety
    /// `len` is 1 to [`WINDOW`], `len` bytes can be written at `to`, and the payload has at least
    /// `len` bytes from the offset `at` on.
    unsafe fn load(&self, at: u32, to: *mut u8, len: u32) -> bool;
}

/// Begins a segment that has `len` bytes of payload. The payload bytes before the offset `from`
/// have been read earlier. If [`Progress::is_unfinished`], the caller has to call [`resume`] next.
///
/// # Safety
/// Both pointers are valid, and nothing else accesses their targets.
#[inline(always)]
pub unsafe fn begin(scan: *mut Scan, progress: *const Progress, from: u32, len: u32) {
    // SAFETY: the caller guarantees this.
    let (scan, progress) = unsafe { (&mut *scan, &*progress) };
    let mut carry = 0;
    if progress.mode == MODE_IDLE {
        scan.state.begun = progress.begun;
        scan.state.reset();
    } else {
        scan.state.copy(progress);
        carry = scan.state.carry;
        if carry > CARRY as u32 {
            scan.state.mode = MODE_DEAD;
            carry = 0;
        }
    }
    scan.event = EVENT_NONE;
    scan.at = from;
    scan.message_at = from.wrapping_sub(scan.state.head_bytes) as i32;
    scan.framing_from = from;
    scan.framing_to = from;
    scan.offer = NO_OFFER;
    scan.len = len;
    scan.base = from;
    scan.pos = CARRY as u32;
    scan.end = CARRY as u32;
    scan.line = CARRY as u32;
    scan.hold = CARRY as u32 - carry;
    scan.want = WINDOW as u32;
}

/// Continues with the head or the line that the last segment has left unfinished.
///
/// # Safety
/// Both pointers are valid, and nothing else accesses their targets. [`begin`] has just been
/// called, and `unfinished` is what [`suspend`] stored after the last segment.
#[inline(always)]
pub unsafe fn resume(scan: *mut Scan, unfinished: *const Unfinished) {
    // SAFETY: the caller guarantees this.
    let (scan, unfinished) = unsafe { (&mut *scan, &*unfinished) };
    scan.state.load_digests(unfinished);
    // SAFETY: both arrays have at least CARRY / 8 words.
    unsafe { copy::<{ CARRY / 8 }>(unfinished.carry.as_ptr(), scan.buf.as_mut_ptr()) };
    if scan.state.mode == MODE_STREAM {
        // SAFETY: the stream has just been copied to the beginning of the buffer.
        unsafe { scan.stream.load(scan.buf.as_mut_ptr()) };
    }
}

/// Makes the direction malformed, because the unfinished head or line of the last segment is
/// missing.
///
/// # Safety
/// `scan` is valid, and nothing else accesses its target.
#[inline(always)]
pub unsafe fn resume_without(scan: *mut Scan) {
    // SAFETY: the caller guarantees this.
    let scan = unsafe { &mut *scan };
    scan.state.mode = MODE_DEAD;
    scan.hold = CARRY as u32;
}

/// Limits scanning to the next `len` bytes of the segment.
///
/// # Safety
/// The requirements are those of [`begin`].
#[inline(always)]
pub unsafe fn end_early(scan: *mut Scan, len: u32) {
    // SAFETY: the caller guarantees this.
    let scan = unsafe { &mut *scan };
    let end = scan.at.wrapping_add(len);
    if end < scan.len {
        scan.len = end;
    }
}

/// Does one unit of work: skips a body, or loads a window and runs `lines` over it. `lines` must
/// call [`super::line`] repeatedly until the result is true, but at most [`super::LINES`] times.
///
/// Returns true if `Scan::event` has an event, and false if this function must be called again.
///
/// # Safety
/// `begin` was called for `scan`, and `rules` is valid. During the call, only this function and
/// `lines` access the targets of these two pointers.
#[inline(always)]
pub unsafe fn unit<P: Payload>(
    scan: *mut Scan,
    rules: *const Rules,
    payload: &P,
    lines: impl FnOnce(),
) -> bool {
    {
        // SAFETY: the caller guarantees this, and `lines` runs later.
        let (scan, rules) = unsafe { (&mut *scan, &*rules) };
        scan.event = EVENT_NONE;
        let mode = scan.state.mode;
        if mode >= MODE_CHUNK_DATA {
            if mode <= MODE_UNTIL_CLOSE {
                skip_body(scan, rules);
                return scan.event != EVENT_NONE;
            }
            if mode != MODE_DONE {
                scan.event = if mode == MODE_HEAD {
                    EVENT_HEAD
                } else {
                    EVENT_MALFORMED
                };
                return true;
            }
            if complete(scan, rules) {
                return true;
            }
        }
        if scan.pos >= scan.end {
            if scan.at >= scan.len {
                scan.event = EVENT_MORE;
                return true;
            }
            if !load(scan, payload) {
                scan.event = EVENT_FAILED;
                return true;
            }
        }
        if scan.framing_from == scan.framing_to {
            scan.framing_from = scan.at;
            scan.framing_to = scan.at;
        }
    }
    lines();
    // SAFETY: the caller guarantees this, and `lines` has returned.
    let scan = unsafe { &mut *scan };
    if scan.state.mode == MODE_DEAD {
        // `at` is not changed, because malformed bytes do not count as read. They may even begin in
        // an earlier segment.
        return true;
    }
    scan.at = scan.offset(scan.pos);
    scan.framing_to = scan.at;
    scan.event != EVENT_NONE
}

/// Loads the next window, and puts the bytes that must be read again in front of it. Returns false
/// if the payload cannot be read.
#[inline(always)]
fn load(scan: &mut Scan, payload: &impl Payload) -> bool {
    let held = scan.end.wrapping_sub(scan.hold);
    if held > CARRY as u32 {
        scan.state.mode = MODE_DEAD;
        return false;
    }
    if held > 0 && scan.end != CARRY as u32 {
        let mut i = 0;
        while i < CARRY / 8 {
            // The last CARRY bytes become the carry, at the beginning of the buffer. If the window
            // was shorter, some of these bytes come from the old carry.
            scan.buf[i] = scan.take_carry(scan.end, i).to_le();
            i += 1;
        }
    }
    let left = scan.len.wrapping_sub(scan.at);
    let bytes = if left < scan.want { left } else { scan.want };
    let bytes = window(hide(u64::from(bytes)));
    scan.want = WINDOW as u32;
    scan.base = scan.at;
    scan.end = CARRY as u32 + bytes as u32;
    scan.pos = CARRY as u32 - held;
    scan.line = scan.pos;
    scan.hold = scan.pos;
    let at = scan.at;
    // SAFETY: the buffer is longer than CARRY.
    let to = unsafe { scan.buf.as_mut_ptr().cast::<u8>().add(CARRY) };
    // SAFETY: the mask keeps `bytes` between 1 and WINDOW. `unit` calls this function only if bytes
    // are left, and `bytes` is at most that number. The buffer has room for a window after the
    // carry.
    unsafe { payload.load(at, to, bytes as u32) }
}

/// Skips the bytes of a body that are in the segment. The bytes past the end of the window are not
/// loaded.
#[inline(always)]
fn skip_body(scan: &mut Scan, rules: &Rules) {
    let left = scan.len.wrapping_sub(scan.at);
    let mut skip = left;
    if scan.state.mode != MODE_UNTIL_CLOSE {
        if scan.state.body_left < u64::from(left) {
            skip = scan.state.body_left as u32;
        }
        scan.state.body_left -= u64::from(skip);
    }
    scan.at = scan.at.wrapping_add(skip);
    let loaded = scan.end.wrapping_sub(scan.pos);
    if skip <= loaded {
        scan.pos += skip;
    } else {
        scan.base = scan.at;
        scan.pos = CARRY as u32;
        scan.end = CARRY as u32;
        if skip - loaded >= LONG {
            scan.want = SMALL;
        }
    }
    scan.line = scan.pos;
    scan.hold = scan.pos;
    if scan.state.body_left == 0 {
        if scan.state.mode == MODE_CHUNK_DATA {
            scan.state.mode = MODE_CHUNK_END;
        } else if scan.state.mode == MODE_BODY {
            // The head of the next message may follow, for which a whole window is loaded.
            scan.want = WINDOW as u32;
            if complete(scan, rules) {
                return;
            }
        }
    }
    if scan.at >= scan.len {
        scan.event = EVENT_MORE;
    }
}

/// Ends the message. Returns true for a response, because the end of a response is an event.
#[inline(always)]
pub(super) fn complete(scan: &mut Scan, rules: &Rules) -> bool {
    scan.state.reset();
    if rules.response != 0 {
        scan.event = EVENT_END;
        return true;
    }
    false
}

/// Reports that the direction is malformed, and keeps it malformed. Returns true, because this is
/// an event.
#[inline(always)]
pub(super) fn malformed(scan: &mut Scan) -> bool {
    scan.event = EVENT_MALFORMED;
    scan.state.mode = MODE_DEAD;
    true
}

/// Reports the HTTP/2 preface, after which no HTTP/1.x follows. Returns true, because this is an
/// event.
#[inline(always)]
pub(super) fn http2(scan: &mut Scan) -> bool {
    scan.event = EVENT_HTTP2;
    scan.state.mode = MODE_DEAD;
    true
}

/// Continues the scan after [`EVENT_HEAD`]. `body` is the kind of the message's body, one of
/// `BODY_*`.
///
/// # Safety
/// `scan` is valid, and nothing else accesses its target.
#[inline(always)]
pub unsafe fn go_on(scan: *mut Scan, body: u32) {
    // SAFETY: the caller guarantees this.
    let state = unsafe { &mut (*scan).state };
    state.begun = 1;
    if body == BODY_INTERIM {
        state.reset();
    } else if body == BODY_LENGTH && state.length > 0 {
        state.body_left = state.length;
        state.mode = MODE_BODY;
    } else if body == BODY_CHUNKED {
        state.seen |= SEEN_BODY;
        state.mode = MODE_CHUNK;
    } else if body == BODY_UNTIL_CLOSE || body == BODY_TUNNEL || body == BODY_OTHER_HTTP {
        state.body_left = u64::MAX;
        state.mode = MODE_UNTIL_CLOSE;
    } else {
        state.mode = MODE_DONE;
    }
}

/// Returns whether the request for which [`go_on`] has just been called is complete and ends with
/// the segment. If so, this function also changes the scan as a call to [`unit`] would, at a lower
/// cost.
///
/// # Safety
/// `scan` is valid, and nothing else accesses its target.
#[inline(always)]
pub unsafe fn was_last(scan: *mut Scan) -> bool {
    // SAFETY: the caller guarantees this.
    let scan = unsafe { &mut *scan };
    if scan.state.mode != MODE_DONE || scan.at < scan.len {
        return false;
    }
    scan.state.reset();
    scan.event = EVENT_MORE;
    true
}

/// Returns whether the response for which [`go_on`] has just been called ends with the segment, as
/// most responses do. If so, this function also changes the scan as calls to [`unit`] would, at a
/// lower cost.
///
/// # Safety
/// `scan` is valid, and nothing else accesses its target.
#[inline(always)]
pub unsafe fn ends_segment(scan: *mut Scan) -> bool {
    // SAFETY: the caller guarantees this.
    let scan = unsafe { &mut *scan };
    let left = u64::from(scan.len.wrapping_sub(scan.at));
    let ends = match scan.state.mode {
        MODE_DONE => left == 0,
        MODE_BODY => left == scan.state.body_left,
        _ => false,
    };
    if ends {
        scan.state.reset();
        scan.at = scan.len;
        scan.event = EVENT_END;
    }
    ends
}

/// Goes back to the beginning of the message, which must have begun in this segment. The scan is
/// then as if neither the message nor any later byte had been read.
///
/// # Safety
/// `scan` is valid, and nothing else accesses its target.
#[inline(always)]
pub unsafe fn rewind(scan: *mut Scan) {
    // SAFETY: the caller guarantees this.
    let scan = unsafe { &mut *scan };
    scan.state.reset();
    scan.at = scan.message_at as u32;
}

/// Goes back to the payload offset `at`. The byte at this offset must be in a body or, if `chunked`
/// is true, in the data of a chunk. The body or the data must have `left` bytes from this offset
/// on. The scan is then as if no byte from this offset on had been read.
///
/// # Safety
/// `scan` is valid, and nothing else accesses its target.
#[inline(always)]
pub unsafe fn rewind_into_body(scan: *mut Scan, at: u32, chunked: bool, left: u64) {
    // SAFETY: the caller guarantees this.
    let scan = unsafe { &mut *scan };
    scan.state.reset();
    scan.state.body_left = left;
    if chunked {
        scan.state.seen |= SEEN_BODY;
        scan.state.mode = MODE_CHUNK_DATA;
    } else {
        scan.state.mode = MODE_BODY;
    }
    scan.at = at;
    scan.message_at = at as i32;
}

/// Ends the segment, and stores in `progress` the position at the offset `Scan::at`, from which the
/// next segment continues. If [`Progress::is_unfinished`] is true for this position, the caller has
/// to call [`suspend`] next.
///
/// # Safety
/// Both pointers are valid, and nothing else accesses their targets.
#[inline(always)]
pub unsafe fn end(scan: *mut Scan, progress: *mut Progress) {
    // SAFETY: the caller guarantees this.
    let (scan, progress) = unsafe { (&mut *scan, &mut *progress) };
    let mode = scan.state.mode;
    if mode == MODE_IDLE {
        progress.mode = MODE_IDLE;
        progress.begun = scan.state.begun;
        progress.carry = 0;
        return;
    }
    // A body has no line to continue. The scan may have read a line before it, or, if it went back
    // (`rewind_into_body`), after it.
    scan.state.carry = if mode >= MODE_CHUNK_DATA {
        0
    } else {
        scan.pos.wrapping_sub(scan.hold)
    };
    scan.state.head_bytes = scan.at.wrapping_sub(scan.message_at as u32);
    if mode == MODE_VALUE {
        // The line will be read again from its beginning.
        scan.state.mode = MODE_FIELD;
    } else if mode > MODE_AFTER && mode < MODE_CHUNK_END {
        // The scan stopped within a line although all bytes were read. This means that LINES is too
        // small, which should be impossible.
        scan.state.mode = MODE_DEAD;
    }
    progress.copy(&scan.state);
}

/// Stores in `unfinished` the head or the line that the segment has left unfinished.
///
/// # Safety
/// Both pointers are valid, and nothing else accesses their targets. [`end`] has just been called.
#[inline(always)]
pub unsafe fn suspend(scan: *mut Scan, unfinished: *mut Unfinished) {
    // SAFETY: the caller guarantees this.
    let (scan, unfinished) = unsafe { (&mut *scan, &mut *unfinished) };
    scan.state.store_digests(unfinished);
    if scan.state.carry == 0 {
        unfinished.clear();
        return;
    }
    let mut i = 0;
    while i < CARRY / 8 {
        unfinished.carry[i] = scan.take_carry(scan.pos, i).to_le();
        i += 1;
    }
    if scan.state.mode == MODE_STREAM {
        scan.stream.store(&mut unfinished.carry);
    }
}

impl Scan {
    /// Returns the payload offset of the byte at `position` in the buffer. The byte may be from an
    /// earlier segment. Its offset is then below zero, and wraps.
    #[inline(always)]
    pub(super) fn offset(&self, position: u32) -> u32 {
        self.base.wrapping_add(position).wrapping_sub(CARRY as u32)
    }

    /// Returns the word with the index `index` in the block of CARRY bytes that ends at `end`.
    /// Clears this word in the buffer, because it may be a part of a key.
    #[inline(always)]
    fn take_carry(&mut self, end: u32, index: usize) -> u64 {
        let position = end
            .wrapping_sub(CARRY as u32)
            .wrapping_add(8 * index as u32);
        let word = self.word(position);
        self.put(position, 0);
        word
    }
}

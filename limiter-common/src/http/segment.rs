//! From segment to window: begins, loads, skips bodies, ends.

use super::{
    BODY_CHUNKED, BODY_INTERIM, BODY_LENGTH, BODY_TUNNEL, BODY_UNTIL_CLOSE, CARRY, EVENT_END,
    EVENT_FAILED, EVENT_HEAD, EVENT_HTTP2, EVENT_MALFORMED, EVENT_MORE, EVENT_NONE, MODE_BODY,
    MODE_CHUNK, MODE_CHUNK_DATA, MODE_CHUNK_END, MODE_DEAD, MODE_DONE, MODE_FIELD, MODE_HEAD,
    MODE_IDLE, MODE_UNTIL_CLOSE, MODE_VALUE, Parser, Rules, SEEN_BODY, Scan, WINDOW,
    word::{copy, hide, window, zero},
};

/// What is loaded behind a long chunk: the line with the next one's size is all that matters.
const SMALL: u32 = 64;
/// A chunk that reaches so far beyond the window is long.
pub(super) const LONG: u32 = 512;

/// Where payload comes from: in the kernel `bpf_skb_load_bytes`, on the host a slice.
pub trait Payload {
    /// Copies the payload bytes from `at` on to `to`; false if that is impossible.
    ///
    /// # Safety
    /// `len` is 1 to [`WINDOW`], `len` bytes can be written at `to`, and the payload has that many
    /// from `at` on.
    unsafe fn load(&self, at: u32, to: *mut u8, len: u32) -> bool;
}

/// Begins to take in a segment of `len` bytes of payload, those before `from` having been taken in
/// before.
///
/// # Safety
/// Both pointers are valid, and nothing else uses what they point to.
#[inline(always)]
pub unsafe fn begin(scan: *mut Scan, parser: *const Parser, from: u32, len: u32) {
    // SAFETY: by contract.
    let (scan, parser) = unsafe { (&mut *scan, &*parser) };
    let mut carry = 0;
    if parser.state.mode == MODE_IDLE {
        scan.state.begun = parser.state.begun;
        scan.state.reset();
    } else {
        scan.state.copy(&parser.state);
        carry = scan.state.carry;
        if carry > CARRY as u32 {
            scan.state.mode = MODE_DEAD;
            carry = 0;
        }
        if carry > 0 {
            // SAFETY: both are arrays of words, of that many at least.
            unsafe { copy::<{ CARRY / 8 }>(parser.carry.as_ptr(), scan.buf.as_mut_ptr()) };
        }
    }
    scan.event = EVENT_NONE;
    scan.at = from;
    scan.message_at = from.wrapping_sub(scan.state.head_bytes) as i32;
    scan.framing_from = from;
    scan.framing_to = from;
    scan.len = len;
    scan.base = from;
    scan.pos = CARRY as u32;
    scan.end = CARRY as u32;
    scan.line = CARRY as u32;
    scan.hold = CARRY as u32 - carry;
    scan.want = WINDOW as u32;
}

/// One unit of work: skips body, or loads a window and runs `lines` over it, which calls
/// [`super::line`] until that returns true or [`super::LINES`] is reached.
///
/// True: look at `Scan::event`. False: call it again.
///
/// # Safety
/// `scan` was begun and `rules` are valid; but for `lines`, nothing else uses what they point to.
#[inline(always)]
pub unsafe fn unit<P: Payload>(
    scan: *mut Scan,
    rules: *const Rules,
    payload: &P,
    lines: impl FnOnce(),
) -> bool {
    {
        // SAFETY: by contract; `lines` runs later.
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
    // SAFETY: by contract; `lines` is done.
    let scan = unsafe { &mut *scan };
    if scan.state.mode == MODE_DEAD {
        // What is malformed was not taken in, and may have begun in an earlier segment.
        return true;
    }
    scan.at = scan.offset(scan.pos);
    scan.framing_to = scan.at;
    scan.event != EVENT_NONE
}

/// Loads the next window, and puts in front of it the bytes that must be seen again.
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
            // The last CARRY bytes loaded, which may be those in front of the window.
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
    // SAFETY: `bytes` is 1 to WINDOW by its mask and no more than is left, and the buffer has room
    // for a window behind the carry.
    unsafe { payload.load(at, to, bytes as u32) }
}

/// Skips what the segment holds of a body, in the window and beyond, without loading it.
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
            // The next message's head is worth a whole window.
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

/// The message has ended. True: that is to be reported.
#[inline(always)]
pub(super) fn complete(scan: &mut Scan, rules: &Rules) -> bool {
    scan.state.reset();
    if rules.response != 0 {
        scan.event = EVENT_END;
        return true;
    }
    false
}

/// Malformed, for good.
#[inline(always)]
pub(super) fn malformed(scan: &mut Scan) -> bool {
    scan.event = EVENT_MALFORMED;
    scan.state.mode = MODE_DEAD;
    true
}

/// The HTTP/2 preface: no HTTP/1.x any more.
#[inline(always)]
pub(super) fn http2(scan: &mut Scan) -> bool {
    scan.event = EVENT_HTTP2;
    scan.state.mode = MODE_DEAD;
    true
}

/// After [`EVENT_HEAD`]: how the message goes on, one of `BODY_*`.
///
/// # Safety
/// `scan` is valid, and nothing else uses what it points to.
#[inline(always)]
pub unsafe fn go_on(scan: *mut Scan, body: u32) {
    // SAFETY: by contract.
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
    } else if body == BODY_UNTIL_CLOSE || body == BODY_TUNNEL {
        state.body_left = u64::MAX;
        state.mode = MODE_UNTIL_CLOSE;
    } else {
        state.mode = MODE_DONE;
    }
}

/// After [`go_on`] with a request: whether that is over and was the last of the segment. Then all
/// bytes are taken in, as [`unit`] would say at the price of another turn.
///
/// # Safety
/// `scan` is valid, and nothing else uses what it points to.
#[inline(always)]
pub unsafe fn was_last(scan: *mut Scan) -> bool {
    // SAFETY: by contract.
    let scan = unsafe { &mut *scan };
    if scan.state.mode != MODE_DONE || scan.at < scan.len {
        return false;
    }
    scan.state.reset();
    scan.event = EVENT_MORE;
    true
}

/// After [`go_on`] with a response: whether that ends with the segment, as most do. Then all bytes are
/// taken in, as [`unit`] would say at the price of another turn.
///
/// # Safety
/// `scan` is valid, and nothing else uses what it points to.
#[inline(always)]
pub unsafe fn ends_segment(scan: *mut Scan) -> bool {
    // SAFETY: by contract.
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

/// Goes back to where the message began, which is in this segment: as if neither it nor what comes
/// after it had been seen.
///
/// # Safety
/// `scan` is valid, and nothing else uses what it points to.
#[inline(always)]
pub unsafe fn rewind(scan: *mut Scan) {
    // SAFETY: by contract.
    let scan = unsafe { &mut *scan };
    scan.state.reset();
    scan.at = scan.message_at as u32;
}

/// Goes back to byte `at` of the segment, which lies in a body (`chunked`: in the data of a chunk) that
/// goes on for `left` bytes from there: as if nothing after it had been seen.
///
/// # Safety
/// `scan` is valid, and nothing else uses what it points to.
#[inline(always)]
pub unsafe fn rewind_into_body(scan: *mut Scan, at: u32, chunked: bool, left: u64) {
    // SAFETY: by contract.
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
}

/// Keeps what the next segment needs, up to `Scan::at`.
///
/// # Safety
/// Both pointers are valid, and nothing else uses what they point to.
#[inline(always)]
pub unsafe fn end(scan: *mut Scan, parser: *mut Parser) {
    // SAFETY: by contract.
    let (scan, parser) = unsafe { (&mut *scan, &mut *parser) };
    let mode = scan.state.mode;
    let carried = parser.state.carry;
    if mode == MODE_IDLE {
        parser.state.mode = MODE_IDLE;
        parser.state.begun = scan.state.begun;
        parser.state.carry = 0;
        if carried > 0 {
            // SAFETY: an array of words.
            unsafe { zero::<{ CARRY / 8 }>(parser.carry.as_mut_ptr()) };
        }
        return;
    }
    let held = if mode == MODE_DEAD {
        0
    } else {
        scan.pos.wrapping_sub(scan.hold)
    };
    scan.state.carry = held;
    scan.state.head_bytes = scan.at.wrapping_sub(scan.message_at as u32);
    if mode == MODE_VALUE {
        // The line is read again from its beginning.
        scan.state.mode = MODE_FIELD;
    } else if mode > MODE_VALUE && mode < MODE_CHUNK_END {
        // Within a line, and all its bytes are gone: LINES was too small, which cannot be.
        scan.state.mode = MODE_DEAD;
    }
    if mode >= MODE_CHUNK_END {
        parser.state.copy_control(&scan.state);
    } else {
        parser.state.copy(&scan.state);
    }
    if held > 0 {
        let mut i = 0;
        while i < CARRY / 8 {
            parser.carry[i] = scan.take_carry(scan.pos, i).to_le();
            i += 1;
        }
    } else if carried > 0 {
        // What was carried may be a part of a key.
        // SAFETY: an array of words.
        unsafe { zero::<{ CARRY / 8 }>(parser.carry.as_mut_ptr()) };
    }
}

impl Scan {
    /// The payload offset of a position; of carried bytes, wrapped around zero.
    #[inline(always)]
    pub(super) fn offset(&self, position: u32) -> u32 {
        self.base.wrapping_add(position).wrapping_sub(CARRY as u32)
    }

    /// Word `index` of the CARRY bytes in front of `end`, which is no longer there afterwards: it
    /// may be a part of a key.
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

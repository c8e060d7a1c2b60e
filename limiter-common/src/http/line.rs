// SPDX-License-Identifier: MIT OR Apache-2.0

//! From window to line: finds the end of a line, and calls the function that reads the content of
//! the line.

use super::{
    CARRY, EVENT_HEAD, METHOD_CONNECT, METHOD_CONNECT_LIKE, METHOD_PRI, METHOD_SM, MODE_CHUNK,
    MODE_FIELD, MODE_HEAD, MODE_HEX, MODE_IDLE, MODE_NAME, MODE_REST, MODE_SKIP, MODE_START,
    MODE_STREAM, MODE_TRIM, MODE_VALUE, Rules, SEEN_CHUNKED, SEEN_ENCODING, SEEN_LENGTH,
    SEEN_RESPELLED, SEEN_TRAILERS, Scan, field, has_several_keys,
    segment::{complete, http2, malformed},
    start, value,
    word::{Cursor, control, first, has_control},
};

/// The number of bytes of a long request line that are kept to check its end. The longest end that
/// matters is `" HTTP/1.1\r"`.
const TAIL: u32 = 16;

/// The result of a search in a line.
pub(super) enum Outcome {
    /// The line continues in this mode at this position.
    Mode(u32, u32),
    /// The window ended before the search was complete.
    Nothing,
    /// The step is complete, and [`line`] returns this value.
    Stop(bool),
    /// There is a value to read.
    Value,
}

/// The bytes `"\r\n"` as the 16-bit number that a load of these bytes returns.
pub(super) const CRLF: u16 = u16::from_le_bytes(*b"\r\n");

/// Reads a line or the next part of a long line, or does one step in the value of a field that
/// matters. Returns true if the window has ended or an event has occurred.
///
/// # Safety
/// `begin` was called for `scan`, and `rules` is valid. Nothing else accesses the targets of these
/// two pointers.
#[inline(always)]
pub unsafe fn line(scan: *mut Scan, rules: *const Rules) -> bool {
    // SAFETY: the caller guarantees this.
    let (scan, rules) = unsafe { (&mut *scan, &*rules) };
    if scan.state.mode == MODE_FIELD || scan.state.mode == MODE_SKIP {
        skim(scan, rules);
    }
    if scan.state.mode < MODE_STREAM {
        match search(scan, rules) {
            Outcome::Value => {}
            Outcome::Stop(stop) => return stop,
            _ => return true,
        }
    }
    value::step(scan, rules)
}

/// The maximum number of steps in a call to [`skim`]. A step skips a line, or [`STRIDE`] bytes of a
/// long line.
const STEPS: u32 = 8;

/// Skips lines up to the first line that matters or needs a closer check. Most lines can be
/// skipped. The result is the same as if [`search`] handled each of the skipped lines, but `skim`
/// takes only a fraction of the time.
#[inline(always)]
fn skim(scan: &mut Scan, rules: &Rules) {
    let end = scan.end;
    let (mut mode, mut pos, mut line) = (scan.state.mode, scan.pos, scan.line);
    let mut lines = scan.state.lines;
    let mut left = STEPS;
    // The loop ends with a jump to its beginning. Linux 6.1 rejects a loop whose last instruction
    // falls through to the beginning of the loop (`push_insn` in kernel/bpf/verifier.c), and LLVM
    // compiled other forms of this loop in that way.
    loop {
        let mut from = pos;
        if mode == MODE_FIELD {
            let Some(position) = field::irrelevant(scan, rules, pos) else {
                break;
            };
            from = position;
        }
        let (words, bits) = unusual(scan.cursor(from));
        if bits == 0 {
            let next = from.wrapping_add(STRIDE);
            if next >= end {
                break;
            }
            (mode, pos) = (MODE_SKIP, next);
        } else {
            let stop = from.wrapping_add((words * 8 + first(bits)) as u32);
            let next = stop.wrapping_add(2);
            if next > end || scan.word(stop) as u16 != CRLF || lines >= rules.max_lines {
                break;
            }
            lines += 1;
            (mode, pos, line) = (MODE_FIELD, next, next);
        }
        left -= 1;
        if left == 0 {
            break;
        }
    }
    scan.state.mode = mode;
    scan.state.lines = lines;
    scan.pos = pos;
    scan.line = line;
}

/// Looks for the end of the line.
#[inline(always)]
fn search(scan: &mut Scan, rules: &Rules) -> Outcome {
    let mut mode = scan.state.mode;
    // If the window ends before the line does, the bytes before `seen` need not be read again.
    let mut seen = scan.end;
    'incomplete: {
        let mut pos = scan.pos;
        if mode == MODE_FIELD {
            match field::name(scan, rules, pos) {
                Outcome::Mode(field, position) => (mode, pos) = (field, position),
                Outcome::Nothing => break 'incomplete,
                found => return found,
            }
        } else if mode == MODE_NAME {
            match field::rest_of_name(scan, rules, pos) {
                Outcome::Mode(field, position) => (mode, pos) = (field, position),
                Outcome::Nothing => break 'incomplete,
                found => return found,
            }
        } else if mode == MODE_IDLE {
            if pos >= scan.end {
                return Outcome::Stop(true);
            }
            scan.message_at = scan.offset(pos) as i32;
            mode = MODE_START;
        }
        let (words, bits) = unusual(scan.cursor(pos));
        if bits == 0 {
            scan.pos = pos.wrapping_add(STRIDE);
            scan.state.mode = mode;
            if scan.pos < scan.end {
                return Outcome::Stop(false);
            }
            break 'incomplete;
        }
        let stop = pos.wrapping_add((words * 8 + first(bits)) as u32);
        if stop >= scan.end {
            break 'incomplete;
        }
        let found = scan.word(stop);
        let byte = found as u8;
        let next;
        if found as u16 == CRLF && stop + 1 < scan.end {
            next = stop + 2;
        } else if byte == b'\n' {
            next = stop + 1;
            let strict = mode == MODE_CHUNK || scan.state.seen & SEEN_TRAILERS != 0;
            if strict && rules.response == 0 {
                // A line feed alone is malformed here, because some servers accept only CRLF, and
                // read on until they find it.
                return Outcome::Stop(malformed(scan));
            }
        } else if byte == b'\r' && stop + 1 >= scan.end {
            seen = stop;
            break 'incomplete;
        } else {
            // A tab is allowed only outside the request line, because servers that split the
            // request line at any blank read a tab in it differently from other servers.
            let start = mode == MODE_START || mode == MODE_REST;
            if rules.response == 0 && byte < 0x80 && (byte != b'\t' || start) {
                return Outcome::Stop(malformed(scan));
            }
            scan.state.mode = mode;
            scan.pos = stop + 1;
            // More bytes above 0x9f may follow. To save time, the next eight bytes are also skipped
            // if they contain no control character other than a tab.
            if !start && stop + 9 <= scan.end && !has_control(scan.word(stop + 1)) {
                scan.pos = stop + 9;
            }
            return Outcome::Stop(false);
        }
        return ended(scan, rules, mode, stop, next);
    }
    Outcome::Stop(incomplete(scan, rules, mode, seen))
}

/// The number of bytes that [`unusual`] checks.
const STRIDE: u32 = 64;

/// Searches the next eight words for a control character or a byte above 0x9f. Returns the index of
/// the first word with such a byte, and the result of [`control`] for this word. Both numbers are 0
/// if there is no such byte. Bytes above 0x9f are included because the cheapest test for control
/// characters finds them too.
#[inline(always)]
fn unusual(cursor: Cursor<'_>) -> (u64, u64) {
    macro_rules! words {
        ($($index:literal)*) => {$(
            let bits = control(cursor.word::<{ $index * 8 }>());
            if bits != 0 {
                return ($index, bits);
            }
        )*};
    }
    words!(0 1 2 3 4 5 6 7);
    (0, 0)
}

/// Handles the end of a line. The content of the line ends at `stop`, and the next line begins at
/// `next`.
#[inline(always)]
fn ended(scan: &mut Scan, rules: &Rules, mode: u32, stop: u32, next: u32) -> Outcome {
    let begin = scan.line;
    // The length that is compared with `CARRY` excludes the line feed, as in `incomplete`.
    let long = next.wrapping_sub(begin).wrapping_sub(1) > CARRY as u32;
    if mode == MODE_VALUE && long {
        return Outcome::Stop(field::too_long(scan, rules, begin));
    }
    scan.pos = next;
    scan.line = next;
    if mode != MODE_CHUNK {
        scan.state.mode = MODE_FIELD;
        scan.state.lines = scan.state.lines.wrapping_add(1);
        if scan.state.lines > rules.max_lines {
            return Outcome::Stop(malformed(scan));
        }
        if mode == MODE_SKIP {
            return Outcome::Stop(false);
        }
        if mode == MODE_START {
            return Outcome::Stop(start::line(scan, rules, begin, stop));
        }
        if mode == MODE_REST {
            return Outcome::Stop(start::version(scan, stop));
        }
    }
    scan.value_end = stop;
    if mode == MODE_CHUNK {
        if long {
            return Outcome::Stop(malformed(scan));
        }
        scan.value = begin;
        scan.number = 0;
        scan.progress = 0;
        scan.state.mode = MODE_HEX;
    } else {
        scan.state.mode = MODE_TRIM;
    }
    Outcome::Value
}

/// Handles the empty line after the fields. The empty line ends at `next`.
#[inline(always)]
pub(super) fn blank(scan: &mut Scan, rules: &Rules, next: u32) -> bool {
    scan.pos = next;
    scan.line = next;
    scan.hold = next;
    if scan.offset(next).wrapping_sub(scan.message_at as u32) > rules.max_head {
        return malformed(scan);
    }
    let seen = scan.state.seen;
    if seen & SEEN_TRAILERS != 0 {
        return complete(scan, rules);
    }
    if rules.response == 0 {
        let both = SEEN_ENCODING | SEEN_LENGTH;
        let body = seen & SEEN_CHUNKED != 0 || scan.state.length > 0;
        if seen & both == both
            || (seen & SEEN_ENCODING != 0 && scan.state.minor == 0)
            || (body
                && (scan.state.method == METHOD_CONNECT
                    || scan.state.method == METHOD_CONNECT_LIKE))
        {
            return malformed(scan);
        }
        // Servers that do not recognise the respelled field would use the key of another source.
        if seen & SEEN_RESPELLED != 0 && has_several_keys(&scan.state) {
            return malformed(scan);
        }
        if scan.state.method >= METHOD_PRI {
            return preface(scan);
        }
    }
    scan.state.mode = MODE_HEAD;
    scan.event = EVENT_HEAD;
    true
}

/// Handles an empty line of the HTTP/2 preface, which has two empty lines and no fields.
#[inline(always)]
fn preface(scan: &mut Scan) -> bool {
    let (method, lines) = (scan.state.method, scan.state.lines);
    if method == METHOD_PRI && lines == 1 {
        scan.state.method = METHOD_SM;
        scan.state.mode = MODE_START;
        return false;
    }
    if method == METHOD_SM && lines == 2 {
        return http2(scan);
    }
    malformed(scan)
}

/// Handles a window that ends within a line. `seen` is the end of the window, or the position of a
/// CR just before it.
#[inline(always)]
fn incomplete(scan: &mut Scan, rules: &Rules, mode: u32, seen: u32) -> bool {
    scan.state.mode = mode;
    let end = scan.end;
    let begin = scan.line;
    let long = end.wrapping_sub(begin) > CARRY as u32;
    let mut hold = begin;
    if mode == MODE_SKIP {
        hold = seen;
    } else if mode == MODE_NAME {
        hold = end;
    } else if mode == MODE_REST {
        if end.wrapping_sub(begin) > TAIL {
            hold = end.wrapping_sub(TAIL);
        }
    } else if mode == MODE_VALUE && !long {
        scan.state.mode = MODE_FIELD;
    } else if long {
        if mode == MODE_START && rules.response == 0 {
            if start::method(scan, begin) == 0 {
                return malformed(scan);
            }
            scan.state.mode = MODE_REST;
            hold = end.wrapping_sub(TAIL);
        } else {
            if mode == MODE_START {
                if !start::status(scan, begin) {
                    return malformed(scan);
                }
            } else if mode == MODE_CHUNK {
                return malformed(scan);
            } else {
                return field::too_long(scan, rules, begin);
            }
            scan.state.mode = MODE_SKIP;
            hold = seen;
        }
    }
    scan.pos = end;
    scan.hold = hold;
    if mode != MODE_CHUNK && scan.offset(end).wrapping_sub(scan.message_at as u32) > rules.max_head
    {
        return malformed(scan);
    }
    true
}

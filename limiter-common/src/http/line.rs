//! From window to line: finds where a line ends, and calls what it says.

use super::{
    CARRY, EVENT_HEAD, KEY_SLOTS, METHOD_CONNECT, METHOD_PRI, METHOD_SM, MODE_CHUNK, MODE_FIELD,
    MODE_HEAD, MODE_HEX, MODE_IDLE, MODE_NAME, MODE_REST, MODE_SKIP, MODE_START, MODE_TRIM,
    MODE_VALUE, Rules, SEEN_CHUNKED, SEEN_ENCODING, SEEN_LENGTH, SEEN_RESPELLED, SEEN_TRAILERS,
    Scan, field,
    segment::{complete, http2, malformed},
    start, value,
    word::{Cursor, control, first, has_control},
};

/// Bytes of a request line beyond the carry that are kept to check its end: its longest end that
/// matters is `" HTTP/1.1\r"`.
const TAIL: u32 = 16;

/// Where a search got to.
pub(super) enum Found {
    /// The line goes on at this position, in this mode.
    Mode(u32, u32),
    /// The window ends first.
    Nothing,
    /// What [`line`] is to return.
    Stop(bool),
    /// A value, to be looked at.
    Value,
}

/// `"\r\n"`, as it comes out of a load.
pub(super) const CRLF: u16 = u16::from_le_bytes(*b"\r\n");

/// Takes in a line, or the next part of a long one, or a step in the value of a field that
/// matters. True: the window is used up, or there is an event.
///
/// # Safety
/// `scan` was begun and `rules` are valid; nothing else uses what they point to.
#[inline(always)]
pub unsafe fn line(scan: *mut Scan, rules: *const Rules) -> bool {
    // SAFETY: by contract.
    let (scan, rules) = unsafe { (&mut *scan, &*rules) };
    if scan.state.mode == MODE_FIELD || scan.state.mode == MODE_SKIP {
        skim(scan, rules);
    }
    if scan.state.mode < MODE_TRIM {
        match search(scan, rules) {
            Found::Value => {}
            Found::Stop(stop) => return stop,
            _ => return true,
        }
    }
    value::step(scan, rules)
}

/// Steps of [`skim`] at most: lines, and parts of [`STRIDE`] bytes of long ones.
const STEPS: u32 = 8;

/// Passes over the lines ahead that do not matter and have nothing about them that needs a closer
/// look, as most have not: all that [`search`] would do with each, in a fraction of the time.
#[inline(always)]
fn skim(scan: &mut Scan, rules: &Rules) {
    let end = scan.end;
    let (mut mode, mut pos, mut line) = (scan.state.mode, scan.pos, scan.line);
    let mut lines = scan.state.lines;
    let mut step = 0;
    while step < STEPS {
        step += 1;
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
            continue;
        }
        let stop = from.wrapping_add((words * 8 + first(bits)) as u32);
        let next = stop.wrapping_add(2);
        if next > end || scan.word(stop) as u16 != CRLF || lines >= rules.max_lines {
            break;
        }
        lines += 1;
        (mode, pos, line) = (MODE_FIELD, next, next);
    }
    scan.state.mode = mode;
    scan.state.lines = lines;
    scan.pos = pos;
    scan.line = line;
}

/// Looks for the end of the line.
#[inline(always)]
fn search(scan: &mut Scan, rules: &Rules) -> Found {
    let mut mode = scan.state.mode;
    // Up to where bytes need not be seen again, should the window end before the line does.
    let mut seen = scan.end;
    'incomplete: {
        let mut pos = scan.pos;
        if mode == MODE_FIELD {
            match field::name(scan, rules, pos) {
                Found::Mode(field, position) => (mode, pos) = (field, position),
                Found::Nothing => break 'incomplete,
                found => return found,
            }
        } else if mode == MODE_NAME {
            match field::rest_of_name(scan, rules, pos) {
                Found::Mode(field, position) => (mode, pos) = (field, position),
                Found::Nothing => break 'incomplete,
                found => return found,
            }
        } else if mode == MODE_IDLE {
            if pos >= scan.end {
                return Found::Stop(true);
            }
            scan.message_at = scan.offset(pos) as i32;
            mode = MODE_START;
        }
        let (words, bits) = unusual(scan.cursor(pos));
        if bits == 0 {
            scan.pos = pos.wrapping_add(STRIDE);
            scan.state.mode = mode;
            if scan.pos < scan.end {
                return Found::Stop(false);
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
                // Some servers read on here until there is a CR as well.
                return Found::Stop(malformed(scan));
            }
        } else if byte == b'\r' && stop + 1 >= scan.end {
            seen = stop;
            break 'incomplete;
        } else {
            // Servers that split at any blank read a request line with a tab otherwise than we.
            let start = mode == MODE_START || mode == MODE_REST;
            if rules.response == 0 && byte < 0x80 && (byte != b'\t' || start) {
                return Found::Stop(malformed(scan));
            }
            scan.state.mode = mode;
            scan.pos = stop + 1;
            // Where there is one there may be many: on to the next that needs to be looked at.
            if !start && stop + 9 <= scan.end && !has_control(scan.word(stop + 1)) {
                scan.pos = stop + 9;
            }
            return Found::Stop(false);
        }
        return ended(scan, rules, mode, stop, next);
    }
    Found::Stop(incomplete(scan, rules, mode, seen))
}

/// Bytes that [`unusual`] looks at.
const STRIDE: u32 = 64;

/// The first of eight words with a control character (or a byte above 0x9f: that is what the
/// cheapest test finds as well), and a bit for each of those in it.
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

/// A line has ended: its content at `stop`, its line end at `next`.
#[inline(always)]
fn ended(scan: &mut Scan, rules: &Rules, mode: u32, stop: u32, next: u32) -> Found {
    let begin = scan.line;
    scan.pos = next;
    scan.line = next;
    if mode != MODE_CHUNK {
        scan.state.mode = MODE_FIELD;
        scan.state.lines = scan.state.lines.wrapping_add(1);
        if scan.state.lines > rules.max_lines {
            return Found::Stop(malformed(scan));
        }
        if mode == MODE_SKIP {
            return Found::Stop(false);
        }
        if mode == MODE_START {
            return Found::Stop(start::line(scan, rules, begin, stop));
        }
        if mode == MODE_REST {
            return Found::Stop(start::version(scan, stop));
        }
    }
    // Bytes before the line feed, as `incomplete` counts them.
    let long = next.wrapping_sub(begin).wrapping_sub(1) > CARRY as u32;
    scan.value_end = stop;
    if mode == MODE_CHUNK {
        if long {
            return Found::Stop(malformed(scan));
        }
        scan.value = begin;
        scan.number = 0;
        scan.progress = 0;
        scan.state.mode = MODE_HEX;
    } else {
        if long {
            return Found::Stop(field::too_long(scan, rules, begin));
        }
        scan.state.mode = MODE_TRIM;
    }
    Found::Value
}

/// The empty line behind the fields, which ends at `next`.
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
            || (body && scan.state.method == METHOD_CONNECT)
        {
            return malformed(scan);
        }
        // Which key counts is another question where one of them is not seen.
        let keys = seen & ((1 << KEY_SLOTS) - 1);
        if seen & SEEN_RESPELLED != 0 && keys & keys.wrapping_sub(1) != 0 {
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

/// An empty line in what begins as the HTTP/2 preface, which has two, and no field.
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

/// The window ends within a line. `seen` is the end, or a CR before it.
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
            } else if field::too_long(scan, rules, begin) {
                return true;
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

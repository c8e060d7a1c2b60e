//! An incremental scanner of HTTP/1.x messages (RFC 9112), the same in the kernel, in host tests
//! and under the fuzzer.
//!
//! It finds where each message of one direction of a connection begins and ends, and the key in it.
//! It is at least as lenient as any server in finding a request and its key, and takes for
//! malformed what servers disagree on. What it says does not depend on how the bytes are split.
//!
//! The caller works through a segment like this; in the kernel, `unit` is called by a callback of
//! `bpf_loop`, and `lines` is a nested `bpf_loop`:
//!
//! ```text
//! begin(scan, parser, from, len);
//! for _ in 0..UNITS {
//!     if unit(scan, rules, payload, || for _ in 0..LINES { if line(scan, rules) { break } }) {
//!         match (*scan).event {
//!             EVENT_HEAD => { /* decide */ go_on(scan, request_body(&(*scan).state)) }
//!             EVENT_END => { /* a response has left */ }
//!             _ => break,
//!         }
//!     }
//! }
//! end(scan, parser);
//! ```
//!
//! Read on in `segment` (from segment to window), `line` (from window to line), then `start`,
//! `field`, `value` and `chunk` (what the lines say).

mod chunk;
mod field;
mod line;
mod message;
mod rules;
mod segment;
mod start;
mod state;
mod value;
mod word;

pub use line::line;
pub use message::{key, request_body, response_body};
pub use rules::{Name, Rules, RulesError, Source, is_basic, is_key};
pub use segment::{
    Payload, begin, end, ends_segment, go_on, rewind, rewind_into_body, unit, was_last,
};

/// Bytes of an unfinished line that are carried to the next segment; also the longest line of a
/// field that matters. Room for the longest name and the longest key, with space around them.
pub const CARRY: usize = 256;
/// Bytes that are looked at in one go. Few segments from a wire are longer, and the buffer stays
/// small in the cache.
pub const WINDOW: usize = 4096;
/// Field names that can be looked for at once: four for keys, `Authorization`, `Content-Length`
/// and `Transfer-Encoding`, and one to spare.
pub const MAX_NAMES: usize = 8;
/// Bytes of the longest field name that can be looked for: four words.
pub const MAX_NAME: usize = 32;
/// Places where a key can stand: four fields, and the two schemes of `Authorization`.
pub const KEY_SOURCES: usize = 6;
/// [`KEY_SOURCES`], rounded up to a power of two for the sake of a mask.
const KEY_SLOTS: usize = 8;

/// How often `lines` calls [`line`] at most. Each call takes a byte at least, and of the bytes of a
/// value some are looked at again (its blanks, digits and base64 words), so three for each byte of
/// window and carry, rounded up, are never reached.
pub const LINES: u32 = 1 << 14;
/// How often [`unit`] is called for a segment at most. 64 KiB hold 17 windows, and no more than 113
/// chunks that are long enough to be worth a small window, at two units each; each message takes
/// two more (and a body of its own one), and the caller lets fewer than a hundred by. If it is
/// reached, `Scan::at` says how far it came, and the rest can be given in again later.
pub const UNITS: u32 = 512;

/// A method that does not matter to framing.
pub const METHOD_OTHER: u32 = 0;
/// HEAD: the response has no body.
pub const METHOD_HEAD: u32 = 1;
/// CONNECT: a 2xx response begins a tunnel.
pub const METHOD_CONNECT: u32 = 2;
/// What the HTTP/2 preface begins with, up to its first empty line; no method of a request.
const METHOD_PRI: u32 = 3;
/// The rest of the HTTP/2 preface; no method of a request.
const METHOD_SM: u32 = 4;

/// Nothing to report yet: call [`unit`] again.
pub const EVENT_NONE: u32 = 0;
/// All bytes are taken in; the message goes on, or a new one may begin.
pub const EVENT_MORE: u32 = 1;
/// The head is complete, and no byte of a body was taken in: decide, then call [`go_on`].
pub const EVENT_HEAD: u32 = 2;
/// Responses only: the message ends here.
pub const EVENT_END: u32 = 3;
/// Not HTTP/1.x, or what servers disagree on. It stays so.
pub const EVENT_MALFORMED: u32 = 4;
/// The connection begins with the HTTP/2 preface (RFC 9113, section 3.4), all of it.
pub const EVENT_HTTP2: u32 = 5;
/// The payload could not be read.
pub const EVENT_FAILED: u32 = 6;

/// No body.
pub const BODY_EMPTY: u32 = 0;
/// `State::length` bytes.
pub const BODY_LENGTH: u32 = 1;
/// Chunks (RFC 9112, section 7.1).
pub const BODY_CHUNKED: u32 = 2;
/// All that follows, until the connection is closed.
pub const BODY_UNTIL_CLOSE: u32 = 3;
/// All that follows, and it is not HTTP any more.
pub const BODY_TUNNEL: u32 = 4;
/// An interim response (RFC 9110, section 15.2): no body, and the real head follows.
pub const BODY_INTERIM: u32 = 5;

/// Before the first byte of a message.
const MODE_IDLE: u32 = 0;
/// In the start line, or the empty lines before it.
const MODE_START: u32 = 1;
/// At the beginning of a field line.
const MODE_FIELD: u32 = 2;
/// In the name of a field, beyond the length of those looked for.
const MODE_NAME: u32 = 3;
/// In a line that does not matter.
const MODE_SKIP: u32 = 4;
/// In a request line, beyond the carry: its end is still to be checked.
const MODE_REST: u32 = 5;
/// In the line with a chunk's size.
const MODE_CHUNK: u32 = 6;
/// Within a window only: behind the colon of a field that matters.
const MODE_VALUE: u32 = 7;
/// Within a window only: the line is complete, its value is trimmed.
const MODE_TRIM: u32 = 8;
/// Within a window only: the digits of `Content-Length`.
const MODE_DIGITS: u32 = 9;
/// Within a window only: the words of `Basic`.
const MODE_BASE64: u32 = 10;
/// Within a window only: the digits of a chunk's size.
const MODE_HEX: u32 = 11;
/// Behind a chunk's data.
const MODE_CHUNK_END: u32 = 12;
/// In a chunk's data.
const MODE_CHUNK_DATA: u32 = 13;
/// In a body of known length.
const MODE_BODY: u32 = 14;
/// In a body that ends with the connection.
const MODE_UNTIL_CLOSE: u32 = 15;
/// The head is complete, `go_on` is to be called.
const MODE_HEAD: u32 = 16;
/// A message without a body is complete.
const MODE_DONE: u32 = 17;
/// Malformed: stays so.
const MODE_DEAD: u32 = 18;

/// `Authorization` was seen. (The bits 0 to 7 of `State::seen`: the key of the source of that rank.)
const SEEN_AUTHORIZATION: u32 = 1 << 8;
/// `Content-Length` was seen.
const SEEN_LENGTH: u32 = 1 << 9;
/// `Transfer-Encoding` was seen.
const SEEN_ENCODING: u32 = 1 << 10;
/// The last transfer coding is `chunked`.
const SEEN_CHUNKED: u32 = 1 << 11;
/// Responses only: the length cannot be told.
const SEEN_UNCLEAR: u32 = 1 << 12;
/// The chunks have ended, trailers follow.
const SEEN_TRAILERS: u32 = 1 << 13;
/// The head is complete and chunks follow.
const SEEN_BODY: u32 = 1 << 14;

/// A key's field was named with `_` for `-`, or the other way: some servers do not see it.
const SEEN_RESPELLED: u32 = 1 << 15;

/// Where in a message a direction of a connection stands. All zero: before the first message.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// One of `MODE_*`.
    mode: u32,
    /// 1: a message has been completed.
    begun: u32,
    /// `SEEN_*` bits.
    seen: u32,
    /// Lines of the head (or of the trailers) so far.
    lines: u32,
    /// Bytes of the head (or of the trailers) in earlier segments.
    head_bytes: u32,
    /// Bytes of the unfinished line that are carried.
    carry: u32,
    /// Requests: `METHOD_*`.
    pub method: u32,
    /// Responses: the status code.
    pub status: u32,
    /// The minor version: 0 or 1.
    pub minor: u32,
    /// The rank of the source whose key is in `key`, plus one; 0: no key was found.
    pub rank: u32,
    /// The value of `Content-Length`.
    pub length: u64,
    /// Bytes of the body, or of the chunk, that are still to come.
    body_left: u64,
    /// The hash of the key.
    key: [u64; 2],
    /// The hash of the key by the rank of its source, to notice two that differ.
    digests: [[u64; 2]; KEY_SLOTS],
}

/// [`State`], with the unfinished line.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parser {
    /// The state.
    pub state: State,
    /// The last `state.carry` bytes are in use.
    carry: [u64; CARRY / 8],
}

impl Parser {
    /// Before the first message.
    pub const NEW: Self = Self {
        state: State::NEW,
        carry: [0; CARRY / 8],
    };
}

/// What one CPU needs to work through a segment: in the kernel a value of a per-CPU map. Any
/// content will do before [`begin`].
#[repr(C)]
pub struct Scan {
    /// The working copy.
    pub state: State,
    /// What [`unit`] reports: `EVENT_*`.
    pub event: u32,
    /// The payload offset of the first byte that was not taken in.
    pub at: u32,
    /// The payload offset at which the message began; negative: in an earlier segment. Means
    /// nothing once the head was complete at [`begin`].
    pub message_at: i32,
    /// Where the payload taken in that is not body begins, and
    pub framing_from: u32,
    /// where it ends; there may be bodies between. Equal: there is none.
    pub framing_to: u32,
    /// Bytes of payload.
    len: u32,
    /// The payload offset of the byte at position `CARRY` of the buffer.
    base: u32,
    /// The position of the next byte to look at.
    pos: u32,
    /// The position behind the last byte that was loaded.
    end: u32,
    /// The position at which the line begins.
    line: u32,
    /// At the end of the window: where the bytes begin that must be seen again.
    hold: u32,
    /// How many bytes to load next, at most.
    want: u32,
    /// What the field is: `rules::KIND_*`.
    kind: u32,
    /// The position at which the value begins, and
    value: u32,
    /// where it ends.
    value_end: u32,
    /// `MODE_BASE64`: the next word. `MODE_HEX`: digits so far.
    progress: u32,
    /// The number that is read.
    number: u64,
    /// The carry, and behind it the window; what lies further is never written and only read by
    /// loads of which no byte matters.
    buf: [u64; Self::BUFFER.len()],
}

impl Scan {
    /// What the buffer looks like.
    const BUFFER: [u64; (word::POSITIONS + 1 + word::REACH) / 8] =
        [0; (word::POSITIONS + 1 + word::REACH) / 8];
}

const _: () = {
    assert!(CARRY.is_multiple_of(8));
    assert!(CARRY + WINDOW <= word::POSITIONS);
    assert!(KEY_SOURCES <= KEY_SLOTS);
    // A per-CPU map value is at most 32 KiB (mm/percpu.c, PCPU_MIN_UNIT_SIZE).
    assert!(size_of::<Scan>() <= 16384);
    assert!(size_of::<State>().is_multiple_of(8) && size_of::<Rules>().is_multiple_of(8));
};

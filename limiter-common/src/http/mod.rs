// SPDX-License-Identifier: MIT OR Apache-2.0

//! An incremental scanner of HTTP/1.x messages (RFC 9112). The kernel, the tests on the host and
//! the fuzzer run the same code.
//!
//! The scanner finds the beginning, the end and the key of each message in one direction of a
//! connection. It finds requests and keys at least as leniently as any server, and reports input as
//! malformed if servers differ in how they parse it. Its results do not depend on how the bytes are
//! split into segments.
//!
//! The caller processes a segment as follows. In the kernel, a callback of `bpf_loop` calls `unit`,
//! and `lines` is a nested `bpf_loop`:
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
//! The modules are best read in the order `segment` (from segment to window), `line` (from window
//! to line), then `start`, `field`, `value`, `stream` and `chunk` (the contents of lines).

mod chunk;
mod field;
mod line;
mod message;
mod rules;
mod segment;
mod start;
mod state;
mod stream;
mod upgrade;
mod value;
mod word;

pub use line::line;
pub use message::{
    CONNECTION_WORDS, Persistence, choose_key, demands, has_several_keys, is_bodiless,
    is_preflight, keeps_open, key, key_at, keys, persistence, request_body, response_body,
};
pub use rules::{Name, Rules, RulesError, Source, is_basic, is_key};
use stream::Stream;

pub use segment::{
    Payload, begin, end, end_early, ends_segment, go_on, resume, resume_without, rewind,
    rewind_into_body, suspend, unit, was_last,
};
pub use upgrade::TAKEN_OUT;

/// The maximum number of bytes of an unfinished line that are carried to the next segment. This is
/// also the maximum length of the line of a field that matters, unless the field holds a key. The
/// carry has room for the longest name, the longest key, and blanks around them.
pub const CARRY: usize = 256;
/// The maximum number of bytes that are loaded at once. Few segments on a network are longer, and a
/// buffer of this size stays in the processor's cache.
pub const WINDOW: usize = 4096;
/// The maximum number of field names that the scanner can look for: four for keys, `Authorization`,
/// `Content-Length`, `Transfer-Encoding`, `Connection`, `Upgrade` and `Expect`, two for CORS
/// preflights, and some in reserve.
pub const MAX_NAMES: usize = 16;
/// The maximum length, in bytes, of a field name that the scanner can look for. This is the size of
/// four 64-bit words.
pub const MAX_NAME: usize = 32;
/// The number of places where a key can be: four fields, the two schemes of `Authorization`, and
/// the user name in `Basic`.
pub const KEY_SOURCES: usize = 7;
/// [`KEY_SOURCES`], rounded up to a power of two so that a mask can limit an index.
const KEY_SLOTS: usize = 8;

/// The maximum number of calls to [`line`] in one call to `lines`. Each call to [`line`] consumes
/// at least one byte, and some bytes of a value are read again (blanks, digits and base64 words).
/// Three calls for each byte of the window and the carry, rounded up, are more than any input
/// needs.
pub const LINES: u32 = 1 << 14;
/// The maximum number of calls to [`unit`] for a segment. A segment of 64 KiB has 17 windows and at
/// most 113 long chunks, after each of which a small window is loaded. Each window and each long
/// chunk takes two calls. Each message takes two more calls, or three if it has a body. The caller
/// admits fewer than a hundred messages. If the limit is reached, `Scan::at` shows how far the
/// scanner has read, and the caller can pass in the rest later.
pub const UNITS: u32 = 512;

/// A method that does not affect framing.
pub const METHOD_OTHER: u32 = 0;
/// HEAD: the response has no body.
pub const METHOD_HEAD: u32 = 1;
/// CONNECT: a 2xx response begins a tunnel.
pub const METHOD_CONNECT: u32 = 2;
/// OPTIONS: the request may be a CORS preflight.
pub const METHOD_OPTIONS: u32 = 3;
/// A spelling of CONNECT that is not all in capitals. It is another method according to RFC 9110,
/// section 9.1, but some servers treat it as CONNECT. Therefore it is refused wherever CONNECT is
/// refused, and never begins a tunnel.
pub const METHOD_CONNECT_LIKE: u32 = 4;
/// The first line of the HTTP/2 preface, which is not a request.
const METHOD_PRI: u32 = 5;
/// The last line of the HTTP/2 preface, which is not a request.
const METHOD_SM: u32 = 6;
/// The bits of the method in the result of [`demands`].
pub const METHOD: u32 = 7;

/// In the result of [`demands`]: the response may begin a tunnel, because the request asks for a
/// protocol other than HTTP (RFC 9110, section 7.8), or its method is CONNECT.
pub const ASKS_TUNNEL: u32 = 8;
/// In the result of [`demands`]: the request offers to continue in HTTP/2, or in HTTP within TLS
/// (RFC 2817).
pub const ASKS_HTTP: u32 = 16;
/// In the result of [`demands`]: the request is a CORS preflight.
const PREFLIGHT: u32 = 32;

/// There is nothing to report yet, and [`unit`] must be called again.
pub const EVENT_NONE: u32 = 0;
/// All bytes have been read. The message continues in the next segment, or a new message begins
/// there.
pub const EVENT_MORE: u32 = 1;
/// The head is complete, and no byte of a body has been read. The caller decides on the message,
/// and then calls [`go_on`].
pub const EVENT_HEAD: u32 = 2;
/// Responses only: the message ends here.
pub const EVENT_END: u32 = 3;
/// The bytes are not HTTP/1.x, or servers parse them differently. The direction stays malformed.
pub const EVENT_MALFORMED: u32 = 4;
/// The connection begins with the HTTP/2 preface (RFC 9113, section 3.4), and all of the preface
/// has been read.
pub const EVENT_HTTP2: u32 = 5;
/// The payload could not be read.
pub const EVENT_FAILED: u32 = 6;

/// The message has no body.
pub const BODY_EMPTY: u32 = 0;
/// The body has `State::length` bytes.
pub const BODY_LENGTH: u32 = 1;
/// The body consists of chunks (RFC 9112, section 7.1).
pub const BODY_CHUNKED: u32 = 2;
/// The body consists of all bytes until the connection is closed.
pub const BODY_UNTIL_CLOSE: u32 = 3;
/// All further bytes belong to a tunnel and are no longer HTTP.
pub const BODY_TUNNEL: u32 = 4;
/// An interim response (RFC 9110, section 15.2): it has no body, and the final response follows.
pub const BODY_INTERIM: u32 = 5;
/// All further bytes belong to another kind of HTTP, because the response accepts an offer to
/// switch to it.
pub const BODY_OTHER_HTTP: u32 = 6;

/// The mode before the first byte of a message.
const MODE_IDLE: u32 = 0;
/// The mode in the start line, or in the empty lines before it.
const MODE_START: u32 = 1;
/// The mode at the beginning of a field line.
const MODE_FIELD: u32 = 2;
/// The mode in a field name that is longer than any name that matters.
const MODE_NAME: u32 = 3;
/// The mode in a line that does not matter.
const MODE_SKIP: u32 = 4;
/// The mode in the part of a request line that exceeds the carry. The end of the line must be
/// checked.
const MODE_REST: u32 = 5;
/// The mode in the line with the size of a chunk.
const MODE_CHUNK: u32 = 6;
/// The mode after the colon of a field that matters. This mode does not last beyond the end of the
/// window.
const MODE_VALUE: u32 = 7;
/// The mode in a value that is read word by word.
const MODE_STREAM: u32 = 8;
/// The mode in the blanks and the line end after a value that was read word by word.
const MODE_AFTER: u32 = 9;
/// The mode in a value that is being trimmed. This mode does not last beyond the end of the window,
/// because a value is trimmed only once its line is complete or longer than the carry.
const MODE_TRIM: u32 = 10;
/// The mode in the digits of `Content-Length`. This mode does not last beyond the end of the
/// window.
const MODE_DIGITS: u32 = 11;
/// The mode after the last byte of a value that was read word by word, before the last bytes are
/// hashed and the key is noted. This mode does not last beyond the end of the window.
const MODE_END: u32 = 12;
/// The mode in the digits of the size of a chunk. This mode does not last beyond the end of the
/// window.
const MODE_HEX: u32 = 13;
/// The mode in the protocols of `Upgrade`. This mode does not last beyond the end of the window.
const MODE_UPGRADE: u32 = 14;
/// The mode after the data of a chunk.
const MODE_CHUNK_END: u32 = 15;
/// The mode in the data of a chunk.
const MODE_CHUNK_DATA: u32 = 16;
/// The mode in a body of known length.
const MODE_BODY: u32 = 17;
/// The mode in a body that ends when the connection is closed.
const MODE_UNTIL_CLOSE: u32 = 18;
/// The mode after a complete head. `go_on` must be called.
const MODE_HEAD: u32 = 19;
/// The mode after a complete message without a body.
const MODE_DONE: u32 = 20;
/// The mode after malformed bytes or the HTTP/2 preface. The direction never leaves this mode.
const MODE_DEAD: u32 = 21;

/// The bits of `State::seen` for keys. Bit n is for the source with rank n.
const SEEN_KEYS: u32 = (1 << KEY_SLOTS) - 1;
/// `Authorization` was seen.
const SEEN_AUTHORIZATION: u32 = 1 << 8;
/// `Content-Length` was seen.
const SEEN_LENGTH: u32 = 1 << 9;
/// `Transfer-Encoding` was seen.
const SEEN_ENCODING: u32 = 1 << 10;
/// The last transfer coding is `chunked`.
const SEEN_CHUNKED: u32 = 1 << 11;
/// Responses only: the length cannot be determined.
const SEEN_UNCLEAR: u32 = 1 << 12;
/// The chunks have ended and trailers follow.
const SEEN_TRAILERS: u32 = 1 << 13;
/// The head is complete and chunks follow.
const SEEN_BODY: u32 = 1 << 14;

/// The name of a field with a key is not spelled as configured: it has another byte in place of a
/// byte that is neither a letter nor a digit, for example `_` in place of `-`. Some servers do not
/// recognise such a field.
const SEEN_RESPELLED: u32 = 1 << 15;

/// `Upgrade` names a protocol other than HTTP.
const SEEN_UPGRADE: u32 = 1 << 24;
/// `Upgrade` names a kind of HTTP.
const SEEN_UPGRADE_HTTP: u32 = 1 << 25;
/// `Origin` was seen.
const SEEN_ORIGIN: u32 = 1 << 26;
/// `Access-Control-Request-Method` was seen. This bit and the next two must be above `SEEN_ORIGIN`,
/// because the kinds of the four fields are consecutive.
const SEEN_REQUEST_METHOD: u32 = 1 << 27;
/// `Expect` was seen.
const SEEN_EXPECT: u32 = 1 << 28;
/// `Connection` was seen.
const SEEN_CONNECTION: u32 = 1 << 29;
/// `Connection` was seen more than once.
const SEEN_CONNECTIONS: u32 = 1 << 30;

/// The position of one direction of a connection within a message, and the properties of the
/// message that have been read. A value of zeros is the position before the first message.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// One of `MODE_*`.
    mode: u32,
    /// 1 if at least one message in this direction had a complete head.
    begun: u32,
    /// `SEEN_*` bits.
    seen: u32,
    /// The number of lines of the head (or of the trailers) that have been read.
    lines: u32,
    /// The number of bytes of the head (or of the trailers) in earlier segments.
    head_bytes: u32,
    /// The number of bytes of the unfinished line in [`Unfinished`].
    carry: u32,
    /// The method of a request, one of `METHOD_*`.
    pub method: u32,
    /// The status code of a response.
    pub status: u32,
    /// The minor version of HTTP/1.x, 0 or 1.
    pub minor: u32,
    /// The rank of the source whose key counts, plus one; 0 if no key has been found. This source
    /// is the first one that has a key, or the one that was set with [`choose_key`].
    pub rank: u32,
    /// The value of `Content-Length`.
    pub length: u64,
    /// The number of bytes of the body or the chunk that have not been read yet.
    body_left: u64,
    /// The result of [`keys`].
    keys: u64,
}

/// The state of the scanner for one direction of a connection: its [`Progress`], and the keys of
/// the message. A state of zeros is the state before the first message.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    progress: Progress,
    /// The hashes of the keys, indexed by the ranks of their sources.
    digests: [[u64; 2]; KEY_SLOTS],
}

/// The memory that one direction needs in addition to its [`Progress`] if a segment ends within a
/// head or a line of framing ([`Progress::is_unfinished`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// As in [`State`].
    digests: [[u64; 2]; KEY_SLOTS],
    /// The unfinished line, in the last `Progress::carry` bytes of the array. In `MODE_STREAM`, the
    /// first bytes of the array contain a [`Stream`].
    carry: [u64; CARRY / 8],
}

/// The working memory of one CPU for a segment. In the kernel, this is a value of a per-CPU map.
/// The memory may have any content before [`begin`] is called.
#[repr(C)]
pub struct Scan {
    /// The working copy of the state.
    pub state: State,
    /// The result of [`unit`], one of `EVENT_*`.
    pub event: u32,
    /// The payload offset of the first byte that has not been read.
    pub at: u32,
    /// The payload offset at which the message began; negative if it began in an earlier segment.
    /// The offset has no meaning if the head was complete when [`begin`] was called.
    pub message_at: i32,
    /// The payload offset of the first byte that has been read and is not body.
    pub framing_from: u32,
    /// The payload offset after the last such byte. There may be bodies in between. If both offsets
    /// are equal, there is no such byte.
    pub framing_to: u32,
    /// The payload offset of the first letter of the offer that sets [`ASKS_HTTP`]. It is past the
    /// end of the payload unless the message has exactly one such offer and the offer is in this
    /// segment.
    pub offer: u32,
    /// The payload offset after the colon of the last field `Connection`. The offset has no meaning
    /// if the message does not begin in this segment.
    pub connection: u32,
    /// The [`demands`] of the head. The kernel programs store them here and read them back from
    /// memory, because the verifier then forgets the path on which they were computed.
    pub demands: u32,
    /// The size of the payload in bytes.
    len: u32,
    /// The payload offset of the byte at position `CARRY` of the buffer.
    base: u32,
    /// The position of the next byte to read.
    pos: u32,
    /// The position after the last byte that was loaded.
    end: u32,
    /// The position at which the line begins.
    line: u32,
    /// The position of the first byte that must be read again with the next window. It is set at
    /// the end of a window.
    hold: u32,
    /// The maximum size in bytes of the next window to load.
    want: u32,
    /// The kind of the field, one of `rules::KIND_*`.
    kind: u32,
    /// The position at which the value begins.
    value: u32,
    /// The position at which the value ends.
    value_end: u32,
    /// The number of digits that have been read (`MODE_HEX`), or the number of bytes that were read
    /// last (`MODE_STREAM`).
    progress: u32,
    /// The number that is being read, or the last bytes of a value (`MODE_END`).
    number: u64,
    /// The state of the value that is read in `MODE_STREAM`.
    stream: Stream,
    /// The carry, followed by the window. The bytes after the window are never written. Some loads
    /// include them, but the results of the scanner do not depend on them.
    buf: [u64; Self::BUFFER.len()],
}

impl Scan {
    /// An array of zeros that has the size of the buffer.
    const BUFFER: [u64; (word::POSITIONS + 1 + word::REACH) / 8] =
        [0; (word::POSITIONS + 1 + word::REACH) / 8];
}

const _: () = {
    assert!(CARRY.is_multiple_of(8));
    assert!(CARRY + WINDOW <= word::POSITIONS);
    assert!(KEY_SOURCES <= KEY_SLOTS);
    // The scan is a part of a per-CPU map value, which is at most 32 KiB (mm/percpu.c,
    // PCPU_MIN_UNIT_SIZE). Half of it is left for the other parts.
    assert!(size_of::<Scan>() <= 16384);
    assert!(size_of::<State>().is_multiple_of(8) && size_of::<Rules>().is_multiple_of(8));
    // In `MODE_STREAM`, the carry holds the stream and at most one word of the value.
    assert!(size_of::<Stream>().is_multiple_of(8) && size_of::<Stream>() + 8 <= CARRY);
};

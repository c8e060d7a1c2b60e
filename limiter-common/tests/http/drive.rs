// SPDX-License-Identifier: MIT OR Apache-2.0

//! Drives the scanner over segments as the kernel programs do, and checks the properties that must
//! always hold.

use std::{cell::Cell, mem::MaybeUninit, ptr::addr_of_mut};

use limiter_common::http::{
    self, BODY_INTERIM, EVENT_END, EVENT_HEAD, EVENT_HTTP2, EVENT_MALFORMED, EVENT_MORE,
    KEY_SOURCES, LINES, Payload, Persistence, Progress, Rules, Scan, Source, State, UNITS,
    Unfinished, WINDOW,
};
use limiter_common::siphash::siphash128;

/// The secret for hashing keys in these tests.
pub const SECRET: [u64; 2] = [0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00];
/// The limits of heads in these tests, which are the defaults.
pub const MAX_HEAD: u32 = 16_384;
pub const MAX_LINES: u32 = 128;

/// The sources in which the tests look for a key: a header, `Bearer`, `Basic`, another header, and
/// the user name of `Basic`.
pub const SOURCES: [Source<'static>; 5] = [
    Source::Header("x-api-key"),
    Source::Bearer,
    Source::Basic,
    Source::Header("Api_Token"),
    Source::BasicUser,
];

/// Returns the rules for requests with keys from [`SOURCES`].
pub fn rules() -> Rules {
    Rules::request(&SOURCES, SECRET, MAX_HEAD, MAX_LINES).expect("sources that can be looked for")
}

/// An event of the scanner. Offsets are in bytes from the beginning of the first segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are heads")]
pub enum Event {
    /// A complete head.
    Head {
        /// The offset at which the message begins, including empty lines before it.
        from: u64,
        /// The offset at which the head ends.
        to: u64,
        /// The method of a request.
        method: u32,
        /// The status of a response.
        status: u32,
        /// The rank (counted from one) of the first source that has a key, and the hash of that
        /// key.
        key: Option<(u32, [u64; 2])>,
        /// The keys of all sources, by rank.
        keys: Keys,
        /// The body of the message, one of `BODY_*`.
        body: u32,
        /// The value of `Content-Length`.
        length: u64,
    },
    /// The end of a response, at this offset.
    End(u64),
    /// The direction is malformed, and stays malformed.
    Malformed,
    /// The HTTP/2 preface.
    Http2,
}

/// The hashes of keys, indexed by the ranks of their sources. Here, the ranks are counted from
/// zero.
pub type Keys = [Option<[u64; 2]>; KEY_SOURCES];

/// Returns the base64 encoding of `bytes` (RFC 4648, section 4).
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let bits = (0..3).fold(0u32, |bits, i| {
            bits << 8 | u32::from(group.get(i).copied().unwrap_or(0))
        });
        let digit = |i: usize| match i <= group.len() {
            true => char::from(DIGITS[(bits >> (18 - 6 * i)) as usize & 63]),
            false => '=',
        };
        [digit(0), digit(1), digit(2), digit(3)]
    };
    bytes.chunks(3).flat_map(group).collect()
}

/// Returns a key as [`Event::Head`] contains it: the rank of its source, and its hash.
pub fn key(rank: u32, key: &str) -> Option<(u32, [u64; 2])> {
    Some((rank, siphash128(SECRET, key.as_bytes())))
}

/// Returns all keys that the scanner has noted, and asserts that the functions for keys agree with
/// them.
fn noted(state: &State) -> Keys {
    let keys: Keys = std::array::from_fn(|rank| http::key_at(state, rank as u32).copied());
    let count = keys.iter().flatten().count();
    assert_eq!(http::has_several_keys(state), count > 1);
    assert_eq!(http::keys(state) == 0, count == 0);
    let first = keys.iter().flatten().next();
    assert_eq!(http::key(state), first, "the first one counts");
    keys
}

/// The payload of a segment, and the number of bytes that have been loaded.
struct Slice<'a>(&'a [u8], &'a Cell<u64>);

impl Payload for Slice<'_> {
    unsafe fn load(&self, at: u32, to: *mut u8, len: u32) -> bool {
        assert!((1..=WINDOW as u32).contains(&len), "load of {len}");
        let from = &self.0[at as usize..][..len as usize];
        self.1.set(self.1.get() + u64::from(len));
        // SAFETY: the caller guarantees that `len` bytes can be written.
        unsafe { to.copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        true
    }
}

/// One direction of a connection.
pub struct Direction {
    scan: Box<Scan>,
    pub progress: Progress,
    /// The head or the line that the last segment has left unfinished.
    unfinished: Option<Unfinished>,
    rules: Rules,
    /// The demands of the requests that the responses answer, with the last request first.
    demands: Vec<u32>,
    /// The byte that fills the memory of the scan before each segment. In the kernel, the memory
    /// contains data of other connections at that time.
    stale: u8,
    /// The number of heads that are let through. The scan stops at the next head, as at a refused
    /// request, and reads no later bytes.
    pub heads: usize,
    /// The number of bytes that have been loaded.
    pub loaded: Cell<u64>,
    /// The total size of the earlier segments in bytes.
    before: u64,
    /// All events that have occurred.
    pub seen: Vec<Event>,
    /// The demands of each head ([`http::demands`]), and the offset of the offer that can be
    /// removed from its segment, if there is one.
    pub head_demands: Vec<(u32, Option<u64>)>,
    /// For each head, the client's intention for the connection, and the offset of the value of
    /// `Connection`.
    pub persistence: Vec<(Persistence, u64)>,
    /// The ranges of offsets that the scanner has reported as framing, which means that they are
    /// not body.
    pub framing: Vec<(u64, u64)>,
}

impl Direction {
    /// Returns a direction with requests.
    pub fn requests(rules: Rules) -> Self {
        Self::over(rules, b'\n')
    }

    /// Returns a direction with requests. Its buffer is full of `stale` bytes, which must not
    /// affect the result.
    fn over(rules: Rules, stale: u8) -> Self {
        // SAFETY: any content is valid, because a scan consists of integers.
        let scan: Box<Scan> = Box::new(unsafe { MaybeUninit::zeroed().assume_init() });
        Self {
            scan,
            progress: Progress::default(),
            unfinished: None,
            rules,
            demands: Vec::new(),
            stale,
            heads: usize::MAX,
            loaded: Cell::new(0),
            before: 0,
            seen: Vec::new(),
            head_demands: Vec::new(),
            persistence: Vec::new(),
            framing: Vec::new(),
        }
    }

    /// Returns a direction with responses to requests that have the demands in `demands`.
    pub fn responses(demands: &[u32]) -> Self {
        let demands = demands.iter().rev().copied().collect();
        Self {
            demands,
            ..Self::requests(Rules::response())
        }
    }

    /// Reads a segment. Returns false if nothing more can be read.
    pub fn segment(&mut self, bytes: &[u8]) -> bool {
        let response = self.rules == Rules::response();
        let scan = addr_of_mut!(*self.scan);
        let len = bytes.len() as u32;
        // SAFETY: a scan consists of integers, so any content is valid.
        unsafe { scan.cast::<u8>().write_bytes(self.stale, size_of::<Scan>()) };
        // SAFETY: both pointers are valid, and nothing else accesses their targets.
        unsafe { http::begin(scan, &raw const self.progress, 0, len) };
        if let Some(unfinished) = &self.unfinished {
            // SAFETY: as above.
            unsafe { http::resume(scan, &raw const *unfinished) };
        }
        let mut last = 0;
        for _ in 0..UNITS {
            let rules = &raw const self.rules;
            let lines = || {
                // SAFETY: `begin` was called for the scan, and nothing else accesses the scan
                // meanwhile.
                let done = (0..LINES).any(|_| unsafe { http::line(scan, rules) });
                assert!(done, "the bound of lines was reached");
            };
            // SAFETY: `begin` was called for the scan.
            let event = unsafe { http::unit(scan, rules, &Slice(bytes, &self.loaded), lines) };
            assert!(
                self.scan.at >= last && self.scan.at <= len,
                "{last} {}",
                self.scan.at
            );
            last = self.scan.at;
            if !event {
                continue;
            }
            let at = self.before + u64::from(self.scan.at);
            match self.scan.event {
                EVENT_MORE => {
                    assert_eq!(self.scan.at, len);
                    self.finish(len);
                    return true;
                }
                EVENT_HEAD => {
                    let state = &self.scan.state;
                    let body = if response {
                        let method = self.demands.last().copied().unwrap_or_default();
                        let body = http::response_body(state, method);
                        if body != BODY_INTERIM {
                            self.demands.pop();
                        }
                        body
                    } else {
                        http::request_body(state)
                    };
                    let offer =
                        (self.scan.offer < len).then(|| self.before + u64::from(self.scan.offer));
                    self.head_demands.push((http::demands(state), offer));
                    let connection = self.before.wrapping_add(u64::from(self.scan.connection));
                    self.persistence
                        .push((http::persistence(state), connection));
                    self.seen.push(Event::Head {
                        from: self
                            .before
                            .wrapping_add_signed(i64::from(self.scan.message_at)),
                        to: at,
                        method: state.method,
                        status: state.status,
                        key: http::key(state).map(|&digest| (state.rank, digest)),
                        keys: noted(state),
                        body,
                        length: state.length,
                    });
                    if self.seen.len() > self.heads {
                        return false;
                    }
                    // SAFETY: `begin` was called for the scan.
                    unsafe { http::go_on(scan, body) };
                    // SAFETY: as above.
                    if !response && unsafe { http::was_last(scan) } {
                        assert_eq!((self.scan.at, self.scan.event), (len, EVENT_MORE));
                        self.finish(len);
                        return true;
                    }
                    // SAFETY: as above.
                    if response && unsafe { http::ends_segment(scan) } {
                        assert_eq!((self.scan.at, self.scan.event), (len, EVENT_END));
                        self.seen.push(Event::End(self.before + u64::from(len)));
                        self.finish(len);
                        return true;
                    }
                }
                EVENT_END => self.seen.push(Event::End(at)),
                EVENT_MALFORMED | EVENT_HTTP2 => {
                    let malformed = self.scan.event == EVENT_MALFORMED;
                    self.seen.push(if malformed {
                        Event::Malformed
                    } else {
                        Event::Http2
                    });
                    self.finish(len);
                    return false;
                }
                event => panic!("event {event}"),
            }
        }
        // The scan has reached `UNITS`. The kernel programs cut the segment at this byte, and the
        // client retransmits the following bytes.
        let at = self.scan.at;
        assert!(at > 0, "no progress");
        self.finish(at);
        self.segment(&bytes[at as usize..])
    }

    /// Returns the whole memory of the scanner, and all that it has stored, as bytes.
    pub fn memory(&self) -> Vec<u8> {
        fn bytes<T>(value: &T) -> &[u8] {
            // SAFETY: the types below consist of integers without padding.
            unsafe { std::slice::from_raw_parts((&raw const *value).cast::<u8>(), size_of::<T>()) }
        }
        let unfinished = self.unfinished.as_ref().map_or(&[][..], bytes);
        [bytes(&*self.scan), bytes(&self.progress), unfinished].concat()
    }

    /// Goes back to the beginning of the last message, and returns its offset in the segment.
    pub fn rewind(&mut self) -> u32 {
        // SAFETY: `begin` was called for the scan.
        unsafe { http::rewind(addr_of_mut!(*self.scan)) };
        self.scan.at
    }

    /// Goes back to the payload offset `at`, which is in a body of which `left` bytes follow, or in
    /// the data of a chunk.
    pub fn rewind_into_body(&mut self, at: u32, chunked: bool, left: u64) {
        // SAFETY: `begin` was called for the scan.
        unsafe { http::rewind_into_body(addr_of_mut!(*self.scan), at, chunked, left) };
    }

    /// Stores the state that the next segment needs.
    pub fn store_state(&mut self) {
        let scan = addr_of_mut!(*self.scan);
        // SAFETY: both pointers are valid, and nothing else accesses their targets.
        unsafe { http::end(scan, &raw mut self.progress) };
        self.unfinished = self.progress.is_unfinished().then(|| {
            let mut unfinished = Unfinished::default();
            // SAFETY: as above.
            unsafe { http::suspend(scan, &raw mut unfinished) };
            unfinished
        });
    }

    fn finish(&mut self, len: u32) {
        let (from, to) = (self.scan.framing_from, self.scan.framing_to);
        assert!(from <= to && to <= len.max(self.scan.at));
        if from < to {
            self.framing
                .push((self.before + u64::from(from), self.before + u64::from(to)));
        }
        self.store_state();
        self.before += u64::from(len);
    }

    /// Reads `bytes` as segments that end at `cuts`.
    pub fn cut(&mut self, bytes: &[u8], cuts: &[usize]) -> &[Event] {
        let mut from = 0;
        for &to in cuts.iter().chain([&bytes.len()]) {
            if from < to && !self.segment(&bytes[from..to]) {
                break;
            }
            from = from.max(to);
        }
        &self.seen
    }
}

/// Returns the events of requests that arrive in one segment.
pub fn requests(bytes: &[u8]) -> Vec<Event> {
    let over = |stale| {
        let mut direction = Direction::over(rules(), stale);
        // No segment is longer than an IP packet.
        for part in bytes.chunks(65_000) {
            if !direction.segment(part) {
                break;
            }
        }
        direction.seen
    };
    let seen = over(b'\n');
    for stale in [b'\r', b'x', b':', b' ', 0] {
        assert_eq!(over(stale), seen, "over a buffer full of {stale}");
    }
    seen
}

/// Returns the events of requests that arrive in segments of one byte.
pub fn requests_by_byte(bytes: &[u8]) -> Vec<Event> {
    let cuts: Vec<usize> = (0..bytes.len()).collect();
    Direction::requests(rules()).cut(bytes, &cuts).to_vec()
}

/// Returns the keys of the heads, with `None` for a request without a key. Panics on any other
/// event.
pub fn keys(seen: &[Event]) -> Vec<Option<(u32, [u64; 2])>> {
    seen.iter()
        .map(|seen| match seen {
            Event::Head { key, .. } => *key,
            other => panic!("{other:?}"),
        })
        .collect()
}

//! Drives the scanner over segments, as the kernel programs do, and checks what must hold always.

use std::{cell::Cell, mem::MaybeUninit, ptr::addr_of_mut};

use limiter_common::http::{
    self, BODY_INTERIM, EVENT_END, EVENT_HEAD, EVENT_HTTP2, EVENT_MALFORMED, EVENT_MORE, LINES,
    Parser, Payload, Rules, Scan, Source, UNITS, WINDOW,
};
use limiter_common::siphash::siphash128;

/// The secret of these tests.
pub const SECRET: [u64; 2] = [0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00];
/// Limits of heads in these tests: the defaults.
pub const MAX_HEAD: u32 = 16_384;
pub const MAX_LINES: u32 = 128;

/// What the tests look for: a header, then `Bearer`, then `Basic`, then another header.
pub const SOURCES: [Source<'static>; 4] = [
    Source::Header("x-api-key"),
    Source::Bearer,
    Source::Basic,
    Source::Header("Api_Token"),
];

/// The rules of [`SOURCES`].
pub fn rules() -> Rules {
    Rules::request(&SOURCES, SECRET, MAX_HEAD, MAX_LINES).expect("sources that can be looked for")
}

/// What the scanner said; offsets count from the first byte of the first segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A head.
    Head {
        /// Where the message begins, empty lines before it included.
        from: u64,
        /// Where the head ends.
        to: u64,
        /// The method, for requests.
        method: u32,
        /// The status, for responses.
        status: u32,
        /// The rank of the source (from one) and the hash of the key.
        key: Option<(u32, [u64; 2])>,
        /// How it goes on.
        body: u32,
        /// `Content-Length`.
        length: u64,
    },
    /// The end of a response.
    End(u64),
    /// Malformed, for good.
    Malformed,
    /// The HTTP/2 preface.
    Http2,
}

/// The key as the scanner notes it.
pub fn key(rank: u32, key: &str) -> Option<(u32, [u64; 2])> {
    Some((rank, siphash128(SECRET, key.as_bytes())))
}

/// A segment's payload.
struct Slice<'a>(&'a [u8], &'a Cell<u64>);

impl Payload for Slice<'_> {
    unsafe fn load(&self, at: u32, to: *mut u8, len: u32) -> bool {
        assert!((1..=WINDOW as u32).contains(&len), "load of {len}");
        let from = &self.0[at as usize..][..len as usize];
        self.1.set(self.1.get() + u64::from(len));
        // SAFETY: the caller says that `len` bytes can be written.
        unsafe { to.copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        true
    }
}

/// One direction of a connection.
pub struct Direction {
    scan: Box<Scan>,
    pub parser: Parser,
    rules: Rules,
    /// The methods of the requests that are answered, for responses.
    methods: Vec<u32>,
    /// What the buffer is full of before each segment: other connections use it too.
    stale: u8,
    /// Heads after which to stop, as at a request that is refused; what comes then is not seen.
    pub heads: usize,
    /// Bytes that were loaded.
    pub loaded: Cell<u64>,
    /// Bytes of the segments before.
    before: u64,
    /// All that was seen.
    pub seen: Vec<Seen>,
    /// Offsets of all that was said to be no body.
    pub framing: Vec<(u64, u64)>,
}

impl Direction {
    /// Requests.
    pub fn requests(rules: Rules) -> Self {
        Self::over(rules, b'\n')
    }

    /// Requests, with a buffer that is full of `stale` bytes: they must not matter.
    fn over(rules: Rules, stale: u8) -> Self {
        // SAFETY: any content will do, a scan is made of integers.
        let scan: Box<Scan> = Box::new(unsafe { MaybeUninit::zeroed().assume_init() });
        Self {
            scan,
            parser: Parser::NEW,
            rules,
            methods: Vec::new(),
            stale,
            heads: usize::MAX,
            loaded: Cell::new(0),
            before: 0,
            seen: Vec::new(),
            framing: Vec::new(),
        }
    }

    /// Responses to requests of these methods.
    pub fn responses(methods: &[u32]) -> Self {
        let methods = methods.iter().rev().copied().collect();
        Self {
            methods,
            ..Self::requests(Rules::response())
        }
    }

    /// Takes in a segment; false if nothing more can be taken in.
    pub fn segment(&mut self, bytes: &[u8]) -> bool {
        let response = self.rules == Rules::response();
        let scan = addr_of_mut!(*self.scan);
        let len = bytes.len() as u32;
        // SAFETY: any content will do.
        unsafe { scan.cast::<u8>().write_bytes(self.stale, size_of::<Scan>()) };
        // SAFETY: both are valid and ours.
        unsafe { http::begin(scan, &raw const self.parser, 0, len) };
        let mut last = 0;
        for _ in 0..UNITS {
            let rules = &raw const self.rules;
            let lines = || {
                // SAFETY: the scan was begun, and is not used meanwhile.
                let done = (0..LINES).any(|_| unsafe { http::line(scan, rules) });
                assert!(done, "the bound of lines was reached");
            };
            // SAFETY: the scan was begun.
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
                        let method = self.methods.last().copied().unwrap_or_default();
                        let body = http::response_body(state, method);
                        if body != BODY_INTERIM {
                            self.methods.pop();
                        }
                        body
                    } else {
                        http::request_body(state)
                    };
                    self.seen.push(Seen::Head {
                        from: self
                            .before
                            .wrapping_add_signed(i64::from(self.scan.message_at)),
                        to: at,
                        method: state.method,
                        status: state.status,
                        key: http::key(state).map(|&digest| (state.rank, digest)),
                        body,
                        length: state.length,
                    });
                    if self.seen.len() > self.heads {
                        return false;
                    }
                    // SAFETY: the scan was begun.
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
                        self.seen.push(Seen::End(self.before + u64::from(len)));
                        self.finish(len);
                        return true;
                    }
                }
                EVENT_END => self.seen.push(Seen::End(at)),
                EVENT_MALFORMED | EVENT_HTTP2 => {
                    let malformed = self.scan.event == EVENT_MALFORMED;
                    self.seen.push(if malformed {
                        Seen::Malformed
                    } else {
                        Seen::Http2
                    });
                    self.finish(len);
                    return false;
                }
                event => panic!("event {event}"),
            }
        }
        // The caller cuts the segment there, and gets the rest again.
        let at = self.scan.at;
        assert!(at > 0, "no progress");
        self.finish(at);
        self.segment(&bytes[at as usize..])
    }

    /// All that is kept anywhere, as bytes.
    pub fn memory(&self) -> Vec<u8> {
        // SAFETY: both are made of integers without padding.
        unsafe {
            let scan =
                std::slice::from_raw_parts((&raw const *self.scan).cast::<u8>(), size_of::<Scan>());
            let parser = std::slice::from_raw_parts(
                (&raw const self.parser).cast::<u8>(),
                size_of::<Parser>(),
            );
            [scan, parser].concat()
        }
    }

    /// Goes back to where the last message began.
    pub fn rewind(&mut self) -> u32 {
        // SAFETY: the scan was begun.
        unsafe { http::rewind(addr_of_mut!(*self.scan)) };
        self.scan.at
    }

    /// Keeps what the next segment needs.
    pub fn keep(&mut self) {
        // SAFETY: both are valid and ours.
        unsafe { http::end(addr_of_mut!(*self.scan), &raw mut self.parser) };
    }

    fn finish(&mut self, len: u32) {
        let (from, to) = (self.scan.framing_from, self.scan.framing_to);
        assert!(from <= to && to <= len.max(self.scan.at));
        if from < to {
            self.framing
                .push((self.before + u64::from(from), self.before + u64::from(to)));
        }
        self.keep();
        self.before += u64::from(len);
    }

    /// Takes in `bytes` as segments that end at `cuts`.
    pub fn cut(&mut self, bytes: &[u8], cuts: &[usize]) -> &[Seen] {
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

/// What requests in one segment come to.
pub fn requests(bytes: &[u8]) -> Vec<Seen> {
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

/// What requests come to in as many segments as there are bytes.
pub fn requests_by_byte(bytes: &[u8]) -> Vec<Seen> {
    let cuts: Vec<usize> = (0..bytes.len()).collect();
    Direction::requests(rules()).cut(bytes, &cuts).to_vec()
}

/// The keys of the heads; `None` in it is a request without one. Panics on anything else.
pub fn keys(seen: &[Seen]) -> Vec<Option<(u32, [u64; 2])>> {
    seen.iter()
        .map(|seen| match seen {
            Seen::Head { key, .. } => *key,
            other => panic!("{other:?}"),
        })
        .collect()
}

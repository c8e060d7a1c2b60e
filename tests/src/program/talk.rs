// SPDX-License-Identifier: MIT OR Apache-2.0

//! A connection in which the position of a byte is its offset from the first byte of its side.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use limiter_common::abi::{FlowKey, Link};

use super::{
    programs::Programs,
    run::{Hook, RunResult, Verdict},
};
use crate::packet::{ACK, Ends, FIN, PSH, RST, SYN, Segment, Shape, timestamp};

/// The window that either side announces.
const WINDOW: u16 = 60_000;

/// A connection that makes segments and can run them through the programs.
#[derive(Debug, Clone)]
pub struct Talk {
    pub shape: Shape,
    pub ends: Ends,
    /// The sequence numbers of the client's first byte and of the server's first byte.
    pub client_start: u32,
    pub server_start: u32,
    /// The number of bytes from the client that have passed in order, which is also the position of
    /// the client's next byte.
    pub asked: u32,
    /// The number of bytes from the server that have passed in order, which is also the position of
    /// the server's next byte.
    pub answered: u32,
    /// The number of bytes from the client that the server acknowledges.
    pub server_acked: u32,
    /// Whether both sides send timestamps. The timestamp of each segment is higher by one than that
    /// of the segment before it.
    pub timestamps: bool,
    ticks: u32,
    /// The windows that the server and the client announce, as in the header field, before scaling.
    pub window: u16,
    pub client_window: u16,
}

impl Talk {
    /// Makes a connection that is not open yet.
    pub fn new(shape: Shape) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let ends = shape.ends();
        // Each connection begins at different sequence numbers, as real connections do.
        let start = NEXT.fetch_add(1 << 20, Ordering::Relaxed);
        Self {
            shape,
            ends,
            client_start: start.wrapping_add(0x1000_0000),
            server_start: start.wrapping_add(0x9000_0000),
            asked: 0,
            answered: 0,
            server_acked: 0,
            timestamps: false,
            ticks: 1000,
            window: WINDOW,
            client_window: WINDOW,
        }
    }

    /// Makes an open connection.
    #[track_caller]
    pub fn open(programs: &mut Programs, shape: Shape) -> Self {
        Self::new(shape).opened(programs)
    }

    /// Runs the client's SYN and the server's SYN-ACK, but not the last segment of the handshake.
    #[track_caller]
    pub fn begin(&mut self, programs: &mut Programs) {
        for (to_server, segment) in [(true, self.syn()), (false, self.syn_ack())] {
            let ran = self.run(programs, to_server, &segment);
            assert_eq!(ran.verdict, Verdict::Pass, "the handshake");
        }
    }

    /// Opens the connection, and returns it.
    #[track_caller]
    pub fn opened(mut self, programs: &mut Programs) -> Self {
        self.begin(programs);
        let ack = self.client(b"").with_flags(ACK);
        assert_eq!(
            self.run(programs, true, &ack).verdict,
            Verdict::Pass,
            "the handshake's end"
        );
        self
    }

    /// Returns the key of the connection's flow.
    pub fn key(&self) -> FlowKey {
        FlowKey {
            client: address(self.ends.client),
            server: address(self.ends.server),
            client_port: self.ends.client_port.to_be(),
            server_port: self.ends.server_port.to_be(),
            link: Link::NONE,
        }
    }

    /// Returns the bytes of the key in a map as 32-bit words in this machine's byte order.
    pub fn key_words(&self) -> [u32; 11] {
        let FlowKey {
            client,
            server,
            client_port,
            server_port,
            link,
        } = self.key();
        let [a, b] = [client_port.to_ne_bytes(), server_port.to_ne_bytes()];
        let mut words = [u32::from_ne_bytes([a[0], a[1], b[0], b[1]]); 11];
        words[..4].copy_from_slice(&client);
        words[4..8].copy_from_slice(&server);
        words[9..].copy_from_slice(&[link.ifindex, link.vlan]);
        words
    }

    pub fn syn(&mut self) -> Segment {
        let seq = self.client_start.wrapping_sub(1);
        self.stamped(Segment {
            seq,
            flags: SYN,
            window: self.client_window,
            ..Segment::default()
        })
    }

    pub fn syn_ack(&mut self) -> Segment {
        let seq = self.server_start.wrapping_sub(1);
        let ack = self.client_start;
        self.stamped(Segment {
            seq,
            ack,
            flags: SYN | ACK,
            window: self.window,
            ..Segment::default()
        })
    }

    /// Makes the client's next segment.
    pub fn client(&mut self, payload: &[u8]) -> Segment {
        self.client_at(self.asked, payload)
    }

    /// Makes a segment from the client whose payload begins at position `at` in the client's bytes.
    pub fn client_at(&mut self, at: u32, payload: &[u8]) -> Segment {
        let segment = Segment {
            seq: self.client_start.wrapping_add(at),
            ack: self.server_start.wrapping_add(self.answered),
            flags: ACK | PSH,
            window: self.client_window,
            payload: payload.to_vec(),
            ..Segment::default()
        };
        self.stamped(segment)
    }

    /// Makes the server's next segment.
    pub fn server(&mut self, payload: &[u8]) -> Segment {
        self.server_at(self.answered, payload)
    }

    /// Makes a segment from the server whose payload begins at position `at` in the server's bytes.
    pub fn server_at(&mut self, at: u32, payload: &[u8]) -> Segment {
        let segment = Segment {
            seq: self.server_start.wrapping_add(at),
            ack: self.client_start.wrapping_add(self.server_acked),
            flags: ACK | PSH,
            window: self.window,
            payload: payload.to_vec(),
            ..Segment::default()
        };
        self.stamped(segment)
    }

    /// Runs a segment through the program for its direction.
    #[track_caller]
    pub fn run(&self, programs: &mut Programs, to_server: bool, segment: &Segment) -> RunResult {
        let hook = Hook::of(to_server, self.shape.ethernet);
        programs.run(hook, &self.shape.wrap(&self.ends, to_server, segment))
    }

    /// Makes the client's next segment and runs it. The bytes that pass, which may be fewer than
    /// were sent, count as sent. The next segment begins after them.
    #[track_caller]
    pub fn ask(&mut self, programs: &mut Programs, payload: impl AsRef<[u8]>) -> RunResult {
        let segment = self.client(payload.as_ref());
        let ran = self.run(programs, true, &segment);
        if ran.verdict == Verdict::Pass {
            let passed = ran.decoded();
            if passed.flags & (FIN | RST) == 0 {
                self.asked += u32::try_from(passed.payload.len()).expect("a short payload");
            }
        }
        ran
    }

    /// Does the same as [`Talk::ask`], and asserts that the segment passes unchanged.
    #[track_caller]
    pub fn asks(&mut self, programs: &mut Programs, payload: impl AsRef<[u8]>) {
        let payload = payload.as_ref();
        let segment = self.client(payload);
        let frame = self.shape.wrap(&self.ends, true, &segment);
        let ran = programs.run(Hook::of(true, self.shape.ethernet), &frame);
        assert_eq!(
            ran.verdict,
            Verdict::Pass,
            "{}",
            String::from_utf8_lossy(payload)
        );
        assert_eq!(ran.packet, frame, "the packet was changed");
        assert_eq!(ran.sent, [] as [Vec<u8>; 0], "additional packets");
        self.asked += u32::try_from(payload.len()).expect("a short payload");
    }

    /// Makes the server's next segment, which acknowledges all bytes from the client, and runs it.
    #[track_caller]
    pub fn answers(&mut self, programs: &mut Programs, payload: impl AsRef<[u8]>) -> RunResult {
        self.server_acked = self.asked;
        let segment = self.server(payload.as_ref());
        let ran = self.run(programs, false, &segment);
        assert_eq!(ran.verdict, Verdict::Pass, "a response");
        self.answered += u32::try_from(segment.payload.len()).expect("a short payload");
        ran
    }

    /// Runs a segment in which the server acknowledges all bytes from the client.
    #[track_caller]
    pub fn acknowledged(&mut self, programs: &mut Programs) {
        self.answers(programs, b"");
    }

    /// Sets the clock of the timestamps, so that the next segment has the timestamp `ticks` + 1.
    pub fn set_ticks(&mut self, ticks: u32) {
        self.ticks = ticks;
    }

    fn stamped(&mut self, segment: Segment) -> Segment {
        if !self.timestamps {
            return segment;
        }
        self.ticks = self.ticks.wrapping_add(1);
        let echo = self.ticks.wrapping_sub(1);
        let options = timestamp(self.ticks, echo);
        segment.with_options(options)
    }
}

/// Returns an address in network byte order. An IPv4 address becomes an IPv4-mapped IPv6 address.
fn address(address: IpAddr) -> [u32; 4] {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
        *word = u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
    }
    words
}

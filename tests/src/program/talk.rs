//! A connection, as its two ends see it: numbers count from the first byte of each side.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use limiter_common::abi::FlowKey;

use super::{
    programs::Programs,
    run::{Hook, Ran, Verdict},
};
use crate::packet::{ACK, Ends, FIN, PSH, RST, SYN, Segment, Shape, timestamp};

/// A window of either side.
const WINDOW: u16 = 60_000;

/// A connection. What it makes are segments; what it pushes goes through the programs.
#[derive(Debug, Clone)]
pub struct Talk {
    pub shape: Shape,
    pub ends: Ends,
    /// The sequence number of the first byte of the client, and of the server.
    pub client_start: u32,
    pub server_start: u32,
    /// Bytes of the client that went by, in order.
    pub asked: u32,
    /// Bytes of the server that went by, in order.
    pub answered: u32,
    /// Bytes of the client that the server acknowledges.
    pub server_acked: u32,
    /// Whether both sides send timestamps; a clock that ticks with each segment.
    pub timestamps: bool,
    ticks: u32,
    /// The windows that server and client announce, not scaled.
    pub window: u16,
    pub client_window: u16,
}

impl Talk {
    /// A connection that is not open yet.
    pub fn new(shape: Shape) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let ends = shape.ends();
        // No two connections begin alike, as with everybody.
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

    /// An open connection.
    #[track_caller]
    pub fn open(programs: &mut Programs, shape: Shape) -> Self {
        Self::new(shape).opened(programs)
    }

    /// Opens the connection.
    #[track_caller]
    pub fn opened(mut self, programs: &mut Programs) -> Self {
        for (to_server, segment) in [(true, self.syn()), (false, self.syn_ack())] {
            let ran = self.run(programs, to_server, &segment);
            assert_eq!(ran.verdict, Verdict::Pass, "the handshake");
        }
        let ack = self.client(b"").with_flags(ACK);
        assert_eq!(
            self.run(programs, true, &ack).verdict,
            Verdict::Pass,
            "the handshake's end"
        );
        self
    }

    /// How the programs call it.
    pub fn key(&self) -> FlowKey {
        FlowKey {
            client: address(self.ends.client),
            server: address(self.ends.server),
            client_port: self.ends.client_port.to_be(),
            server_port: self.ends.server_port.to_be(),
        }
    }

    /// The same as it lies in the memory of a map, in words of this machine.
    pub fn key_words(&self) -> [u32; 9] {
        let FlowKey {
            client,
            server,
            client_port,
            server_port,
        } = self.key();
        let [a, b] = [client_port.to_ne_bytes(), server_port.to_ne_bytes()];
        let mut words = [u32::from_ne_bytes([a[0], a[1], b[0], b[1]]); 9];
        words[..4].copy_from_slice(&client);
        words[4..8].copy_from_slice(&server);
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

    /// The client's next segment.
    pub fn client(&mut self, payload: &[u8]) -> Segment {
        self.client_at(self.asked, payload)
    }

    /// A segment of the client from its byte `at` on.
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

    /// The server's next segment.
    pub fn server(&mut self, payload: &[u8]) -> Segment {
        self.server_at(self.answered, payload)
    }

    /// A segment of the server from its byte `at` on.
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

    /// Runs a segment through the program on its way.
    #[track_caller]
    pub fn run(&self, programs: &mut Programs, to_server: bool, segment: &Segment) -> Ran {
        let hook = Hook::of(to_server, self.shape.ethernet);
        programs.run(hook, &self.shape.wrap(&self.ends, to_server, segment))
    }

    /// Runs the client's next segment; the server has what passes.
    #[track_caller]
    pub fn ask(&mut self, programs: &mut Programs, payload: impl AsRef<[u8]>) -> Ran {
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

    /// As [`Talk::ask`] for what must pass untouched.
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
        assert_eq!(ran.sent, [] as [Vec<u8>; 0], "packets sent besides");
        self.asked += u32::try_from(payload.len()).expect("a short payload");
    }

    /// Runs the server's next segment, which acknowledges all that the client asked.
    #[track_caller]
    pub fn answers(&mut self, programs: &mut Programs, payload: impl AsRef<[u8]>) -> Ran {
        self.server_acked = self.asked;
        let segment = self.server(payload.as_ref());
        let ran = self.run(programs, false, &segment);
        assert_eq!(ran.verdict, Verdict::Pass, "a response");
        self.answered += u32::try_from(segment.payload.len()).expect("a short payload");
        ran
    }

    /// The server acknowledges all that the client asked.
    #[track_caller]
    pub fn acknowledged(&mut self, programs: &mut Programs) {
        self.answers(programs, b"");
    }

    /// The next segment's timestamp is the one behind this.
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

/// An address in network byte order, mapped if it is of IPv4.
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

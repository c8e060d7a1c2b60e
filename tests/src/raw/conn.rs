//! A connection whose packets a test words. Bytes are numbered from the first
//! of each side, whatever the sequence numbers.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU16, Ordering},
    time::Instant,
};

use super::{Frame, Link, MAC, V4, V6};
use crate::{
    GUARDED, Response, clock,
    packet::{ACK, Decoded, Ends, FIN, PSH, RST, SYN, Segment, Shape, timestamp},
};

/// Ports of the connections of a process, each used once.
static PORT: AtomicU16 = AtomicU16::new(20_000);

/// How a connection opens.
#[derive(Debug, Clone)]
pub struct Opening {
    pub v6: bool,
    /// Sequence number of the first byte.
    pub start: u32,
    /// The client's port; the next one that is free.
    pub client_port: Option<u16>,
    pub server_port: u16,
    /// The window of every segment, scaled by 2^`scale`.
    pub window: u16,
    pub scale: Option<u8>,
    pub mss: Option<u16>,
    pub timestamps: bool,
    /// Of the first segment; it grows by one with each.
    pub first_timestamp: u32,
}

impl Default for Opening {
    fn default() -> Self {
        Self {
            v6: false,
            start: 0x1234_5678,
            client_port: None,
            server_port: GUARDED,
            window: u16::MAX,
            scale: Some(4),
            mss: Some(1440),
            timestamps: false,
            first_timestamp: 1_000_000,
        }
    }
}

impl Opening {
    pub fn v6() -> Self {
        Self {
            v6: true,
            ..Self::default()
        }
    }

    pub fn with_timestamps() -> Self {
        Self {
            timestamps: true,
            ..Self::default()
        }
    }

    /// What a SYN offers.
    fn options(&self) -> Vec<u8> {
        let mut options = Vec::new();
        if let Some(mss) = self.mss {
            options.extend([2, 4]);
            options.extend(mss.to_be_bytes());
        }
        if let Some(scale) = self.scale {
            options.extend([1, 3, 3, scale]);
        }
        options
    }
}

/// How the server ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
}

/// A connection of a [`super::Host`].
#[derive(Debug)]
pub struct RawConn {
    pub link: Link,
    shape: Shape,
    pub ends: Ends,
    opening: Opening,
    /// Bytes said in order: where the next one goes.
    pub said: u32,
    /// Bytes that the server has acknowledged.
    pub acked: u32,
    /// Bytes heard from the server in order, its FIN included.
    pub heard: u32,
    /// Whether what is heard is acknowledged at once.
    pub acknowledges: bool,
    /// Sequence number of the server's first byte.
    server_start: u32,
    server_window: u16,
    ticks: u32,
    server_ticks: u32,
    /// Bytes heard and not taken yet.
    stream: Vec<u8>,
    end: Option<End>,
    /// Every segment that the server sent.
    pub seen: Vec<Decoded>,
}

impl RawConn {
    pub(super) fn new(link: Link, server: IpAddr, opening: &Opening) -> Self {
        let (shape, client) = if opening.v6 {
            (Shape::v6(), V6.into())
        } else {
            (Shape::v4(), V4.into())
        };
        let client_port = opening
            .client_port
            .unwrap_or_else(|| PORT.fetch_add(1, Ordering::Relaxed));
        Self {
            link,
            shape,
            ends: Ends {
                client,
                server,
                client_port,
                server_port: opening.server_port,
            },
            said: 0,
            acked: 0,
            heard: 0,
            acknowledges: true,
            server_start: 0,
            server_window: 0,
            ticks: opening.first_timestamp,
            server_ticks: 0,
            stream: Vec::new(),
            end: None,
            seen: Vec::new(),
            opening: opening.clone(),
        }
    }

    /// The client's SYN.
    pub fn syn(&mut self) -> Segment {
        let mut options = self.opening.options();
        if self.opening.timestamps {
            options.extend(self.stamp());
        }
        Segment {
            seq: self.opening.start.wrapping_sub(1),
            flags: SYN,
            window: self.opening.window,
            options,
            ..Segment::default()
        }
    }

    /// Opens the connection.
    ///
    /// # Panics
    /// When the server does not answer.
    #[track_caller]
    pub fn shake_hands(&mut self) {
        self.await_syn_ack();
        self.acknowledge();
    }

    /// Sends the SYN and waits for its answer.
    #[track_caller]
    pub fn await_syn_ack(&mut self) {
        let syn = self.syn();
        self.send(&syn);
        self.wait("the SYN is answered", |conn| {
            conn.seen.iter().any(|segment| segment.has(SYN))
        });
    }

    /// A segment of the client with the bytes from number `at` on, which
    /// acknowledges all that was heard.
    pub fn segment(&mut self, at: u32, payload: &[u8]) -> Segment {
        let options = if self.opening.timestamps {
            self.stamp()
        } else {
            Vec::new()
        };
        Segment {
            seq: self.opening.start.wrapping_add(at),
            ack: self.server_start.wrapping_add(self.heard),
            flags: if payload.is_empty() { ACK } else { ACK | PSH },
            window: self.opening.window,
            options,
            payload: payload.to_vec(),
            ..Segment::default()
        }
    }

    /// The timestamp option with the next tick.
    fn stamp(&mut self) -> Vec<u8> {
        self.ticks = self.ticks.wrapping_add(1);
        timestamp(self.ticks, self.server_ticks)
    }

    /// The timestamp that was sent last, and the one that came last.
    pub fn timestamps(&self) -> (u32, u32) {
        (self.ticks, self.server_ticks)
    }

    /// The frame of a segment, right in everything.
    pub fn frame(&self, segment: &Segment) -> Frame {
        self.frame_in(&self.shape, segment)
    }

    /// The frame of a segment in another shape.
    pub fn frame_in(&self, shape: &Shape, segment: &Segment) -> Frame {
        let macs = (MAC, self.link.server_mac);
        Frame::new(shape, &self.ends, macs, segment)
    }

    pub fn send(&self, segment: &Segment) {
        self.link.send(&self.frame(segment));
    }

    /// Sends the next bytes in order.
    pub fn say(&mut self, payload: &[u8]) {
        self.say_at(self.said, payload);
    }

    /// Sends bytes from number `at` on, and goes on behind them.
    pub fn say_at(&mut self, at: u32, payload: &[u8]) {
        let segment = self.segment(at, payload);
        self.send(&segment);
        let length = u32::try_from(payload.len()).expect("a segment's length");
        self.said = self.said.max(at.wrapping_add(length));
    }

    /// Sends the next bytes until the server has them, as TCP would.
    #[track_caller]
    pub fn bring(&mut self, payload: &[u8]) {
        let at = self.said;
        let length = u32::try_from(payload.len()).expect("a segment's length");
        self.insist(at + length, |conn| conn.say_at(at, payload));
    }

    /// Sends what `send` sends until the server has all bytes before `end`.
    #[track_caller]
    pub fn insist(&mut self, end: u32, mut send: impl FnMut(&mut Self)) {
        clock::eventually("the bytes are acknowledged", || {
            send(self);
            let until = Instant::now() + clock::RETRY;
            self.look_for(until, |conn| conn.acked >= end)
        });
    }

    /// Sends the client's FIN behind what was said.
    pub fn finish(&mut self) {
        let fin = self.segment(self.said, b"").with_flags(ACK | FIN);
        self.said += 1;
        self.send(&fin);
    }

    /// Acknowledges all that was heard.
    pub fn acknowledge(&mut self) {
        let ack = self.segment(self.said, b"");
        self.send(&ack);
    }

    /// The sequence number of the client's byte `at`.
    pub fn sequence(&self, at: u32) -> u32 {
        self.opening.start.wrapping_add(at)
    }

    /// The sequence number of the server's byte `at`.
    pub fn server_sequence(&self, at: u32) -> u32 {
        self.server_start.wrapping_add(at)
    }

    /// The window in the server's last segment, not scaled.
    pub fn server_window(&self) -> u16 {
        self.server_window
    }

    /// Whether there is something to read that was not taken yet.
    pub fn has_heard(&self) -> bool {
        !self.stream.is_empty()
    }

    /// How the server has ended the connection so far.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Takes in what the server sends until `done`.
    ///
    /// # Panics
    /// When that does not come.
    #[track_caller]
    pub fn wait(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let happened = self.look_for(Instant::now() + clock::PATIENCE, done);
        assert!(happened, "still waiting: {what}; seen: {:#?}", self.seen);
    }

    /// Waits until the server has acknowledged all that was said.
    #[track_caller]
    pub fn wait_until_acknowledged(&mut self) {
        let said = self.said;
        self.wait("all is acknowledged", |conn| conn.acked >= said);
    }

    /// Waits for the server's end of the connection.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> End {
        self.wait("the server ends the connection", |conn| conn.end.is_some());
        self.end.expect("it was waited for")
    }

    /// The next response with a length, a 429 or one of nginx.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        let deadline = Instant::now() + clock::PATIENCE;
        loop {
            if let Some(response) = Response::take(&mut self.stream).expect("HTTP") {
                return response;
            }
            assert!(
                self.end.is_none() && self.look(deadline),
                "no response: {:?}, end {:?}, seen {:#?}",
                String::from_utf8_lossy(&self.stream),
                self.end,
                self.seen
            );
        }
    }

    /// The statuses of so many responses.
    #[track_caller]
    pub fn statuses(&mut self, count: usize) -> Vec<u16> {
        (0..count).map(|_| self.response().status).collect()
    }

    /// Takes in what is there already.
    pub fn drain(&mut self) {
        while self.look(Instant::now()) {}
    }

    /// Takes in what comes before `deadline` until `done`; whether it was.
    pub fn look_for(&mut self, deadline: Instant, done: impl Fn(&Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            if !self.look(deadline) {
                return done(self);
            }
        }
    }

    /// Takes in the server's next segment; false if none comes before `deadline`.
    fn look(&mut self, deadline: Instant) -> bool {
        let Ends {
            client,
            server,
            client_port,
            server_port,
        } = self.ends;
        loop {
            let Some(frame) = self.link.receive(deadline) else {
                return false;
            };
            let decoded = Decoded::read(frame, true).filter(|segment| {
                (segment.from, segment.to) == (server, client)
                    && segment.ports == (server_port, client_port)
            });
            if let Some(segment) = decoded {
                self.take_in(segment);
                return true;
            }
        }
    }

    fn take_in(&mut self, segment: Decoded) {
        if let Some((value, _)) = segment.timestamp() {
            self.server_ticks = value;
        }
        if segment.has(SYN) {
            self.server_start = segment.seq.wrapping_add(1);
        }
        if segment.has(RST) {
            self.end = Some(End::Reset);
        }
        if segment.has(ACK) && !segment.has(RST) {
            let acked = segment.ack.wrapping_sub(self.opening.start);
            // Of an acknowledgement of the SYN alone it is 0, of less it wraps.
            if acked <= self.said.max(self.acked) {
                self.acked = self.acked.max(acked);
            }
            self.server_window = segment.window;
        }
        let at = segment.seq.wrapping_sub(self.server_start);
        let fresh = at == self.heard && !segment.has(SYN | RST);
        let speaks = !segment.payload.is_empty() || segment.has(FIN);
        if fresh {
            self.stream.extend(&segment.payload);
            self.heard += u32::try_from(segment.payload.len()).expect("a segment's length");
            if segment.has(FIN) {
                self.heard += 1;
                self.end.get_or_insert(End::Fin);
            }
        }
        if speaks && self.acknowledges && !segment.has(SYN | RST) {
            self.acknowledge();
        }
        self.seen.push(segment);
    }
}

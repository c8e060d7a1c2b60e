// SPDX-License-Identifier: MIT OR Apache-2.0

//! A connection whose packets a test makes. The position of a byte is its offset from the first
//! byte of its side, so it does not depend on the initial sequence numbers.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU16, Ordering},
    time::Instant,
};

use super::{Frame, FrameSocket, MAC, V4, V6};
use crate::{
    GUARDED, Response, clock,
    packet::{ACK, DecodedSegment, Ends, FIN, PSH, RST, SYN, Segment, Shape, timestamp},
};

/// The client port of the next connection. This process uses each port only once.
static PORT: AtomicU16 = AtomicU16::new(20_000);

/// The parameters with which a connection is opened.
#[derive(Debug, Clone)]
pub struct Opening {
    pub v6: bool,
    /// The sequence number of the client's first byte.
    pub start: u32,
    /// The client's port; `None` selects the next free port.
    pub client_port: Option<u16>,
    pub server_port: u16,
    /// The window field of every segment after the SYN. The receiver multiplies it by 2^`scale`.
    pub window: u16,
    pub scale: Option<u8>,
    pub mss: Option<u16>,
    pub timestamps: bool,
    /// The timestamp of the first segment. Each later segment has a timestamp that is higher by
    /// one.
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

    /// Returns the options of the SYN.
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

/// The way in which the server ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
}

/// A connection of a [`super::RawHost`].
#[derive(Debug)]
pub struct RawConn {
    pub link: FrameSocket,
    shape: Shape,
    pub ends: Ends,
    opening: Opening,
    /// The number of bytes sent in order, which is also the position of the client's next byte.
    pub sent: u32,
    /// The number of bytes that the server has acknowledged.
    pub acked: u32,
    /// The number of bytes received from the server in order, including its FIN.
    pub received: u32,
    /// Whether received bytes are acknowledged immediately.
    pub acknowledges: bool,
    /// The sequence number of the server's first byte.
    server_start: u32,
    server_window: u16,
    ticks: u32,
    server_ticks: u32,
    /// The bytes from the server that have been received and that the test has not read yet.
    stream: Vec<u8>,
    end: Option<End>,
    /// Every segment that the server has sent.
    pub seen: Vec<DecodedSegment>,
}

impl RawConn {
    pub(super) fn new(link: FrameSocket, server: IpAddr, opening: &Opening) -> Self {
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
            sent: 0,
            acked: 0,
            received: 0,
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

    /// Makes the client's SYN.
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
    /// Panics if the server does not answer.
    #[track_caller]
    pub fn shake_hands(&mut self) {
        self.await_syn_ack();
        self.acknowledge();
    }

    /// Sends the SYN and waits for the SYN-ACK.
    #[track_caller]
    pub fn await_syn_ack(&mut self) {
        let syn = self.syn();
        self.send(&syn);
        self.wait("the SYN is answered", |conn| {
            conn.seen.iter().any(|segment| segment.has(SYN))
        });
    }

    /// Makes a segment from the client. Its payload begins at position `at` in the client's bytes,
    /// and it acknowledges all received bytes.
    pub fn segment(&mut self, at: u32, payload: &[u8]) -> Segment {
        let options = if self.opening.timestamps {
            self.stamp()
        } else {
            Vec::new()
        };
        Segment {
            seq: self.opening.start.wrapping_add(at),
            ack: self.server_start.wrapping_add(self.received),
            flags: if payload.is_empty() { ACK } else { ACK | PSH },
            window: self.opening.window,
            options,
            payload: payload.to_vec(),
            ..Segment::default()
        }
    }

    /// Returns the timestamp option with the next timestamp.
    fn stamp(&mut self) -> Vec<u8> {
        self.ticks = self.ticks.wrapping_add(1);
        timestamp(self.ticks, self.server_ticks)
    }

    /// Returns the last timestamp that was sent and the last timestamp that was received.
    pub fn timestamps(&self) -> (u32, u32) {
        (self.ticks, self.server_ticks)
    }

    /// Returns a valid frame with a segment.
    pub fn frame(&self, segment: &Segment) -> Frame {
        self.frame_in(&self.shape, segment)
    }

    /// Returns a valid frame with `segment` in the headers of `shape`.
    pub fn frame_in(&self, shape: &Shape, segment: &Segment) -> Frame {
        let macs = (MAC, self.link.server_mac);
        Frame::new(shape, &self.ends, macs, true, segment)
    }

    pub fn send(&self, segment: &Segment) {
        self.link.send(&self.frame(segment));
    }

    /// Sends the next bytes in order.
    pub fn send_next(&mut self, payload: &[u8]) {
        self.send_at(self.sent, payload);
    }

    /// Sends bytes that begin at position `at` in the client's bytes. The client's next byte is
    /// then the one after the highest position that has been sent so far.
    pub fn send_at(&mut self, at: u32, payload: &[u8]) {
        let segment = self.segment(at, payload);
        self.send(&segment);
        let length = u32::try_from(payload.len()).expect("a segment's length");
        self.sent = self.sent.max(at.wrapping_add(length));
    }

    /// Sends the next bytes in order, and retransmits them as TCP would until the server has
    /// acknowledged them.
    #[track_caller]
    pub fn deliver(&mut self, payload: &[u8]) {
        let at = self.sent;
        let length = u32::try_from(payload.len()).expect("a segment's length");
        self.retry_until_acked(at + length, |conn| conn.send_at(at, payload));
    }

    /// Calls `send` repeatedly until the server has acknowledged all of the client's bytes before
    /// position `end`.
    #[track_caller]
    pub fn retry_until_acked(&mut self, end: u32, mut send: impl FnMut(&mut Self)) {
        clock::eventually("the bytes are acknowledged", || {
            send(self);
            let until = Instant::now() + clock::RETRY;
            self.wait_until(until, |conn| conn.acked >= end)
        });
    }

    /// Sends the client's FIN after the bytes that have been sent.
    pub fn finish(&mut self) {
        let fin = self.segment(self.sent, b"").with_flags(ACK | FIN);
        self.sent += 1;
        self.send(&fin);
    }

    /// Acknowledges all received bytes.
    pub fn acknowledge(&mut self) {
        let ack = self.segment(self.sent, b"");
        self.send(&ack);
    }

    /// Returns the sequence number of the byte at position `at` in the client's bytes.
    pub fn sequence(&self, at: u32) -> u32 {
        self.opening.start.wrapping_add(at)
    }

    /// Returns the sequence number of the byte at position `at` in the server's bytes.
    pub fn server_sequence(&self, at: u32) -> u32 {
        self.server_start.wrapping_add(at)
    }

    /// Returns the window in the server's last segment, as in the header field, before scaling.
    pub fn server_window(&self) -> u16 {
        self.server_window
    }

    /// Returns whether bytes have been received that the test has not read yet.
    pub fn has_unread(&self) -> bool {
        !self.stream.is_empty()
    }

    /// Returns how the server has ended the connection, or `None` if it has not.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Receives segments from the server until `done` returns true.
    ///
    /// # Panics
    /// Panics if `done` does not return true in time.
    #[track_caller]
    pub fn wait(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let happened = self.wait_until(Instant::now() + clock::TIMEOUT, done);
        assert!(
            happened,
            "still waiting: {what}; received: {:#?}",
            self.seen
        );
    }

    /// Waits until the server has acknowledged all sent bytes.
    #[track_caller]
    pub fn wait_until_acknowledged(&mut self) {
        let sent = self.sent;
        self.wait("all is acknowledged", |conn| conn.acked >= sent);
    }

    /// Waits until the server ends the connection.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> End {
        self.wait("the server ends the connection", |conn| conn.end.is_some());
        self.end.expect("it was waited for")
    }

    /// Returns the next response. It must state its length in Content-Length, as 429 responses and
    /// nginx's responses do.
    ///
    /// # Panics
    /// Panics if no response arrives.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        let deadline = Instant::now() + clock::TIMEOUT;
        loop {
            if let Some(response) = Response::take(&mut self.stream).expect("HTTP") {
                return response;
            }
            assert!(
                self.end.is_none() && self.receive_segment(deadline),
                "no response: {:?}, end {:?}, seen {:#?}",
                String::from_utf8_lossy(&self.stream),
                self.end,
                self.seen
            );
        }
    }

    /// Receives `count` responses and returns their status codes.
    #[track_caller]
    pub fn statuses(&mut self, count: usize) -> Vec<u16> {
        (0..count).map(|_| self.response().status).collect()
    }

    /// Receives all segments that have already arrived.
    pub fn drain(&mut self) {
        while self.receive_segment(Instant::now()) {}
    }

    /// Receives segments until `done` returns true or `deadline` passes, and returns the last
    /// result of `done`.
    pub fn wait_until(&mut self, deadline: Instant, done: impl Fn(&Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            if !self.receive_segment(deadline) {
                return done(self);
            }
        }
    }

    /// Receives the server's next segment. Returns false if no segment arrives before `deadline`.
    fn receive_segment(&mut self, deadline: Instant) -> bool {
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
            let decoded = DecodedSegment::read(frame, true).filter(|segment| {
                (segment.from, segment.to) == (server, client)
                    && segment.ports == (server_port, client_port)
            });
            if let Some(segment) = decoded {
                self.process_segment(segment);
                return true;
            }
        }
    }

    fn process_segment(&mut self, segment: DecodedSegment) {
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
            // The value is 0 if the server has acknowledged only the SYN. If the server has not
            // acknowledged the SYN, the value wraps to a very large number and is ignored.
            if acked <= self.sent.max(self.acked) {
                self.acked = self.acked.max(acked);
            }
            self.server_window = segment.window;
        }
        let at = segment.seq.wrapping_sub(self.server_start);
        let fresh = at == self.received && !segment.has(SYN | RST);
        let speaks = !segment.payload.is_empty() || segment.has(FIN);
        if fresh {
            self.stream.extend(&segment.payload);
            self.received += u32::try_from(segment.payload.len()).expect("a segment's length");
            if segment.has(FIN) {
                self.received += 1;
                self.end.get_or_insert(End::Fin);
            }
        }
        if speaks && self.acknowledges && !segment.has(SYN | RST) {
            self.acknowledge();
        }
        self.seen.push(segment);
    }
}

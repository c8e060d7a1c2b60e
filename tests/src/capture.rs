// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads the packets that tcpdump captured on an interface, as segments with their times.

use std::{
    collections::HashMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
};

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use nix::sys::signal::Signal;

use crate::{Lab, clock, process::Process};

/// The number of bytes that tcpdump keeps of each packet, which is enough for the headers and the
/// start of the message.
const KEPT: &str = "160";

/// The size of tcpdump's kernel buffer in KiB. The buffer is large because tcpdump may be unable to
/// read the packets in time while wrk keeps the machine busy.
const BUFFER: &str = "65536";

const NANOSECOND_MAGIC: u32 = 0xa1b2_3c4d;
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

/// The port and the payload of the datagram that marks the end of a capture. The port is that of
/// the discard service. Once the capture file contains this datagram, the file also contains all
/// earlier packets.
const DISCARD_PORT: u16 = 9;
const END: &[u8] = b"the capture ends here";

/// A running capture on the server's interface.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
    /// The socket that sends the datagram that marks the end of the capture.
    marker: UdpSocket,
}

/// A TCP segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The time in nanoseconds since the epoch.
    pub time: u64,
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// The sequence number of the first byte of the payload.
    pub seq: u32,
    /// The start of the payload.
    pub data: Vec<u8>,
    /// The length of the payload in bytes.
    pub length: usize,
}

/// A request and its response, with the times at which they passed through the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// The time at which the request arrived, in nanoseconds since the epoch. The kernel program
    /// sees the request after this time.
    pub asked: u64,
    /// The time at which the response left, in nanoseconds since the epoch. The kernel program has
    /// decided about the request before this time.
    pub answered: u64,
    pub status: u16,
}

impl Capture {
    /// Starts to capture the TCP packets of `port`, and waits until tcpdump is ready.
    pub fn start(lab: &Lab, name: &str, port: u16) -> Self {
        let file = lab.file(&format!("{name}.pcap"));
        let log = lab.file(&format!("{name}.log"));
        let mut process = Process::start(
            "tcpdump",
            lab.server()
                .command("tcpdump")
                .args(["-n", "-U", "--immediate-mode", "-Z", "root"])
                .args(["--time-stamp-precision=nano", "-s", KEPT, "-B", BUFFER])
                .args(["-i", lab.interface(), "-w"])
                .arg(&file)
                .arg(format!("tcp port {port} or udp port {DISCARD_PORT}")),
            &log,
        );
        clock::eventually("tcpdump listens", || {
            let ended = process.ended();
            assert!(ended.is_none(), "tcpdump ended: {}", process.log());
            process.log().contains("listening on")
        });
        let marker = lab.server().enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect((lab.client_v4(), DISCARD_PORT))?;
            Ok::<_, io::Error>(socket)
        });
        Self {
            process,
            file,
            marker: marker.expect("a socket for the capture's end"),
        }
    }

    /// Ends the capture and returns all segments that carry data, in order.
    pub fn finish(self) -> Vec<Packet> {
        let mut packets = self.finish_all();
        packets.retain(|packet| !packet.data.is_empty());
        packets
    }

    /// Ends the capture and returns all segments, in order.
    pub fn finish_all(mut self) -> Vec<Packet> {
        clock::eventually("the capture has its end", || {
            // No socket listens on the port. An ICMP error for an earlier datagram may therefore
            // make this call fail, and the failure is ignored.
            let _ = self.marker.send(END);
            let file = fs::read(&self.file).unwrap_or_default();
            file.windows(END.len()).any(|window| window == END)
        });
        self.process.signal(Signal::SIGINT);
        self.process.wait();
        parse(&fs::read(&self.file).expect("read the capture"))
    }
}

/// Pairs each request to `port` with its response, and returns the pairs in the order of the
/// requests. Each client must have waited for a response before it sent its next request.
pub fn exchanges(packets: &[Packet], port: u16) -> Vec<Exchange> {
    let mut open: HashMap<SocketAddr, u64> = HashMap::new();
    let mut exchanges = Vec::new();
    for packet in packets {
        if packet.to.port() == port && packet.data.starts_with(b"GET ") {
            open.entry(packet.from).or_insert(packet.time);
        } else if packet.from.port() == port
            && let Some(status) = status(&packet.data)
            && let Some(asked) = open.remove(&packet.to)
        {
            exchanges.push(Exchange {
                asked,
                answered: packet.time,
                status,
            });
        }
    }
    exchanges.sort_by_key(|exchange| exchange.asked);
    exchanges
}

fn status(data: &[u8]) -> Option<u16> {
    let digits = data.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Decodes the packets in a capture file. If the last record is incomplete, it is ignored.
fn parse(file: &[u8]) -> Vec<Packet> {
    let magic = number(file, 0);
    assert_eq!(magic, Some(NANOSECOND_MAGIC), "a capture in nanoseconds");
    let mut packets = Vec::new();
    let mut rest = &file[FILE_HEADER..];
    while let (Some(seconds), Some(nanoseconds), Some(length)) =
        (number(rest, 0), number(rest, 4), number(rest, 8))
    {
        let end = RECORD_HEADER + usize::try_from(length).expect("a length");
        let Some(bytes) = rest.get(RECORD_HEADER..end) else {
            break;
        };
        let time = u64::from(seconds) * 1_000_000_000 + u64::from(nanoseconds);
        packets.extend(segment(bytes, time));
        rest = &rest[end..];
    }
    packets
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().expect("four bytes")))
}

/// Decodes a frame. Its payload may be truncated in the capture.
fn segment(frame: &[u8], time: u64) -> Option<Packet> {
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let (from, to, length): (IpAddr, IpAddr, usize) = match packet.net? {
        LaxNetSlice::Ipv4(ip) => {
            let ip = ip.header();
            let length = usize::from(ip.total_len()).checked_sub(ip.slice().len())?;
            (
                ip.source_addr().into(),
                ip.destination_addr().into(),
                length,
            )
        }
        LaxNetSlice::Ipv6(ip) => {
            let extensions = ip.extensions().slice().len();
            let ip = ip.header();
            let length = usize::from(ip.payload_length()).checked_sub(extensions)?;
            (
                ip.source_addr().into(),
                ip.destination_addr().into(),
                length,
            )
        }
        LaxNetSlice::Arp(_) => return None,
    };
    let TransportSlice::Tcp(tcp) = packet.transport? else {
        return None;
    };
    Some(Packet {
        time,
        from: SocketAddr::new(from, tcp.source_port()),
        to: SocketAddr::new(to, tcp.destination_port()),
        seq: tcp.sequence_number(),
        data: tcp.payload().to_vec(),
        length: length.checked_sub(tcp.header_slice().len())?,
    })
}

//! What went over an interface, and when: tcpdump's capture, read back.

use std::{
    collections::HashMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
};

use nix::sys::signal::Signal;

use crate::{Lab, clock, process::Process};

/// Bytes kept of each packet: headers and the start of the message.
const KEPT: &str = "160";

/// Kernel buffer in KiB: a machine busy with wrk reads late.
const BUFFER: &str = "65536";

const NANOSECOND_MAGIC: u32 = 0xa1b2_3c4d;
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
const ETHERNET_HEADER: usize = 14;
const TCP: u8 = 6;

/// A datagram to the discard port ends a capture: when it is in the file, so is
/// all that passed before it.
const DISCARD_PORT: u16 = 9;
const END: &[u8] = b"the capture ends here";

/// A running capture on the server's interface.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
    /// Sends the datagram that marks the end.
    marker: UdpSocket,
}

/// A TCP segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Nanoseconds since the epoch.
    pub time: u64,
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// The sequence number of its first byte.
    pub seq: u32,
    /// The start of what it carries.
    pub data: Vec<u8>,
    /// How many bytes it carries.
    pub length: usize,
}

/// A request and its answer as they passed the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// When the request came in, in nanoseconds since the epoch: before the
    /// kernel program saw it.
    pub asked: u64,
    /// When the answer left: after the decision.
    pub answered: u64,
    pub status: u16,
}

impl Capture {
    /// Starts to capture TCP of `port` and waits until it does.
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

    /// Ends the capture and returns the segments with data, in order.
    pub fn finish(self) -> Vec<Packet> {
        let mut packets = self.finish_all();
        packets.retain(|packet| !packet.data.is_empty());
        packets
    }

    /// Ends the capture and returns all segments, in order.
    pub fn finish_all(mut self) -> Vec<Packet> {
        clock::eventually("the capture has its end", || {
            // The answer to an earlier one (nobody listens) may come as an error.
            let _ = self.marker.send(END);
            let file = fs::read(&self.file).unwrap_or_default();
            file.windows(END.len()).any(|window| window == END)
        });
        self.process.signal(Signal::SIGINT);
        self.process.wait();
        parse(&fs::read(&self.file).expect("read the capture"))
    }
}

/// Pairs requests to `port` with their answers, in the order of the requests,
/// for clients that wait for an answer before they ask again.
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

/// Reads a capture file. A last record that tcpdump did not finish is left out.
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

fn segment(frame: &[u8], time: u64) -> Option<Packet> {
    let ip = frame.get(ETHERNET_HEADER..)?;
    let protocol = if ip.first()? >> 4 == 6 {
        ip.get(6)?
    } else {
        ip.get(9)?
    };
    if *protocol != TCP {
        return None;
    }
    let (from, to, at): (IpAddr, IpAddr, usize) = if ip.first()? >> 4 == 6 {
        let address = |at: usize| <[u8; 16]>::try_from(ip.get(at..at + 16)?).ok();
        (
            Ipv6Addr::from(address(8)?).into(),
            Ipv6Addr::from(address(24)?).into(),
            40,
        )
    } else {
        let address = |at: usize| <[u8; 4]>::try_from(ip.get(at..at + 4)?).ok();
        let header = usize::from(ip[0] & 15) * 4;
        (
            Ipv4Addr::from(address(12)?).into(),
            Ipv4Addr::from(address(16)?).into(),
            header,
        )
    };
    let half = |at: usize| Some(u16::from_be_bytes([*ip.get(at)?, *ip.get(at + 1)?]));
    let total = if at == 40 {
        40 + usize::from(half(4)?)
    } else {
        usize::from(half(2)?)
    };
    let tcp = ip.get(at..)?;
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Packet {
        time,
        from: SocketAddr::new(from, port(0)?),
        to: SocketAddr::new(to, port(2)?),
        seq: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
        data: tcp.get(header..).unwrap_or_default().to_vec(),
        length: total.checked_sub(at + header)?,
    })
}

//! A packet taken apart, as its receiver would: lengths and checksums must be right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{checksum, shape::ETHERNET};

/// What a segment says, and how it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Source and destination of the link header.
    pub macs: Option<([u8; 6], [u8; 6])>,
    pub tags: usize,
    pub from: IpAddr,
    pub to: IpAddr,
    pub ports: (u16, u16),
    /// Bytes of the IP header with options or extensions.
    pub ip_header: usize,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Decoded {
    /// # Panics
    /// When a receiver would not take the packet.
    #[track_caller]
    pub fn of(packet: &[u8], ethernet: bool) -> Self {
        let (macs, tags, ip) = link(packet, ethernet);
        let (from, to, ip_header, segment) = match ip[0] >> 4 {
            4 => v4(ip),
            6 => v6(ip),
            version => panic!("IP version {version} in {packet:02x?}"),
        };
        let pseudo = checksum::pseudo_header(from, to, segment.len());
        assert_eq!(
            checksum::sum(&[&pseudo, segment]),
            0xffff,
            "the TCP checksum of {packet:02x?}"
        );
        let header = usize::from(segment[12] >> 4) * 4;
        Self {
            macs,
            tags,
            from,
            to,
            ports: (half(segment, 0), half(segment, 2)),
            ip_header,
            seq: word(segment, 4),
            ack: word(segment, 8),
            flags: segment[13],
            window: half(segment, 14),
            options: segment[20..header].to_vec(),
            payload: segment[header..].to_vec(),
        }
    }

    /// The payload, for messages and comparisons.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

type Macs = Option<([u8; 6], [u8; 6])>;

fn link(packet: &[u8], ethernet: bool) -> (Macs, usize, &[u8]) {
    if !ethernet {
        return (None, 0, packet);
    }
    let mac = |at: usize| <[u8; 6]>::try_from(&packet[at..at + 6]).expect("six bytes");
    let (mut at, mut tags) = (ETHERNET, 0);
    while matches!(half(packet, at - 2), 0x8100 | 0x88a8) {
        at += 4;
        tags += 1;
    }
    (Some((mac(6), mac(0))), tags, &packet[at..])
}

#[track_caller]
fn v4(ip: &[u8]) -> (IpAddr, IpAddr, usize, &[u8]) {
    let header = usize::from(ip[0] & 15) * 4;
    assert_eq!(
        checksum::sum(&[&ip[..header]]),
        0xffff,
        "the IPv4 checksum of {ip:02x?}"
    );
    assert_eq!(
        usize::from(half(ip, 2)),
        ip.len(),
        "the total length of {ip:02x?}"
    );
    assert_eq!(ip[9], 6, "the protocol of {ip:02x?}");
    let address = |at: usize| Ipv4Addr::from(word(ip, at)).into();
    (address(12), address(16), header, &ip[header..])
}

#[track_caller]
fn v6(ip: &[u8]) -> (IpAddr, IpAddr, usize, &[u8]) {
    assert_eq!(
        usize::from(half(ip, 4)) + 40,
        ip.len(),
        "the payload length of {ip:02x?}"
    );
    let (mut next, mut header) = (ip[6], 40);
    while next != 6 {
        let units = usize::from(ip[header + 1]);
        let len = if next == 51 {
            (units + 2) * 4
        } else {
            (units + 1) * 8
        };
        next = ip[header];
        header += len;
    }
    let address = |at: usize| {
        Ipv6Addr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).expect("16 bytes")).into()
    };
    (address(8), address(24), header, &ip[header..])
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

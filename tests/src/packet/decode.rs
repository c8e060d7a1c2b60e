//! A packet taken apart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{checksum, shape::ETHERNET};

const TCP: u8 = 6;
/// Extension headers of IPv6 that say their length where all do, or where AH does.
const EXTENSIONS: [u8; 5] = [0, 43, 44, 51, 60];

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
    /// The TCP segment in a packet of which nothing is certain; its checksums may be left to a device.
    pub fn read(packet: &[u8], ethernet: bool) -> Option<Self> {
        let (macs, tags, ip) = link(packet, ethernet)?;
        let (from, to, ip_header, segment) = match ip.first()? >> 4 {
            4 => v4(ip)?,
            6 => v6(ip)?,
            _ => return None,
        };
        let header = usize::from(segment.get(12)? >> 4) * 4;
        Some(Self {
            macs,
            tags,
            from,
            to,
            ports: (half(segment, 0)?, half(segment, 2)?),
            ip_header,
            seq: word(segment, 4)?,
            ack: word(segment, 8)?,
            flags: segment[13],
            window: half(segment, 14)?,
            options: segment.get(20..header)?.to_vec(),
            payload: segment[header..].to_vec(),
        })
    }

    /// The same as its receiver would: lengths and checksums must be right.
    ///
    /// # Panics
    /// When a receiver would not take the packet.
    #[track_caller]
    pub fn of(packet: &[u8], ethernet: bool) -> Self {
        let Some(decoded) = Self::read(packet, ethernet) else {
            panic!("no TCP segment: {packet:02x?}");
        };
        let (_, _, ip) = link(packet, ethernet).expect("it was read");
        if decoded.from.is_ipv4() {
            let header = &ip[..decoded.ip_header];
            assert_eq!(
                checksum::sum(&[header]),
                0xffff,
                "the IPv4 checksum of {packet:02x?}"
            );
        }
        assert_eq!(length(ip), Some(ip.len()), "the length of {packet:02x?}");
        let segment = &ip[decoded.ip_header..];
        let pseudo = checksum::pseudo_header(decoded.from, decoded.to, segment.len());
        assert_eq!(
            checksum::sum(&[&pseudo, segment]),
            0xffff,
            "the TCP checksum of {packet:02x?}"
        );
        decoded
    }

    /// The payload, for messages and comparisons.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// The value and the echo of the timestamp option, where everybody lays it out.
    pub fn timestamp(&self) -> Option<(u32, u32)> {
        let values = self.options.strip_prefix(&[1, 1, 8, 10])?;
        Some((word(values, 0)?, word(values, 4)?))
    }
}

type Macs = Option<([u8; 6], [u8; 6])>;

fn link(packet: &[u8], ethernet: bool) -> Option<(Macs, usize, &[u8])> {
    if !ethernet {
        return Some((None, 0, packet));
    }
    let mac = |at: usize| <[u8; 6]>::try_from(packet.get(at..at + 6)?).ok();
    let (mut at, mut tags) = (ETHERNET, 0);
    while matches!(half(packet, at - 2)?, 0x8100 | 0x88a8) {
        at += 4;
        tags += 1;
    }
    Some((Some((mac(6)?, mac(0)?)), tags, packet.get(at..)?))
}

/// What the IP header says of the packet's length.
fn length(ip: &[u8]) -> Option<usize> {
    if ip.first()? >> 4 == 4 {
        Some(usize::from(half(ip, 2)?))
    } else {
        Some(usize::from(half(ip, 4)?) + 40)
    }
}

type Read<'a> = (IpAddr, IpAddr, usize, &'a [u8]);

fn v4(ip: &[u8]) -> Option<Read<'_>> {
    let header = usize::from(ip[0] & 15) * 4;
    if *ip.get(9)? != TCP {
        return None;
    }
    let address = |at: usize| Some(Ipv4Addr::from(word(ip, at)?).into());
    Some((
        address(12)?,
        address(16)?,
        header,
        ip.get(header..length(ip)?)?,
    ))
}

fn v6(ip: &[u8]) -> Option<Read<'_>> {
    let (mut next, mut header) = (*ip.get(6)?, 40);
    while next != TCP {
        if !EXTENSIONS.contains(&next) {
            return None;
        }
        let units = usize::from(*ip.get(header + 1)?);
        let len = if next == 51 {
            (units + 2) * 4
        } else {
            (units + 1) * 8
        };
        next = ip[header];
        header += len;
    }
    let address =
        |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?).into());
    Some((
        address(8)?,
        address(24)?,
        header,
        ip.get(header..length(ip)?)?,
    ))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Decoding of packets with the etherparse crate.

use std::net::IpAddr;

use etherparse::{LinkSlice, NetSlice, SlicedPacket, TransportSlice};

use super::{checksum, shape::ETHERNET};

/// The length of a VLAN tag, and the length of a TCP header without options, in bytes.
const TAG: usize = 4;
const TCP_HEADER: usize = 20;

/// The contents of a TCP segment, and of the headers around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedSegment {
    /// The source and the destination address in the link header.
    pub macs: Option<([u8; 6], [u8; 6])>,
    pub tags: usize,
    pub from: IpAddr,
    pub to: IpAddr,
    pub ports: (u16, u16),
    /// The length of the IP header, including its options or extensions, in bytes.
    pub ip_header: usize,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl DecodedSegment {
    /// Decodes a packet. Returns `None` if it is not TCP. The checksums are not verified, because
    /// the kernel may have left them to a device, and then they are not complete.
    pub fn read(packet: &[u8], ethernet: bool) -> Option<Self> {
        let sliced = if ethernet {
            SlicedPacket::from_ethernet(packet)
        } else {
            SlicedPacket::from_ip(packet)
        };
        let sliced = sliced.ok()?;
        let macs = sliced.link.and_then(|link| match link {
            LinkSlice::Ethernet2(link) => Some((link.source(), link.destination())),
            _ => None,
        });
        let (from, to, ip_header): (IpAddr, IpAddr, usize) = match sliced.net? {
            NetSlice::Ipv4(ip) => {
                let ip = ip.header();
                let (from, to) = (ip.source_addr(), ip.destination_addr());
                (from.into(), to.into(), ip.slice().len())
            }
            NetSlice::Ipv6(ip) => {
                let len = ip.header().slice().len() + ip.extensions().slice().len();
                let ip = ip.header();
                let (from, to) = (ip.source_addr(), ip.destination_addr());
                (from.into(), to.into(), len)
            }
            NetSlice::Arp(_) => return None,
        };
        let TransportSlice::Tcp(tcp) = sliced.transport? else {
            return None;
        };
        Some(Self {
            macs,
            tags: sliced.link_exts.len(),
            from,
            to,
            ports: (tcp.source_port(), tcp.destination_port()),
            ip_header,
            seq: tcp.sequence_number(),
            ack: tcp.acknowledgment_number(),
            flags: tcp.header_slice()[13],
            window: tcp.window_size(),
            options: tcp.options().to_vec(),
            payload: tcp.payload().to_vec(),
        })
    }

    /// Decodes a packet as its receiver would, and checks lengths and checksums.
    ///
    /// # Errors
    /// Returns the reason for which a receiver would not accept the packet, or for which the packet
    /// has bytes after its segment.
    pub fn verified(packet: &[u8], ethernet: bool) -> Result<Self, String> {
        let Some(decoded) = Self::read(packet, ethernet) else {
            return Err(format!("no TCP segment: {packet:02x?}"));
        };
        let link = if ethernet {
            ETHERNET + decoded.tags * TAG
        } else {
            0
        };
        let (ip, segment) = packet[link..].split_at(decoded.ip_header);
        if decoded.from.is_ipv4() && checksum::sum(&[ip]) != 0xffff {
            return Err(format!("the IPv4 checksum is wrong: {packet:02x?}"));
        }
        let len = TCP_HEADER + decoded.options.len() + decoded.payload.len();
        if len != segment.len() {
            return Err(format!("the segment has {len} bytes: {packet:02x?}"));
        }
        let pseudo = checksum::pseudo_header(decoded.from, decoded.to, segment.len());
        if checksum::sum(&[&pseudo, segment]) != 0xffff {
            return Err(format!("the TCP checksum is wrong: {packet:02x?}"));
        }
        Ok(decoded)
    }

    /// Decodes a packet with [`DecodedSegment::verified`].
    ///
    /// # Panics
    /// Panics if a receiver would not accept the packet.
    #[track_caller]
    pub fn of(packet: &[u8], ethernet: bool) -> Self {
        match Self::verified(packet, ethernet) {
            Ok(decoded) => decoded,
            Err(reason) => panic!("{reason}"),
        }
    }

    /// Returns the payload as text, for messages and comparisons.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Returns the value and the echo of the timestamp option, if the option has its usual layout.
    pub fn timestamp(&self) -> Option<(u32, u32)> {
        let values = self.options.strip_prefix(&[1, 1, 8, 10])?;
        let (value, rest) = values.split_first_chunk()?;
        let (echo, _) = rest.split_first_chunk()?;
        Some((u32::from_be_bytes(*value), u32::from_be_bytes(*echo)))
    }
}

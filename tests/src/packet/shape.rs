// SPDX-License-Identifier: MIT OR Apache-2.0

//! The headers around a segment: link header, tags, and IP with its options or extensions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{checksum, segment::Segment};
use crate::GUARDED;

pub const ETHERNET: usize = 14;
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const TAG: u16 = 0x8100;
/// The EtherType of the outer of two tags (IEEE 802.1ad).
const OUTER_TAG: u16 = 0x88a8;
const TCP: u8 = 6;

/// The addresses and ports of both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    pub client: IpAddr,
    pub server: IpAddr,
    pub client_port: u16,
    pub server_port: u16,
}

impl Ends {
    /// Returns two ends with IPv4 addresses. They also work for packets without a link header: a
    /// test run takes bytes 12 and 13 of every packet as its EtherType (`eth_type_trans`), and in a
    /// bare IPv4 packet these bytes are the first two of the source address. Both addresses
    /// therefore begin with the EtherType of IPv4, 0x0800.
    pub fn v4() -> Self {
        Self {
            client: Ipv4Addr::new(8, 0, 0, 1).into(),
            server: Ipv4Addr::new(8, 0, 0, 2).into(),
            client_port: 40_000,
            server_port: GUARDED,
        }
    }

    /// Returns two ends with IPv6 addresses. For packets without a link header, bytes 5 and 6 of
    /// the addresses are the EtherType of IPv6, 0x86dd (see [`Ends::v4`]).
    pub fn v6() -> Self {
        let address = |last| Ipv6Addr::new(0x2001, 0xdb8, 0x86dd, 0, 0, 0, 0, last);
        Self {
            client: address(1).into(),
            server: address(2).into(),
            ..Self::v4()
        }
    }
}

/// An IPv6 extension header (RFC 8200, section 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    pub kind: u8,
    /// The whole header, including its first byte. This byte is overwritten with the number of the
    /// next header.
    pub bytes: Vec<u8>,
}

impl Extension {
    /// Returns hop-by-hop options (0) or destination options (60) with a length of `units` times
    /// eight bytes, which contain only padding.
    pub fn options(kind: u8, units: u8) -> Self {
        let len = usize::from(units) * 8;
        let mut bytes = vec![0; len];
        bytes[1] = units - 1;
        let mut at = 2;
        while at < len {
            // PadN (RFC 8200, section 4.2) with at most 253 bytes of data.
            let data = (len - at - 2).min(253);
            bytes[at] = 1;
            bytes[at + 1] = u8::try_from(data).expect("it is small");
            at += 2 + data;
        }
        Self { kind, bytes }
    }

    /// Returns a fragment header (44). Its `offset` is in units of eight bytes.
    pub fn fragment(Fragment { offset, more }: Fragment) -> Self {
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        Self {
            kind: 44,
            bytes: vec![0, 0, high, low, 0, 0, 0, 7],
        }
    }

    /// Returns an authentication header (51) with a check value of 12 bytes (RFC 4302).
    pub fn authentication() -> Self {
        let mut bytes = vec![0; 24];
        bytes[1] = 4;
        Self { kind: 51, bytes }
    }
}

/// The position of a fragment in the original packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The offset in units of eight bytes.
    pub offset: u16,
    pub more: bool,
}

/// The network header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkHeader {
    V4 {
        options: Vec<u8>,
        fragment: Option<Fragment>,
    },
    V6 {
        extensions: Vec<Extension>,
    },
}

/// All headers around a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Whether there is an Ethernet header.
    pub ethernet: bool,
    /// The number of VLAN tags in the frame.
    pub tags: usize,
    pub net: NetworkHeader,
}

impl Shape {
    pub fn v4() -> Self {
        Self::v4_with(Vec::new())
    }

    /// Returns a shape with IPv4 and `options`, whose total length must be a multiple of four
    /// bytes.
    pub fn v4_with(options: Vec<u8>) -> Self {
        Self {
            ethernet: true,
            tags: 0,
            net: NetworkHeader::V4 {
                options,
                fragment: None,
            },
        }
    }

    pub fn v6() -> Self {
        Self::v6_with(Vec::new())
    }

    pub fn v6_with(extensions: Vec<Extension>) -> Self {
        Self {
            ethernet: true,
            tags: 0,
            net: NetworkHeader::V6 { extensions },
        }
    }

    /// Returns the shape of an IPv4 fragment.
    pub fn v4_fragment(offset: u16, more: bool) -> Self {
        let fragment = Some(Fragment { offset, more });
        Self {
            ethernet: true,
            tags: 0,
            net: NetworkHeader::V4 {
                options: Vec::new(),
                fragment,
            },
        }
    }

    #[must_use]
    pub fn tagged(self, tags: usize) -> Self {
        Self { tags, ..self }
    }

    /// Removes the link header, as on a device without link headers.
    #[must_use]
    pub fn bare(self) -> Self {
        Self {
            ethernet: false,
            ..self
        }
    }

    /// Returns whether a test run treats packets of this shape as the kernel treats real ones. A
    /// test run always assumes a link header of 14 bytes. For a shape with a different link header,
    /// this matters only if the programs have to remove options or extension headers from the
    /// packet.
    pub fn is_usual(&self) -> bool {
        let plain = match &self.net {
            NetworkHeader::V4 { options, .. } => options.is_empty(),
            NetworkHeader::V6 { extensions } => extensions.is_empty(),
        };
        plain || (self.ethernet && self.tags == 0)
    }

    /// Returns the default addresses and ports for the family of the network header.
    pub fn ends(&self) -> Ends {
        match self.net {
            NetworkHeader::V4 { .. } => Ends::v4(),
            NetworkHeader::V6 { .. } => Ends::v6(),
        }
    }

    /// Returns `segment` as a packet with correct lengths and checksums.
    pub fn wrap(&self, ends: &Ends, to_server: bool, segment: &Segment) -> Vec<u8> {
        let (from, to) = if to_server {
            (ends.client, ends.server)
        } else {
            (ends.server, ends.client)
        };
        let ports = if to_server {
            (ends.client_port, ends.server_port)
        } else {
            (ends.server_port, ends.client_port)
        };
        self.around(from, to, TCP, to_server, &segment.bytes(from, to, ports))
    }

    /// Returns a packet that has these headers around an arbitrary IP payload.
    pub fn around(
        &self,
        from: IpAddr,
        to: IpAddr,
        protocol: u8,
        to_server: bool,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut packet = self.link(to_server);
        packet.extend(match (&self.net, from, to) {
            (NetworkHeader::V4 { options, fragment }, IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut ip = v4(options, *fragment, protocol, payload.len());
                ip[12..16].copy_from_slice(&from.octets());
                ip[16..20].copy_from_slice(&to.octets());
                let check = !checksum::sum(&[&ip]);
                ip[10..12].copy_from_slice(&check.to_be_bytes());
                ip
            }
            (NetworkHeader::V6 { extensions }, IpAddr::V6(from), IpAddr::V6(to)) => {
                v6(extensions, protocol, payload.len(), [from, to])
            }
            _ => panic!("addresses and header of two families"),
        });
        packet.extend(payload);
        packet
    }

    /// Returns the link header, including its tags.
    fn link(&self, to_server: bool) -> Vec<u8> {
        if !self.ethernet {
            return Vec::new();
        }
        let (from, to) = if to_server {
            (CLIENT_MAC, SERVER_MAC)
        } else {
            (SERVER_MAC, CLIENT_MAC)
        };
        let mut link = [to, from].concat();
        for tag in (0..self.tags).rev() {
            let kind = if tag == 0 { TAG } else { OUTER_TAG };
            let id = u16::try_from(tag + 5).expect("a VLAN id");
            link.extend([kind.to_be_bytes(), id.to_be_bytes()].concat());
        }
        let ethertype: u16 = match self.net {
            NetworkHeader::V4 { .. } => 0x0800,
            NetworkHeader::V6 { .. } => 0x86dd,
        };
        link.extend(ethertype.to_be_bytes());
        link
    }
}

/// Returns an IPv4 header without its addresses and its checksum.
fn v4(options: &[u8], fragment: Option<Fragment>, protocol: u8, payload: usize) -> Vec<u8> {
    assert!(
        options.len().is_multiple_of(4) && options.len() <= 40,
        "options of IPv4"
    );
    let len = 20 + options.len();
    let mut ip = vec![0; 20];
    ip[0] = 0x40 | u8::try_from(len / 4).expect("a short header");
    let total = u16::try_from(len + payload).expect("a packet's length");
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    let place = fragment.map_or(0x4000, |Fragment { offset, more }| {
        offset | u16::from(more) << 13
    });
    ip[6..8].copy_from_slice(&place.to_be_bytes());
    ip[8] = 64;
    ip[9] = protocol;
    ip.extend(options);
    ip
}

/// Returns an IPv6 header, including its extensions.
fn v6(extensions: &[Extension], protocol: u8, payload: usize, ends: [Ipv6Addr; 2]) -> Vec<u8> {
    let kinds: Vec<u8> = extensions
        .iter()
        .map(|extension| extension.kind)
        .chain([protocol])
        .collect();
    let mut ip = vec![0x60, 0, 0, 0, 0, 0, kinds[0], 64];
    for end in ends {
        ip.extend(end.octets());
    }
    for (extension, next) in extensions.iter().zip(&kinds[1..]) {
        ip.push(*next);
        ip.extend(&extension.bytes[1..]);
    }
    let len = u16::try_from(ip.len() - 40 + payload).expect("a packet's length");
    ip[4..6].copy_from_slice(&len.to_be_bytes());
    ip
}

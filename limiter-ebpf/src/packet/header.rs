// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The constants of packet headers, and the result of parsing a packet.

use crate::kernel::work::Work;

pub const ETH_LEN: u32 = 14;

pub const ETH_P_IP: u16 = 0x0800;
pub const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;

pub const IPPROTO_ICMP: u32 = 1;
pub const IPPROTO_TCP: u32 = 6;
pub const IPPROTO_ICMPV6: u32 = 58;

/// The length of an IPv4 header without options, in bytes.
pub const IPV4_LEN: u32 = 20;

/// The length of an IPv6 header without extension headers, in bytes.
pub const IPV6_LEN: u32 = 40;

pub const TCP_LEN: u32 = 20;

pub const FIN: u32 = 0x01;
pub const SYN: u32 = 0x02;
pub const RST: u32 = 0x04;
pub const PSH: u32 = 0x08;
pub const ACK: u32 = 0x10;
pub const URG: u32 = 0x20;

/// The direction of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From a client. The destination port is guarded.
    ToServer,
    /// From a server. The source port is guarded.
    ToClient,
}

/// The kinds of packets that the programs distinguish.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The packet is not TCP of a guarded port.
    Other,
    /// The packet is a segment of a guarded port, and `Work::packet` has its headers.
    Segment,
    /// The packet is the first fragment of a segment for a guarded port. If this fragment is
    /// dropped, the segment can never be reassembled.
    Fragment,
    /// The packet is for a guarded port, and the checksum of its IPv4 header is wrong.
    BadChecksum,
    /// The packet is for a guarded port, and its TTL or hop limit is 0.
    Expired,
    /// The packet appears to be for a guarded port, but its headers are incomplete or invalid.
    Unreadable,
}

/// The result of parsing. For a segment, the result includes the memory in which the segment is
/// processed.
pub type Parse = (Kind, Option<&'static mut Work>);

/// The result of an attempt to parse. `Err` means that not all headers are in the linear part.
pub type Attempt = Result<Parse, ()>;

/// The word before the IPv4 address in an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2).
pub const MAPPED: u32 = u32::from_be(0x0000_ffff);

#[inline(always)]
pub fn is_vlan(ethertype: u16) -> bool {
    ethertype == ETH_P_8021Q || ethertype == ETH_P_8021AD
}

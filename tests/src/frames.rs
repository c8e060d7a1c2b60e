// SPDX-License-Identifier: MIT OR Apache-2.0

//! Changes to packets in flight, for [`crate::wire::Wire`]. Each function takes a packet, and
//! returns the packets that replace it. The parameter `link` is the length of the packet's link
//! header in bytes. If the change does not apply to a packet, the packet is returned unchanged.

use crate::packet::checksum;

const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];
const ETHERTYPES_IP: [[u8; 2]; 2] = [[0x08, 0x00], [0x86, 0xdd]];
const TCP: u8 = 6;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const V6_DESTINATION_OPTIONS: u8 = 60;
const V6_FRAGMENT: u8 = 44;
const MORE_FRAGMENTS: u16 = 0x2000;

/// The size of the first fragment's payload in bytes. The TCP header and the first bytes of the
/// request fit in it.
const FIRST_FRAGMENT: usize = 48;

/// The parts of a plain IP packet that carries TCP.
struct Tcp<'a> {
    link: &'a [u8],
    ip: &'a [u8],
    segment: &'a [u8],
    v6: bool,
}

impl<'a> Tcp<'a> {
    fn find(packet: &'a [u8], link: usize) -> Option<Self> {
        let (link, rest) = packet.split_at_checked(link)?;
        let v6 = rest.first()? >> 4 == 6;
        let header = if v6 { V6_HEADER } else { V4_HEADER };
        let (ip, segment) = rest.split_at_checked(header)?;
        let protocol = if v6 { ip[6] } else { ip[9] };
        let plain = v6 || ip[0] == 0x45;
        (plain && protocol == TCP && segment.len() >= 20).then_some(Self {
            link,
            ip,
            segment,
            v6,
        })
    }

    fn data(&self) -> &[u8] {
        let header = usize::from(self.segment[12] >> 4) * 4;
        self.segment.get(header..).unwrap_or_default()
    }
}

/// Adds a priority tag (VLAN 0, priority 1) to an Ethernet frame that carries IP. The receiver
/// treats such a frame as untagged (IEEE 802.1Q).
pub fn priority_tagged(frame: Vec<u8>) -> Vec<Vec<u8>> {
    let Some((addresses, rest)) = frame.split_at_checked(12) else {
        return vec![frame];
    };
    if !ETHERTYPES_IP.iter().any(|kind| rest.starts_with(kind)) {
        return vec![frame];
    }
    let tag = [ETHERTYPE_VLAN, [0x20, 0x00]].concat();
    vec![[addresses, &tag, rest].concat()]
}

/// Adds to an IPv4 packet four bytes of options that have no effect.
pub fn with_v4_options(packet: Vec<u8>, link: usize) -> Vec<Vec<u8>> {
    let Some(tcp) = Tcp::find(&packet, link).filter(|tcp| !tcp.v6) else {
        return vec![packet];
    };
    let mut ip = tcp.ip.to_vec();
    ip[0] = 0x46;
    ip.extend([1, 1, 1, 0]);
    let total = ip.len() + tcp.segment.len();
    finish_v4(&mut ip, total, 0);
    vec![[tcp.link, &ip, tcp.segment].concat()]
}

/// Adds to an IPv6 packet a destination options header that has no effect.
pub fn with_v6_options(packet: Vec<u8>, link: usize) -> Vec<Vec<u8>> {
    let Some(tcp) = Tcp::find(&packet, link).filter(|tcp| tcp.v6) else {
        return vec![packet];
    };
    let pad = [TCP, 0, 1, 4, 0, 0, 0, 0];
    vec![extended(&tcp, V6_DESTINATION_OPTIONS, &pad, tcp.segment)]
}

/// Splits a packet into two fragments if its segment carries data.
pub fn fragmented(packet: Vec<u8>, link: usize) -> Vec<Vec<u8>> {
    let Some(tcp) = Tcp::find(&packet, link)
        .filter(|tcp| !tcp.data().is_empty() && tcp.segment.len() > FIRST_FRAGMENT)
    else {
        return vec![packet];
    };
    let (first, second) = tcp.segment.split_at(FIRST_FRAGMENT);
    fragments(&tcp, [first, second].into_iter())
}

/// Splits a TCP packet into fragments with payloads of `size` bytes; `size` must be a multiple of
/// eight.
pub fn in_fragments(packet: Vec<u8>, link: usize, size: usize) -> Vec<Vec<u8>> {
    let Some(tcp) = Tcp::find(&packet, link) else {
        return vec![packet];
    };
    fragments(&tcp, tcp.segment.chunks(size))
}

fn fragments<'a>(tcp: &Tcp<'_>, parts: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut parts = parts.peekable();
    let mut fragments = Vec::new();
    let mut at = 0;
    while let Some(part) = parts.next() {
        let offset = u16::try_from(at / 8).expect("a place in a packet");
        let more = parts.peek().is_some();
        fragments.push(if tcp.v6 {
            let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
            extended(tcp, V6_FRAGMENT, &[TCP, 0, high, low, 0, 0, 0, 1], part)
        } else {
            let mut ip = tcp.ip.to_vec();
            let total = ip.len() + part.len();
            let flag = if more { MORE_FRAGMENTS } else { 0 };
            finish_v4(&mut ip, total, flag | offset);
            [tcp.link, &ip, part].concat()
        });
        at += part.len();
    }
    fragments
}

fn extended(tcp: &Tcp<'_>, next: u8, extension: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut ip = tcp.ip.to_vec();
    ip[6] = next;
    let length = u16::try_from(extension.len() + payload.len()).expect("a packet's length");
    ip[4..6].copy_from_slice(&length.to_be_bytes());
    [tcp.link, &ip, extension, payload].concat()
}

/// Writes an IPv4 header's total length, fragment field and checksum.
fn finish_v4(ip: &mut [u8], total: usize, fragment: u16) {
    let total = u16::try_from(total).expect("a packet's length");
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[6..8].copy_from_slice(&fragment.to_be_bytes());
    ip[10..12].fill(0);
    let checksum = !checksum::sum(&[ip]);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
}

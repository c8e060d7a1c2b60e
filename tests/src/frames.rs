//! Changes to packets in flight, for [`crate::wire::Wire`]: each takes a packet
//! with the length of its link header and leaves what it is not about alone.

use crate::packet::checksum;

const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];
const ETHERTYPES_IP: [[u8; 2]; 2] = [[0x08, 0x00], [0x86, 0xdd]];
const TCP: u8 = 6;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const V6_DESTINATION_OPTIONS: u8 = 60;
const V6_FRAGMENT: u8 = 44;
const MORE_FRAGMENTS: u16 = 0x2000;

/// Payload of the first fragment: the TCP header and a little of the request.
const FIRST_FRAGMENT: usize = 48;

/// A plain IP packet with TCP in it, taken apart.
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

/// An Ethernet frame with a priority tag (VLAN 0, priority 1) if it carries IP:
/// the receiver takes it for untagged, as IEEE 802.1Q says.
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

/// An IPv4 packet with four bytes of options that do nothing.
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

/// An IPv6 packet with a destination options header that does nothing.
pub fn with_v6_options(packet: Vec<u8>, link: usize) -> Vec<Vec<u8>> {
    let Some(tcp) = Tcp::find(&packet, link).filter(|tcp| tcp.v6) else {
        return vec![packet];
    };
    let pad = [TCP, 0, 1, 4, 0, 0, 0, 0];
    vec![extended(&tcp, V6_DESTINATION_OPTIONS, &pad, tcp.segment)]
}

/// A packet whose segment carries data in two fragments.
pub fn fragmented(packet: Vec<u8>, link: usize) -> Vec<Vec<u8>> {
    let Some(tcp) = Tcp::find(&packet, link)
        .filter(|tcp| !tcp.data().is_empty() && tcp.segment.len() > FIRST_FRAGMENT)
    else {
        return vec![packet];
    };
    let (first, second) = tcp.segment.split_at(FIRST_FRAGMENT);
    fragments(&tcp, [first, second].into_iter())
}

/// A packet with TCP in fragments of so many bytes, a multiple of eight.
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

/// Fills in an IPv4 header's total length, fragment field and checksum.
fn finish_v4(ip: &mut [u8], total: usize, fragment: u16) {
    let total = u16::try_from(total).expect("a packet's length");
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[6..8].copy_from_slice(&fragment.to_be_bytes());
    ip[10..12].fill(0);
    let checksum = !checksum::sum(&[ip]);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
}

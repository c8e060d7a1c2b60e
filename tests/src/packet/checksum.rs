// SPDX-License-Identifier: MIT OR Apache-2.0

//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

const TCP: u8 = 6;

/// Returns the one's complement sum of 16-bit words, folded but not inverted.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let mut total = 0u32;
    // A part of odd length is padded with a zero byte, so only the last part may have an odd
    // length. Headers always have an even length.
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            total += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).expect("it is folded")
}

/// Returns the pseudo-header of TCP (RFC 9293, section 3.1; RFC 8200, section 8.1), where `len` is
/// the total length of the TCP header and the payload in bytes.
pub fn pseudo_header(from: IpAddr, to: IpAddr, len: usize) -> Vec<u8> {
    let len = u32::try_from(len).expect("a packet's length").to_be_bytes();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            [&from.octets()[..], &to.octets(), &[0, TCP], &len[2..]].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            [&from.octets()[..], &to.octets(), &len, &[0, 0, 0, TCP]].concat()
        }
        _ => panic!("addresses of two families: {from} and {to}"),
    }
}

/// Corrects the checksum in the IPv4 header of a frame. The frame must have no VLAN tags.
pub fn mend_ip_checksum(frame: &mut [u8]) {
    let len = usize::from(frame[14] & 0x0f) * 4;
    let header = &mut frame[14..14 + len.max(20)];
    header[10..12].copy_from_slice(&[0; 2]);
    let check = !sum(&[header]);
    header[10..12].copy_from_slice(&check.to_be_bytes());
}

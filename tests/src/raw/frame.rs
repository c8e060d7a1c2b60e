// SPDX-License-Identifier: MIT OR Apache-2.0

//! A frame, and methods that make it invalid.

use std::net::IpAddr;

use crate::packet::{Ends, Segment, Shape, checksum};

const ETHERNET: usize = 14;
const V6_HEADER: usize = 40;

/// An Ethernet frame that contains an IP packet. Each method changes one property of the frame, and
/// corrects the checksum of the header in which the property is, so that the frame has no other
/// fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    bytes: Vec<u8>,
    /// The offset of the IP header.
    ip: usize,
    v6: bool,
}

impl Frame {
    pub(super) fn new(
        shape: &Shape,
        ends: &Ends,
        macs: ([u8; 6], [u8; 6]),
        to_server: bool,
        segment: &Segment,
    ) -> Self {
        let mut bytes = shape.wrap(ends, to_server, segment);
        bytes[..6].copy_from_slice(&macs.1);
        bytes[6..12].copy_from_slice(&macs.0);
        Self {
            bytes,
            ip: ETHERNET + 4 * shape.tags,
            v6: matches!(ends.client, IpAddr::V6(_)),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Applies one of the changes in [`crate::frames`] to the frame, and returns the resulting
    /// frames.
    pub fn changed(self, change: impl Fn(Vec<u8>, usize) -> Vec<Vec<u8>>) -> Vec<Self> {
        let Self { bytes, ip, v6 } = self;
        let changed = change(bytes, ip).into_iter();
        changed.map(|bytes| Self { bytes, ip, v6 }).collect()
    }

    /// Changes the destination link address.
    pub fn to_mac(mut self, mac: [u8; 6]) -> Self {
        self.bytes[..6].copy_from_slice(&mac);
        self
    }

    /// Changes the EtherType that follows the tags.
    pub fn ethertype(mut self, kind: u16) -> Self {
        let at = self.ip - 2;
        self.bytes[at..self.ip].copy_from_slice(&kind.to_be_bytes());
        self
    }

    /// Adds tags, with the outer one first. A tag consists of an EtherType and a 16-bit number. The
    /// lower 12 bits of the number are the VLAN, and its upper three bits are the priority.
    pub fn tagged(mut self, tags: &[(u16, u16)]) -> Self {
        let tags: Vec<u8> = tags
            .iter()
            .flat_map(|(kind, tag)| [kind.to_be_bytes(), tag.to_be_bytes()].concat())
            .collect();
        self.ip += tags.len();
        self.bytes.splice(12..12, tags);
        self
    }

    /// Changes the time to live (IPv4) or the hop limit (IPv6).
    pub fn hops(mut self, hops: u8) -> Self {
        let at = self.ip + if self.v6 { 7 } else { 8 };
        self.bytes[at] = hops;
        self.with_ip_checksum()
    }

    /// Changes the IP version.
    pub fn version(mut self, version: u8) -> Self {
        self.bytes[self.ip] = self.bytes[self.ip] & 0x0f | version << 4;
        self.with_ip_checksum()
    }

    /// Changes the total length (IPv4) or the payload length (IPv6).
    pub fn length(mut self, length: u16) -> Self {
        let at = self.ip + if self.v6 { 4 } else { 2 };
        self.bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
        self.with_ip_checksum()
    }

    /// Appends bytes after the IP packet.
    pub fn trailed(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    /// Makes the checksum of the IPv4 header wrong.
    pub fn bad_ip_checksum(mut self) -> Self {
        assert!(!self.v6, "IPv6 has no checksum");
        self.bytes[self.ip + 10] ^= 0x55;
        self
    }

    /// Makes the TCP checksum wrong.
    pub fn bad_tcp_checksum(mut self) -> Self {
        let at = self.tcp() + 16;
        self.bytes[at] ^= 0x55;
        self
    }

    /// Changes the data offset, which is the length of the TCP header in 32-bit words.
    pub fn data_offset(mut self, words: u8) -> Self {
        let at = self.tcp() + 12;
        let before = self.bytes[at];
        self.bytes[at] = before & 0x0f | words << 4;
        // The checksum is updated as in RFC 1624, from the old checksum, the old word and the new
        // word.
        let sum = [
            &self.bytes[at + 4..at + 6],
            &[before, 0],
            &[!self.bytes[at], 0xff],
        ];
        let sum = checksum::sum(&sum.map(|part| part));
        self.bytes[at + 4..at + 6].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// Returns the offset of the TCP header. The result is correct only if the packet has no
    /// extension headers.
    fn tcp(&self) -> usize {
        let header = if self.v6 {
            V6_HEADER
        } else {
            usize::from(self.bytes[self.ip] & 15) * 4
        };
        self.ip + header
    }

    fn with_ip_checksum(mut self) -> Self {
        if !self.v6 {
            checksum::mend_ip_checksum(&mut self.bytes[self.ip - ETHERNET..]);
        }
        self
    }
}

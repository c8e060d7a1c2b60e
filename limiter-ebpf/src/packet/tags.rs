// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The check of frames that have more VLAN tags than real traffic has.

use crate::{
    kernel::{maps, repeat::repeat, skb::Skb},
    packet::{
        header::{ETH_P_IP, ETH_P_IPV6, IPPROTO_TCP, IPV4_LEN, IPV6_LEN, is_vlan},
        ipv6::is_extension,
    },
};

/// The maximum number of tags that are skipped. A frame of 16 KiB can have this number of tags.
const MAX_TAGS: u32 = 4096;

/// The state of the loop over the tags of a frame.
struct Tags {
    skb: Skb,
    at: u32,
    ethertype: u16,
}

/// Returns whether a TCP segment for a guarded port follows the VLAN tags that begin at offset
/// `at`. Also returns true if that is unknown, because there are too many tags or IPv6 extension
/// headers.
#[inline(never)]
pub fn leads_to_guarded(skb: Skb, at: u32) -> bool {
    let mut tags = Tags {
        skb,
        at,
        ethertype: 0,
    };
    repeat(MAX_TAGS, &mut tags, Tags::pass_one);
    let fixed = match tags.ethertype {
        ETH_P_IP => IPV4_LEN,
        ETH_P_IPV6 => IPV6_LEN,
        other => return is_vlan(other),
    };
    let Some(ip) = skb.load::<[u8; 8]>(tags.at) else {
        return false;
    };
    let mut protocol = u32::from(ip[6]);
    let mut l4 = tags.at + fixed;
    if fixed == IPV4_LEN {
        l4 = tags.at + u32::from(ip[0] & 0x0f) * 4;
        let Some(byte) = skb.load::<u8>(tags.at + 9) else {
            return false;
        };
        protocol = u32::from(byte);
    } else if is_extension(protocol) {
        return true;
    }
    if protocol != IPPROTO_TCP {
        return false;
    }
    match skb.load::<[u8; 2]>(l4 + 2) {
        Some(port) => maps::guarded(u16::from_be_bytes(port)),
        None => false,
    }
}

impl Tags {
    #[inline(always)]
    fn pass_one(&mut self, _: u32) -> bool {
        let Some(tag) = self.skb.load::<[u8; 4]>(self.at) else {
            self.ethertype = 0;
            return true;
        };
        self.at += 4;
        self.ethertype = u16::from_be_bytes([tag[2], tag[3]]);
        !is_vlan(self.ethertype)
    }
}

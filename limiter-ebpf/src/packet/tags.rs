//! More VLAN tags in a frame than anybody sends.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;

use super::{ETH_P_IP, ETH_P_IPV6, IPPROTO_TCP, IPV4_LEN, IPV6_LEN, ipv6::is_extension, is_vlan};
use crate::{maps, skb::Skb};

/// As many as there is room for in a long frame.
const MAX_TAGS: u32 = 4096;

struct Tags {
    skb: Skb,
    at: u32,
    ethertype: u16,
}

/// Whether the tags from `at` on lead to TCP of a guarded port, or may do so.
#[inline(never)]
pub fn leads_to_guarded(skb: Skb, at: u32) -> bool {
    let mut tags = Tags {
        skb,
        at,
        ethertype: 0,
    };
    // SAFETY: `tags` outlives the call.
    unsafe {
        bpf_loop(MAX_TAGS, next as *mut c_void, (&raw mut tags).cast(), 0);
    }
    let mut ip = [0u8; 8];
    let fixed = match tags.ethertype {
        ETH_P_IP => IPV4_LEN,
        ETH_P_IPV6 => IPV6_LEN,
        other => return is_vlan(other),
    };
    // SAFETY: the array has eight bytes.
    if !unsafe { skb.load(tags.at, ip.as_mut_ptr(), 8) } {
        return false;
    }
    let mut protocol = u32::from(ip[6]);
    let mut l4 = tags.at + fixed;
    if fixed == IPV4_LEN {
        l4 = tags.at + u32::from(ip[0] & 0x0f) * 4;
        let mut byte = 0u8;
        // SAFETY: one byte.
        if !unsafe { skb.load(tags.at + 9, &raw mut byte, 1) } {
            return false;
        }
        protocol = u32::from(byte);
    } else if is_extension(protocol) {
        return true;
    }
    let mut port = [0u8; 2];
    // SAFETY: the array has two bytes.
    protocol == IPPROTO_TCP
        && unsafe { skb.load(l4 + 2, port.as_mut_ptr(), 2) }
        && maps::guarded(u16::from_be_bytes(port))
}

unsafe extern "C" fn next(_: u32, tags: *mut Tags) -> i64 {
    let mut tag = [0u8; 4];
    // SAFETY: `leads_to_guarded` passes its own tags; the array has four bytes.
    unsafe {
        if !(*tags).skb.load((*tags).at, tag.as_mut_ptr(), 4) {
            (*tags).ethertype = 0;
            return 1;
        }
        (*tags).at += 4;
        (*tags).ethertype = u16::from_be_bytes([tag[2], tag[3]]);
        i64::from(!is_vlan((*tags).ethertype))
    }
}

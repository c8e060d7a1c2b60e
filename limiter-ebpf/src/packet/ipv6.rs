//! IPv6 and its extension headers (RFC 8200).

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;

use super::{
    Attempt, Direction, IPPROTO_TCP, IPV6_LEN, Linear, Parsed, TCP_LEN, ends, first_fragment,
    guarded, segment,
};
use crate::{maps, skb::Skb};

/// Extension headers that are followed. Each kind should occur once (RFC 8200, section 4.1), and
/// there are six that may come before TCP; more is nobody's traffic.
const MAX_EXTENSIONS: u32 = 8;
/// A TCP header with all options.
const MAX_TCP_LEN: u32 = 60;
/// The furthest from the start of a packet that a TCP header is looked for: extension headers of
/// more are nobody's traffic, and the verifier wants a bound.
const MAX_L4: u32 = 2048;

#[inline(always)]
pub fn ipv6(skb: Skb, linear: Linear, l3: u32, direction: Direction) -> Attempt {
    let mut linear = linear;
    let mut ip = linear.header(l3, IPV6_LEN).ok_or(())?;
    // SAFETY: the header has 40 bytes.
    let (protocol, first, hop_limit) = unsafe { (ip.byte::<6>(), ip.byte::<0>(), ip.byte::<7>()) };
    if first >> 4 != 6 {
        return Ok((Parsed::Other, None));
    }
    let mut l4 = l3 + IPV6_LEN;
    let mut fragmented = false;
    if protocol != IPPROTO_TCP {
        if !is_extension(protocol) {
            return Ok((Parsed::Other, None));
        }
        let mut walk = Walk {
            skb,
            protocol,
            at: l4,
            first_fragment: false,
            stranded: false,
        };
        walk_extensions(&mut walk);
        if walk.stranded {
            return Ok((Parsed::Unreadable, None));
        }
        if walk.protocol != IPPROTO_TCP {
            return Ok((Parsed::Other, None));
        }
        l4 = walk.at;
        fragmented = walk.first_fragment;
        if l4 > MAX_L4 {
            return Ok((Parsed::Unreadable, None));
        }
        // Behind long extensions the TCP header may not be linear where others are.
        if !fragmented && linear.header(l4, TCP_LEN).is_none() {
            let (len, wanted) = (skb.len(), l4 + MAX_TCP_LEN);
            if !skb.pull(if len < wanted { len } else { wanted }) {
                return Ok((Parsed::Unreadable, None));
            }
            linear = Linear::of(skb);
            ip = linear.header(l3, IPV6_LEN).ok_or(())?;
        }
    }
    if fragmented {
        return first_fragment(skb, linear, l4, direction);
    }
    let tcp = linear.header(l4, TCP_LEN).ok_or(())?;
    if !guarded(tcp, direction) {
        return Ok((Parsed::Other, None));
    }
    if direction == Direction::ToServer && hop_limit == 0 {
        return Ok((Parsed::Expired, None));
    }
    // SAFETY: the header has 40 bytes.
    unsafe {
        // Must not be on a wire (RFC 4291, section 2.5.5.2), and would be those of another connection.
        const MAPPED: u32 = u32::from_be(0x0000_ffff);
        let from = ip.word::<8>() | ip.word::<12>() | (ip.word::<16>() ^ MAPPED);
        let to = ip.word::<24>() | ip.word::<28>() | (ip.word::<32>() ^ MAPPED);
        if from == 0 || to == 0 {
            return Ok((Parsed::Unreadable, None));
        }
    }
    let Some(work) = maps::work() else {
        return Ok((Parsed::Unreadable, None));
    };
    // SAFETY: `work` is a live map value, of this CPU alone; the header has 40 bytes.
    let payload = unsafe {
        let packet = &raw mut (*work).packet;
        (*packet).v6 = 1;
        let (source, destination) = ends(packet, direction);
        *source.add(0) = ip.word::<8>();
        *source.add(1) = ip.word::<12>();
        *source.add(2) = ip.word::<16>();
        *source.add(3) = ip.word::<20>();
        *destination.add(0) = ip.word::<24>();
        *destination.add(1) = ip.word::<28>();
        *destination.add(2) = ip.word::<32>();
        *destination.add(3) = ip.word::<36>();
        u32::from(u16::from_be(ip.half::<4>()))
    };
    // A payload length of 0 stands for what is too long for the field (RFC 2675, BIG TCP).
    let end = if payload == 0 {
        if skb.gso_size() == 0 {
            return Ok((Parsed::Unreadable, None));
        }
        skb.len()
    } else {
        l3 + IPV6_LEN + payload
    };
    Ok(segment(skb, linear, tcp, work, l3, l4, end, direction))
}

const HOP_BY_HOP: u32 = 0;
const ROUTING: u32 = 43;
const FRAGMENT: u32 = 44;
const AUTHENTICATION: u32 = 51;
const DESTINATION: u32 = 60;
const MOBILITY: u32 = 135;
const HIP: u32 = 139;
const SHIM6: u32 = 140;

/// Whether a next-header number is that of an extension header that TCP may follow.
#[inline(always)]
pub fn is_extension(protocol: u32) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HIP | SHIM6
    )
}

/// A walk along IPv6 extension headers (RFC 8200, section 4).
struct Walk {
    skb: Skb,
    /// What is at `at`.
    protocol: u32,
    at: u32,
    /// There was a fragment header, of a first fragment of more.
    first_fragment: bool,
    /// The headers are not whole, or too many.
    stranded: bool,
}

#[inline(never)]
fn walk_extensions(walk: *mut Walk) {
    // SAFETY: the caller's walk outlives the call.
    unsafe {
        bpf_loop(MAX_EXTENSIONS, walk_one as *mut c_void, walk.cast(), 0);
        if is_extension((*walk).protocol) {
            (*walk).stranded = true;
        }
    }
}

unsafe extern "C" fn walk_one(_: u32, walk: *mut Walk) -> i64 {
    // SAFETY: `walk_extensions` passes what it was given; `header` has eight bytes.
    unsafe {
        let protocol = (*walk).protocol;
        if !is_extension(protocol) {
            return 1;
        }
        let mut header = [0u8; 8];
        if !(*walk).skb.load((*walk).at, header.as_mut_ptr(), 8) {
            (*walk).stranded = true;
            return 1;
        }
        let units = u32::from(header[1]);
        let len = match protocol {
            FRAGMENT => {
                let offset = u16::from_be_bytes([header[2], header[3]]);
                if offset & 0xfff8 != 0 {
                    // Not the first: no ports here.
                    (*walk).protocol = NO_NEXT;
                    return 1;
                }
                // An atomic fragment (RFC 6946) is whole.
                (*walk).first_fragment |= offset & 1 != 0;
                8
            }
            AUTHENTICATION => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        (*walk).protocol = u32::from(header[0]);
        (*walk).at += len;
    }
    0
}

/// No next header (RFC 8200, section 4.7).
const NO_NEXT: u32 = 59;

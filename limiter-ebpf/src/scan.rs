//! The scanner of `limiter_common::http` at work on a packet.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use limiter_common::http::{self, Payload, Rules, Scan};

use crate::skb::{Skb, bounded};

/// A segment that is being scanned.
#[derive(Clone, Copy)]
pub struct Segment {
    pub skb: Skb,
    /// Where the payload starts in the packet.
    pub payload: u32,
    pub scan: *mut Scan,
    pub rules: *const Rules,
}

struct Source {
    skb: Skb,
    payload: u32,
}

impl Payload for Source {
    #[inline(always)]
    unsafe fn load(&self, at: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the caller's promise: room for WINDOW bytes, which is what `bounded` allows.
        unsafe { self.skb.load(self.payload + at, to, bounded(len)) }
    }
}

const _: () = assert!(http::WINDOW == 4096, "the mask in `bounded`");

/// One unit of work: whether `Scan::event` says something.
///
/// # Safety
/// `segment` is whole, its pointers are live map values, and its scan is this CPU's.
#[inline(always)]
pub unsafe fn unit(segment: *mut Segment) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let source = Source {
            skb: (*segment).skb,
            payload: (*segment).payload,
        };
        http::unit((*segment).scan, (*segment).rules, &source, || {
            bpf_loop(http::LINES, step as *mut c_void, segment.cast(), 0);
        })
    }
}

unsafe extern "C" fn step(_: u32, segment: *mut Segment) -> i64 {
    // SAFETY: `unit` passes the segment it was given.
    unsafe { i64::from(http::line((*segment).scan, (*segment).rules)) }
}

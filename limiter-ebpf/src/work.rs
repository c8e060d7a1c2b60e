//! What one packet is worked on with: per CPU, in a map value, since the stack has 512 bytes.

use limiter_common::{
    abi::{Flow, KeyEntry, TextKey, Tomb},
    http::{Parser, Scan},
};

use crate::{checksum::Scratch, packet::Packet, print::Sample, refuse::Reply, replay::Identity};

#[repr(C)]
pub struct Work {
    pub packet: Packet,
    pub refusal: Refusal,
    /// `Action::Cut`: how many payload bytes to let by.
    pub keep: u32,
    /// How the scan of the segment ended (`requests::outcome`).
    pub outcome: u32,
    pub tomb: Tomb,
    pub reply: Reply,
    pub scan: Scan,
    pub identity: Identity,
    pub sample: Sample,
    pub scratch: Scratch,
    /// Theoretical arrival time of the next refusal that is told ([`limiter_common::gcra`]), ns of the
    /// coarse clock.
    pub told_ns: u64,
    /// A new entry of the map of keys.
    pub key_entry: KeyEntry,
    /// A new flow, before it is copied into the map.
    pub flow: Flow,
}

/// Why, for whom and until when a request is refused.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Refusal {
    pub text: TextKey,
    /// The scope that is over its limit, or `NO_SCOPE`.
    pub scope: u32,
    /// Seconds of `Retry-After`.
    pub retry_after: u32,
    /// Seconds until the policy's window ends.
    pub reset_after: u32,
    pub reserved: u32,
}

const _: () = {
    use core::mem::size_of;
    // The kernel's limit for a value of a per-CPU map (PCPU_MIN_UNIT_SIZE).
    assert!(size_of::<Work>() <= 32 * 1024);
    assert!(size_of::<Parser>() <= 1024);
};

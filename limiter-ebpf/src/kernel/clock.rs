// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The map `CLOCK`, in which the daemon publishes values that depend on the time.

use aya_ebpf::{macros::map, maps::Array};
use limiter_common::abi::{Clock, policy};

use crate::kernel::{atomic::Word, skb::boot_ns};

#[map]
static CLOCK: Array<Clock> = Array::pinned(1, 0);

/// Reads one field of the value in the map `CLOCK`. Each field is one word. The result is 0 if
/// there is no value.
macro_rules! clock {
    ($field:ident) => {
        match CLOCK.get_ptr_mut(0) {
            // SAFETY: the kernel has returned the map value.
            Some(clock) => unsafe { Word::at(&raw mut (*clock).$field) }.load(),
            None => 0,
        }
    };
}

/// Returns the number of nanoseconds to add to `CLOCK_BOOTTIME` to get UTC.
#[inline(always)]
pub fn utc_offset_ns() -> u64 {
    clock!(utc_offset_ns)
}

/// Returns the number of flows that the address of a client may hold; 0 means that there is no
/// limit.
#[inline(always)]
pub fn client_share() -> u64 {
    clock!(client_share)
}

/// Returns the end, on `CLOCK_BOOTTIME` in ns, of the period that the daemon's last complete write
/// to the store covers.
#[inline(always)]
pub fn attended_until_ns() -> u64 {
    clock!(attended_until_ns)
}

/// Returns whether an unknown connection may be older than the programs. `policy::ANY` always
/// allows this assumption, `policy::PASS` for some time after the programs were attached, and
/// `policy::REJECT` never. For some time after half-open connections were removed early, no policy
/// allows it, because the unknown connection may be one of them.
#[inline(always)]
pub fn may_predate_programs(untracked: u32) -> bool {
    let Some(clock) = CLOCK.get_ptr_mut(0) else {
        return false;
    };
    let now = boot_ns();
    // SAFETY: the kernel has returned the map value.
    let (elders_until, refuse_until) = unsafe {
        (
            Word::at(&raw mut (*clock).older_until_ns).load(),
            Word::at(&raw mut (*clock).refuse_untracked_until_ns).load(),
        )
    };
    now >= refuse_until
        && (untracked == policy::ANY || untracked == policy::PASS && now < elders_until)
}

/// Returns whether the programs were attached so recently that unknown connections may be older
/// than the programs. The policy does not matter for this result.
#[inline(always)]
pub fn is_grace() -> bool {
    let until = clock!(older_until_ns);
    until != 0 && boot_ns() < until
}

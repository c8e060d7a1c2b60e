// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Loops whose body the verifier checks only once (`bpf_loop`, since Linux 5.17).

use core::{ffi::c_void, ptr::NonNull};

use aya_ebpf::helpers::generated::bpf_loop;

/// Calls `turn` with the state of a loop and the number of the turn, which starts at 0, until
/// `turn` returns true, and at most `times` times. Returns the number of calls.
#[inline(always)]
pub fn repeat<S, F>(times: u32, state: &mut S, _turn: F) -> i64
where
    F: Fn(&mut S, u32) -> bool + Copy,
{
    // `turn` must be a function, or a closure that captures no variables, so that there is nothing
    // to pass to the callback.
    const { assert!(size_of::<F>() == 0) };
    let turn = callback::<S, F> as *mut c_void;
    // SAFETY: the callback expects a pointer to an `S`, and `state` outlives the call, during which
    // the kernel passes it only to the callback.
    unsafe { bpf_loop(times, turn, (&raw mut *state).cast(), 0) }
}

unsafe extern "C" fn callback<S, F>(number: u32, state: *mut S) -> i64
where
    F: Fn(&mut S, u32) -> bool + Copy,
{
    // SAFETY: `repeat` was given a value of this type, which has a size of zero.
    let turn = unsafe { NonNull::<F>::dangling().read() };
    // SAFETY: `repeat` has passed its own state, which nothing else uses during the call.
    i64::from(turn(unsafe { &mut *state }, number))
}

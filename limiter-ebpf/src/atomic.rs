//! Atomic operations on map values.
//!
//! The BPF target of rustc has no `compare_exchange` or `fetch_add` (it says `atomic-cas: false`),
//! but the instructions exist since Linux 5.12. All are sequentially consistent: a relaxed add
//! whose result is read is miscompiled for BPF v3.

#[cfg(not(bpf_target_arch = "x86_64"))]
use core::intrinsics::atomic_xchg;
use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg, atomic_xadd};

/// How often a compare-and-swap is tried. Each failure means that another CPU succeeded, so this
/// many must have hit one word within nanoseconds for the last to give up.
const TRIES: u32 = 256;

/// How often a lock is looked at before the packet is dropped: about 10 µs, far longer than any
/// holder needs, and short enough for a holder that was descheduled by a hypervisor.
const SPINS: u32 = 4096;

/// Reads a word that others change.
///
/// # Safety
/// `word` points to a live map value.
#[inline(always)]
pub unsafe fn load(word: *const u64) -> u64 {
    // SAFETY: the caller's promise; the load is a single instruction, since the word is aligned.
    unsafe { core::ptr::read_volatile(word) }
}

/// Swaps `new` in if the word is `old`: whether it was.
///
/// # Safety
/// `word` points to a live map value.
#[inline(always)]
pub unsafe fn swap(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the caller's promise.
    let (_, done) = unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(word, old, new) };
    done
}

/// Adds one; what was there before.
///
/// # Safety
/// `word` points to a live map value.
#[inline(always)]
pub unsafe fn increment(word: *mut u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u64, u64, { SeqCst }>(word, 1) }
}

/// A change of a word: what it shall be, from what it is and from what `C` holds besides.
pub trait Change {
    /// The new value; `None` leaves the word as it is and ends the attempt.
    fn apply(&self, old: u64) -> Option<u64>;
}

/// How a change went.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    Done,
    /// `Change::apply` said `None`.
    Declined,
    /// Other CPUs were first, each time.
    Contended,
}

struct Changing<C> {
    word: *mut u64,
    change: C,
    result: Changed,
}

/// Changes a word that others change too: once in line, and then, where another CPU came between,
/// again and again in a loop that the verifier looks at once.
///
/// # Safety
/// `word` points to a live map value.
#[inline(always)]
pub unsafe fn change<C: Change>(word: *mut u64, change: C) -> Changed {
    // SAFETY: the caller's promise; the context outlives the loop.
    unsafe {
        let old = load(word);
        match change.apply(old) {
            None => return Changed::Declined,
            Some(new) if swap(word, old, new) => return Changed::Done,
            Some(_) => {}
        }
        let mut context = Changing {
            word,
            change,
            result: Changed::Contended,
        };
        aya_ebpf::helpers::generated::bpf_loop(
            TRIES,
            change_once::<C> as *mut core::ffi::c_void,
            (&raw mut context).cast(),
            0,
        );
        context.result
    }
}

unsafe extern "C" fn change_once<C: Change>(_: u32, context: *mut Changing<C>) -> i64 {
    // SAFETY: `change` passes its own context, whose word is the caller's.
    unsafe {
        let word = (*context).word;
        let old = load(word);
        match (*context).change.apply(old) {
            None => (*context).result = Changed::Declined,
            Some(new) if swap(word, old, new) => (*context).result = Changed::Done,
            Some(_) => return 0,
        }
    }
    1
}

struct Decrement;

impl Change for Decrement {
    #[inline(always)]
    fn apply(&self, old: u64) -> Option<u64> {
        if old == 0 { None } else { Some(old - 1) }
    }
}

/// Takes one away, but never below zero: a recount may have been there first.
///
/// # Safety
/// `word` points to a live map value.
#[inline(always)]
pub unsafe fn decrement(word: *mut u64) {
    // SAFETY: the caller's promise. At zero there is nothing to take away.
    let _at_zero = unsafe { change(word, Decrement) };
}

/// Takes a lock word (0 is free), waiting for another CPU for a bounded time.
///
/// # Safety
/// `word` points to a live map value.
#[inline(always)]
pub unsafe fn lock(word: *mut u64) -> bool {
    // SAFETY: the caller's promise.
    if unsafe { swap(word, 0, 1) } {
        return true;
    }
    // SAFETY: as above; the callback gets `word` as its context and treats it likewise.
    unsafe { wait(word) }
}

#[inline(never)]
unsafe fn wait(word: *mut u64) -> bool {
    let mut context = Waiting { word, done: false };
    // SAFETY: `context` outlives the call.
    unsafe {
        aya_ebpf::helpers::generated::bpf_loop(
            SPINS,
            try_once as *mut core::ffi::c_void,
            (&raw mut context).cast(),
            0,
        );
    }
    context.done
}

struct Waiting {
    word: *mut u64,
    done: bool,
}

unsafe extern "C" fn try_once(_: u32, context: *mut Waiting) -> i64 {
    // SAFETY: `wait` passes its own context, whose word is the caller's.
    unsafe {
        if load((*context).word) == 0 && swap((*context).word, 0, 1) {
            (*context).done = true;
            return 1;
        }
    }
    0
}

/// Gives a lock word back.
///
/// # Safety
/// `word` points to a live map value, and this program holds the lock.
#[inline(always)]
pub unsafe fn unlock(word: *mut u64) {
    // x86 keeps stores in order (Intel SDM, volume 3, 9.2.2), so a plain store releases, and saves
    // the 20 cycles of a locked instruction on every packet.
    #[cfg(bpf_target_arch = "x86_64")]
    // SAFETY: the caller's promise.
    unsafe {
        core::ptr::write_volatile(word, 0);
    }
    #[cfg(not(bpf_target_arch = "x86_64"))]
    // SAFETY: the caller's promise.
    unsafe {
        atomic_xchg::<u64, { SeqCst }>(word, 0);
    }
}

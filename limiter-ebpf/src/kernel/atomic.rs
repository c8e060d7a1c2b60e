// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Atomic operations on words of map values.
//!
//! The BPF target of rustc has no `compare_exchange` or `fetch_add` (its specification has
//! `atomic-cas: false`), but BPF has had these instructions since Linux 5.12. All operations here
//! that read and change a word in one step are sequentially consistent, because a relaxed addition
//! whose result is used is miscompiled for BPF v3.

#[cfg(not(bpf_target_arch = "x86_64"))]
use core::intrinsics::atomic_xchg;
use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg, atomic_xadd};

use crate::kernel::repeat::repeat;

/// The maximum number of attempts at a compare-and-swap. Each failure means that another CPU has
/// succeeded, so a CPU gives up only after other CPUs have changed one word this many times within
/// nanoseconds.
const TRIES: u32 = 256;

/// The maximum number of times that a lock is read before the packet is dropped. These reads take
/// about 10 µs. A holder of the lock that is running releases it much sooner. If a hypervisor has
/// descheduled the holder, this CPU loses no more than these 10 µs.
const SPINS: u32 = 4096;

/// A 64-bit word of a map value that several CPUs change.
#[derive(Clone, Copy)]
pub struct Word(*mut u64);

/// A change of a word.
pub trait Change {
    /// Returns the new value, or `None` to leave the word as it is and end the attempt.
    fn apply(&self, old: u64) -> Option<u64>;
}

/// The result of [`Word::change`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ChangeResult {
    Done,
    /// [`Change::apply`] returned `None`.
    Declined,
    /// Other CPUs were faster at each attempt.
    Contended,
}

impl Word {
    /// # Safety
    /// `word` is an aligned word of a map value that the kernel has passed to this run of the
    /// program, and no reference to it exists. The memory stays valid until the run ends, because
    /// the kernel frees map values after a grace period of RCU.
    #[inline(always)]
    pub(super) unsafe fn at(word: *mut u64) -> Self {
        Self(word)
    }

    /// Reads the word in a single instruction.
    #[inline(always)]
    pub fn load(self) -> u64 {
        // SAFETY: the callers of `Word::at` pass live, aligned words of map values.
        unsafe { core::ptr::read_volatile(self.0) }
    }

    /// Writes the word in a single instruction. A change that another CPU makes at the same time
    /// may be lost, so this function is only for words for which such a loss is harmless.
    #[inline(always)]
    pub fn store(self, value: u64) {
        // SAFETY: the callers of `Word::at` pass live, aligned words of map values.
        unsafe { core::ptr::write_volatile(self.0, value) };
    }

    /// Writes `new` to the word if the word is `old`, and returns whether `new` has been written.
    #[inline(always)]
    pub fn swap(self, old: u64, new: u64) -> bool {
        // SAFETY: the callers of `Word::at` pass live, aligned words of map values.
        let (_, done) = unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(self.0, old, new) };
        done
    }

    /// Adds one, and returns the previous value.
    #[inline(always)]
    pub fn increment(self) -> u64 {
        // SAFETY: the callers of `Word::at` pass live, aligned words of map values.
        unsafe { atomic_xadd::<u64, u64, { SeqCst }>(self.0, 1) }
    }

    /// Replaces the word by the result of `change`. The first attempt is made without a loop. If
    /// another CPU changes the word at the same time, all further attempts are made in a loop whose
    /// body the verifier checks only once.
    #[inline(always)]
    pub fn change<C: Change>(self, change: C) -> ChangeResult {
        let old = self.load();
        match change.apply(old) {
            None => return ChangeResult::Declined,
            Some(new) if self.swap(old, new) => return ChangeResult::Done,
            Some(_) => {}
        }
        let mut retry = Retry {
            word: self,
            change,
            result: ChangeResult::Contended,
        };
        repeat(TRIES, &mut retry, Retry::turn);
        retry.result
    }

    /// Subtracts one unless the word is zero. It may already be zero because a recount has
    /// corrected it.
    #[inline(always)]
    pub fn decrement(self) {
        let _at_zero = self.change(Decrement);
    }

    /// Acquires the lock in the word (0 means that the lock is free). If another CPU holds the
    /// lock, waits for a limited time. Returns whether the lock was acquired.
    #[inline(always)]
    pub(super) fn lock(self) -> bool {
        self.swap(0, 1) || spin(self)
    }

    /// Releases the lock in the word. This program must hold the lock.
    #[inline(always)]
    pub(super) fn unlock(self) {
        // x86 keeps stores in order (Intel SDM, volume 3, 9.2.2), so a plain store is enough to
        // release the lock, and it saves the 20 cycles of a locked instruction for every packet.
        #[cfg(bpf_target_arch = "x86_64")]
        self.store(0);
        #[cfg(not(bpf_target_arch = "x86_64"))]
        // SAFETY: the callers of `Word::at` pass live, aligned words of map values.
        unsafe {
            atomic_xchg::<u64, { SeqCst }>(self.0, 0);
        }
    }
}

struct Retry<C> {
    word: Word,
    change: C,
    result: ChangeResult,
}

impl<C: Change> Retry<C> {
    #[inline(always)]
    fn turn(&mut self, _: u32) -> bool {
        let old = self.word.load();
        self.result = match self.change.apply(old) {
            None => ChangeResult::Declined,
            Some(new) if self.word.swap(old, new) => ChangeResult::Done,
            Some(_) => return false,
        };
        true
    }
}

struct Decrement;

impl Change for Decrement {
    #[inline(always)]
    fn apply(&self, old: u64) -> Option<u64> {
        if old == 0 { None } else { Some(old - 1) }
    }
}

#[inline(never)]
fn spin(word: Word) -> bool {
    let mut lock = SpinLock { word, taken: false };
    repeat(SPINS, &mut lock, SpinLock::turn);
    lock.taken
}

struct SpinLock {
    word: Word,
    taken: bool,
}

impl SpinLock {
    #[inline(always)]
    fn turn(&mut self, _: u32) -> bool {
        self.taken = self.word.load() == 0 && self.word.swap(0, 1);
        self.taken
    }
}

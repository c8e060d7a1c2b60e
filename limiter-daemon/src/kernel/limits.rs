// SPDX-License-Identifier: MIT OR Apache-2.0

//! The limits of scopes, mapped into this process.

use std::{mem::offset_of, sync::atomic::Ordering::SeqCst};

use aya::maps::MapData;
use limiter_common::{
    abi::{Limits, map},
    day::DayCount,
    gcra::Rate,
};

use super::{KernelError, words::Words};

/// The map `LIMITS`, mapped into this process.
pub(super) struct LimitsMap(Words);

/// The number of words in an entry.
const WORDS: usize = size_of::<Limits>() / size_of::<u64>();
/// The offsets of the rate in an entry, in words.
const INTERVAL: usize = offset_of!(Limits, interval_ns) / size_of::<u64>();
const TOLERANCE: usize = offset_of!(Limits, tolerance_ns) / size_of::<u64>();
/// The offset of `Limits::allowed` in an entry, in words.
const ALLOWED: usize = offset_of!(Limits, allowed) / size_of::<u64>();

impl LimitsMap {
    /// Maps the whole map into this process. The map has `entries` entries.
    pub(super) fn new(data: MapData, entries: u32) -> Result<Self, KernelError> {
        Words::new(data, map::LIMITS, entries, WORDS).map(Self)
    }

    /// Copies the limits of all scopes from `from`, which must not be larger than this map. The
    /// caller makes sure that neither map changes during the copy.
    pub(super) fn copy(&self, from: &Self) {
        self.0.copy(&from.0);
    }

    /// Sets the rate of a scope.
    pub(super) fn set_rate(&self, scope: u32, rate: Rate) {
        for (at, value) in [(INTERVAL, rate.interval_ns), (TOLERANCE, rate.tolerance_ns)] {
            if let Some(word) = self.0.word(scope, at) {
                word.store(value, SeqCst);
            }
        }
    }

    /// Sets `Limits::ahead` of a scope.
    pub(super) fn set_ahead(&self, scope: u32, ahead: u32) {
        let limits = self.get(scope);
        if limits.ahead != ahead {
            self.set(scope, &Limits { ahead, ..limits });
        }
    }

    /// Sets the limits of a scope except `Limits::allowed`. Returns false if there is no such
    /// entry.
    pub(super) fn set(&self, scope: u32, limits: &Limits) -> bool {
        if scope >= self.0.entries() {
            return false;
        }
        // SAFETY: both types have the same size, otherwise this would not compile. The fields of
        // `Limits` add up to its size, which limiter-common asserts, so it has no padding and all
        // its bytes are initialized. A `u64` may have any value.
        let words: [u64; WORDS] = unsafe { std::mem::transmute(*limits) };
        for (at, value) in words.into_iter().enumerate() {
            if at != ALLOWED
                && let Some(word) = self.0.word(scope, at)
            {
                word.store(value, SeqCst);
            }
        }
        true
    }

    /// Returns the limits of a scope as the programs read them, or zeros (no limits) for an id past
    /// the end of the table.
    pub(super) fn get(&self, scope: u32) -> Limits {
        let load = |at| self.0.word(scope, at).map_or(0, |word| word.load(SeqCst));
        let words: [u64; WORDS] = std::array::from_fn(load);
        // SAFETY: both types have the same size, otherwise this would not compile. `Limits`
        // consists of integers, for which any bytes are valid.
        unsafe { std::mem::transmute(words) }
    }

    /// Returns the day and the count up to which requests of a scope are admitted; see
    /// [`Limits::allowed`].
    pub(super) fn allowed(&self, scope: u32) -> DayCount {
        let word = self.0.word(scope, ALLOWED);
        DayCount(word.map_or(0, |word| word.load(SeqCst)))
    }

    /// Sets the day and the count up to which requests of a scope are admitted.
    pub(super) fn set_allowed(&self, scope: u32, allowed: DayCount) {
        if let Some(word) = self.0.word(scope, ALLOWED) {
            word.store(allowed.0, SeqCst);
        }
    }
}

//! The scopes' limits, mapped into this process.

use std::{mem::offset_of, sync::atomic::Ordering::SeqCst};

use aya::maps::MapData;
use limiter_common::{
    abi::{Limits, map},
    day::DayCount,
};

use super::{KernelError, words::Words};

/// The mapping of `LIMITS`.
pub(super) struct LimitsMap(Words);

/// Words of one entry.
const WORDS: usize = size_of::<Limits>() / size_of::<u64>();
/// Place of `Limits::allowed` in an entry, in words.
const ALLOWED: usize = offset_of!(Limits, allowed) / size_of::<u64>();

impl LimitsMap {
    /// Maps the whole map of `entries` entries.
    pub(super) fn new(data: MapData, entries: u32) -> Result<Self, KernelError> {
        Words::new(data, map::LIMITS, entries, WORDS).map(Self)
    }

    /// Takes over the scopes' limits of a map that is not larger; nobody else changes either meanwhile.
    pub(super) fn copy(&self, from: &Self) {
        self.0.copy(&from.0);
    }

    /// Sets a scope's limits; what it is allowed stays. False: there is no such entry.
    pub(super) fn set(&self, scope: u32, limits: &Limits) -> bool {
        if scope >= self.0.entries() {
            return false;
        }
        // SAFETY: `Limits` is plain words without padding, as many as the array has.
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

    /// A scope's limits, as the programs find them; none in force for an id past the table.
    pub(super) fn get(&self, scope: u32) -> Limits {
        let load = |at| self.0.word(scope, at).map_or(0, |word| word.load(SeqCst));
        let words: [u64; WORDS] = std::array::from_fn(load);
        // SAFETY: `Limits` is plain words without padding, as many as the array has.
        unsafe { std::mem::transmute(words) }
    }

    /// What a scope is allowed, see [`Limits::allowed`].
    pub(super) fn allowed(&self, scope: u32) -> DayCount {
        let word = self.0.word(scope, ALLOWED);
        DayCount(word.map_or(0, |word| word.load(SeqCst)))
    }

    /// Sets what a scope is allowed.
    pub(super) fn set_allowed(&self, scope: u32, allowed: DayCount) {
        if let Some(word) = self.0.word(scope, ALLOWED) {
            word.store(allowed.0, SeqCst);
        }
    }
}

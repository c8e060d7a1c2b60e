// SPDX-License-Identifier: MIT OR Apache-2.0

//! The state of scopes, mapped into this process.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use aya::maps::MapData;
use limiter_common::{
    abi::{ScopeState, map, reason},
    day::{Day, DayCount},
    gcra::Rate,
};

use super::{
    KernelError,
    plane::{Count, CountPair, ReadFirst},
    words::Words,
};

/// The map `STATE`, mapped into this process.
pub(super) struct StateMap(Words);

/// The number of 64-bit words in an entry.
const WORDS: usize = size_of::<ScopeState>() / size_of::<u64>();
/// The offsets of the fields in an entry, in 64-bit words.
const TAT: usize = 0;
const DAY_COUNT: usize = 1;
const IN_FLIGHT: usize = 2;
const CONNECTIONS: usize = 3;
const ADMITTED: usize = 4;
const RECOUNT: usize = 5;
const RECOUNTED_IN_FLIGHT: usize = 6;
const RECOUNTED_CONNECTIONS: usize = 7;
const REFUSED: usize = 8;
const WOULD_REFUSE: usize = REFUSED + reason::LIMITS as usize;

const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(ScopeState, tat_ns) == TAT * 8);
    assert!(offset_of!(ScopeState, day_count) == DAY_COUNT * 8);
    assert!(offset_of!(ScopeState, in_flight) == IN_FLIGHT * 8);
    assert!(offset_of!(ScopeState, connections) == CONNECTIONS * 8);
    assert!(offset_of!(ScopeState, admitted) == ADMITTED * 8);
    assert!(offset_of!(ScopeState, recount) == RECOUNT * 8);
    assert!(offset_of!(ScopeState, recounted_in_flight) == RECOUNTED_IN_FLIGHT * 8);
    assert!(offset_of!(ScopeState, recounted_connections) == RECOUNTED_CONNECTIONS * 8);
    assert!(offset_of!(ScopeState, refused) == REFUSED * 8);
    assert!(offset_of!(ScopeState, would_refuse) == WOULD_REFUSE * 8);
};

/// Returns two offsets in an entry, in 64-bit words: the offset of a count, and the offset of the
/// value that a recount computes for it.
fn words(count: Count) -> (usize, usize) {
    match count {
        Count::InFlight => (IN_FLIGHT, RECOUNTED_IN_FLIGHT),
        Count::Connections => (CONNECTIONS, RECOUNTED_CONNECTIONS),
    }
}

impl StateMap {
    /// Maps the whole map into this process. The map has `entries` entries.
    pub(super) fn new(data: MapData, entries: u32) -> Result<Self, KernelError> {
        Words::new(data, map::STATE, entries, WORDS).map(Self)
    }

    /// Copies the state of all scopes from `from`, which must not be larger than this map. The
    /// caller makes sure that neither map changes during the copy.
    pub(super) fn copy(&self, from: &Self) {
        self.0.copy(&from.0);
    }

    fn word(&self, scope: u32, word: usize) -> Option<&AtomicU64> {
        self.0.word(scope, word)
    }

    /// Returns a copy of a scope's state. Each word is read atomically, but the words are not all
    /// read at the same time.
    pub(super) fn read(&self, scope: u32) -> ScopeState {
        let load = |word| self.word(scope, word).map_or(0, |word| word.load(SeqCst));
        let loads = |first: usize| std::array::from_fn(|index| load(first + index));
        ScopeState {
            tat_ns: load(TAT),
            day_count: load(DAY_COUNT),
            in_flight: load(IN_FLIGHT),
            connections: load(CONNECTIONS),
            admitted: load(ADMITTED),
            recount: load(RECOUNT),
            recounted_in_flight: load(RECOUNTED_IN_FLIGHT),
            recounted_connections: load(RECOUNTED_CONNECTIONS),
            refused: loads(REFUSED),
            would_refuse: loads(WOULD_REFUSE),
        }
    }

    pub(super) fn set_day_count(&self, scope: u32, count: DayCount) {
        if let Some(word) = self.word(scope, DAY_COUNT) {
            word.store(count.0, SeqCst);
        }
    }

    pub(super) fn raise_day_count(&self, scope: u32, day: Day, used: u64) {
        let Some(word) = self.word(scope, DAY_COUNT) else {
            return;
        };
        let raised = |current: u64| {
            let current = DayCount(current).on(day);
            (current.day() == day && current.count() < used).then(|| DayCount::new(day, used).0)
        };
        // An error means that the count does not have to be raised.
        let _not_lower = word.fetch_update(SeqCst, SeqCst, raised);
    }

    pub(super) fn add_to_day_count(&self, scope: u32, day: Day, more: u64) {
        let Some(word) = self.word(scope, DAY_COUNT) else {
            return;
        };
        let added = |current: u64| {
            let current = DayCount(current).on(day);
            let count = current.count().saturating_add(more);
            (current.day() == day).then(|| DayCount::new(day, count).0)
        };
        // An error means that the word already has a later day.
        let _later = word.fetch_update(SeqCst, SeqCst, added);
    }

    /// Lowers the theoretical arrival time of a scope to the latest value that `rate` allows at
    /// `boot_ns` (CLOCK_BOOTTIME, ns), if the arrival time is later than that value. Without this
    /// change, an earlier, slower rate would still delay requests after its replacement.
    pub(super) fn lower_tat(&self, scope: u32, rate: Rate, boot_ns: u64) {
        let Some(word) = self.word(scope, TAT) else {
            return;
        };
        let at_most = match rate.interval_ns {
            0 => 0,
            interval => boot_ns
                .saturating_add(interval)
                .saturating_add(rate.tolerance_ns),
        };
        let lowered = |tat: u64| (tat > at_most).then_some(at_most);
        // An error means that the arrival time is not later than `at_most`.
        let _not_higher = word.fetch_update(SeqCst, SeqCst, lowered);
    }

    /// Begins the recount with the id `number` for a scope, and sets the recounted sums of the
    /// scope to zero.
    pub(super) fn begin_recount(&self, scope: u32, number: u32) {
        for (word, value) in [
            // The programs do not change the sums while the id of the recount is zero.
            (RECOUNT, 0),
            (RECOUNTED_IN_FLIGHT, 0),
            (RECOUNTED_CONNECTIONS, 0),
            (RECOUNT, u64::from(number)),
        ] {
            if let Some(word) = self.word(scope, word) {
                word.store(value, SeqCst);
            }
        }
    }

    /// Ends the recount with the id `number` for a scope.
    pub(super) fn end_recount(&self, scope: u32, number: u32) {
        if let Some(word) = self.word(scope, RECOUNT) {
            // An error means that another recount has begun, for this scope or for the next scope
            // with the same scope id.
            let _other = word.compare_exchange(u64::from(number), 0, SeqCst, SeqCst);
        }
    }

    /// Returns a count, and the value that the recount with the id `number` has computed for the
    /// count. Returns `None` if the scope does not take part in that recount.
    pub(super) fn counted(
        &self,
        scope: u32,
        count: Count,
        first: ReadFirst,
        number: u32,
    ) -> Option<CountPair> {
        let (count, recounted) = words(count);
        let load = |word| Some(self.word(scope, word)?.load(SeqCst));
        let counted = match first {
            ReadFirst::Count => {
                let count = load(count)?;
                let recounted = load(recounted)?;
                CountPair { count, recounted }
            }
            ReadFirst::Recounted => {
                let recounted = load(recounted)?;
                let count = load(count)?;
                CountPair { count, recounted }
            }
        };
        (load(RECOUNT)? == u64::from(number)).then_some(counted)
    }

    /// Adds `by` to a count, or sets the count to zero if the sum would be negative. Returns the
    /// absolute value of the actual change.
    pub(super) fn correct(&self, scope: u32, count: Count, by: i64) -> u64 {
        let Some(word) = self.word(scope, words(count).0) else {
            return 0;
        };
        let corrected = |now: u64| Some(now.saturating_add_signed(by));
        let before = word.fetch_update(SeqCst, SeqCst, corrected).unwrap_or(0);
        before.saturating_add_signed(by).abs_diff(before)
    }

    pub(super) fn clear(&self, scope: u32) {
        for word in 0..WORDS {
            if let Some(word) = self.word(scope, word) {
                word.store(0, SeqCst);
            }
        }
    }
}

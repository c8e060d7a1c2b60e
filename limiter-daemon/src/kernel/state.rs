//! The scopes' state, mapped into this process.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use aya::maps::MapData;
use limiter_common::{
    abi::{ScopeState, map, reason},
    day::{Day, DayCount},
    gcra::Rate,
};

use super::{
    KernelError,
    plane::{Count, Counted, First},
    words::Words,
};

/// The mapping of `STATE`.
pub(super) struct StateMap(Words);

/// Words of one entry.
const WORDS: usize = size_of::<ScopeState>() / size_of::<u64>();
/// Places of the fields in an entry, in words.
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

/// Where a count and its recount are.
fn words(count: Count) -> (usize, usize) {
    match count {
        Count::InFlight => (IN_FLIGHT, RECOUNTED_IN_FLIGHT),
        Count::Connections => (CONNECTIONS, RECOUNTED_CONNECTIONS),
    }
}

impl StateMap {
    /// Maps the whole map of `entries` entries.
    pub(super) fn new(data: MapData, entries: u32) -> Result<Self, KernelError> {
        Words::new(data, map::STATE, entries, WORDS).map(Self)
    }

    /// Takes over the scopes' state of a map that is not larger; nobody else changes either meanwhile.
    pub(super) fn copy(&self, from: &Self) {
        self.0.copy(&from.0);
    }

    fn word(&self, scope: u32, word: usize) -> Option<&AtomicU64> {
        self.0.word(scope, word)
    }

    /// A copy of a scope's state; the words are each whole, not all of one moment.
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
        // An error here says that nothing had to be raised.
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
        // An error here says that the word stands at a later day.
        let _later = word.fetch_update(SeqCst, SeqCst, added);
    }

    /// Lets a scope go at `rate` from now on (`boot_ns` of the boot clock): what it has used ahead of
    /// its schedule is cut to what the new rate allows, or a slow rate would outlast its end.
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
        // An error here says that it was not higher.
        let _not_higher = word.fetch_update(SeqCst, SeqCst, lowered);
    }

    /// Lets a recount of this number begin at zero.
    pub(super) fn begin_recount(&self, scope: u32, number: u32) {
        for (word, value) in [
            // None: the programs leave the sums alone while they are not of one recount.
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

    /// Ends the recount of this number.
    pub(super) fn end_recount(&self, scope: u32, number: u32) {
        if let Some(word) = self.word(scope, RECOUNT) {
            // An error here says that another one has begun, or that the scope's next owner has.
            let _other = word.compare_exchange(u64::from(number), 0, SeqCst, SeqCst);
        }
    }

    /// A count, and what the recount of this number makes of it; `None` if the scope is not in it.
    pub(super) fn counted(
        &self,
        scope: u32,
        count: Count,
        first: First,
        number: u32,
    ) -> Option<Counted> {
        let (count, recounted) = words(count);
        let load = |word| Some(self.word(scope, word)?.load(SeqCst));
        let counted = match first {
            First::Count => {
                let count = load(count)?;
                let recounted = load(recounted)?;
                Counted { count, recounted }
            }
            First::Recounted => {
                let recounted = load(recounted)?;
                let count = load(count)?;
                Counted { count, recounted }
            }
        };
        (load(RECOUNT)? == u64::from(number)).then_some(counted)
    }

    /// Changes a count by so much, never below zero; says by how much it changed.
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

//! The scope ids that unknown keys can get, mapped into this process.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use aya::maps::MapData;
use limiter_common::abi::{Unused, map};

use super::{KernelError, words::Words};

/// The mapping of `UNUSED`: the kernel programs take ids off the stack, this side adds them.
pub(super) struct UnusedMap(Words);

impl UnusedMap {
    /// Maps the whole map of `entries` entries.
    pub(super) fn new(data: MapData, entries: u32) -> Result<Self, KernelError> {
        Words::new(data, map::UNUSED, entries, 1).map(Self)
    }

    /// Takes over the ids of a map that is not larger; nobody else changes either meanwhile.
    pub(super) fn copy(&self, from: &Self) {
        self.0.copy(&from.0);
    }

    fn head(&self) -> Option<&AtomicU64> {
        self.0.word(0, 0)
    }

    /// How many ids there are.
    pub(super) fn left(&self) -> u32 {
        self.head()
            .map_or(0, |head| Unused(head.load(SeqCst)).left())
    }

    /// The ids.
    pub(super) fn list(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = (1..=self.left())
            .filter_map(|at| self.0.word(at, 0))
            .filter_map(|id| u32::try_from(id.load(SeqCst)).ok())
            .collect();
        // What programs have taken meanwhile was at the end.
        ids.truncate(self.left() as usize);
        ids
    }

    /// Adds ids, as many as there is room for.
    pub(super) fn add(&self, ids: &[u32]) {
        let Some(head) = self.head() else { return };
        loop {
            let before = Unused(head.load(SeqCst));
            let mut left = before.left();
            for id in ids {
                // Beyond what programs read, until the head says otherwise.
                let Some(word) = self.0.word(left + 1, 0) else {
                    break;
                };
                word.store((*id).into(), SeqCst);
                left += 1;
            }
            let after = before.with(left).0;
            if head
                .compare_exchange(before.0, after, SeqCst, SeqCst)
                .is_ok()
            {
                return;
            }
        }
    }

    /// Takes all ids away.
    pub(super) fn clear(&self) {
        if let Some(head) = self.head() {
            let none = |before| Some(Unused(before).with(0).0);
            // There is always a value, so this does not fail.
            let _before = head.fetch_update(SeqCst, SeqCst, none);
        }
    }
}

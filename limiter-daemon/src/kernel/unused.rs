// SPDX-License-Identifier: MIT OR Apache-2.0

//! The scope ids for unknown keys, mapped into this process.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use aya::maps::MapData;
use limiter_common::abi::{Unused, map};

use super::{KernelError, words::Words};

/// The map `UNUSED`, mapped into this process. The map is a stack of ids, to which this process
/// adds ids, and from which the kernel programs take them.
pub(super) struct UnusedMap(Words);

impl UnusedMap {
    /// Maps the whole map into this process. The map has `entries` entries.
    pub(super) fn new(data: MapData, entries: u32) -> Result<Self, KernelError> {
        Words::new(data, map::UNUSED, entries, 1).map(Self)
    }

    /// Copies the ids from `from`, which must not be larger than this map. The caller makes sure
    /// that neither map changes during the copy.
    pub(super) fn copy(&self, from: &Self) {
        self.0.copy(&from.0);
    }

    fn head(&self) -> Option<&AtomicU64> {
        self.0.word(0, 0)
    }

    /// Returns the number of ids.
    pub(super) fn left(&self) -> u32 {
        self.head()
            .map_or(0, |head| Unused(head.load(SeqCst)).left())
    }

    /// Returns the ids.
    pub(super) fn list(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = (1..=self.left())
            .filter_map(|at| self.0.word(at, 0))
            .filter_map(|id| u32::try_from(id.load(SeqCst)).ok())
            .collect();
        // Programs take ids from the end of the list, so any that they have taken in the meantime
        // are removed here.
        ids.truncate(self.left() as usize);
        ids
    }

    /// Adds the ids in `ids` in order, until the map is full.
    pub(super) fn add(&self, ids: &[u32]) {
        let Some(head) = self.head() else { return };
        loop {
            let before = Unused(head.load(SeqCst));
            let mut left = before.left();
            for id in ids {
                // Programs do not read this word before the number of ids in the first word has
                // grown.
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

    /// Removes all ids.
    pub(super) fn clear(&self) {
        if let Some(head) = self.head() {
            let none = |before| Some(Unused(before).with(0).0);
            // The closure always returns a value, so this cannot fail.
            let _before = head.fetch_update(SeqCst, SeqCst, none);
        }
    }
}

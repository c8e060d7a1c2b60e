// SPDX-License-Identifier: MIT OR Apache-2.0

//! The leases of scopes, mapped into this process.

use std::{mem::offset_of, sync::atomic::Ordering::SeqCst};

use aya::maps::MapData;
use limiter_common::abi::{Lease, map};

use super::{KernelError, words::Words};

/// The map `LEASES`, mapped into this process.
pub(super) struct LeasesMap(Words);

/// The number of words in an entry.
const WORDS: usize = size_of::<Lease>() / size_of::<u64>();

/// Returns the words of an entry, each with its offset in words. They are written in this order:
/// requests beyond a lease that becomes larger may be admitted before they are no longer refused,
/// and are held or refused after it has become smaller.
fn words(lease: &Lease) -> [(usize, u64); WORDS] {
    let at = |bytes: usize| bytes / size_of::<u64>();
    [
        (at(offset_of!(Lease, next)), lease.next),
        (at(offset_of!(Lease, current)), lease.current),
        (
            at(offset_of!(Lease, refused_until_ns)),
            lease.refused_until_ns,
        ),
    ]
}

impl LeasesMap {
    /// Maps the whole map into this process. The map has `entries` entries.
    pub(super) fn new(data: MapData, entries: u32) -> Result<Self, KernelError> {
        Words::new(data, map::LEASES, entries, WORDS).map(Self)
    }

    /// Copies the leases of all scopes from `from`, which must not be larger than this map. The
    /// caller makes sure that neither map changes during the copy.
    pub(super) fn copy(&self, from: &Self) {
        self.0.copy(&from.0);
    }

    /// Sets the lease of a scope.
    pub(super) fn set(&self, scope: u32, lease: &Lease) {
        for (at, value) in words(lease) {
            if let Some(word) = self.0.word(scope, at) {
                word.store(value, SeqCst);
            }
        }
    }

    /// Returns the lease of a scope, or zeros (no lease) for an id past the end of the table.
    pub(super) fn get(&self, scope: u32) -> Lease {
        let load = |offset: usize| {
            let word = self.0.word(scope, offset / size_of::<u64>());
            word.map_or(0, |word| word.load(SeqCst))
        };
        Lease {
            current: load(offset_of!(Lease, current)),
            next: load(offset_of!(Lease, next)),
            refused_until_ns: load(offset_of!(Lease, refused_until_ns)),
        }
    }
}

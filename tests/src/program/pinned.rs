//! Maps of a running daemon, looked at and changed behind its back.

use std::{
    collections::HashMap,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use aya::maps::{self, Map, MapData};
use limiter_common::abi::{ABI_VERSION, Digest, ScopeState, map};
use memmap2::{MmapOptions, MmapRaw};

/// The map of that name.
fn open(pins: &Path, name: &str) -> MapData {
    let path = pins.join(format!("v{ABI_VERSION}")).join(name);
    MapData::from_pin(path).expect("a pinned map")
}

/// The keys that the kernel knows, with their scope and flags, read one by one.
///
/// # Panics
/// When no daemon has pinned its maps in `pins`.
pub fn pinned_keys(pins: &Path) -> HashMap<Digest, u64> {
    let keys = maps::HashMap::<_, Digest, [u64; 2]>::try_from(Map::HashMap(open(pins, map::KEYS)));
    let keys = keys.expect("the map of keys");
    keys.iter()
        .map(|entry| entry.map(|(digest, [scope_and_flags, _])| (digest, scope_and_flags)))
        .collect::<Result<_, _>>()
        .expect("read the map of keys")
}

/// The pinned map of the scopes' state, mapped as the daemon does it.
#[derive(Debug)]
pub struct PinnedState {
    mapping: MmapRaw,
}

impl PinnedState {
    /// # Panics
    /// When no daemon has pinned its maps in `pins`.
    pub fn open(pins: &Path) -> Self {
        let data = open(pins, map::STATE);
        let entries = data.info().expect("its shape").max_entries() as usize;
        let mapping = MmapOptions::new()
            .len(entries * size_of::<ScopeState>())
            .map_raw(data.fd().as_fd().as_raw_fd())
            .expect("map the pinned state");
        Self { mapping }
    }

    fn word(&self, scope: u32, offset: usize) -> &AtomicU64 {
        let at = scope as usize * size_of::<ScopeState>() + offset;
        assert!(at + size_of::<u64>() <= self.mapping.len());
        // SAFETY: within the mapping, which lives as long as `self`; all who share it change its
        // words, which are aligned, atomically.
        unsafe { AtomicU64::from_ptr(self.mapping.as_mut_ptr().add(at).cast()) }
    }

    /// Changes the requests in flight of a scope (the first of a daemon is 0).
    pub fn add_in_flight(&self, scope: u32, by: i64) {
        let word = self.word(scope, std::mem::offset_of!(ScopeState, in_flight));
        word.fetch_add(by.cast_unsigned(), SeqCst);
    }

    /// Changes the connections of a scope.
    pub fn add_connections(&self, scope: u32, by: i64) {
        let word = self.word(scope, std::mem::offset_of!(ScopeState, connections));
        word.fetch_add(by.cast_unsigned(), SeqCst);
    }
}

//! Maps of a running daemon, looked at and changed behind its back.

use std::{
    collections::HashMap,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use aya::maps::{self, Map, MapData};
use limiter_common::abi::{ABI_VERSION, Digest, ScopeState, map, switch};
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

/// How far a daemon has got, or had when it died, with maps that are to take the place of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Switched {
    /// The old ones are in force.
    Old,
    /// Packets are held, if the moment has not passed.
    Held,
    /// The new ones are in force.
    New,
}

/// That; `None` when there are no such maps that anything would depend on.
pub fn switched(pins: &Path) -> Option<Switched> {
    let directory = pins.join(format!("v{ABI_VERSION}-growing"));
    let data = MapData::from_pin(directory.join(map::SWITCH)).ok()?;
    let word = maps::Array::<_, u64>::try_from(Map::Array(data)).expect("the switch");
    Some(match word.get(&0, 0).expect("read the switch") {
        switch::OLD => Switched::Old,
        switch::NEW => Switched::New,
        _ => Switched::Held,
    })
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

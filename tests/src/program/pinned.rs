// SPDX-License-Identifier: MIT OR Apache-2.0

//! The maps of a running daemon. Tests read and change them directly, without the daemon.

use std::{
    collections::HashMap,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use aya::maps::{self, Map, MapData};
use limiter_common::abi::{ABI_VERSION, Digest, ScopeState, map, switch};
use memmap2::{MmapOptions, MmapRaw};

/// Opens the map that is pinned as `name`.
fn open(pins: &Path, name: &str) -> MapData {
    let path = pins.join(format!("v{ABI_VERSION}")).join(name);
    MapData::from_pin(path).expect("a pinned map")
}

/// Reads the map of keys one key at a time, and returns the scope and the flags of each key.
///
/// # Panics
/// Panics if no daemon has pinned its maps in `pins`.
pub fn pinned_keys(pins: &Path) -> HashMap<Digest, u64> {
    let keys = maps::HashMap::<_, Digest, [u64; 2]>::try_from(Map::HashMap(open(pins, map::KEYS)));
    let keys = keys.expect("the map of keys");
    keys.iter()
        .map(|entry| entry.map(|(digest, [scope_and_flags, _])| (digest, scope_and_flags)))
        .collect::<Result<_, _>>()
        .expect("read the map of keys")
}

/// The phases of the replacement of maps by new ones. If the daemon is killed during the
/// replacement, the kernel stays in the phase that the daemon had reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SwitchPhase {
    /// The old maps are in use.
    Old,
    /// Packets are held, but not longer than until a time that the daemon has set.
    Held,
    /// The new maps are in use.
    New,
}

/// Returns the present phase. Returns `None` if no new maps are ready to replace the old ones.
pub fn switch_phase(pins: &Path) -> Option<SwitchPhase> {
    let directory = pins.join(format!("v{ABI_VERSION}-growing"));
    let data = MapData::from_pin(directory.join(map::SWITCH)).ok()?;
    let word = maps::Array::<_, u64>::try_from(Map::Array(data)).expect("the switch");
    Some(match word.get(&0, 0).expect("read the switch") {
        switch::OLD => SwitchPhase::Old,
        switch::NEW => SwitchPhase::New,
        _ => SwitchPhase::Held,
    })
}

/// The pinned map with the states of the scopes. It is mapped into memory, as in the daemon.
#[derive(Debug)]
pub struct PinnedState {
    mapping: MmapRaw,
}

impl PinnedState {
    /// # Panics
    /// Panics if no daemon has pinned its maps in `pins`.
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
        // SAFETY: the assertion shows that the address is within the mapping, which lives as long
        // as `self`. The address is aligned, and the kernel and the daemon access these 64-bit
        // words only atomically.
        unsafe { AtomicU64::from_ptr(self.mapping.as_mut_ptr().add(at).cast()) }
    }

    /// Adds `by` to the number of requests in flight of the scope with the id `scope`. The first
    /// scope of a daemon has the id 0.
    pub fn add_in_flight(&self, scope: u32, by: i64) {
        let word = self.word(scope, std::mem::offset_of!(ScopeState, in_flight));
        word.fetch_add(by.cast_unsigned(), SeqCst);
    }

    /// Adds `by` to the number of connections of the scope with the id `scope`.
    pub fn add_connections(&self, scope: u32, by: i64) {
        let word = self.word(scope, std::mem::offset_of!(ScopeState, connections));
        word.fetch_add(by.cast_unsigned(), SeqCst);
    }
}

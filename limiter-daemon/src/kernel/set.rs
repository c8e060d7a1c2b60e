// SPDX-License-Identifier: MIT OR Apache-2.0

//! A set of maps, together with the programs that use them.

use std::path::Path;

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
};
use limiter_common::abi::map;

use super::{
    KernelError,
    error::map_error,
    events::{EventRing, RefusalRing},
    leases::LeasesMap,
    limits::LimitsMap,
    maps::{ClockMap, Entries, Maps, Plain},
    memory,
    pins::{key_entries, lease_entries, unfinished_entries, untracked_entries, unused_entries},
    state::StateMap,
    unused::UnusedMap,
};
use crate::config::Tables;

/// The object with the kernel programs, built by build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/limiter-ebpf"));

/// The ring buffers in which the programs report to the daemon.
pub struct Rings {
    /// Events that the engine must handle, because counts depend on them.
    pub events: EventRing,
    /// Refusals, which are written to the log of events.
    pub refusals: RefusalRing,
}

/// The loaded object, and its maps.
pub(super) struct MapSet {
    pub(super) ebpf: Ebpf,
    pub(super) maps: Maps,
    pub(super) state: StateMap,
    pub(super) limits: LimitsMap,
    pub(super) leases: LeasesMap,
    pub(super) unused: UnusedMap,
    pub(super) tables: Tables,
}

impl MapSet {
    /// Opens the maps that are pinned in `directory`, and creates and pins the maps that are
    /// missing there.
    ///
    /// # Errors
    /// Returns an error if there is not enough memory for the missing maps, if the kernel rejects a
    /// map, or if a part of the object is missing.
    pub(super) fn open(
        directory: &Path,
        tables: &Tables,
    ) -> Result<(Self, ClockMap, Rings), KernelError> {
        memory::ensure(directory, tables)?;
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(directory)
            .map_max_entries(map::KEYS, key_entries(tables))
            .map_max_entries(map::LIMITS, tables.scope_ids())
            .map_max_entries(map::LEASES, lease_entries(tables))
            .map_max_entries(map::ENDED, tables.scope_ids())
            .map_max_entries(map::STATE, tables.scope_ids())
            .map_max_entries(map::UNUSED, unused_entries(tables))
            .map_max_entries(map::FLOWS, tables.flows)
            .map_max_entries(map::UNFINISHED, unfinished_entries(tables))
            .map_max_entries(map::UNTRACKED, untracked_entries(tables))
            .load(OBJECT)
            .map_err(|source| KernelError::Load(Box::new(source)))?;
        let (data, entries) = array_data(&mut ebpf, map::STATE)?;
        let state = StateMap::new(data, entries)?;
        let (data, entries) = array_data(&mut ebpf, map::LIMITS)?;
        let limits = LimitsMap::new(data, entries)?;
        let (data, entries) = array_data(&mut ebpf, map::LEASES)?;
        let leases = LeasesMap::new(data, entries)?;
        let (data, entries) = array_data(&mut ebpf, map::UNUSED)?;
        let unused = UnusedMap::new(data, entries)?;
        let maps = Maps {
            config: array(&mut ebpf, map::CONFIG)?,
            ports: array(&mut ebpf, map::PORTS)?,
            sweep: array(&mut ebpf, map::SWEEP)?,
            suspects: array(&mut ebpf, map::SUSPECTS)?,
            forget: array(&mut ebpf, map::FORGET)?,
            ended: hash(&mut ebpf, map::ENDED)?,
            keys: hash(&mut ebpf, map::KEYS)?,
            flows: hash(&mut ebpf, map::FLOWS)?,
            unfinished: hash(&mut ebpf, map::UNFINISHED)?,
            untracked: hash(&mut ebpf, map::UNTRACKED)?,
            clients: hash(&mut ebpf, map::CLIENTS)?,
            texts: hash(&mut ebpf, map::TEXTS)?,
            counters: PerCpuArray::try_from(take(&mut ebpf, map::COUNTERS)?)
                .map_err(map_error(map::COUNTERS))?,
        };
        let clock = ClockMap::new(take(&mut ebpf, map::CLOCK)?)?;
        let rings = Rings {
            events: EventRing::new(take(&mut ebpf, map::EVENTS)?, map::EVENTS)?,
            refusals: RefusalRing::new(take(&mut ebpf, map::REFUSALS)?, map::REFUSALS)?,
        };
        let set = Self {
            ebpf,
            maps,
            state,
            limits,
            leases,
            unused,
            tables: *tables,
        };
        Ok((set, clock, rings))
    }
}

impl MapSet {
    /// Returns the guarded ports that are published in the map `PORTS`.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot read the entry.
    pub(super) fn guarded(&self) -> Result<Vec<u16>, KernelError> {
        let ports = self.maps.ports.get(&0, 0).map_err(map_error(map::PORTS))?;
        let words = ports.0.0;
        let is_guarded = |port: &u16| {
            let word = words.get(usize::from(port >> 6));
            word.is_some_and(|word| word >> (port & 63) & 1 != 0)
        };
        Ok((0..=u16::MAX).filter(is_guarded).collect())
    }
}

pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map, KernelError> {
    ebpf.take_map(name)
        .ok_or_else(|| KernelError::Missing(format!("map {name}")))
}

/// Takes an array out of the object. Returns the array and its number of entries. The caller maps
/// the array into this process instead of accessing it with system calls.
fn array_data(ebpf: &mut Ebpf, name: &'static str) -> Result<(MapData, u32), KernelError> {
    let Map::Array(data) = take(ebpf, name)? else {
        return Err(KernelError::Missing(format!("array {name}")));
    };
    let entries = data.info().map_err(map_error(name))?.max_entries();
    Ok((data, entries))
}

fn hash<K: Pod, V: Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<Entries<K, V>, KernelError> {
    HashMap::try_from(take(ebpf, name)?).map_err(map_error(name))
}

fn array<T: Copy>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<Array<MapData, Plain<T>>, KernelError>
where
    Plain<T>: Pod,
{
    Array::try_from(take(ebpf, name)?).map_err(map_error(name))
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The maps that this process reads and writes with system calls, and the types of their keys and
//! values.

use std::{borrow::Borrow, io};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
};
use limiter_common::{
    abi::{self, Digest, KeyEntry, TextKey, map},
    http::Unfinished,
};

use super::{
    KernelError,
    error::map_error,
    sys::{self, BatchRead},
};

/// The number of entries that one call transfers to or from the kernel. With this number, the cost
/// of the calls no longer matters, and each call is short enough not to keep a CPU from other work.
const BATCH: usize = 4096;

/// The flag with which an entry is inserted only if the key does not exist
/// (`include/uapi/linux/bpf.h`).
const BPF_NOEXIST: u64 = 1;

/// A type of the ABI that aya may treat as plain bytes.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Plain<T: Copy>(pub(super) T);

macro_rules! plain {
    ($($type:ty),* $(,)?) => {
        $(
            // SAFETY: each type that is listed below is `repr(C)` and consists of integers and
            // arrays of integers. Any padding is an explicit field, so that all bytes are
            // initialized.
            unsafe impl Pod for Plain<$type> {}
        )*
    };
}

plain!(
    abi::Config,
    abi::Ports,
    abi::Clock,
    abi::Suspect,
    abi::Sweep,
    KeyEntry,
    abi::Ended,
    abi::Limits,
    abi::FlowEntry,
    abi::FlowKey,
    abi::UnfinishedKey,
    Unfinished,
    abi::UntrackedConnection,
    abi::Client,
    abi::Text,
    TextKey,
);

pub(super) type Entries<K, V> = HashMap<MapData, K, V>;

/// The table of flows.
pub(super) type FlowEntries = Entries<Plain<abi::FlowKey>, Plain<abi::FlowEntry>>;

/// All maps except `CLOCK`, the ring buffers, and the maps that are mapped into this process.
pub(super) struct Maps {
    pub(super) config: Array<MapData, Plain<abi::Config>>,
    pub(super) ports: Array<MapData, Plain<abi::Ports>>,
    pub(super) sweep: Array<MapData, Plain<abi::Sweep>>,
    pub(super) suspects: Array<MapData, Plain<abi::Suspect>>,
    pub(super) forget: Array<MapData, Plain<abi::Suspect>>,
    pub(super) ended: Entries<u32, Plain<abi::Ended>>,
    pub(super) keys: Entries<Digest, Plain<KeyEntry>>,
    pub(super) flows: FlowEntries,
    pub(super) unfinished: Entries<Plain<abi::UnfinishedKey>, Plain<Unfinished>>,
    pub(super) untracked: Entries<Plain<abi::FlowKey>, Plain<abi::UntrackedConnection>>,
    pub(super) clients: Entries<abi::ClientKey, Plain<abi::Client>>,
    pub(super) texts: Entries<Plain<TextKey>, Plain<abi::Text>>,
    pub(super) counters: PerCpuArray<MapData, u64>,
}

/// The map `CLOCK`. It is separate from the other maps so that the clock can be published while the
/// other maps are in use.
pub struct ClockMap(Array<MapData, Plain<abi::Clock>>);

impl ClockMap {
    pub(super) fn new(map: Map) -> Result<Self, KernelError> {
        Ok(Self(Array::try_from(map).map_err(map_error(map::CLOCK))?))
    }

    /// Returns the published clock.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot read the entry.
    pub fn get(&self) -> Result<abi::Clock, KernelError> {
        Ok(self.0.get(&0, 0).map_err(map_error(map::CLOCK))?.0)
    }

    /// Publishes a clock.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot write the entry.
    pub fn set(&mut self, clock: abi::Clock) -> Result<(), KernelError> {
        self.0
            .set(0, Plain(clock), 0)
            .map_err(map_error(map::CLOCK))
    }
}

/// Reads an entry. Returns `Ok(None)` if the key does not exist.
pub(super) fn lookup<K: Pod, V: Pod>(
    entries: &HashMap<MapData, K, V>,
    key: &K,
    name: &'static str,
) -> Result<Option<V>, KernelError> {
    match entries.get(key, 0) {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(map_error(name)(error)),
    }
}

/// Inserts or replaces an entry. Returns the error `full` if the table is full.
pub(super) fn insert<K: Pod, V: Pod>(
    entries: &mut HashMap<MapData, K, V>,
    key: impl Borrow<K>,
    value: impl Borrow<V>,
    name: &'static str,
    full: KernelError,
) -> Result<(), KernelError> {
    inserted(entries.insert(key, value, 0), name, full)
}

/// Inserts an entry, unless the key exists already.
pub(super) fn add<K: Pod, V: Pod>(
    entries: &mut HashMap<MapData, K, V>,
    key: impl Borrow<K>,
    value: impl Borrow<V>,
    name: &'static str,
    full: KernelError,
) -> Result<(), KernelError> {
    match entries.insert(key, value, BPF_NOEXIST) {
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::EEXIST) =>
        {
            Ok(())
        }
        result => inserted(result, name, full),
    }
}

fn inserted(
    result: Result<(), MapError>,
    name: &'static str,
    full: KernelError,
) -> Result<(), KernelError> {
    match result {
        Ok(()) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::E2BIG) =>
        {
            Err(full)
        }
        Err(error) => Err(map_error(name)(error)),
    }
}

/// Removes an entry, if it exists.
pub(super) fn remove<K: Pod, V: Pod>(
    entries: &mut HashMap<MapData, K, V>,
    key: &K,
    name: &'static str,
) -> Result<(), KernelError> {
    match entries.remove(key) {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        Err(error) => Err(map_error(name)(error)),
    }
}

/// Inserts or replaces many entries in order. After an error, the entries that follow are not
/// inserted.
pub(super) fn insert_all<K: Pod, V: Pod>(
    entries: &mut HashMap<MapData, K, V>,
    new: &[(K, V)],
    name: &'static str,
    full: impl Fn() -> KernelError,
) -> Result<(), KernelError> {
    let (mut keys, mut values) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    let mut rest = new;
    while !rest.is_empty() {
        let some = rest.get(..BATCH).unwrap_or(rest);
        keys.clear();
        values.clear();
        keys.extend(some.iter().map(|(key, _)| *key));
        values.extend(some.iter().map(|(_, value)| *value));
        let (done, result) = sys::update_batch(entries, &keys, &values);
        rest = rest.get(done..).unwrap_or_default();
        // After an error of the batch call, the next entry is inserted alone. If this entry caused
        // the error, the single insertion returns the error. If the kernel lacks the batch call for
        // this map (ENOTSUPP, EINVAL), or was short of memory for a moment, the single insertion
        // succeeds.
        if result.is_err()
            && let Some(((key, value), others)) = rest.split_first()
        {
            insert(entries, key, value, name, full())?;
            rest = others;
        }
    }
    Ok(())
}

/// Returns all entries.
pub(super) fn all<K: Pod, V: Pod>(
    entries: &HashMap<MapData, K, V>,
    name: &'static str,
) -> Result<Vec<(K, V)>, KernelError> {
    let mut found = Vec::new();
    each(entries, name, |some| {
        found.extend_from_slice(some);
        Ok(())
    })?;
    Ok(found)
}

/// Calls `take` with all entries, a few thousand at a time.
pub(super) fn each<K: Pod, V: Pod>(
    entries: &HashMap<MapData, K, V>,
    name: &'static str,
    mut take: impl FnMut(&[(K, V)]) -> Result<(), KernelError>,
) -> Result<(), KernelError> {
    let (mut keys, mut values) = (vec![zero::<K>(); BATCH], vec![zero::<V>(); BATCH]);
    let mut some = Vec::with_capacity(BATCH);
    let mut from = None;
    loop {
        let batch = sys::lookup_batch(entries, from, &mut keys, &mut values);
        match batch {
            Ok(BatchRead { count, next }) => {
                let keys = keys.iter().take(count).copied();
                some.clear();
                some.extend(keys.zip(values.iter().copied()));
                take(&some)?;
                if next.is_none() {
                    return Ok(());
                }
                from = next;
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                let larger = keys.len() * 2;
                keys.resize(larger, zero());
                values.resize(larger, zero());
            }
            Err(error) if from.is_none() => {
                log::debug!("reading the map {name} one entry at a time: {error}");
                for entry in entries.iter() {
                    take(&[entry.map_err(map_error(name))?])?;
                }
                return Ok(());
            }
            Err(error) => {
                return Err(KernelError::MapCall {
                    action: "read",
                    name: name.to_owned(),
                    source: error,
                });
            }
        }
    }
}

/// Removes all entries.
pub(super) fn clear<K: Pod, V: Pod>(
    entries: &mut HashMap<MapData, K, V>,
    name: &'static str,
) -> Result<(), KernelError> {
    let keys = entries.keys().collect::<Result<Vec<K>, _>>();
    for key in keys.map_err(map_error(name))? {
        remove(entries, &key, name)?;
    }
    Ok(())
}

/// Returns a zero value that the kernel will overwrite.
fn zero<T: Pod>() -> T {
    // SAFETY: zero is valid for every type that implements `Pod`. aya implements it only for types
    // for which any bytes are valid. In this module, `plain!` implements it only for structures of
    // integers and arrays of integers.
    unsafe { std::mem::zeroed() }
}

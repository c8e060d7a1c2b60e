//! The other maps, each through its typed façade.

use std::{borrow::Borrow, io};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
};
use limiter_common::abi::{self, Digest, KeyEntry, TextKey, map};

use super::{
    KernelError,
    error::map_error,
    sys::{self, Found},
};

/// Entries that go to the kernel, or come from it, in one call: enough that the calls no longer
/// count, and little enough to copy that a CPU is not kept from other work.
const BATCH: usize = 4096;

/// Only where there is no such entry (`include/uapi/linux/bpf.h`).
const BPF_NOEXIST: u64 = 1;

/// A type of the ABI as aya wants it: plain bytes.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Plain<T: Copy>(pub(super) T);

macro_rules! plain {
    ($($type:ty),* $(,)?) => {
        $(
            // SAFETY: a `repr(C)` type of integers and arrays of them; its padding is explicit.
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
    abi::Limits,
    abi::Flow,
    abi::FlowKey,
    abi::Text,
    TextKey,
);

pub(super) type Entries<K, V> = HashMap<MapData, K, V>;

/// All maps but `STATE`.
pub(super) struct Maps {
    pub(super) config: Array<MapData, Plain<abi::Config>>,
    pub(super) ports: Array<MapData, Plain<abi::Ports>>,
    pub(super) sweep: Array<MapData, Plain<abi::Sweep>>,
    pub(super) suspects: Array<MapData, Plain<abi::Suspect>>,
    pub(super) forget: Array<MapData, Plain<abi::Suspect>>,
    pub(super) ended: Entries<u32, Plain<abi::Limits>>,
    pub(super) keys: Entries<Digest, Plain<KeyEntry>>,
    pub(super) flows: Entries<Plain<abi::FlowKey>, Plain<abi::Flow>>,
    pub(super) texts: Entries<Plain<TextKey>, Plain<abi::Text>>,
    pub(super) counters: PerCpuArray<MapData, u64>,
}

/// The map `CLOCK`, apart from the others: the clock is published whatever else is going on.
pub struct ClockMap(Array<MapData, Plain<abi::Clock>>);

impl ClockMap {
    pub(super) fn new(map: Map) -> Result<Self, KernelError> {
        Ok(Self(Array::try_from(map).map_err(map_error(map::CLOCK))?))
    }

    /// What is published now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn get(&self) -> Result<abi::Clock, KernelError> {
        Ok(self.0.get(&0, 0).map_err(map_error(map::CLOCK))?.0)
    }

    /// Publishes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set(&mut self, clock: abi::Clock) -> Result<(), KernelError> {
        self.0
            .set(0, Plain(clock), 0)
            .map_err(map_error(map::CLOCK))
    }
}

/// `Ok(None)` for a key that is not there.
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

/// Inserts, and tells a full table from other failures.
pub(super) fn insert<K: Pod, V: Pod>(
    entries: &mut HashMap<MapData, K, V>,
    key: impl Borrow<K>,
    value: impl Borrow<V>,
    name: &'static str,
    full: KernelError,
) -> Result<(), KernelError> {
    told(entries.insert(key, value, 0), name, full)
}

/// Enters, where there is nothing yet; what is there stays.
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
        added => told(added, name, full),
    }
}

fn told(
    entered: Result<(), MapError>,
    name: &'static str,
    full: KernelError,
) -> Result<(), KernelError> {
    match entered {
        Ok(()) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::E2BIG) =>
        {
            Err(full)
        }
        Err(error) => Err(map_error(name)(error)),
    }
}

/// Removes; that it was not there is fine.
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

/// Enters or replaces many entries, in order; what follows the one that failed is not entered.
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
        // Whatever stopped it, the next entry goes by itself: either it tells why, or the kernel
        // has no such call for this map (ENOTSUPP, EINVAL), or was short of memory for a moment.
        if result.is_err()
            && let Some(((key, value), others)) = rest.split_first()
        {
            insert(entries, key, value, name, full())?;
            rest = others;
        }
    }
    Ok(())
}

/// All entries.
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

/// All entries, some thousand at a time.
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
            Ok(Found { count, next }) => {
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
                let room = keys.len() * 2;
                keys.resize(room, zero());
                values.resize(room, zero());
            }
            Err(error) if from.is_none() => {
                log::debug!("{name}: read one by one: {error}");
                for entry in entries.iter() {
                    take(&[entry.map_err(map_error(name))?])?;
                }
                return Ok(());
            }
            Err(error) => {
                return Err(KernelError::Io {
                    path: name.into(),
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

/// What the kernel is to write over.
fn zero<T: Pod>() -> T {
    // SAFETY: aya's `Pod` is of types that are plain bytes, of which any will do.
    unsafe { std::mem::zeroed() }
}

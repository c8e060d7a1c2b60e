// SPDX-License-Identifier: MIT OR Apache-2.0

//! The pin directory, in which maps and links outlive the daemon.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::maps::{MapInfo, MapType};
use limiter_common::{
    abi::{
        ABI_VERSION, Client, ClientKey, Clock, Config, Digest, EVENT_BYTES, Ended, FlowEntry,
        FlowKey, KeyEntry, Lease, Limits, MAX_SUSPECTS, Ports, REFUSAL_BYTES, RefusedClient,
        ScopeState, Suspect, Sweep, Text, TextKey, Tomb, UnfinishedKey, UntrackedConnection,
        counter, map,
    },
    http::Unfinished,
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{KernelError, error::io_error};
use crate::config::Tables;

/// The usual mount point of the BPF file system.
const BPFFS: &str = "/sys/fs/bpf";

/// The name of the directory that holds the links.
pub(super) const LINKS: &str = "links";

/// The suffix of a directory whose maps will replace those in the directory without the suffix.
pub(super) const GROWING: &str = "-growing";

/// The number of entries in the map of response texts. Each distinct set of limits needs four
/// texts.
pub(super) const TEXT_ENTRIES: u32 = 65_536;
/// The number of entries in the map of tombstones. When this LRU map is full, the least recently
/// used tombstone is dropped.
const TOMB_ENTRIES: u32 = 65_536;
/// The layout in which the last counter was added.
pub(super) const COUNTERS_SINCE: u32 = 6;
/// The number of entries in the LRU map of client addresses.
const CLIENT_ENTRIES: u32 = 16_384;

/// A pin directory, with the file names that the current layout uses.
#[derive(Debug, Clone)]
pub struct PinDirectory {
    root: PathBuf,
}

impl PinDirectory {
    /// Returns a value for the directory `root`, without creating the directory.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    /// Returns the path as it was given.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the directory of the maps of the current layout.
    pub(super) fn maps(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}"))
    }

    /// Returns the directory of the larger maps that will replace the maps in [`Self::maps`]. That
    /// directory also holds the map `SWITCH`, and the map `PROGRAMS` with the programs of both
    /// sets.
    pub(super) fn growing(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}{GROWING}"))
    }

    /// Returns the directory of links. It does not depend on the layout, because a newer program
    /// replaces the program of an existing link.
    pub(super) fn links(&self) -> PathBuf {
        self.root.join(LINKS)
    }

    /// Creates the directories on a BPF file system. If the path is below the usual mount point and
    /// nothing is mounted there, this function mounts a BPF file system there and returns true.
    /// Otherwise it returns false.
    ///
    /// # Errors
    /// Returns [`KernelError::NotBpffs`] if the path is not on a BPF file system,
    /// [`KernelError::Mount`] if the mount fails, and [`KernelError::Io`] if another file operation
    /// fails.
    pub fn prepare(&self) -> Result<bool, KernelError> {
        let is_new = self.root.starts_with(BPFFS)
            && !is_bpffs(Path::new(BPFFS))?
            && mount_once(Path::new(BPFFS))?;
        let existing = self
            .root
            .ancestors()
            .find(|path| path.exists())
            .unwrap_or(&self.root);
        if !is_bpffs(existing)? {
            return Err(KernelError::NotBpffs(self.root.clone()));
        }
        for directory in [self.maps(), self.links()] {
            fs::create_dir_all(&directory).map_err(io_error("create", &directory))?;
        }
        Ok(is_new)
    }

    /// Returns whether any maps of the current layout are pinned already. Each pinned map must have
    /// the shape that this program would give it with the sizes in `tables`, because aya uses a
    /// pinned map without checking its shape.
    ///
    /// # Errors
    /// Returns [`KernelError::Different`] if a pinned map has another shape, or another error if a
    /// pinned map cannot be read.
    pub(super) fn verify(&self, tables: &Tables) -> Result<bool, KernelError> {
        let mut present = false;
        for shape in shapes(tables) {
            let path = self.maps().join(shape.name);
            if !path.exists() {
                continue;
            }
            present = true;
            let found = MapInfo::from_pin(&path).map_err(|source| KernelError::Map {
                name: shape.name,
                source: Box::new(source),
            })?;
            let kind = found.map_type().ok().map_or(0, |kind| kind as u32);
            for (property, found, wanted) in [
                ("type", kind, shape.kind as u32),
                ("key size", found.key_size(), shape.key),
                ("value size", found.value_size(), shape.value),
                ("number of entries", found.max_entries(), shape.entries),
            ] {
                if found != wanted {
                    return Err(KernelError::Different {
                        path,
                        property,
                        found,
                        wanted,
                    });
                }
            }
        }
        Ok(present)
    }
}

/// The shape that a pinned map must have.
pub(super) struct Shape {
    pub(super) name: &'static str,
    /// The first version of the layout in which the map had this shape.
    pub(super) since: u32,
    kind: MapType,
    key: u32,
    value: u32,
    pub(super) entries: u32,
}

impl Shape {
    /// Returns the number of bytes that the kernel allocates for the map while it is empty, as
    /// `array_map_alloc` and `htab_map_alloc` compute it (`kernel/bpf/arraymap.c` and `hashtab.c`).
    /// The few bytes of the map's own description are left out.
    pub(super) fn empty_bytes(&self, cpus: u64) -> u64 {
        /// The size of `struct bucket`, of which there is a power of two in a hash map.
        const BUCKET: u64 = 16;
        /// The size of `struct htab_elem`, which precedes the key and the value.
        const ELEMENT: u64 = 48;
        let entries = u64::from(self.entries);
        let (key, value) = (
            u64::from(self.key).next_multiple_of(8),
            u64::from(self.value).next_multiple_of(8),
        );
        let buckets = entries.next_power_of_two() * BUCKET;
        match self.kind {
            MapType::PerCpuArray => entries * value * cpus,
            // The maps of this type have the flag BPF_F_NO_PREALLOC.
            MapType::Hash => buckets,
            MapType::LruHash => buckets + entries * (ELEMENT + key + value),
            MapType::RingBuf => entries,
            _ => entries * value,
        }
    }
}

/// Returns the number of entries in the map of keys, which holds registered keys and the unknown
/// keys that have become scopes.
pub(super) fn key_entries(tables: &Tables) -> u32 {
    tables.keys.saturating_add(tables.unknown_keys)
}

/// Returns the number of entries in the map of untracked connections. It is `tables.flows`, the
/// maximum number of tracked connections, but at least 65,536.
pub(super) fn untracked_entries(tables: &Tables) -> u32 {
    tables.flows.max(65_536)
}

/// Returns the number of entries in the map of leases. A host that belongs to no fleet has none,
/// and an array has at least one entry.
pub(super) fn lease_entries(tables: &Tables) -> u32 {
    if tables.leases { tables.scope_ids() } else { 1 }
}

/// Returns the number of entries in the map of ids for unknown keys. The first entry holds the
/// number of ids that are available.
pub(super) fn unused_entries(tables: &Tables) -> u32 {
    tables.unknown_keys.saturating_add(1)
}

/// Returns the number of entries in the map of unfinished heads and lines. Each direction of each
/// flow may have one.
pub(super) fn unfinished_entries(tables: &Tables) -> u32 {
    tables.flows.saturating_mul(2)
}

pub(super) fn shapes(tables: &Tables) -> [Shape; 22] {
    fn shape<K, V>(name: &'static str, since: u32, kind: MapType, entries: u32) -> Shape {
        // Keys and values are small types of the ABI, whose sizes fit in 32 bits.
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Shape {
            name,
            since,
            kind,
            key: size(size_of::<K>()),
            value: size(size_of::<V>()),
            entries,
        }
    }
    let scopes = tables.scope_ids();
    let keys = key_entries(tables);
    let untracked = untracked_entries(tables);
    [
        shape::<u32, Config>(map::CONFIG, 6, MapType::Array, 1),
        shape::<u32, Ports>(map::PORTS, 1, MapType::Array, 1),
        shape::<u32, Clock>(map::CLOCK, 6, MapType::Array, 1),
        shape::<u32, Sweep>(map::SWEEP, 6, MapType::Array, 1),
        shape::<u32, Suspect>(map::SUSPECTS, 6, MapType::Array, MAX_SUSPECTS),
        shape::<u32, Suspect>(map::FORGET, 6, MapType::Array, 1),
        shape::<Digest, KeyEntry>(map::KEYS, 1, MapType::Hash, keys),
        shape::<u32, Limits>(map::LIMITS, 3, MapType::Array, scopes),
        shape::<u32, Lease>(map::LEASES, 8, MapType::Array, lease_entries(tables)),
        shape::<u32, Ended>(map::ENDED, 8, MapType::Hash, scopes),
        Shape {
            name: map::EVENTS,
            since: 4,
            kind: MapType::RingBuf,
            key: 0,
            value: 0,
            entries: EVENT_BYTES,
        },
        Shape {
            name: map::REFUSALS,
            since: 4,
            kind: MapType::RingBuf,
            key: 0,
            value: 0,
            entries: REFUSAL_BYTES,
        },
        shape::<u32, u64>(map::UNUSED, 4, MapType::Array, unused_entries(tables)),
        shape::<u32, ScopeState>(map::STATE, 2, MapType::Array, scopes),
        shape::<FlowKey, FlowEntry>(map::FLOWS, 7, MapType::Hash, tables.flows),
        shape::<UnfinishedKey, Unfinished>(
            map::UNFINISHED,
            7,
            MapType::Hash,
            unfinished_entries(tables),
        ),
        shape::<FlowKey, Tomb>(map::TOMBS, 6, MapType::LruHash, TOMB_ENTRIES),
        shape::<FlowKey, UntrackedConnection>(map::UNTRACKED, 6, MapType::Hash, untracked),
        shape::<ClientKey, Client>(map::CLIENTS, 6, MapType::LruHash, CLIENT_ENTRIES),
        shape::<ClientKey, RefusedClient>(map::REFUSED, 6, MapType::LruHash, CLIENT_ENTRIES),
        shape::<TextKey, Text>(map::TEXTS, 6, MapType::Hash, TEXT_ENTRIES),
        shape::<u32, u64>(
            map::COUNTERS,
            COUNTERS_SINCE,
            MapType::PerCpuArray,
            counter::COUNT,
        ),
    ]
}

pub(super) fn is_bpffs(path: &Path) -> Result<bool, KernelError> {
    let stat = statfs(path).map_err(|error| io_error("examine", path)(error.into()))?;
    Ok(stat.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts a BPF file system and returns true, unless another daemon has just mounted one. A second
/// mount would hide the pins in the first one, so each daemon locks the directory under the mount
/// point before it mounts.
fn mount_once(path: &Path) -> Result<bool, KernelError> {
    let below = fs::File::open(path).map_err(io_error("open", path))?;
    below.lock().map_err(io_error("lock", path))?;
    if is_bpffs(path)? {
        return Ok(false);
    }
    mount_bpffs(path)?;
    Ok(true)
}

fn mount_bpffs(path: &Path) -> Result<(), KernelError> {
    // The flags and the mode are those of systemd's own unit sys-fs-bpf.mount.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=700")).map_err(|error| {
        KernelError::Mount {
            path: path.to_path_buf(),
            source: error.into(),
        }
    })?;
    log::info!("mounted a BPF file system on {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All maps, each with the version of the layout since which it has its shape, and with the
    /// sizes in bytes of its keys and values.
    const SHAPES: [(&str, u32, u32, u32); 22] = [
        ("CONFIG", 6, 4, 14936),
        ("PORTS", 1, 4, 8192),
        ("CLOCK", 6, 4, 40),
        ("SWEEP", 6, 4, 152),
        ("SUSPECTS", 6, 4, 80),
        ("FORGET", 6, 4, 80),
        ("KEYS", 1, 16, 16),
        ("LIMITS", 3, 4, 64),
        ("LEASES", 8, 4, 24),
        ("ENDED", 8, 4, 320),
        ("EVENTS", 4, 0, 0),
        ("REFUSALS", 4, 0, 0),
        ("UNUSED", 4, 4, 8),
        ("STATE", 2, 4, 128),
        ("FLOWS", 7, 44, 1088),
        ("UNFINISHED", 7, 48, 384),
        ("TOMBS", 6, 44, 72),
        ("UNTRACKED", 6, 44, 16),
        ("CLIENTS", 6, 16, 16),
        ("REFUSED", 6, 16, 16),
        ("TEXTS", 6, 8, 1056),
        ("COUNTERS", 6, 4, 8),
    ];

    #[test]
    fn a_map_of_another_size_has_another_version() {
        let shapes = shapes(&Tables::default());
        let sizes: Vec<_> = shapes
            .iter()
            .map(|shape| (shape.name, shape.since, shape.key, shape.value))
            .collect();
        assert_eq!(
            sizes, SHAPES,
            "if a size has changed, raise the version and change the size here"
        );
    }
}

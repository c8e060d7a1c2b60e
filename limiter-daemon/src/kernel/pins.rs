//! The pin directory: where maps and links outlive the daemon.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use aya::maps::{MapInfo, MapType};
use limiter_common::abi::{
    ABI_VERSION, Clock, Config, Digest, EVENT_BYTES, Flow, FlowKey, KeyEntry, Limits, MAX_SUSPECTS,
    Ports, REFUSAL_BYTES, ScopeState, Stranger, Suspect, Sweep, Text, TextKey, Tomb, counter, map,
};

use super::KernelError;
use crate::config::Tables;

/// Where the kernel's own BPF file system belongs.
const BPFFS: &str = "/sys/fs/bpf";

/// Ends the name of a directory of maps that are to take the place of those in the directory without it.
pub(super) const GROWING: &str = "-growing";

/// Entries of the map of texts: a set of four for each distinct set of limits.
pub(super) const TEXT_ENTRIES: u32 = 65_536;
/// Entries of the map of refused connections.
const TOMB_ENTRIES: u32 = 65_536;
/// The layout in which the last counter was added.
pub(super) const COUNTERS_SINCE: u32 = 4;
/// Entries of the map of connections that are not followed.
const STRANGER_ENTRIES: u32 = 65_536;

/// A pin directory, laid out for this version of the maps.
#[derive(Debug, Clone)]
pub struct PinDirectory {
    root: PathBuf,
}

impl PinDirectory {
    /// The directory `root`; nothing is made yet.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    /// As given.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Maps of this layout.
    pub(super) fn maps(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}"))
    }

    /// Maps of this layout that are to take the place of those, and the programs of both.
    pub(super) fn growing(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}{GROWING}"))
    }

    /// Links: they belong to no layout, since a newer program is put under an older link.
    pub(super) fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Makes the directories, on a BPF file system, mounting it if it is the system's own place
    /// and nothing is there.
    ///
    /// # Errors
    /// [`KernelError::NotBpffs`], [`KernelError::Mount`], [`KernelError::Io`].
    pub fn prepare(&self) -> Result<(), KernelError> {
        if self.root.starts_with(BPFFS) && !is_bpffs(Path::new(BPFFS))? {
            mount_once(Path::new(BPFFS))?;
        }
        let existing = self
            .root
            .ancestors()
            .find(|path| path.exists())
            .unwrap_or(&self.root);
        if !is_bpffs(existing)? {
            return Err(KernelError::NotBpffs(self.root.clone()));
        }
        for directory in [self.maps(), self.links()] {
            fs::create_dir_all(&directory).map_err(|source| KernelError::Io {
                path: directory.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// Whether the maps are pinned here already. Each one that is must be what this program
    /// would make with these sizes: aya takes a pin as it is.
    ///
    /// # Errors
    /// [`KernelError::Different`].
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
            for (what, found, wanted) in [
                ("type", kind, shape.kind as u32),
                ("key size", found.key_size(), shape.key),
                ("value size", found.value_size(), shape.value),
                ("size", found.max_entries(), shape.entries),
            ] {
                if found != wanted {
                    return Err(KernelError::Different {
                        path,
                        what,
                        found,
                        wanted,
                    });
                }
            }
        }
        Ok(present)
    }
}

/// What a pinned map must be.
pub(super) struct Shape {
    pub(super) name: &'static str,
    /// The version of the layout since which the map is what it is.
    pub(super) since: u32,
    kind: MapType,
    key: u32,
    value: u32,
    pub(super) entries: u32,
}

/// Keys: the registered ones and the unknown ones that became scopes.
pub(super) fn key_entries(tables: &Tables) -> u32 {
    tables.keys.saturating_add(tables.unknown_keys)
}

/// The ids that unknown keys can get, after the word that says how many there are.
pub(super) fn unused_entries(tables: &Tables) -> u32 {
    tables.unknown_keys.saturating_add(1)
}

pub(super) fn shapes(tables: &Tables) -> [Shape; 18] {
    fn shape<K, V>(name: &'static str, since: u32, kind: MapType, entries: u32) -> Shape {
        // Both are small types of the ABI.
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
    [
        shape::<u32, Config>(map::CONFIG, 4, MapType::Array, 1),
        shape::<u32, Ports>(map::PORTS, 1, MapType::Array, 1),
        shape::<u32, Clock>(map::CLOCK, 3, MapType::Array, 1),
        shape::<u32, Sweep>(map::SWEEP, 2, MapType::Array, 1),
        shape::<u32, Suspect>(map::SUSPECTS, 2, MapType::Array, MAX_SUSPECTS),
        shape::<u32, Suspect>(map::FORGET, 2, MapType::Array, 1),
        shape::<Digest, KeyEntry>(map::KEYS, 1, MapType::Hash, keys),
        shape::<u32, Limits>(map::LIMITS, 3, MapType::Array, scopes),
        shape::<u32, Limits>(map::ENDED, 3, MapType::Hash, scopes),
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
        shape::<FlowKey, Flow>(map::FLOWS, 2, MapType::Hash, tables.flows),
        shape::<FlowKey, Tomb>(map::TOMBS, 2, MapType::LruHash, TOMB_ENTRIES),
        shape::<FlowKey, Stranger>(map::STRANGERS, 2, MapType::LruHash, STRANGER_ENTRIES),
        shape::<TextKey, Text>(map::TEXTS, 1, MapType::Hash, TEXT_ENTRIES),
        shape::<u32, u64>(
            map::COUNTERS,
            COUNTERS_SINCE,
            MapType::PerCpuArray,
            counter::COUNT,
        ),
    ]
}

fn is_bpffs(path: &Path) -> Result<bool, KernelError> {
    let io_error = |source| KernelError::Io {
        path: path.to_path_buf(),
        source,
    };
    let name = std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|error| io_error(io::Error::other(error)))?;
    // SAFETY: all-zero is a valid `statfs`; the path and the buffer outlive the call.
    let (done, stat) = unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        (libc::statfs(name.as_ptr(), &raw mut stat), stat)
    };
    if done < 0 {
        return Err(io_error(io::Error::last_os_error()));
    }
    Ok(stat.f_type == libc::BPF_FS_MAGIC)
}

/// Mounts, unless another daemon that starts at this moment does: a second mount would hide the pins
/// in the first. Both lock the directory that is there before either mounts over it.
fn mount_once(path: &Path) -> Result<(), KernelError> {
    let io_error = |source| KernelError::Io {
        path: path.to_path_buf(),
        source,
    };
    let below = fs::File::open(path).map_err(io_error)?;
    below.lock().map_err(io_error)?;
    if is_bpffs(path)? {
        return Ok(());
    }
    mount_bpffs(path)
}

fn mount_bpffs(path: &Path) -> Result<(), KernelError> {
    let target = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(|error| {
        KernelError::Mount {
            path: path.to_path_buf(),
            source: io::Error::other(error),
        }
    })?;
    // The same flags and mode as systemd's own sys-fs-bpf.mount.
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: all strings are NUL-terminated and outlive the call.
    let done = unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            target.as_ptr(),
            c"bpf".as_ptr(),
            flags,
            c"mode=700".as_ptr().cast(),
        )
    };
    if done < 0 {
        let source = io::Error::last_os_error();
        return Err(KernelError::Mount {
            path: path.to_path_buf(),
            source,
        });
    }
    log::info!("mounted a BPF file system on {}", path.display());
    Ok(())
}

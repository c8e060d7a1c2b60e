// SPDX-License-Identifier: MIT OR Apache-2.0

//! The errors of operations on the kernel's programs, maps, pins and interfaces.

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::{
    EbpfError,
    maps::MapError,
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};
use thiserror::Error;

use super::netdev::Interface;
use crate::{domain::hook::Hook, files::TrustError};

/// The reason why an operation in the kernel failed.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The pin directory is not on a BPF file system.
    #[error(
        "the pin directory {} is not on a BPF file system: use a directory under /sys/fs/bpf, or \
         mount a BPF file system there (`mount -t bpf bpf DIR`)",
        .0.display()
    )]
    NotBpffs(PathBuf),
    /// A user other than root or the user of this process could change the pins.
    #[error("cannot trust the pin directory: {0}")]
    Untrusted(#[from] TrustError),
    /// An operation on a path failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation, as a verb.
        action: &'static str,
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The kernel cannot list network interfaces, qdiscs or filters.
    #[error("cannot list the {objects}: {source}")]
    List {
        /// The objects to list.
        objects: &'static str,
        /// The error of the system call.
        source: io::Error,
    },
    /// The BPF file system cannot be mounted.
    #[error("cannot mount a BPF file system on {}: {source}", path.display())]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The pins would disappear when this process ends.
    #[error(
        "the pins in {} would end with this process: {why}. Run it where the host's own BPF file system is mounted (`nsenter --net=` for another network namespace, not `ip \
         netns exec`; in a container, `--volume /sys/fs/bpf:/sys/fs/bpf:rslave`), or pass \
         `--private-mounts` if that is intended",
        path.display()
    )]
    PrivateMounts {
        /// The pin directory.
        path: PathBuf,
        /// The reason, which follows from the mounts of the file system that holds the pins.
        why: String,
    },
    /// A pinned map differs from the map that this program would create.
    #[error(
        "the pinned map {} has the {property} {found}, and this limiter needs {wanted}: another \
         program created or changed it; run `limiter detach` to remove the pinned maps (the counts \
         of the day are in the store)",
        path.display()
    )]
    Different {
        /// The pin.
        path: PathBuf,
        /// The property that differs.
        property: &'static str,
        /// The value of this property for the pinned map.
        found: u32,
        /// The value that this program needs.
        wanted: u32,
    },
    /// A newer limiter created the maps.
    #[error(
        "{} holds maps of layout {found}, and this limiter supports layouts up to {}: run the \
         newer limiter that created them, or run its `limiter detach` first",
        path.display(),
        limiter_common::abi::ABI_VERSION
    )]
    NewerLayout {
        /// The directory.
        path: PathBuf,
        /// The layout of its maps.
        found: u32,
    },
    /// The object cannot be loaded.
    #[error("cannot load the object with the kernel programs: {}", chain(.0))]
    Load(#[source] Box<EbpfError>),
    /// There is not enough memory for the maps.
    #[error(
        "the tables need {} MiB of memory when they are empty, and {} MiB are available: lower \
         `tables.flows`, `tables.keys` or `tables.scopes`, or provide more memory (a limit of the \
         service, such as `MemoryMax`, counts)",
        needed >> 20,
        available >> 20
    )]
    NoMemory {
        /// The number of bytes that the missing maps need.
        needed: u64,
        /// The number of bytes that this process can allocate.
        available: u64,
    },
    /// The kernel has rejected a program.
    #[error("the kernel rejected the program {name}: {}", chain(.source))]
    Program {
        /// The name of the program.
        name: String,
        /// The kernel's error.
        #[source]
        source: Box<ProgramError>,
    },
    /// The object lacks a program or a map, and therefore does not belong to this binary.
    #[error("the object with the kernel programs lacks the {0}: build or install limiter again")]
    Missing(String),
    /// An operation on a map failed.
    #[error("cannot use the map {name}: {}", chain(.source))]
    Map {
        /// The name of the map.
        name: &'static str,
        /// The kernel's error.
        #[source]
        source: Box<MapError>,
    },
    /// A system call on the entries of a map failed.
    #[error("cannot {action} the map {name}: {source}")]
    MapCall {
        /// The operation, as a verb.
        action: &'static str,
        /// The name of the map.
        name: String,
        /// The error of the system call.
        source: io::Error,
    },
    /// The kernel does not measure the run time of programs.
    #[error("cannot measure the run time of programs (BPF_ENABLE_STATS): {0}")]
    Measure(io::Error),
    /// A program cannot be attached.
    #[error("cannot attach to {interface} ({hook}): {reason}")]
    Attach {
        /// The name of the interface.
        interface: String,
        /// `ingress` or `egress`.
        hook: &'static str,
        /// The kernel's error, or another reason.
        reason: String,
    },
    /// Several operations failed.
    #[error("{first} (and {others} more {})", if *others == 1 { "error" } else { "errors" })]
    Several {
        /// The first error.
        first: Box<KernelError>,
        /// The number of further errors.
        others: usize,
    },
    /// The configuration requires TCX, which the kernel lacks.
    #[error(
        "this kernel has no TCX, which came with Linux 6.6: set `attach.hook` to \"auto\" or \
         \"clsact\""
    )]
    NoTcx,
    /// A pinned link cannot be used.
    #[error("cannot use the pinned link {}: {reason}", path.display())]
    Link {
        /// The pin.
        path: PathBuf,
        /// The kernel's error.
        reason: String,
    },
    /// A map that is in use has lost its pin.
    #[error(
        "the pin {} is gone, but its map is in use, so the next daemon would begin with an empty \
         map: stop this daemon, run `limiter detach`, and start it again (the counts of the day \
         are in the store)",
        .0.display()
    )]
    Unpinned(PathBuf),
    /// Packets were let through while the maps were being copied.
    #[error("copying the tables took longer than packets can be held (1 s)")]
    Lapsed,
    /// A table is full.
    #[error("the kernel's table of {table} is full ({entries} entries): {hint}")]
    Full {
        /// The name of the table.
        table: &'static str,
        /// The maximum number of entries.
        entries: u32,
        /// Advice for the operator.
        hint: &'static str,
    },
}

/// Formats an error with all its causes on one line. The causes are needed because aya's own
/// messages often consist only of "map error".
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Returns a function that converts an error of aya for the map `name`.
pub(super) fn map_error(name: &'static str) -> impl Fn(MapError) -> KernelError {
    move |source| KernelError::Map {
        name,
        source: Box::new(source),
    }
}

/// Returns a function that converts the error of an operation on `path`. The message of the
/// resulting error has `action` as its verb.
pub(super) fn io_error(
    action: &'static str,
    path: &Path,
) -> impl Fn(io::Error) -> KernelError + use<> {
    let path = path.to_path_buf();
    move |source| KernelError::Io {
        action,
        path: path.clone(),
        source,
    }
}

/// Returns a function that converts the error of a request for a list of kernel objects.
pub(super) fn list_error(objects: &'static str) -> impl Fn(io::Error) -> KernelError {
    move |source| KernelError::List { objects, source }
}

/// Converts aya's error for a program that could not be attached to a hook of an interface.
pub(super) fn attach_error(
    interface: &Interface,
    hook: Hook,
    source: &ProgramError,
) -> KernelError {
    KernelError::Attach {
        interface: interface.name.clone(),
        hook: hook.as_str(),
        reason: chain(source),
    }
}

/// Returns a function that converts an error of aya for the link pinned at `path`.
pub(super) fn link_error(path: &Path) -> impl Fn(LinkError) -> KernelError {
    move |source| KernelError::Link {
        path: path.to_path_buf(),
        reason: chain(&source),
    }
}

/// Returns a function that converts the error of an attempt to pin an object at `path`.
pub(super) fn pin_error(path: &Path) -> impl Fn(PinError) -> KernelError {
    move |source| KernelError::Link {
        path: path.to_path_buf(),
        reason: chain(&source),
    }
}

impl KernelError {
    /// Returns the error for a full table of scopes.
    pub fn scopes_full(entries: u32) -> Self {
        let hint = "raise `tables.scopes` and restart the daemon";
        Self::Full {
            table: "scopes",
            entries,
            hint,
        }
    }

    /// Returns the error for a full table of untracked connections.
    pub fn untracked_full(entries: u32) -> Self {
        let hint = "raise `tables.flows` and restart the daemon";
        Self::Full {
            table: "untracked connections",
            entries,
            hint,
        }
    }

    /// Returns the error for a full table of keys.
    pub fn keys_full(entries: u32) -> Self {
        let hint = "raise `tables.keys` and restart the daemon";
        Self::Full {
            table: "keys",
            entries,
            hint,
        }
    }
}

//! What can go wrong between the daemon and the kernel.

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};
use thiserror::Error;

/// Why the kernel's side refused.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The pin directory is not on a BPF file system.
    #[error(
        "the pin directory {} is not on a BPF file system: use one under /sys/fs/bpf, or mount one there (mount -t bpf bpf DIR)",
        .0.display()
    )]
    NotBpffs(PathBuf),
    /// A path cannot be made, read or removed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The BPF file system cannot be mounted.
    #[error("cannot mount a BPF file system on {}: {source}", path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A pinned map is not the one that this program would make.
    #[error(
        "the pinned map {} has {what} {found}, this limiter needs {wanted}: it was not made by limiter, or was changed; run `limiter detach` to drop the pinned maps (the day's counts come back from the store)",
        path.display()
    )]
    Different {
        /// The pin.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// As pinned.
        found: u32,
        /// As needed.
        wanted: u32,
    },
    /// A newer limiter is at work here.
    #[error(
        "{} holds maps of layout {found}, and this limiter knows {}: run the newer limiter that made them, or `limiter detach` with it first",
        path.display(),
        limiter_common::abi::ABI_VERSION
    )]
    NewerLayout {
        /// The directory.
        path: PathBuf,
        /// Its layout.
        found: u32,
    },
    /// The object cannot be loaded.
    #[error("cannot load the kernel program: {}", chain(.0))]
    Load(#[source] Box<EbpfError>),
    /// A program was not accepted.
    #[error("the kernel did not accept the program {name}: {}", chain(.source))]
    Program {
        /// The program.
        name: String,
        /// What the kernel said.
        #[source]
        source: Box<ProgramError>,
    },
    /// The object has no such part: it and this binary do not belong together.
    #[error("the kernel object has no {0}: this binary was not built whole")]
    Missing(String),
    /// A map operation failed.
    #[error("the map {name}: {}", chain(.source))]
    Map {
        /// The map.
        name: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<MapError>,
    },
    /// A program cannot be attached.
    #[error("cannot attach to {interface} ({hook}): {reason}")]
    Attach {
        /// The interface.
        interface: String,
        /// `ingress` or `egress`.
        hook: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// TCX is asked for, and the kernel has none.
    #[error(
        "this kernel has no TCX, which came with Linux 6.6: set `attach.hook` to \"auto\" or \"clsact\""
    )]
    NoTcx,
    /// A link's pin cannot be used.
    #[error("the pinned link {}: {reason}", path.display())]
    Link {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        reason: String,
    },
    /// Packets were let by while maps were copied.
    #[error("packets are held for a second, and copying the tables took longer")]
    Lapsed,
    /// A table is full.
    #[error("the kernel's table of {what} is full ({entries} entries): {hint}")]
    Full {
        /// Which.
        what: &'static str,
        /// Its size.
        entries: u32,
        /// What the operator can do.
        hint: &'static str,
    },
}

/// An error with all its causes on one line: aya's own messages often say only "map error".
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

/// Makes a [`KernelError::Map`] of what aya says about `name`.
pub(super) fn map_error(name: &'static str) -> impl Fn(MapError) -> KernelError {
    move |source| KernelError::Map {
        name,
        source: Box::new(source),
    }
}

/// Makes a [`KernelError::Link`] of what aya says about the pin `path`.
pub(super) fn link_error(path: &std::path::Path) -> impl Fn(LinkError) -> KernelError {
    move |source| KernelError::Link {
        path: path.to_path_buf(),
        reason: chain(&source),
    }
}

/// Makes a [`KernelError::Link`] of a failure to pin at `path`.
pub(super) fn pin_error(path: &std::path::Path) -> impl Fn(PinError) -> KernelError {
    move |source| KernelError::Link {
        path: path.to_path_buf(),
        reason: chain(&source),
    }
}

impl KernelError {
    /// The table of scopes has no room.
    pub fn scopes_full(entries: u32) -> Self {
        let hint = "raise `tables.scopes`, and restart";
        Self::Full {
            what: "scopes",
            entries,
            hint,
        }
    }

    /// The table of keys has no room.
    pub fn keys_full(entries: u32) -> Self {
        let hint = "raise `tables.keys`, and restart";
        Self::Full {
            what: "keys",
            entries,
            hint,
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Loads the programs and their maps.

use std::os::fd::OwnedFd;

use aya::{
    programs::{TestRun as _, TestRunOptions},
    util::KernelVersion,
};
use limiter_common::abi::map;

use super::{
    KernelError,
    attach::Attachments,
    growth::{self, LargerMaps},
    layouts,
    links::linked_interfaces,
    maps::ClockMap,
    pins::PinDirectory,
    programs::loaded,
    set::{MapSet, Rings},
};
use crate::{
    config::{AttachHook, Order, Tables},
    domain::hook::Mechanism,
};

/// The settings with which the object is loaded.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The sizes of the tables that are not pinned yet. Pinned tables keep their sizes until
    /// [`Plane::make_larger`](super::Plane::make_larger).
    pub tables: Tables,
    /// The mechanism for attaching.
    pub hook: AttachHook,
    /// The order of our programs and the programs of other software at a hook.
    pub order: Order,
    /// The pin directory.
    pub pins: PinDirectory,
}

/// The programs and maps in the kernel.
pub struct Kernel {
    pub(super) set: MapSet,
    /// The larger maps that will replace the present ones.
    pub(super) larger: Option<LargerMaps>,
    pub(super) attachments: Attachments,
    pub(super) pins: PinDirectory,
    pub(super) identity: String,
    /// A descriptor that makes the kernel measure the run time of programs while it is open.
    pub(super) measuring: Option<OwnedFd>,
    previous: PreviousSettings,
}

/// The settings that were in force when the maps were opened.
#[derive(Debug, Clone, Default)]
pub struct PreviousSettings {
    /// The guarded ports, or `None` if no connections are known because the maps are new or have
    /// another layout.
    pub guarded: Option<Vec<u16>>,
    /// The names of the interfaces with pinned links, or `None` if the mechanism does not use
    /// links.
    pub interfaces: Option<Vec<String>>,
}

impl Kernel {
    /// Loads the object, and takes over pinned maps with their contents. This function attaches no
    /// program, and does not change the attachments of an earlier daemon.
    ///
    /// # Errors
    /// Returns an error if the kernel or the file system rejects an operation, or if the pinned
    /// maps cannot be taken over.
    pub fn load(settings: &Settings) -> Result<(Self, ClockMap, Rings), KernelError> {
        let Settings {
            tables,
            hook,
            order,
            pins,
        } = settings;
        let mechanism = match hook {
            AttachHook::Tcx if !has_tcx() => return Err(KernelError::NoTcx),
            AttachHook::Clsact => Mechanism::Clsact,
            AttachHook::Tcx => Mechanism::Tcx,
            AttachHook::Auto if has_tcx() => Mechanism::Tcx,
            AttachHook::Auto => Mechanism::Clsact,
        };
        pins.prepare()?;
        let hooks = layouts::carry_over(pins, tables)?;
        let tables = pins.tables(tables)?;
        if pins.verify(&tables)? {
            log::info!("taking over the maps pinned in {}", pins.root().display());
        }
        let knows_connections = pins.maps().join(map::FLOWS).exists();
        let (set, clock, rings) = MapSet::open(&pins.maps(), &tables)?;
        let previous = PreviousSettings {
            guarded: knows_connections.then(|| set.guarded()).transpose()?,
            interfaces: match mechanism {
                Mechanism::Tcx => Some(linked_interfaces(pins)?),
                Mechanism::Clsact => None,
            },
        };
        let identity = growth::identity(&pins.maps())?;
        let kernel = Self {
            set,
            larger: None,
            attachments: Attachments::new(mechanism, *order, hooks, pins.clone()),
            pins: pins.clone(),
            identity,
            measuring: None,
            previous,
        };
        Ok((kernel, clock, rings))
    }

    /// Returns the settings that were in force when the maps were opened.
    pub fn previous(&self) -> &PreviousSettings {
        &self.previous
    }

    /// Returns the sizes of the tables.
    pub fn tables(&self) -> Tables {
        self.set.tables
    }

    /// Runs a program that is not attached.
    pub(super) fn run_program(&mut self, name: &str) -> Result<(), KernelError> {
        let program = loaded(&mut self.set.ebpf, name)?;
        // The kernel requires an Ethernet frame to run a classifier, although these programs do not
        // read it.
        let frame = [0u8; 64];
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: 1,
            ..TestRunOptions::default()
        };
        match program.test_run(options) {
            Ok(_) => Ok(()),
            Err(source) => Err(KernelError::Program {
                name: name.to_owned(),
                source: Box::new(source),
            }),
        }
    }
}

/// Returns whether this kernel has TCX, which was added in Linux 6.6. If the version of the kernel
/// cannot be read, this function returns false.
fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

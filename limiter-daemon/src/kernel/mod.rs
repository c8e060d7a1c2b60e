// SPDX-License-Identifier: MIT OR Apache-2.0

//! Access to the kernel, which includes programs, maps, pins, attachments, interfaces and sockets.

mod attach;
mod chain;
mod clsact;
mod detach;
mod directory;
mod error;
mod events;
mod expedite;
mod filters;
mod growth;
pub mod interfaces;
mod layouts;
mod leases;
mod limits;
mod links;
mod maps;
mod memory;
pub mod mounts;
pub mod netdev;
mod netlink;
mod object;
mod ownership;
mod pinned;
mod pins;
pub mod plane;
mod plane_in_kernel;
mod programs;
pub mod rights;
pub mod rtnl;
mod set;
pub mod sockets;
mod stand_in;
mod state;
mod survey;
mod sys;
mod tcx;
pub mod topology;
mod translated;
mod undo;
mod unused;
mod words;

pub use detach::{Removals, remove_all};
pub use error::KernelError;
pub use events::{EventRing, RefusalRing, Watch};
pub use maps::ClockMap;
pub use object::{Kernel, PreviousSettings, Settings};
pub use ownership::OwnershipGuard;
pub use pins::PinDirectory;
pub use plane::{Attachment, Plane, ProgramTime};
pub use set::Rings;
pub use sys::boot_ns;
pub use undo::PinSnapshot;

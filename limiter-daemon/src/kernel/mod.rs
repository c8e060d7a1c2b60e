//! The kernel's side as the daemon sees it: programs, maps, pins and attachments.

mod attach;
mod clsact;
mod detach;
mod error;
mod events;
mod growth;
mod layouts;
mod limits;
mod links;
mod maps;
pub mod netdev;
mod object;
mod pinned;
mod pins;
pub mod plane;
mod set;
pub mod sockets;
mod state;
mod sys;
pub mod topology;
mod undo;
mod unused;
mod words;

pub use detach::{Removed, remove_all};
pub use error::KernelError;
pub use events::{Events, Refusals, Watch};
pub use maps::ClockMap;
pub use object::{Kernel, Settings};
pub use pins::PinDirectory;
pub use plane::{Attached, Hook, Mechanism, Plane, ProgramTime};
pub use set::Rings;
pub use sys::boot_ns;
pub use undo::Before;

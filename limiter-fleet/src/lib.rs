// SPDX-License-Identifier: MIT OR Apache-2.0

//! The daily quotas that the hosts of a fleet share.
//!
//! A fleet has one **engine**, a Redis or Valkey, which holds an account of each scope and day. A
//! host asks the engine for a part of the quota, its **lease**. A lease is a total: a host with a
//! lease of 40 may admit requests of this day until it has admitted 40. There is no time in it, so
//! no clock can be wrong, and nothing that a network loses or repeats changes it.
//!
//! [`HostLeases`] is the part of a host: it decides when the host asks ([`Call`]), what it may
//! admit ([`Bound`]), and when it gives back what others need. It does no input or output and
//! receives the time as an argument. The daemon and the simulation (`limiter-fleet/simulation`)
//! both run it. [`script`] has the scripts that the engine runs, and the form of their arguments
//! and replies.

mod account;
mod call;
#[cfg(feature = "client")]
pub mod client;
mod demand;
mod host;
mod lease;
mod outage;
mod queue;
#[cfg(feature = "client")]
pub mod registry;
mod scope;
pub mod script;

pub use account::{Bucket, account_key};
pub use call::{Answer, Call, Purpose, Recall, Status};
pub use host::{Failure, HostLeases, Settings, Step};
pub use lease::{Bound, Excess};
pub use outage::EngineLost;

/// The id of a scope on its host.
pub type ScopeId = u32;

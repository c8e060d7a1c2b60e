// SPDX-License-Identifier: MIT OR Apache-2.0

//! The daily quotas and rates that the hosts of a fleet share.
//!
//! A fleet has one **engine**: a Redis or Valkey server, a primary with replicas, or a cluster. The
//! engine keeps an account for each scope and day. A host asks the engine for a part of the daily
//! quota, which is its **lease**. A lease is a total: a host with a lease of 40 may admit requests
//! of this day until it has admitted 40. A lease does not expire before its day ends, so clocks
//! matter only at midnight. A message that is lost or repeated changes nothing.
//!
//! [`HostLeases`] makes the decisions of one host. It decides when the host calls the engine
//! ([`Call`]), how many requests the host may admit ([`Bound`]), and how much of its lease the host
//! gives back. It does no input or output, and receives the time as an argument. The simulation
//! (`limiter-fleet/simulation`) runs the same code. [`HostRates`] does the same for rates, which
//! the engine divides among the hosts. [`script`] contains the scripts that the engine runs, and
//! converts their arguments and replies.

mod account;
mod call;
#[cfg(feature = "client")]
pub mod client;
mod demand;
mod host;
mod lease;
mod outage;
mod queue;
mod rate;
#[cfg(feature = "client")]
pub mod registry;
mod scope;
pub mod script;

pub use account::{Account, Bucket, account_key};
pub use call::{Answer, Call, Purpose, Recall, Status};
pub use host::{Failure, HostLeases, Settings, Step};
pub use lease::{Bound, Excess};
pub use outage::EngineLost;
pub use rate::{HostRates, PERIOD, RateAnswer, RateCall, RateReadings, ShareChange, TOLERANCE};

/// The id of a scope on its host.
pub type ScopeId = u32;

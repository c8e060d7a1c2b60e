// SPDX-License-Identifier: MIT OR Apache-2.0

//! The host's part in a fleet, whose hosts share daily quotas.

pub mod access;
pub(crate) mod bounds;
pub(crate) mod calls;
pub(crate) mod change;
pub(crate) mod describe;
pub mod figures;
mod followed;
pub(crate) mod history;
mod hosts;
pub mod identity;
pub(crate) mod join;
pub(crate) mod leases;
pub mod link;
pub(crate) mod member;
pub(crate) mod objects;
pub(crate) mod rates;
pub(crate) mod registry;
pub mod start;
pub(crate) mod sync;
pub(crate) mod tasks;
mod usage;

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The engine of a fleet: leases from real servers of Redis and Valkey.

mod client;
mod clusters;
mod registry;
mod scripts;
mod sentinels;
mod support;

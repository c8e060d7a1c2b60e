// SPDX-License-Identifier: MIT OR Apache-2.0

//! A simulation of the hosts of a fleet that share the daily quota of one scope.
//!
//! The hosts run the lease logic of the daemon (`limiter_fleet::HostLeases`), and the engine runs
//! the real scripts in Lua, on hashes in memory. The clients, the network, the kernel's counts and
//! the time are simulated. `cargo xtask simulate fleet` prints a table of the
//! results.

pub mod engine;
pub mod fleet;
pub mod host;
pub mod outcome;
pub mod random;
pub mod scenario;
pub mod scenarios;
mod schedule;

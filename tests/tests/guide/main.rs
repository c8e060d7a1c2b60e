// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the operators' guide. They use the files and the commands on its pages word for word,
//! with real servers and clients on simulated hosts.

mod configuration;
mod customer;
mod networks;
mod readme;
mod runbook;
mod sizes;
mod terminators;

use std::time::Duration;

/// Each test starts at least this long before midnight UTC. It takes much less time, so all of its
/// requests are counted on one day.
const TIME_BEFORE_MIDNIGHT: Duration = Duration::from_secs(60);

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

/// The minimum time between the start of a test and midnight, so that one day counts all requests
/// of the test. A test takes much less time.
const TEST: Duration = Duration::from_secs(60);

//! The operators' guide is true: what its pages tell to write and to type is taken from them word for word,
//! and run with the real servers and clients on hosts of its own.

mod configuration;
mod customer;
mod networks;
mod readme;
mod runbook;
mod sizes;
mod terminators;

use std::time::Duration;

/// Longer than a test here takes: its counts are of one day.
const TEST: Duration = Duration::from_secs(60);

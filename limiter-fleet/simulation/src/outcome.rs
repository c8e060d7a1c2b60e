// SPDX-License-Identifier: MIT OR Apache-2.0

//! The result of a simulation.

/// The numbers that a simulation has counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// The requests that clients sent.
    pub asked: u64,
    /// The requests that were admitted.
    pub admitted: u64,
    /// The requests that were admitted beyond the daily quota, on the day with the most of them.
    pub over: u64,
    /// The quota that was left at the end of a day on which clients wanted more, on the day with
    /// the most of it.
    pub unused: u64,
    /// The requests that were refused because the quota was used up.
    pub refused: u64,
    /// The requests that were refused although the engine or a host that is alive had quota left.
    pub early: u64,
    /// The requests that were refused while only dead or disconnected hosts had quota left.
    pub stranded: u64,
    /// The requests that were admitted after they had been held at least once.
    pub held: u64,
    /// The unused requests in the leases of hosts that crashed.
    pub lost: u64,
    /// The calls to the engine.
    pub calls: u64,
    /// The largest number of calls in a second.
    pub calls_per_second: u64,
    /// The recalls.
    pub recalls: u64,
}

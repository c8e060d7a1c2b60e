// SPDX-License-Identifier: MIT OR Apache-2.0

//! The result of a simulation.

/// The result of a simulation. All numbers are requests, unless the comment says otherwise.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Sent by clients.
    pub asked: u64,
    /// Admitted.
    pub admitted: u64,
    /// Admitted beyond the quota of a day, at most over the days.
    pub over: u64,
    /// Left of the quota of a day at its end, at most over the days on which clients wanted more.
    pub unused: u64,
    /// Refused because the quota was used up.
    pub refused: u64,
    /// Refused although some host or the engine had some of the quota left.
    pub early: u64,
    /// Refused while only hosts that are dead or cut off held some of the quota.
    pub stranded: u64,
    /// Held at least once, and admitted then.
    pub held: u64,
    /// Leased to hosts that crashed, and not used.
    pub lost: u64,
    /// The calls to the engine.
    pub calls: u64,
    /// The largest number of calls in a second.
    pub calls_per_second: u64,
    /// The recalls.
    pub recalls: u64,
}

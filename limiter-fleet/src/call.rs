// SPDX-License-Identifier: MIT OR Apache-2.0

//! The calls of a host to the engine, and the engine's answers.

use std::time::Duration;

use limiter_common::day::Day;

use crate::ScopeId;

/// A call about the lease of one scope on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The scope.
    pub scope: ScopeId,
    /// The day of the lease.
    pub day: Day,
    /// The generation of the scope's counts, which each reset raises.
    pub generation: u64,
    /// The scope's daily quota, in requests.
    pub quota: u64,
    /// The lease of which the host knows, in requests since the day began.
    pub lease: u64,
    /// The requests of this day that the host has admitted.
    pub used: u64,
    /// The purpose.
    pub purpose: Purpose,
    /// The number of the call. It grows from call to call of a host.
    pub number: u64,
}

/// The purpose of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The host wants a lease of this many requests since the day began.
    Extend(u64),
    /// The host gives back all that the engine has granted beyond [`Call::lease`].
    Report,
}

/// The engine's answer to a [`Call`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The host's lease, in requests since the day began.
    pub lease: u64,
    /// The part of the quota that is in no lease, in requests. It is negative if the leases exceed
    /// the quota, for example because the quota was lowered.
    pub free: i64,
    /// The result of the call.
    pub status: Status,
    /// The time after which another call may get more: the rest of the time of learning, or the
    /// time until the next recall.
    pub retry_after: Duration,
    /// Whether the other hosts should give back some of their leases.
    pub recall: Option<Recall>,
}

/// The result of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The lease is valid. It may be smaller than the purpose.
    Granted,
    /// The rest of the quota is leased to other hosts, which have not used all of it.
    LeasedOut,
    /// The quota is used up.
    UsedUp,
    /// The engine grants nothing yet, because it may have lost its last writes and is waiting for
    /// the reports of the hosts.
    Learning,
    /// The engine has seen a later call of this host, and has ignored this one.
    Superseded,
    /// The scope was reset, and this host does not know of it yet.
    OldGeneration,
    /// The day is neither today nor tomorrow by the clock of the engine.
    OtherDay,
}

/// The amount that a host gives back when another host needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Recall {
    /// All but the need of two seconds, because little is free.
    Most,
    /// All but the need of a tenth of a second, because nothing is free.
    All,
}

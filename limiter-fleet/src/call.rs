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
    /// The purpose of the call: a longer lease, or a report.
    pub purpose: Purpose,
    /// The number of the call, which is higher than that of each earlier call of this host.
    pub number: u64,
}

/// The purpose of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The host wants its lease to be this number of requests since the day began.
    Extend(u64),
    /// The host reports its lease and its count, and gives back everything beyond [`Call::lease`].
    Report,
}

/// The engine's answer to a [`Call`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The host's lease, in requests since the day began. If the call is [`Status::Superseded`], it
    /// is the number of the last call instead.
    pub lease: u64,
    /// The free part of the quota, which is in no lease, in requests. It is negative if the leases
    /// exceed the quota, for example because the quota was lowered.
    pub free: i64,
    /// The engine's decision.
    pub status: Status,
    /// The time after which another call may get more: the rest of the time for which the server
    /// grants nothing, or the time until the next recall. Zero if a call may get more at once.
    pub retry_after: Duration,
    /// Whether the other hosts should give back some of their leases.
    pub recall: Option<Recall>,
    /// The number of requests that all hosts have reported for the day.
    pub used: u64,
}

/// The engine's decision on a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The lease is valid. It may be smaller than the host wants it to be.
    Granted,
    /// The free part of the quota is leased to other hosts, which have not used all of it.
    LeasedOut,
    /// The quota is used up.
    UsedUp,
    /// The engine grants nothing yet, because it may have lost its last writes and is waiting for
    /// the reports of the hosts.
    Learning,
    /// The engine has already seen a later call of this host, and has ignored this one.
    Superseded,
    /// The scope has been reset, and this call is of a generation before the reset.
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

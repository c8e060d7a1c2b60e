// SPDX-License-Identifier: MIT OR Apache-2.0

//! The parameters of a simulation.

use std::time::Duration;

use limiter_fleet::EngineLost;

/// A second, in µs.
pub const SECOND: u64 = 1_000_000;
/// An hour, in µs.
pub const HOUR: u64 = 3_600 * SECOND;
/// A day, in µs.
pub const DAY: u64 = 24 * HOUR;

/// The parameters of a simulation. A time is in µs since the first midnight of the simulation, and
/// a duration of the type `u64` is in µs.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The name of the case.
    pub name: &'static str,
    /// The number of hosts at the beginning.
    pub hosts: usize,
    /// The number of hosts that join later.
    pub spare: usize,
    /// The daily quota of the scope, in requests.
    pub quota: u64,
    /// The requests that clients send, as a multiple of the quota.
    pub demand: f64,
    /// The time of the first request.
    pub from: u64,
    /// The duration for which clients send requests.
    pub duration: u64,
    /// The way in which requests are spread over the hosts.
    pub spread: Spread,
    /// The time for which a lease should last (`fleet.lease`).
    pub lease: Duration,
    /// The rule while the engine is lost.
    pub engine_lost: EngineLost,
    /// Whether grants have to be confirmed by a replica.
    pub confirm: bool,
    /// The duration for which a new server grants nothing.
    pub learning: u64,
    /// Whether hosts give back leases that others need.
    pub recalls: bool,
    /// The fraction of replies that are lost.
    pub lost_replies: f64,
    /// The fraction of calls that arrive twice, the second time up to a second later.
    pub repeated_calls: f64,
    /// The largest difference between the clock of a host and that of the engine.
    pub skew: u64,
    /// The events, each with its time.
    pub events: Vec<(u64, Event)>,
}

/// The way in which requests are spread over hosts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Spread {
    /// The n-th host receives a part proportional to 1/n to this power. 0 is an even spread.
    Zipf(f64),
    /// One host receives all.
    One,
}

/// An event of a simulation. Hosts are numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A host loses its power.
    Crash(usize),
    /// A host that has crashed starts again.
    Reboot(usize),
    /// The daemon of a host is killed, and starts again after a second. The kernel goes on.
    Restart(usize),
    /// A host leaves in an orderly way.
    Leave(usize),
    /// A spare host joins.
    Join(usize),
    /// The engine stops.
    EngineDown,
    /// The engine starts again with all its data.
    EngineUp,
    /// The engine loses all its data, but goes on.
    Flush,
    /// A replica that lags by this time, in µs, becomes the primary.
    Failover(u64),
    /// The same, and the old primary goes on for the first hosts, of which this is the number.
    Split(u64, usize),
    /// All hosts reach the new primary.
    Heal,
    /// A host no longer reaches the engine, nor the others.
    Disconnect(usize),
    /// A host that was cut off reaches the engine again.
    Reconnect(usize),
    /// The operator sets the quota.
    Quota(u64),
    /// The operator resets the scope.
    Reset,
    /// From now on, requests are spread evenly.
    SpreadEvenly,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            name: "",
            hosts: 100,
            spare: 0,
            quota: 10_000,
            demand: 1.5,
            from: 0,
            duration: DAY,
            spread: Spread::Zipf(1.0),
            lease: Duration::from_secs(60),
            engine_lost: EngineLost::Lease,
            confirm: false,
            learning: 3 * SECOND,
            recalls: true,
            lost_replies: 0.0,
            repeated_calls: 0.0,
            skew: 0,
            events: Vec::new(),
        }
    }
}

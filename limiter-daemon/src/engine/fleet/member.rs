// SPDX-License-Identifier: MIT OR Apache-2.0

//! The membership of this host in a fleet.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, Utc};
use limiter_common::siphash::siphash128;
use limiter_fleet::{Bound, HostLeases, HostRates, Settings, Status, registry::Object};
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::Notify;

use super::registry::RegistryState;
use crate::{
    config::Fleet,
    secret::Secret,
    store::{Store, StoreError},
};

/// The name of the store's entry with the id of the fleet.
const FLEET: &str = "fleet";
/// The name of the store's entry with the id of this host.
const HOST: &str = "fleet_host";

/// The upper bounds of the buckets of [`Member::seconds`].
pub(crate) const SECONDS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0];

/// The part of a host in its fleet.
pub(crate) struct Member {
    /// The id of the fleet.
    pub(crate) fleet: String,
    /// The state of the registry that this host has.
    pub(crate) registry: RegistryState,
    /// The time up to which this host has all changes of the registry, or the start of 1970 if the
    /// daemon has not compared it with the engine yet.
    pub(crate) current_at: DateTime<Utc>,
    /// The objects of the registry that could not be applied, by name.
    pub(crate) failed: BTreeMap<String, Object>,
    pub(crate) leases: HostLeases,
    /// The lower bounds that the kernel has, but of which the store may not know yet. The engine
    /// must not hear of them before.
    pub(crate) lowered: Vec<Bound>,
    /// The notification that there may be calls to send.
    pub(crate) calls: Arc<Notify>,
    /// The reason why this host must not call the engine, if there is one.
    pub(crate) suspended: Option<String>,
    /// The demands of this host for rates, and its shares of those that are divided.
    pub(crate) rates: HostRates,
    /// The number of answers of each kind.
    pub(crate) results: Results,
    /// The number of recalls that this host has followed.
    pub(crate) recalls: u64,
    /// The number of quotas that the hosts have exceeded.
    pub(crate) overruns: u64,
    /// The number of reports of the kernel about requests that wait for a longer lease.
    pub(crate) held: u64,
    /// The time until which the engine was learning which leases there are, at the last answer.
    pub(crate) learning_until: Option<Instant>,
    /// The times that calls took.
    pub(crate) seconds: Histogram,
    /// The time since which too few replicas have confirmed calls, or `None` if enough of them
    /// confirmed the last ones.
    pub(crate) unconfirmed_since: Option<Instant>,
}

/// The numbers of the engine's answers to calls since the daemon started.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Results {
    pub(crate) granted: u64,
    pub(crate) leased_out: u64,
    pub(crate) used_up: u64,
    pub(crate) learning: u64,
    /// The engine refused the call, for example because a reset was not known here yet.
    pub(crate) refused: u64,
    pub(crate) failed: u64,
    /// The part of `failed` that too few replicas have confirmed.
    pub(crate) unconfirmed: u64,
}

impl Results {
    pub(crate) fn note(&mut self, status: Status) {
        let count = match status {
            Status::Granted => &mut self.granted,
            Status::LeasedOut => &mut self.leased_out,
            Status::UsedUp => &mut self.used_up,
            Status::Learning => &mut self.learning,
            Status::Superseded | Status::OldGeneration | Status::OtherDay => &mut self.refused,
        };
        *count += 1;
    }

    pub(crate) fn note_failure(&mut self) {
        self.failed += 1;
    }
}

impl Member {
    /// Returns the part of a host that has no leases yet.
    pub(crate) fn new(fleet: String, config: &Fleet) -> Self {
        let leases = HostLeases::new(Settings {
            lease: config.lease.0,
            engine_lost: config.engine_lost,
            last_number: first_number(),
        });
        Self {
            fleet,
            registry: RegistryState::default(),
            current_at: DateTime::UNIX_EPOCH,
            failed: BTreeMap::new(),
            leases,
            lowered: Vec::new(),
            calls: Arc::default(),
            suspended: None,
            rates: HostRates::default(),
            results: Results::default(),
            recalls: 0,
            overruns: 0,
            held: 0,
            learning_until: None,
            seconds: Histogram::new(SECONDS),
            unconfirmed_since: None,
        }
    }
}

/// Returns a number that is higher than those of an earlier daemon on this host, which sent fewer
/// than a million calls a second. If the clock was set back since, the engine names the last number
/// of the host in its first answer.
fn first_number() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| {
        u64::try_from(now.as_micros()).unwrap_or(0).min(1 << 52)
    })
}

/// Returns the id of the fleet to which this host belongs, if any.
pub(crate) fn fleet_of(store: &Store) -> Result<Option<String>, StoreError> {
    let fleet = store.meta(FLEET)?;
    Ok(fleet.filter(|fleet| !fleet.is_empty()))
}

/// Records the fleet to which this host belongs. The caller does this in a transaction.
pub(crate) fn set_fleet(store: &Store, fleet: &str) -> Result<(), StoreError> {
    store.set_meta(FLEET, fleet)
}

/// Returns the id of this host. It is made when it is first needed.
pub(crate) fn host_id(store: &mut Store) -> Result<String, crate::protocol::error::ApiError> {
    if let Some(host) = store.meta(HOST)?.filter(|host| !host.is_empty()) {
        return Ok(host);
    }
    let host = random_id()?;
    store.change(|store| store.set_meta(HOST, &host))?;
    Ok(host)
}

/// Returns an id of 128 random bits, in hexadecimal digits.
pub(crate) fn random_id() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_le_bytes(bytes)))
}

/// Returns the check value of the hash secret. Hosts with the same secret have the same check
/// value, and the secret cannot be computed from it.
pub(crate) fn check_value(secret: &Secret) -> String {
    let [first, second] = siphash128(**secret, b"the check value of the secret of a fleet");
    format!("{first:016x}{second:016x}")
}

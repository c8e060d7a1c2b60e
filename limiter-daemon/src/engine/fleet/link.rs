// SPDX-License-Identifier: MIT OR Apache-2.0

//! The connection of the daemon to the fleet's engine, for heartbeats, the registry and commands.
//! The calls for leases have a connection of their own ([`super::tasks`]).

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use limiter_fleet::{
    client::{Address, Client, Error, Kind, Server, Settings},
    registry::{Heartbeat, Host, Identity},
};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard};

use super::{
    access::settings,
    describe::HostText,
    followed::FollowedRecalls,
    identity::{HostIdentity, host_name, machine_id},
    join::other_secret,
    member::{self, check_value, random_id},
    start::StartHeartbeats,
};
use crate::{
    config::{Fleet, FleetRate},
    secret::Secret,
    store::Store,
};

/// The time without an answer after which the engine counts as away.
pub(crate) const AWAY: Duration = Duration::from_secs(5);

/// A number that is higher than that of any recall. A heartbeat with it is answered without
/// recalls. It is the highest integer up to which all integers are exact in Lua.
pub(super) const NO_RECALLS: u64 = 1 << 53;

/// The connection of the daemon to the fleet's engine.
pub struct FleetLink {
    settings: Settings,
    identity: HostIdentity,
    /// Whether the hosts share the rates of scopes.
    shares_rates: bool,
    client: AsyncMutex<Client>,
    /// The turn of a change of scopes and keys, by an operator or by other hosts.
    turn: AsyncMutex<()>,
    news: Mutex<News>,
}

/// The last news of the engine.
#[derive(Debug, Clone, Default)]
pub(crate) struct News {
    /// The time of the last answer to a heartbeat.
    pub(crate) answered_at: Option<DateTime<Utc>>,
    /// The time at which the last heartbeat was sent that has an answer.
    pub(crate) sent_at: Option<DateTime<Utc>>,
    /// The error of the last heartbeat.
    pub(crate) problem: Option<String>,
    /// The version of the registry.
    pub(crate) version: u64,
    /// The incarnation of the server with the registry.
    pub(crate) incarnation: String,
    /// The recalls that this host has followed.
    pub(crate) recalls: FollowedRecalls,
    /// The time by which this host's clock is ahead of the engine's, in milliseconds.
    pub(crate) clock_ms: i64,
    /// The hosts, as of the last heartbeat that asked for them.
    pub(crate) hosts: Vec<Host>,
    /// The engine's time when it listed the hosts, since the Unix epoch.
    pub(crate) listed_at: Duration,
    /// The servers, as of their last description.
    pub(crate) servers: Vec<(Address, Result<Server, String>)>,
    /// The number of replicas that have to confirm a grant.
    pub(crate) confirm: u32,
    /// Whether the engine has no fleet.
    pub(crate) is_empty: bool,
    /// The last known incarnation of each server.
    incarnations: BTreeMap<String, String>,
}

impl News {
    /// Returns whether a heartbeat has succeeded or failed.
    pub(crate) fn is_known(&self) -> bool {
        self.answered_at.is_some() || self.problem.is_some()
    }

    /// Returns whether the engine has answered lately.
    pub(crate) fn is_up(&self, now: DateTime<Utc>) -> bool {
        self.answered_at
            .is_some_and(|at| (now - at).to_std().unwrap_or_default() < AWAY)
    }
}

impl FleetLink {
    /// Returns a connection for the host `identity`. It connects when it is used.
    fn new(settings: Settings, identity: HostIdentity, shares_rates: bool) -> Self {
        let client = Client::new(settings.clone(), &identity.id);
        Self {
            settings,
            identity,
            shares_rates,
            client: AsyncMutex::new(client),
            turn: AsyncMutex::default(),
            news: Mutex::default(),
        }
    }

    /// Returns the connection of this host to the engine that `fleet` names, and asks the engine
    /// whether this host may use it. An engine that does not answer is not an error, since this
    /// host has its own copy of everything that it enforces. `heartbeats` are those that keep the
    /// identity of this host while the daemon starts.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read, if the fleet has another hash secret, or if
    /// another machine uses the identity of this host.
    pub async fn open(
        fleet: &Fleet,
        store: &mut Store,
        secret: &Secret,
        state: &Path,
    ) -> anyhow::Result<(Arc<Self>, Option<StartHeartbeats>)> {
        let identity = HostIdentity {
            id: member::host_id(store)?,
            name: host_name(fleet.host.as_deref())?,
            session: random_id()?,
            machine: machine_id(state)?,
        };
        let shares_rates = fleet.rate == FleetRate::Shared;
        let link = Arc::new(Self::new(settings(fleet)?, identity, shares_rates));
        let known = member::fleet_of(store)?;
        match tokio::time::timeout(AWAY, link.check(known.as_deref(), secret)).await {
            Ok(checked) => checked?,
            Err(_) => log::warn!("fleet: the engine does not answer: going on without it"),
        }
        let heartbeats = known.map(|known| StartHeartbeats::begin(Arc::clone(&link), known));
        Ok((link, heartbeats))
    }

    async fn check(&self, known: Option<&str>, secret: &Secret) -> anyhow::Result<()> {
        let found = match self.client.lock().await.fleet().await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            Err(error) => {
                log::warn!("fleet: {error}: going on without the engine");
                return Ok(());
            }
        };
        if found.check != check_value(secret) {
            anyhow::bail!(other_secret(&found.id));
        }
        if known == Some(found.id.as_str()) {
            let beat = self.start_beat(&found.id).await;
            if let Err(error @ Error::Duplicate) = beat {
                anyhow::bail!(error);
            }
        }
        Ok(())
    }

    pub(crate) fn identity(&self) -> &HostIdentity {
        &self.identity
    }

    /// Returns whether the hosts of the fleet share the rates of scopes.
    pub(crate) fn shares_rates(&self) -> bool {
        self.shares_rates
    }

    /// Returns a connection of its own to the same engine.
    pub(crate) fn another(&self) -> Client {
        Client::new(self.settings.clone(), &self.identity.id)
    }

    /// Waits for the connection.
    pub(crate) async fn client(&self) -> AsyncMutexGuard<'_, Client> {
        self.client.lock().await
    }

    /// Waits until no other change of scopes and keys is in progress.
    pub(crate) async fn turn(&self) -> AsyncMutexGuard<'_, ()> {
        self.turn.lock().await
    }

    pub(crate) fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the identity that this host presents in the fleet `fleet`.
    pub(crate) fn presented(&self, fleet: &str) -> Identity {
        let HostIdentity {
            id,
            session,
            machine,
            ..
        } = &self.identity;
        Identity {
            fleet: fleet.to_owned(),
            host: id.clone(),
            session: session.clone(),
            machine: machine.clone(),
        }
    }

    /// Sends a heartbeat. `text` describes this host. The answer has the recalls with numbers above
    /// `recall`.
    ///
    /// # Errors
    /// Returns the error of the engine.
    pub(crate) async fn beat(
        &self,
        fleet: &str,
        text: &str,
        recall: u64,
        wants_hosts: bool,
    ) -> Result<Heartbeat, Error> {
        let identity = self.presented(fleet);
        let mut client = self.client.lock().await;
        client.heartbeat(&identity, text, recall, wants_hosts).await
    }

    /// Sends a heartbeat of a daemon that starts.
    ///
    /// # Errors
    /// Returns the error of the engine.
    pub(super) async fn start_beat(&self, fleet: &str) -> Result<Heartbeat, Error> {
        let text = HostText {
            name: self.identity.name.clone(),
            limiter: env!("CARGO_PKG_VERSION").to_owned(),
            ..HostText::default()
        };
        // The recurring tasks follow the recalls.
        self.beat(fleet, &text.to_string(), NO_RECALLS, false).await
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.settings.kind == Kind::Cluster
    }

    /// Asks the servers for descriptions of themselves. Returns whether one of them is another
    /// server than before, or has restarted, so that it may have forgotten leases.
    pub(crate) async fn describe(&self) -> bool {
        let mut client = self.client.lock().await;
        let described = client.describe().await;
        let confirm = client.confirmations();
        drop(client);
        let mut news = self.news();
        news.confirm = confirm;
        let mut has_changed = false;
        if let Ok(servers) = described {
            for (address, server) in &servers {
                let Ok(server) = server else { continue };
                let incarnation = server.incarnation.clone();
                let before = news.incarnations.insert(address.to_string(), incarnation);
                has_changed |= before.is_some_and(|before| before != server.incarnation);
            }
            news.servers = servers
                .into_iter()
                .map(|(address, server)| (address, server.map_err(|error| error.to_string())))
                .collect();
        }
        has_changed
    }
}

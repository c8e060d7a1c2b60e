// SPDX-License-Identifier: MIT OR Apache-2.0

//! Creating a fleet, joining it and leaving it.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use limiter_fleet::client::Error;
use zeroize::Zeroizing;

use super::{
    link::FleetLink,
    member::{self, Member, check_value, random_id},
    objects::ObjectName,
    registry::RegistryState,
    sync::sync,
    tasks::{self, with},
};
use crate::{
    domain::{
        key_state::KeyState,
        plain::{Shown, counted},
    },
    engine::{caller::Caller, shared::Shared, state::Engine},
    protocol::{
        error::ApiError,
        fleet::{FleetView, HostView, JoinFleet},
        views::Report,
    },
    secret,
    store::KeyFilter,
    suggest::did_you_mean,
};

/// The longest time for which a view of the fleet waits for the engine.
const FRESH: Duration = Duration::from_secs(2);

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::FleetExists | Error::NoFleet | Error::OtherFleet(_) | Error::Duplicate => {
                Self::conflict(error.to_string())
            }
            _ => Self::failed(error.to_string()),
        }
    }
}

impl Engine {
    /// Returns the id of the fleet to which this host belongs.
    pub(crate) fn fleet_id(&self) -> Option<String> {
        self.fleet.as_ref().map(|member| member.fleet.clone())
    }

    /// Makes this host a part of the fleet `fleet`.
    ///
    /// # Errors
    /// Returns an error if the store or the kernel reports one.
    pub(crate) fn enter_fleet(&mut self, fleet: &str, caller: &Caller) -> Result<(), ApiError> {
        let Some(config) = &self.setup.config().fleet else {
            return Err(no_section());
        };
        let entered = Member::new(fleet.to_owned(), config);
        self.store.change(|store| {
            member::set_fleet(store, fleet)?;
            store.audit(&caller.entry("fleet join", fleet, ""))
        })?;
        self.fleet = Some(entered);
        self.set_registry_state(RegistryState::default())?;
        // From now on, the kernel admits no request beyond a lease.
        self.publish_limits()?;
        self.publish_config()?;
        self.flush(caller.now)?;
        self.events.add_change(
            caller,
            "fleet join",
            None,
            None,
            format!("this host is a part of the fleet {fleet}"),
        );
        Ok(())
    }

    /// Replaces the hash secret, if no key was hashed with the present one.
    fn replace_secret(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        let secret = secret::of_bytes(bytes)
            .ok_or_else(|| ApiError::invalid("the secret must have 16 bytes"))?;
        if *secret == **self.setup.secret() {
            return Ok(());
        }
        let keys = self.store.key_count()?;
        if keys > 0 {
            return Err(ApiError::conflict(format!(
                "this host has {} that would not work with another hash secret: stop the daemon, remove its state directory, and join again",
                counted(keys, "key")
            )));
        }
        let installed = secret::install(self.store.directory(), bytes);
        let secret = installed.map_err(|error| ApiError::failed(error.to_string()))?;
        self.setup.replace_secret(secret);
        // Unknown keys were identified with the previous secret.
        self.drop_all_unknown(Utc::now())?;
        self.publish_config()
    }

    /// Removes the scopes that this host has and its fleet does not have, and revokes such keys.
    fn drop_own(&mut self) -> Result<(), ApiError> {
        let caller = Caller {
            who: "limiter".to_owned(),
            now: Utc::now(),
        };
        let mut own = Vec::new();
        for scope in self
            .scopes
            .iter()
            .filter(|scope| scope.record.unknown.is_none())
        {
            let name = &scope.record.name;
            if self
                .store
                .revision(&ObjectName::Scope(name.clone()).to_string())?
                == 0
            {
                own.push(name.clone());
            }
        }
        for name in own {
            self.remove_scope(&name, true, &caller)?;
        }
        for key in self.store.keys(KeyFilter::All)? {
            if self
                .store
                .revision(&ObjectName::Key(key.digest).to_string())?
                == 0
            {
                self.set_key_state(&key.id, KeyState::Revoked, &caller)?;
            }
        }
        Ok(())
    }

    /// Makes this host independent of its fleet.
    pub(crate) fn exit_fleet(&mut self, caller: &Caller) -> Result<Report, ApiError> {
        let Some(fleet) = self.fleet_id() else {
            return Err(ApiError::conflict("this host is not a part of a fleet"));
        };
        self.store.change(|store| {
            member::set_fleet(store, "")?;
            store.clear_revisions()?;
            store.audit(&caller.entry("fleet leave", &fleet, ""))
        })?;
        self.fleet = None;
        for scope in self.scopes.iter_mut() {
            scope.bounds = None;
            scope.unsaved = true;
        }
        self.publish_limits()?;
        self.publish_config()?;
        self.flush(caller.now)?;
        let message = format!("this host has left the fleet {fleet}");
        self.events
            .add_change(caller, "fleet leave", None, None, message);
        Ok(Report {
            done: vec![format!(
                "left the fleet {fleet}: from now on, this host grants the whole quotas by itself"
            )],
            warnings: Vec::new(),
        })
    }

    /// Returns the error for a host that is a part of a fleet already.
    fn check_alone(&self) -> Result<(), ApiError> {
        match self.fleet_id() {
            Some(fleet) => Err(ApiError::conflict(format!(
                "this host is a part of the fleet {fleet} already: `limiter fleet leave` ends that"
            ))),
            None => Ok(()),
        }
    }
}

/// Returns the error for a command that needs the section `[fleet]`.
fn no_section() -> ApiError {
    ApiError::conflict(
        "the configuration has no section [fleet], which names the engine: add it, and restart the daemon",
    )
}

impl Shared {
    /// Returns the connection to the engine.
    ///
    /// # Errors
    /// Returns an error if the configuration names no engine.
    pub(crate) fn fleet_or_refuse(&self) -> Result<Arc<FleetLink>, ApiError> {
        self.fleet().ok_or_else(no_section)
    }

    /// Creates a fleet, whose first host is this one.
    ///
    /// # Errors
    /// Returns an error if this host is a part of a fleet already, if the engine has one, or if the
    /// engine cannot be used.
    pub(crate) async fn init_fleet(self: &Arc<Self>, caller: Caller) -> Result<Report, ApiError> {
        let link = self.fleet_or_refuse()?;
        let check = self.with(|engine| {
            engine.check_alone()?;
            Ok(check_value(&engine.secret()))
        });
        let check = check.await?;
        let mut client = link.client().await;
        let mut id = random_id()?;
        match client.create_fleet(&id, &check).await {
            // An earlier attempt may have created the fleet without an answer.
            Err(Error::FleetExists) if client.host_count().await? == 0 => {
                let found = client.fleet().await?.filter(|fleet| fleet.check == check);
                id = found.ok_or(Error::FleetExists)?.id;
            }
            created => created?,
        }
        client.claim_buckets().await?;
        drop(client);
        let fleet = id.clone();
        self.with(move |engine| {
            engine.enter_fleet(&fleet, &caller)?;
            engine.mark_all_pending()
        })
        .await?;
        tasks::beat(self, &link, true).await;
        let synced = sync(self, &link).await;
        Ok(Report {
            done: vec![format!("created the fleet {id}")],
            warnings: warnings_of(synced),
        })
    }

    /// Makes this host a part of the fleet that the engine has.
    ///
    /// # Errors
    /// Returns an error if this host is a part of a fleet already, if the engine has none or one
    /// with another secret, or if the engine cannot be used.
    pub(crate) async fn join_fleet(
        self: &Arc<Self>,
        request: JoinFleet,
        caller: Caller,
    ) -> Result<Report, ApiError> {
        let link = self.fleet_or_refuse()?;
        self.with(|engine| engine.check_alone()).await?;
        if let Some(secret) = request.secret {
            let secret = Zeroizing::new(secret);
            let bytes = secret::from_input(secret.as_bytes())
                .ok_or_else(|| ApiError::invalid("`secret` must be 32 hexadecimal digits"))?;
            self.with(move |engine| engine.replace_secret(&bytes))
                .await?;
        }
        let (is_new, check) = self
            .with(|engine| Ok((engine.is_new(), check_value(&engine.secret()))))
            .await?;
        if !request.replace && !is_new {
            return Err(not_new());
        }
        let fleet = link.client().await.fleet().await?.ok_or(Error::NoFleet)?;
        if fleet.check != check {
            return Err(other_secret(&fleet.id));
        }
        let id = fleet.id.clone();
        self.with(move |engine| engine.enter_fleet(&id, &caller))
            .await?;
        tasks::beat(self, &link, true).await;
        let synced = sync(self, &link).await;
        let mut warnings = Vec::new();
        match synced {
            // Nothing is removed before this host knows all scopes and keys of the fleet.
            Ok(()) if request.replace => self.with(Engine::drop_own).await?,
            Ok(()) => {}
            Err(error) => warnings.push(format!(
                "this host does not have all scopes and keys of the fleet yet: {}",
                error.message
            )),
        }
        Ok(Report {
            done: vec![format!("joined the fleet {}", fleet.id)],
            warnings,
        })
    }
}

impl Shared {
    /// Returns the state of the fleet.
    ///
    /// # Errors
    /// Returns an error if the configuration names no engine.
    pub(crate) async fn fleet_status(
        self: &Arc<Self>,
        now: DateTime<Utc>,
    ) -> Result<FleetView, ApiError> {
        let link = self.fleet_or_refuse()?;
        // The servers and the hosts are asked again, so that the view is of now.
        let fresh = async {
            link.describe().await;
            tasks::beat(self, &link, true).await;
        };
        // If the engine does not answer in time, the last news are shown.
        let _fresh = tokio::time::timeout(FRESH, fresh).await;
        self.with(move |engine| Ok(engine.fleet_view(&link, now)))
            .await
    }

    /// Gives back the leases of this host, and makes it independent.
    ///
    /// # Errors
    /// Returns an error if this host is not a part of a fleet.
    pub(crate) async fn leave_fleet(self: &Arc<Self>, caller: Caller) -> Result<Report, ApiError> {
        let link = self.fleet_or_refuse()?;
        tasks::give_back(self).await;
        let mut report = self.with(move |engine| engine.exit_fleet(&caller)).await?;
        let removed = link.client().await.remove_host(&link.identity().id).await;
        if let Err(error) = removed {
            report
                .warnings
                .push(format!("the engine still lists this host: {error}"));
        }
        Ok(report)
    }

    /// Restores the fleet of this host on an engine that has lost it.
    ///
    /// # Errors
    /// Returns an error if this host is not a part of a fleet, if the engine has a fleet, or if the
    /// engine cannot be used.
    pub(crate) async fn seed_fleet(self: &Arc<Self>, caller: Caller) -> Result<Report, ApiError> {
        let link = self.fleet_or_refuse()?;
        let (fleet, check) = self
            .with(|engine| Ok((engine.fleet_id(), check_value(&engine.secret()))))
            .await?;
        let Some(fleet) = fleet else {
            return Err(ApiError::conflict(
                "this host is not a part of a fleet: `limiter fleet init` creates one",
            ));
        };
        link.client().await.create_fleet(&fleet, &check).await?;
        let name = fleet.clone();
        self.with(move |engine| {
            engine
                .store
                .change(|store| store.audit(&caller.entry("fleet seed", &name, "")))?;
            // Everything is compared with the empty registry, and sent.
            engine.set_registry_state(RegistryState::default())?;
            let message = format!("the fleet {name} is on the engine again");
            engine
                .events
                .add_change(&caller, "fleet seed", None, None, message);
            Ok::<(), ApiError>(())
        })
        .await?;
        tasks::beat(self, &link, true).await;
        let synced = sync(self, &link).await;
        Ok(Report {
            done: vec![format!("restored the fleet {fleet} on the engine")],
            warnings: warnings_of(synced),
        })
    }

    /// Removes a host from the list of the fleet's hosts.
    ///
    /// # Errors
    /// Returns an error if there is no such host, if it is alive, or if the engine cannot be used.
    pub(crate) async fn forget_host(
        self: &Arc<Self>,
        host: &str,
        caller: &Caller,
    ) -> Result<Report, ApiError> {
        let link = self.fleet_or_refuse()?;
        let view = self.fleet_status(caller.now).await?;
        let names: Vec<&str> = view.hosts.iter().map(|host| host.name.as_str()).collect();
        let of_name: Vec<&HostView> = view
            .hosts
            .iter()
            .filter(|other| other.id == host || other.name == host)
            .collect();
        let found = match of_name.as_slice() {
            [found] => *found,
            [] => {
                return Err(ApiError::not_found(format!(
                    "the fleet has no host `{}`{}: `limiter fleet status` lists the hosts",
                    Shown(host),
                    did_you_mean(host, names)
                )));
            }
            _ => {
                return Err(ApiError::conflict(format!(
                    "several hosts have the name {}: give an id",
                    Shown(host)
                )));
            }
        };
        if !found.silent {
            return Err(ApiError::conflict(format!(
                "the host {} is alive: stop it first, or run `limiter fleet leave` on it",
                found.name
            )));
        }
        link.client().await.remove_host(&found.id).await?;
        let message = format!("the fleet has forgotten the host {}", found.name);
        let entry = (found.name.clone(), found.id.clone());
        let caller = Caller {
            who: caller.who.clone(),
            now: caller.now,
        };
        self.with(move |engine| {
            engine
                .store
                .change(|store| store.audit(&caller.entry("fleet forget", &entry.0, &entry.1)))?;
            engine
                .events
                .add_change(&caller, "fleet forget", None, None, message);
            Ok(())
        })
        .await?;
        Ok(Report {
            done: vec![format!(
                "forgot the host {}: what it has leased and not used today stays leased",
                found.name
            )],
            warnings: Vec::new(),
        })
    }
}

/// Returns the error for a host with another hash secret than that of the fleet.
pub(super) fn other_secret(fleet: &str) -> ApiError {
    ApiError::conflict(format!(
        "the fleet {fleet} has another hash secret than this host, so keys would not be recognized: copy the file hash.key from a host of the fleet, for example with `limiter fleet join < hash.key`"
    ))
}

/// Returns the warning that the engine does not have all scopes and keys of this host.
fn warnings_of(synced: Result<(), ApiError>) -> Vec<String> {
    let warning = |error: ApiError| {
        format!(
            "the engine does not have all scopes and keys of this host yet: {}",
            error.message
        )
    };
    synced.err().map(warning).into_iter().collect()
}

/// Returns the error for a host that has scopes of its own.
fn not_new() -> ApiError {
    ApiError::conflict(
        "this host has scopes of its own, and is not a part of the fleet: `limiter fleet join --replace` replaces them by those of the fleet",
    )
}

/// Looks whether the engine has a fleet that this host can join. A host that has scopes of its own
/// joins only by command.
pub(super) async fn look(shared: &Arc<Shared>, link: &Arc<FleetLink>) {
    let found = link.client().await.fleet().await;
    let state = with(shared, |engine| {
        (engine.is_new(), check_value(&engine.secret()))
    })
    .await;
    let Some((is_new, check)) = state else { return };
    let problem = match found {
        Err(error) => error.to_string(),
        Ok(None) => "this host is not a part of a fleet, and the engine has none: `limiter fleet init` creates one".to_owned(),
        Ok(Some(fleet)) if fleet.check != check => other_secret(&fleet.id).message,
        Ok(Some(_)) if !is_new => not_new().message,
        Ok(Some(_)) => {
            let caller = Caller {
                who: "limiter".to_owned(),
                now: Utc::now(),
            };
            match Box::pin(shared.join_fleet(JoinFleet::default(), caller)).await {
                Ok(_) => return,
                Err(error) => error.message,
            }
        }
    };
    link.news().problem = Some(problem.clone());
    with(shared, |engine| engine.note_health("fleet", Some(problem))).await;
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The primaries of an engine.

use std::{ops::RangeInclusive, time::Duration};

use redis::{FromRedisValue as _, RedisResult, Value, cmd};

use super::{
    Kind, Settings,
    access::choose_provider,
    address::Address,
    error::Error,
    link::{Link, connect},
    server::Server,
    slots::{SLOTS, slot, slot_of_fleet},
};
use crate::account::Bucket;

/// The primaries of an engine, which are found when they are needed.
#[derive(Default)]
pub(super) struct Primaries {
    primaries: Vec<Primary>,
    /// Whether a primary has ever had a replica. From then on, grants have to be confirmed even
    /// while no replica is connected.
    had_replicas: bool,
}

/// A primary.
struct Primary {
    address: Address,
    slots: RangeInclusive<u16>,
    link: Option<Link>,
}

impl Primaries {
    /// Forgets all servers, so that they are found anew.
    pub(super) fn forget(&mut self) {
        self.primaries.clear();
    }

    /// Finds the primaries, if they are not known.
    ///
    /// # Errors
    /// Returns an error if there is none that can be used.
    pub(super) async fn find(&mut self, settings: &Settings) -> Result<(), Error> {
        if !self.primaries.is_empty() {
            return Ok(());
        }
        choose_provider();
        let mut errors = Vec::new();
        for address in &settings.addresses {
            match found(address, settings).await {
                Ok(primaries) => {
                    self.primaries = primaries;
                    self.note_replicas();
                    return Ok(());
                }
                Err(error) => errors.push(error),
            }
        }
        Err(Error::NoUsableServer(errors))
    }

    fn note_replicas(&mut self) {
        let links = self
            .primaries
            .iter()
            .filter_map(|primary| primary.link.as_ref());
        self.had_replicas |= links.into_iter().any(|link| link.server.replicas > 0);
    }

    /// Returns the index of the primary with the keys of a bucket.
    ///
    /// # Errors
    /// Returns an error if no server serves the slot of the bucket.
    pub(super) fn of(&self, bucket: Bucket) -> Result<usize, Error> {
        self.of_slot(slot(bucket))
    }

    /// Returns the connection to the primary with the keys of the fleet, which is found if it is
    /// not known.
    ///
    /// # Errors
    /// Returns an error if there is none that can be used.
    pub(super) async fn of_fleet(&mut self, settings: &Settings) -> Result<&mut Link, Error> {
        self.find(settings).await?;
        let primary = self.of_slot(slot_of_fleet())?;
        self.link(primary, settings).await
    }

    /// Returns the address of the primary with the keys of the fleet, as far as it is known.
    pub(super) fn address_of_fleet(&self) -> Address {
        let primary = self.of_slot(slot_of_fleet()).ok();
        match primary.and_then(|primary| self.primaries.get(primary)) {
            Some(primary) => primary.address.clone(),
            None => Address {
                host: String::new(),
                port: 0,
                tls: false,
            },
        }
    }

    fn of_slot(&self, slot: u16) -> Result<usize, Error> {
        let primary = self
            .primaries
            .iter()
            .position(|primary| primary.slots.contains(&slot));
        primary.ok_or(Error::NoServer(slot))
    }

    /// Returns the connection to the primary with the index `primary`.
    ///
    /// # Errors
    /// Returns an error if the server cannot be reached or used.
    pub(super) async fn link(
        &mut self,
        primary: usize,
        settings: &Settings,
    ) -> Result<&mut Link, Error> {
        let primary = &mut self.primaries[primary];
        let link = match primary.link.take() {
            Some(link) => link,
            None => Link::open(&primary.address, &settings.access).await?,
        };
        self.had_replicas |= link.server.replicas > 0;
        Ok(primary.link.insert(link))
    }

    /// Reads the descriptions of all primaries.
    ///
    /// # Errors
    /// Returns an error if one of them cannot be reached or used.
    pub(super) async fn describe(
        &mut self,
        settings: &Settings,
    ) -> Result<Vec<(Address, Server)>, Error> {
        self.find(settings).await?;
        let mut servers: Vec<(Address, Server)> = Vec::new();
        for primary in 0..self.primaries.len() {
            let link = self.link(primary, settings).await?;
            link.refresh().await?;
            let server = (link.address.clone(), link.server.clone());
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        self.note_replicas();
        Ok(servers)
    }

    /// Names the present servers in the states of all buckets.
    ///
    /// # Errors
    /// Returns an error if a server cannot be reached or used.
    pub(super) async fn claim_buckets(&mut self, settings: &Settings) -> Result<(), Error> {
        self.find(settings).await?;
        for bucket in Bucket::all() {
            let primary = self.of(bucket)?;
            let link = self.link(primary, settings).await?;
            link.name(bucket, Duration::ZERO).await?;
        }
        Ok(())
    }

    /// Returns the number of replicas that have to confirmations a grant.
    pub(super) fn confirmations(&self, settings: &Settings) -> u32 {
        let has_replicas = self.had_replicas || settings.kind != Kind::Single;
        settings.confirmations.unwrap_or(u32::from(has_replicas))
    }
}

/// Returns the primaries that `address` leads to.
async fn found(address: &Address, settings: &Settings) -> Result<Vec<Primary>, Error> {
    let access = &settings.access;
    match &settings.kind {
        Kind::Single => {
            let link = Link::open(address, access).await?;
            Ok(vec![Primary::alone(link)])
        }
        Kind::Sentinel { primary } => {
            let address = primary_address(address, settings, primary).await?;
            let link = Link::open(&address, access).await?;
            Ok(vec![Primary::alone(link)])
        }
        Kind::Cluster => {
            let reply = ask(address, settings, &["CLUSTER", "SLOTS"]).await?;
            cluster(address, reply).ok_or_else(|| Error::Reply {
                address: address.clone(),
                expected: "the slots of a cluster",
            })
        }
    }
}

impl Primary {
    /// Returns the only server of an engine.
    fn alone(link: Link) -> Self {
        Self {
            address: link.address.clone(),
            slots: 0..=SLOTS - 1,
            link: Some(link),
        }
    }
}

async fn ask(address: &Address, settings: &Settings, words: &[&str]) -> Result<Value, Error> {
    let mut connection = connect(address, &settings.access).await?;
    let mut command = cmd(words[0]);
    let reply: RedisResult<Value> = command.arg(&words[1..]).query_async(&mut connection).await;
    reply.map_err(|source| Error::Command {
        address: address.clone(),
        source,
    })
}

/// Asks a Sentinel for the address of a primary.
async fn primary_address(
    sentinel: &Address,
    settings: &Settings,
    primary: &str,
) -> Result<Address, Error> {
    let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", primary];
    let reply = ask(sentinel, settings, &words).await?;
    if reply == Value::Nil {
        return Err(Error::UnknownPrimary(primary.to_owned()));
    }
    let (host, port) = <(String, u16)>::from_redis_value(reply).map_err(|_| Error::Reply {
        address: sentinel.clone(),
        expected: "the address of a primary",
    })?;
    let tls = sentinel.tls;
    Ok(Address { host, port, tls })
}

/// Reads the reply of CLUSTER SLOTS: ranges of slots, each with its servers, of which the first is
/// the primary. A server that does not know its own address has an empty one.
fn cluster(seed: &Address, reply: Value) -> Option<Vec<Primary>> {
    let ranges: Vec<Vec<Value>> = Vec::from_redis_value(reply).ok()?;
    let primaries: Option<Vec<Primary>> = ranges
        .into_iter()
        .map(|range| {
            let mut range = range.into_iter();
            let first = u16::from_redis_value(range.next()?).ok()?;
            let last = u16::from_redis_value(range.next()?).ok()?;
            let primary: Vec<Value> = Vec::from_redis_value(range.next()?).ok()?;
            let mut primary = primary.into_iter();
            let host = String::from_redis_value(primary.next()?).unwrap_or_default();
            let port = u16::from_redis_value(primary.next()?).ok()?;
            let host = if host.is_empty() {
                seed.host.clone()
            } else {
                host
            };
            let tls = seed.tls;
            Some(Primary {
                address: Address { host, port, tls },
                slots: first..=last,
                link: None,
            })
        })
        .collect();
    primaries.filter(|primaries| !primaries.is_empty())
}

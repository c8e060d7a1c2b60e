// SPDX-License-Identifier: MIT OR Apache-2.0

//! The primaries of an engine: one, or those of a cluster.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use limiter_common::day::Day;
use redis::cmd;

use super::{
    CallResult, Kind, Settings,
    access::choose_provider,
    address::Address,
    error::Error,
    link::{Batch, Link},
    search::search,
    server::Server,
    slots::{SLOTS, slot, slot_of_fleet},
};
use crate::{
    account::{Account, Bucket, account_key},
    call::Call,
    host::Failure,
    rate::{RateAnswer, RateCall},
    script::LEARNING,
};

/// The number of batches in a pipeline.
const BATCHES: usize = 16;
/// The shortest time between two searches for the primaries.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);
/// The time without confirmations after which other servers are looked for.
const SUSPICIOUS_AFTER: Duration = Duration::from_secs(1);
/// The time without confirmations after which a server first has to learn which leases there are.
/// Meanwhile, another server with the replicas may have granted leases.
const DOUBTFUL_AFTER: Duration = Duration::from_secs(5);

/// The primaries of an engine, which are found when they are needed.
#[derive(Default)]
pub(super) struct Primaries {
    primaries: Vec<Primary>,
    /// The time of the last search.
    searched_at: Option<Instant>,
    /// Whether the primaries have to be looked for again.
    is_stale: bool,
    /// The index of the address at which the next search begins. After a failure, it is another
    /// one, because a server that is cut off may answer with an outdated view.
    first: usize,
    /// Whether a primary has ever had a replica. From then on, grants have to be confirmed even
    /// while no replica is connected.
    had_replicas: bool,
}

/// Batches with their indices in a list.
type Numbered<C> = Vec<(usize, Batch<C>)>;

/// A primary.
pub(super) struct Primary {
    pub(super) address: Address,
    pub(super) slots: Vec<RangeInclusive<u16>>,
    link: Option<Link>,
    /// The time of the first call since the last confirmation that was not confirmed.
    unconfirmed_since: Option<Instant>,
}

impl Primaries {
    /// Makes the next call look for the primaries again.
    pub(super) fn forget(&mut self) {
        if !self.is_stale {
            self.is_stale = true;
            self.first += 1;
        }
    }

    /// Finds the primaries, if they are not known.
    ///
    /// # Errors
    /// Returns an error if there is none that can be used.
    pub(super) async fn find(&mut self, settings: &Settings) -> Result<(), Error> {
        let is_known = !self.primaries.is_empty();
        let is_recent = self
            .searched_at
            .is_some_and(|at| at.elapsed() < SEARCH_INTERVAL);
        if is_known && (!self.is_stale || is_recent) {
            return Ok(());
        }
        choose_provider();
        self.searched_at = Some(Instant::now());
        match search(settings, self.first).await {
            Ok(mut found) => {
                for primary in &mut found {
                    let before = self.primaries.iter_mut();
                    let same = before
                        .into_iter()
                        .find(|old| old.address == primary.address);
                    if let Some(same) = same {
                        primary.link = primary.link.take().or(same.link.take());
                        primary.unconfirmed_since = same.unconfirmed_since;
                    }
                }
                self.primaries = found;
                self.is_stale = false;
                self.note_replicas();
                Ok(())
            }
            Err(error) if is_known => {
                log::debug!("the servers of the engine cannot be found: {error}");
                self.first += 1;
                Ok(())
            }
            Err(error) => {
                self.first += 1;
                Err(error)
            }
        }
    }

    fn note_replicas(&mut self) {
        let mut links = self.primaries.iter().filter_map(|one| one.link.as_ref());
        self.had_replicas |= links.any(|link| link.server.replicas > 0);
    }

    /// Returns the connection to the primary with the keys of the fleet, which is found if it is
    /// not known.
    ///
    /// # Errors
    /// Returns an error if there is none that can be used.
    pub(super) async fn of_fleet(&mut self, settings: &Settings) -> Result<&mut Link, Error> {
        self.find(settings).await?;
        let primary = self.of_slot(slot_of_fleet())?;
        let link = self.primaries[primary].link(settings).await?;
        self.had_replicas |= link.server.replicas > 0;
        Ok(link)
    }

    /// Drops the connection to the primary with the keys of the fleet.
    pub(super) fn drop_link_of_fleet(&mut self) {
        if let Ok(primary) = self.of_slot(slot_of_fleet()) {
            self.primaries[primary].link = None;
        }
        self.forget();
    }

    /// Returns the address of the primary with the keys of the fleet, as far as it is known.
    pub(super) fn address_of_fleet(&self) -> Option<&Address> {
        let primary = self.of_slot(slot_of_fleet()).ok()?;
        Some(&self.primaries[primary].address)
    }

    /// Returns the index of the primary with a slot.
    fn of_slot(&self, slot: u16) -> Result<usize, Error> {
        let has = |one: &Primary| one.slots.iter().any(|slots| slots.contains(&slot));
        let primary = self.primaries.iter().position(has);
        primary.ok_or(Error::NoServer(slot))
    }

    /// Sends batches of calls to their primaries, to all primaries at the same time. Returns the
    /// results of each batch, and the first error.
    pub(super) async fn lease(
        &mut self,
        settings: &Settings,
        host: &str,
        batches: Vec<Batch>,
    ) -> (Vec<Vec<CallResult>>, Option<Error>) {
        let unanswered = |batch: &Batch| vec![Err(Failure::Unanswered); batch.calls.len()];
        let mut results: Vec<Vec<CallResult>> = batches.iter().map(unanswered).collect();
        if let Err(error) = self.find(settings).await {
            return (results, Some(error));
        }
        let (mut of_primary, mut error) = self.by_primary(batches);
        let confirmations = self.confirmations(settings);
        let primaries = self.primaries.iter_mut().enumerate();
        let exchanges = primaries.filter_map(|(index, primary)| {
            let batches = of_primary.remove(&index)?;
            Some(primary.lease(settings, host, batches, confirmations))
        });
        for (answered, failed) in join_all(exchanges).await {
            for (index, result) in answered {
                results[index] = result;
            }
            error = error.or(failed);
        }
        let is_suspicious = |one: &Primary| {
            one.unconfirmed_since
                .is_some_and(|since| since.elapsed() >= SUSPICIOUS_AFTER)
        };
        let is_unconfirmed = matches!(error, Some(Error::Unconfirmed(_)));
        if error.is_some() && !is_unconfirmed || self.primaries.iter().any(is_suspicious) {
            self.forget();
        }
        self.note_replicas();
        (results, error)
    }

    /// Groups batches by the index of their primary. Returns the batches with their indices, and
    /// the first error.
    fn by_primary<C>(
        &self,
        batches: Vec<Batch<C>>,
    ) -> (BTreeMap<usize, Numbered<C>>, Option<Error>) {
        let mut error = None;
        let mut of_primary: BTreeMap<usize, Vec<_>> = BTreeMap::new();
        for (index, batch) in batches.into_iter().enumerate() {
            match self.of_slot(slot(batch.bucket)) {
                Ok(primary) => of_primary.entry(primary).or_default().push((index, batch)),
                Err(missing) => error = error.or(Some(missing)),
            }
        }
        (of_primary, error)
    }

    /// Sends reports of demands to their primaries, to all primaries at the same time. Returns the
    /// shares of the batches that were answered, each with the index of its batch, and the first
    /// error.
    pub(super) async fn divide_rates(
        &mut self,
        settings: &Settings,
        host: &str,
        batches: Vec<Batch<RateCall>>,
    ) -> (Vec<(usize, Vec<RateAnswer>)>, Option<Error>) {
        if let Err(error) = self.find(settings).await {
            return (Vec::new(), Some(error));
        }
        let (mut of_primary, mut error) = self.by_primary(batches);
        let primaries = self.primaries.iter_mut().enumerate();
        let exchanges = primaries.filter_map(|(index, primary)| {
            let batches = of_primary.remove(&index)?;
            Some(primary.divide_rates(settings, host, batches))
        });
        let mut shares = Vec::new();
        for (answered, failed) in join_all(exchanges).await {
            shares.extend(answered);
            error = error.or(failed);
        }
        if error.is_some() {
            self.forget();
        }
        (shares, error)
    }

    /// Reads the descriptions of all primaries.
    ///
    /// # Errors
    /// Returns an error if the primaries cannot be found.
    pub(super) async fn describe(
        &mut self,
        settings: &Settings,
    ) -> Result<Vec<(Address, Result<Server, Error>)>, Error> {
        self.find(settings).await?;
        let descriptions = self.primaries.iter_mut().map(async |primary| {
            let described = primary.describe(settings).await;
            if described.is_err() {
                primary.link = None;
            }
            (primary.address.clone(), described)
        });
        let servers = join_all(descriptions).await;
        if servers.iter().any(|(_, server)| server.is_err()) {
            self.forget();
        }
        self.note_replicas();
        Ok(servers)
    }

    /// Reads the account of a scope on a day.
    ///
    /// # Errors
    /// Returns an error if a server cannot be reached or used.
    pub(super) async fn account(
        &mut self,
        settings: &Settings,
        scope: &str,
        day: Day,
    ) -> Result<Account, Error> {
        self.find(settings).await?;
        let primary = self.of_slot(slot(Bucket::of(scope)))?;
        let link = self.primaries[primary].link(settings).await?;
        let mut command = cmd("HMGET");
        command.arg(account_key(scope, day)).arg(&["g", "u", "a"]);
        let fields: [Option<u64>; 3] = link.query(&command).await?;
        let [leased, used, hosts] = fields.map(Option::unwrap_or_default);
        Ok(Account {
            leased,
            used,
            hosts,
        })
    }

    /// Records the present primaries as the servers of all buckets.
    ///
    /// # Errors
    /// Returns an error if a server cannot be reached or used.
    pub(super) async fn claim(&mut self, settings: &Settings) -> Result<(), Error> {
        self.find(settings).await?;
        for primary in &mut self.primaries {
            let buckets = primary.buckets();
            let link = primary.link(settings).await?;
            link.claim(&buckets, Duration::ZERO, false).await?;
        }
        Ok(())
    }

    /// Returns the number of replicas that have to confirm a grant.
    pub(super) fn confirmations(&self, settings: &Settings) -> u32 {
        let has_replicas = self.had_replicas || settings.kind != Kind::Single;
        settings.confirmations.unwrap_or(u32::from(has_replicas))
    }
}

impl Primary {
    pub(super) fn new(address: Address, slots: RangeInclusive<u16>) -> Self {
        Self {
            address,
            slots: vec![slots],
            link: None,
            unconfirmed_since: None,
        }
    }

    /// Returns the only server of an engine.
    pub(super) fn single(link: Link) -> Self {
        let address = link.address.clone();
        Self {
            link: Some(link),
            ..Self::new(address, 0..=SLOTS - 1)
        }
    }

    /// Returns the buckets of this primary.
    fn buckets(&self) -> Vec<Bucket> {
        let has = |bucket: &Bucket| {
            let slot = slot(*bucket);
            self.slots.iter().any(|slots| slots.contains(&slot))
        };
        Bucket::all().filter(has).collect()
    }

    /// Returns the connection to this primary.
    async fn link(&mut self, settings: &Settings) -> Result<&mut Link, Error> {
        let link = match self.link.take() {
            Some(link) => link,
            None => Link::open(&self.address, &settings.access).await?,
        };
        Ok(self.link.insert(link))
    }

    async fn describe(&mut self, settings: &Settings) -> Result<Server, Error> {
        let link = self.link(settings).await?;
        link.refresh().await?;
        Ok(link.server.clone())
    }

    /// Sends batches to this primary. Returns the results of the batches that were sent, each with
    /// its index, and the first error.
    async fn lease(
        &mut self,
        settings: &Settings,
        host: &str,
        batches: Numbered<Call>,
        confirmations: u32,
    ) -> (Vec<(usize, Vec<CallResult>)>, Option<Error>) {
        let mut results = Vec::new();
        let mut error = None;
        let (indices, batches): (Vec<usize>, Vec<Batch>) = batches.into_iter().unzip();
        for (indices, batches) in indices.chunks(BATCHES).zip(batches.chunks(BATCHES)) {
            match self.exchange(settings, host, batches, confirmations).await {
                Ok((some, failed)) => {
                    results.extend(indices.iter().copied().zip(some));
                    error = error.or(failed);
                }
                Err(failed) => {
                    // The connection may have been dropped, or the server may have another role.
                    self.link = None;
                    error = error.or(Some(failed));
                    break;
                }
            }
        }
        (results, error)
    }

    /// Sends reports of demands to this primary. Returns the shares of the batches that were
    /// answered, each with the index of its batch, and the first error.
    async fn divide_rates(
        &mut self,
        settings: &Settings,
        host: &str,
        batches: Numbered<RateCall>,
    ) -> (Vec<(usize, Vec<RateAnswer>)>, Option<Error>) {
        let mut shares = Vec::new();
        let (indices, batches): (Vec<usize>, Vec<_>) = batches.into_iter().unzip();
        for (indices, batches) in indices.chunks(BATCHES).zip(batches.chunks(BATCHES)) {
            let divided = async {
                let link = self.link(settings).await?;
                link.divide_rates(host, batches).await
            };
            match divided.await {
                Ok(some) => shares.extend(indices.iter().copied().zip(some)),
                Err(error) => {
                    self.link = None;
                    return (shares, Some(error));
                }
            }
        }
        (shares, None)
    }

    /// Sends batches in one pipeline, and lets the server learn which leases there are, if that is
    /// necessary.
    async fn exchange(
        &mut self,
        settings: &Settings,
        host: &str,
        batches: &[Batch],
        confirmations: u32,
    ) -> Result<(Vec<Vec<CallResult>>, Option<Error>), Error> {
        let link = self.link(settings).await?;
        let mut replies = link.lease(host, batches, confirmations).await?;
        if !replies.unclaimed.is_empty() {
            // The incarnation of the server may have changed while the connection has stayed.
            link.refresh().await?;
            let address = &link.address;
            log::info!("{address} is another server than before, or has lost its data");
            link.claim(&replies.unclaimed, LEARNING, false).await?;
        }
        if !replies.confirmed {
            self.unconfirmed_since.get_or_insert_with(Instant::now);
        } else if let Some(since) = self.unconfirmed_since.take()
            && since.elapsed() >= DOUBTFUL_AFTER
        {
            log::info!("{} confirms calls again", self.address);
            let buckets = self.buckets();
            let link = self.link(settings).await?;
            link.claim(&buckets, LEARNING, true).await?;
            for result in replies.results.iter_mut().flatten() {
                *result = Err(Failure::OtherServer);
            }
        }
        Ok((replies.results, replies.error))
    }
}

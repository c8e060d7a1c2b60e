// SPDX-License-Identifier: MIT OR Apache-2.0

//! The connection to the fleet's engine, which is one server, a primary that Sentinels watch, or a
//! cluster.
//!
//! The library `redis` provides connections, TLS and the protocol. Its clients for Sentinel and
//! clusters are not used, because a call and the WAIT that confirms it have to be on one
//! connection, and because a host has to know which server has answered.

mod access;
mod address;
mod announcements;
mod error;
mod link;
mod primaries;
mod registry;
mod search;
mod server;
mod slots;

pub use access::{Access, Certificates};
pub use address::{Address, BadAddress};
pub use announcements::{Announcement, Announcements};
pub use error::Error;
pub use server::Server;

use std::collections::BTreeMap;

use limiter_common::day::Day;

use crate::{
    account::{Account, Bucket},
    call::{Answer, Call},
    host::Failure,
    rate::{RateAnswer, RateCall},
};
use link::Batch;
use primaries::Primaries;

/// The largest number of calls in a batch. One run of the script processes one batch. A run with
/// this number of calls takes about a millisecond, during which the server does nothing else.
const CALLS: usize = 100;

/// The kind of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// One server. If there are several addresses, the first one that is a primary is used.
    Single,
    /// A primary that Sentinels watch. The addresses are those of the Sentinels.
    Sentinel {
        /// The name under which the Sentinels know the primary.
        primary: String,
    },
    /// A cluster. The addresses are those of some of its servers.
    Cluster,
}

/// The settings of a connection to an engine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The kind of the engine.
    pub kind: Kind,
    /// The addresses.
    pub addresses: Vec<Address>,
    /// The user, the password and the certificates.
    pub access: Access,
    /// The number of replicas that have to confirm a grant; 0 for none. `None` means 1 for
    /// Sentinels and clusters, and for a single server that has or has had a replica, and otherwise
    /// 0.
    pub confirmations: Option<u32>,
}

/// A connection to an engine. It connects when it is used, and again after an error.
pub struct Client {
    settings: Settings,
    /// The id of the host.
    host: String,
    primaries: Primaries,
}

/// The result of a call.
pub type CallResult = Result<Answer, Failure>;

impl Client {
    /// Returns a connection for the host with the id `host`.
    #[must_use]
    pub fn new(settings: Settings, host: &str) -> Self {
        Self {
            settings,
            host: host.to_owned(),
            primaries: Primaries::default(),
        }
    }

    /// Sends calls, each with the name of its scope. Returns the results in the order of the calls,
    /// and the first error. A call that an error concerns has [`Failure::Unanswered`].
    pub async fn lease(&mut self, calls: &[(String, Call)]) -> (Vec<CallResult>, Option<Error>) {
        let (groups, batches): (Vec<_>, Vec<_>) =
            batches(calls, |call| call.day.0).into_iter().unzip();
        let sent = self.primaries.lease(&self.settings, &self.host, batches);
        let (answers, error) = sent.await;
        let mut results = vec![Err(Failure::Unanswered); calls.len()];
        for (index, answer) in groups
            .into_iter()
            .flatten()
            .zip(answers.into_iter().flatten())
        {
            results[index] = answer;
        }
        (results, error)
    }

    /// Reports the demand of this host for some rates, each with the name of its scope. Returns the
    /// answers in the order of the calls, and the first error. There is no answer to a call that an
    /// error concerns.
    pub async fn divide_rates(
        &mut self,
        calls: &[(String, RateCall)],
    ) -> (Vec<Option<RateAnswer>>, Option<Error>) {
        let (groups, batches): (Vec<_>, Vec<_>) = batches(calls, |_| 0).into_iter().unzip();
        let divided = self
            .primaries
            .divide_rates(&self.settings, &self.host, batches);
        let (answers, error) = divided.await;
        let mut shares = vec![None; calls.len()];
        for (batch, some) in answers {
            for (&index, share) in groups[batch].iter().zip(some) {
                shares[index] = Some(share);
            }
        }
        (shares, error)
    }

    /// Connects to all primaries, and returns a description of each, or the reason why it cannot be
    /// used. The incarnation of a server has changed if the server was demoted and promoted in
    /// between ([`Server::incarnation`]).
    ///
    /// # Errors
    /// Returns an error if the primaries cannot be found.
    pub async fn describe(&mut self) -> Result<Vec<(Address, Result<Server, Error>)>, Error> {
        self.primaries.describe(&self.settings).await
    }

    /// Records the present primaries as the servers of all buckets, so that they grant leases at
    /// once. This is safe only on an engine that has never granted a lease.
    ///
    /// # Errors
    /// Returns an error if a server cannot be reached or used.
    pub async fn claim_buckets(&mut self) -> Result<(), Error> {
        let claimed = self.primaries.claim(&self.settings).await;
        if claimed.is_err() {
            self.primaries.forget();
        }
        claimed
    }

    /// Reads the account of a scope on a day, as far as the hosts have reported.
    ///
    /// # Errors
    /// Returns an error if a server cannot be reached or used.
    pub async fn account(&mut self, scope: &str, day: Day) -> Result<Account, Error> {
        let account = self.primaries.account(&self.settings, scope, day).await;
        if account.is_err() {
            self.primaries.forget();
        }
        account
    }

    /// Returns the number of replicas that have to confirm a grant.
    #[must_use]
    pub fn confirmations(&self) -> u32 {
        self.primaries.confirmations(&self.settings)
    }
}

/// Groups calls by bucket and by the number that `kind` returns, with at most [`CALLS`] in each
/// group. Returns the indices of the calls in each group, and the group itself.
fn batches<C: Clone>(
    calls: &[(String, C)],
    kind: impl Fn(&C) -> u32,
) -> Vec<(Vec<usize>, Batch<C>)> {
    let mut groups: BTreeMap<(Bucket, u32), Vec<usize>> = BTreeMap::new();
    for (index, (scope, call)) in calls.iter().enumerate() {
        let group = (Bucket::of(scope), kind(call));
        groups.entry(group).or_default().push(index);
    }
    let mut batches = Vec::new();
    for ((bucket, _), indices) in groups {
        for some in indices.chunks(CALLS) {
            let calls = some.iter().map(|&index| calls[index].clone()).collect();
            batches.push((some.to_vec(), Batch { bucket, calls }));
        }
    }
    batches
}

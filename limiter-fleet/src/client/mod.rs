// SPDX-License-Identifier: MIT OR Apache-2.0

//! The connection to the fleet's engine, which is one server, a primary that Sentinels watch, or a
//! cluster.
//!
//! The library `redis` has connections, TLS and the protocol. Its clients for Sentinel and clusters
//! are not used, because a call and the WAIT that confirms it have to be on one connection, and
//! because a host has to know which server has answered.

mod access;
mod address;
mod announcements;
mod error;
mod link;
mod primaries;
mod registry;
mod server;
mod slots;

pub use access::{Access, Certificates};
pub use address::{Address, BadAddress};
pub use announcements::{Announcement, Announcements};
pub use error::Error;
pub use server::Server;

use std::collections::BTreeMap;

use crate::{
    account::Bucket,
    call::{Answer, Call},
    host::Failure,
};
use link::Batch;
use primaries::Primaries;

/// The number of calls in a batch, which is one run of the script. A run of this length takes less
/// than a millisecond, in which the server does nothing else.
const CALLS: usize = 100;
/// The number of batches in a pipeline.
const BATCHES: usize = 16;

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
    /// The number of replicas that have to confirmations a grant. `None` means 1 if there are replicas.
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

    /// Sends calls, each with the name of its scope. Returns the results in the same order, and the
    /// first error.
    pub async fn lease(&mut self, calls: &[(String, Call)]) -> (Vec<CallResult>, Option<Error>) {
        let mut results = vec![Err(Failure::Unanswered); calls.len()];
        let mut first_error = None;
        if let Err(error) = self.primaries.find(&self.settings).await {
            return (results, Some(error));
        }
        let mut of_node: BTreeMap<usize, Vec<Vec<usize>>> = BTreeMap::new();
        for (bucket, some) in batches(calls) {
            match self.primaries.of(bucket) {
                Ok(primary) => of_node.entry(primary).or_default().push(some),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        for (primary, batches) in of_node {
            for some in batches.chunks(BATCHES) {
                let sent: Vec<Batch> = some.iter().map(|batch| batch_of(calls, batch)).collect();
                match self.send(primary, &sent).await {
                    Ok(answers) => {
                        let indices = some.iter().flatten();
                        for (&index, answer) in indices.zip(answers.into_iter().flatten()) {
                            results[index] = answer;
                        }
                    }
                    Err(error) => {
                        first_error = first_error.or(Some(error));
                        break;
                    }
                }
            }
        }
        if first_error.is_some() {
            // The servers may have other roles now.
            self.primaries.forget();
        }
        (results, first_error)
    }

    async fn send(
        &mut self,
        primary: usize,
        sent: &[Batch],
    ) -> Result<Vec<Vec<CallResult>>, Error> {
        let confirmations = self.primaries.confirmations(&self.settings);
        let link = self.primaries.link(primary, &self.settings).await?;
        link.lease(&self.host, sent, confirmations).await
    }

    /// Connects to all primaries, and returns what they say of themselves. A server that was
    /// demoted and promoted has another name than before.
    ///
    /// # Errors Returns an error if one of them cannot be reached or used.
    pub async fn describe(&mut self) -> Result<Vec<(Address, Server)>, Error> {
        let surveyed = self.primaries.describe(&self.settings).await;
        if surveyed.is_err() {
            self.primaries.forget();
        }
        surveyed
    }

    /// Names the present servers in the states of all buckets, so that they grant leases at once.
    /// This is only right for an engine on which there are no leases yet.
    ///
    /// # Errors
    /// Returns an error if a server cannot be reached or used.
    pub async fn claim_buckets(&mut self) -> Result<(), Error> {
        let begun = self.primaries.claim_buckets(&self.settings).await;
        if begun.is_err() {
            self.primaries.forget();
        }
        begun
    }

    /// Returns the number of replicas that have to confirmations a grant.
    #[must_use]
    pub fn confirmations(&self) -> u32 {
        self.primaries.confirmations(&self.settings)
    }
}

/// Groups calls by bucket and day, and returns the indices of each group. No group is larger than
/// [`CALLS`].
fn batches(calls: &[(String, Call)]) -> Vec<(Bucket, Vec<usize>)> {
    let mut groups: BTreeMap<(Bucket, u32), Vec<usize>> = BTreeMap::new();
    for (index, (scope, call)) in calls.iter().enumerate() {
        let group = (Bucket::of(scope), call.day.0);
        groups.entry(group).or_default().push(index);
    }
    groups
        .into_iter()
        .flat_map(|((bucket, _), indices)| {
            let some = indices.chunks(CALLS).map(<[usize]>::to_vec);
            some.map(move |some| (bucket, some)).collect::<Vec<_>>()
        })
        .collect()
}

fn batch_of(calls: &[(String, Call)], indices: &[usize]) -> Batch {
    let calls: Vec<(String, Call)> = indices.iter().map(|&index| calls[index].clone()).collect();
    let name = calls.first().map_or("", |(name, _)| name);
    Batch {
        bucket: Bucket::of(name),
        calls,
    }
}

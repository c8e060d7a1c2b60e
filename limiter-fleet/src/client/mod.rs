// SPDX-License-Identifier: MIT OR Apache-2.0

//! The connection to the fleet's engine, which is one server, a primary that Sentinels watch, or a
//! cluster.
//!
//! The library `redis` has connections, TLS and the protocol. Its clients for Sentinel and clusters
//! are not used, because a call and the WAIT that confirms it have to be on one connection, and
//! because a host has to know which server has answered.

mod access;
mod address;
mod error;
mod hints;
mod link;
mod nodes;
mod registry;
mod server;
mod slots;

pub use access::{Access, Certificates};
pub use address::{Address, BadAddress};
pub use error::Error;
pub use hints::{Hint, Hints};
pub use server::Server;

use std::collections::BTreeMap;

use crate::{
    account::Bucket,
    call::{Answer, Call},
    host::Failure,
};
use link::Batch;
use nodes::Nodes;

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
    /// The number of replicas that have to confirm a grant. `None` means 1 if there are replicas.
    pub confirm: Option<u32>,
}

/// A connection to an engine. It connects when it is used, and again after an error.
pub struct Client {
    settings: Settings,
    /// The id of the host.
    host: String,
    nodes: Nodes,
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
            nodes: Nodes::default(),
        }
    }

    /// Sends calls, each with the name of its scope. Returns the results in the same order, and the
    /// first error.
    pub async fn lease(&mut self, calls: &[(String, Call)]) -> (Vec<CallResult>, Option<Error>) {
        let mut results = vec![Err(Failure::Unanswered); calls.len()];
        let mut first_error = None;
        if let Err(error) = self.nodes.find(&self.settings).await {
            return (results, Some(error));
        }
        let mut of_node: BTreeMap<usize, Vec<Vec<usize>>> = BTreeMap::new();
        for (bucket, some) in batches(calls) {
            match self.nodes.of(bucket) {
                Ok(node) => of_node.entry(node).or_default().push(some),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        for (node, batches) in of_node {
            for some in batches.chunks(BATCHES) {
                let sent: Vec<Batch> = some.iter().map(|batch| batch_of(calls, batch)).collect();
                match self.send(node, &sent).await {
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
            self.nodes.forget();
        }
        (results, first_error)
    }

    async fn send(&mut self, node: usize, sent: &[Batch]) -> Result<Vec<Vec<CallResult>>, Error> {
        let confirm = self.nodes.confirm(&self.settings);
        let link = self.nodes.link(node, &self.settings).await?;
        link.lease(&self.host, sent, confirm).await
    }

    /// Connects to all primaries, and returns what they say of themselves. A server that was
    /// demoted and promoted has another name than before.
    ///
    /// # Errors Returns an error if one of them cannot be reached or used.
    pub async fn survey(&mut self) -> Result<Vec<(Address, Server)>, Error> {
        let surveyed = self.nodes.survey(&self.settings).await;
        if surveyed.is_err() {
            self.nodes.forget();
        }
        surveyed
    }

    /// Names the present servers in the states of all buckets, so that they grant leases at once.
    /// This is only right for an engine on which there are no leases yet.
    ///
    /// # Errors
    /// Returns an error if a server cannot be reached or used.
    pub async fn begin(&mut self) -> Result<(), Error> {
        let begun = self.nodes.begin(&self.settings).await;
        if begun.is_err() {
            self.nodes.forget();
        }
        begun
    }

    /// Returns the number of replicas that have to confirm a grant.
    #[must_use]
    pub fn confirm(&self) -> u32 {
        self.nodes.confirm(&self.settings)
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

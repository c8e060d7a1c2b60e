// SPDX-License-Identifier: MIT OR Apache-2.0

//! The announcements of changes, recalls, claims and rates. A host that misses a change or a recall
//! receives the same information with the answer to its next heartbeat. Rates are announced again
//! each second.

use futures_util::StreamExt as _;
use redis::aio::PubSub;

use super::{Client, Error, link};
use crate::registry::{CHANGES, CLAIMS, NumberedRecall, RATES, RECALLS};

/// An announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announcement {
    /// The registry has this version.
    Changed(u64),
    /// A server with this incarnation grants nothing for a while. The hosts have to report their
    /// leases to it.
    Claimed(String),
    /// Parts of leases are to be given back.
    Recall(NumberedRecall),
    /// The demands of all hosts may exceed the rate of the scope with this name.
    Rate(String),
}

/// A connection on which a server announces changes and recalls.
pub struct Announcements {
    connection: PubSub,
}

impl Client {
    /// Subscribes to the announcements.
    ///
    /// # Errors
    /// Returns an error if a server cannot be reached or used.
    pub async fn subscribe(&mut self) -> Result<Announcements, Error> {
        self.primaries.of_fleet(&self.settings).await?;
        let Some(address) = self.primaries.address_of_fleet().cloned() else {
            return Err(Error::NoUsableServer(Vec::new()));
        };
        let mut connection = link::listen(&address, &self.settings.access).await?;
        let subscribed = connection
            .subscribe(&[CHANGES, CLAIMS, RECALLS, RATES])
            .await;
        subscribed.map_err(|source| Error::Command { address, source })?;
        Ok(Announcements { connection })
    }
}

impl Announcements {
    /// Waits for the next announcement. Returns `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Announcement> {
        loop {
            let message = self.connection.on_message().next().await?;
            let text: String = message.get_payload().ok()?;
            match message.get_channel_name() {
                CHANGES => match text.parse() {
                    Ok(version) => return Some(Announcement::Changed(version)),
                    Err(_) => continue,
                },
                CLAIMS => return Some(Announcement::Claimed(text)),
                RATES => return Some(Announcement::Rate(text)),
                _ => match text
                    .split_once(' ')
                    .map(|(number, text)| (number.parse(), text))
                {
                    Some((Ok(number), text)) => {
                        let text = text.to_owned();
                        return Some(Announcement::Recall(NumberedRecall { number, text }));
                    }
                    _ => continue,
                },
            }
        }
    }
}

impl std::fmt::Debug for Announcements {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Announcements").finish_non_exhaustive()
    }
}

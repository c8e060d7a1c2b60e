// SPDX-License-Identifier: MIT OR Apache-2.0

//! The types of a fleet, of its hosts, and of the registry of scopes and keys that they share.
//!
//! The registry consists of named objects. The daemon defines their contents, and this crate treats
//! the value of an object as an opaque string. A change by an operator raises the **revision** of
//! the object by one, and each change raises the **version** of the whole registry by one. A host
//! reads the objects that have changed since the version that it knows.

use std::time::Duration;

/// The version of the format in which a fleet is kept on its engine.
pub const FORMAT: &str = "1";

/// The channel on which a change of the registry is announced, with the new version.
pub const CHANGES: &str = "limiter:changes";
/// The channel on which a server announces that it grants nothing for a while, because it has to
/// learn which leases there are. The text is the incarnation of the server.
pub const CLAIMS: &str = "limiter:claims";
/// The channel on which recalls are announced.
pub const RECALLS: &str = "limiter:recall";
/// The channel on which a server announces the scopes whose rates may have to be divided. The text
/// is the name of a scope.
pub const RATES: &str = "limiter:rates";

/// The keys of a fleet, which are in one slot of a cluster.
pub(crate) const FLEET: &str = "limiter:{fleet}:f";
pub(crate) const HOSTS: &str = "limiter:{fleet}:m";
pub(crate) const OBJECTS: &str = "limiter:{fleet}:o";
pub(crate) const VERSIONS: &str = "limiter:{fleet}:v";
pub(crate) const RECALLED: &str = "limiter:{fleet}:r";

/// A fleet, as its engine knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// The id of the fleet.
    pub id: String,
    /// The version of the format.
    pub format: String,
    /// The check value of the secret with which keys are hashed.
    pub check: String,
}

/// The identity that a host presents at each heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The id of the fleet.
    pub fleet: String,
    /// The id of the host.
    pub host: String,
    /// The id of this run of the daemon.
    pub session: String,
    /// The id of the machine.
    pub machine: String,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The incarnation of the server with the registry. If it is another one than before, or if the
    /// version of the registry has gone back, the host has to read the registry again from version
    /// 0: the server may have forgotten changes, and may have given their versions to others.
    pub incarnation: String,
    /// The time of the engine, since the Unix epoch.
    pub time: Duration,
    /// The version of the registry.
    pub version: u64,
    /// The number of the last recall.
    pub recall: u64,
    /// The recalls that the host did not know, in the order of their numbers.
    pub recalls: Vec<NumberedRecall>,
    /// The hosts of the fleet, if they were asked for.
    pub hosts: Vec<Host>,
}

/// A recall with its number. The daemon defines the form of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberedRecall {
    /// The number, which grows by 1 with each recall. It is 0 if the engine has no fleet.
    pub number: u64,
    /// The text.
    pub text: String,
}

/// A host of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The id of the host.
    pub id: String,
    /// The time at which the engine last received a heartbeat of the host, since the Unix epoch.
    pub seen: Duration,
    /// The description that the host gave of itself at its last heartbeat. This crate does not read
    /// it.
    pub text: String,
}

impl Host {
    /// Reads an entry of the hash of hosts (`scripts/heartbeat.lua`).
    pub(crate) fn of(id: String, entry: &str) -> Option<Self> {
        let mut words = entry.splitn(4, ' ');
        let seen = Duration::from_millis(words.next()?.parse().ok()?);
        let text = words.nth(2)?.to_owned();
        Some(Self { id, seen, text })
    }
}

/// An object of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The name.
    pub name: String,
    /// The revision, from 1 on. 0 means that there is no such object.
    pub revision: u64,
    /// The value.
    pub value: String,
}

impl Object {
    /// Reads a revision and a value (`scripts/change.lua`).
    pub(crate) fn of(name: String, text: &str) -> Option<Self> {
        let (revision, value) = text.split_once(' ')?;
        Some(Self {
            name,
            revision: revision.parse().ok()?,
            value: value.to_owned(),
        })
    }
}

/// The way in which an object is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The change is based on this revision, and is refused if the object has another one.
    Revision(u64),
    /// The object is restored. The higher revision wins.
    Restored,
}

/// The result of a change of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeResult {
    /// The object has the new value.
    Accepted,
    /// The object has another revision than the one on which the change was based, or a higher one
    /// than the one that was to be restored. This is the object.
    Refused(Object),
}

/// Objects that are newer than a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The version of the registry.
    pub version: u64,
    /// The version up to which the objects are complete.
    pub complete_to: u64,
    /// The objects.
    pub objects: Vec<Object>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_objects_are_read() {
        let host = Host::of("h".to_owned(), "1500 s m {\"name\": \"web 1\"}").unwrap();
        assert_eq!(host.seen, Duration::from_millis(1_500));
        assert_eq!(host.text, "{\"name\": \"web 1\"}");
        assert_eq!(Host::of("h".to_owned(), "1500 s"), None);
        let object = Object::of("s:acme".to_owned(), "12 a b").unwrap();
        assert_eq!((object.revision, object.value.as_str()), (12, "a b"));
        assert_eq!(Object::of("s:acme".to_owned(), "x"), None);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The commands of the client on the fleet and its registry.

use std::time::Duration;

use redis::{FromRedisValue, Value};

use super::{Client, Error, link::Script};
use crate::registry::{
    Base, ChangeResult, Changes, FLEET, FORMAT, Fleet, HOSTS, Heartbeat, Host, Identity,
    NumberedRecall, OBJECTS, Object, RECALLED, VERSIONS,
};

/// The base of a restored object (`scripts/change.lua`).
const RESTORED: &str = "-1";

impl Client {
    /// Creates a fleet on an engine that has none. A new fleet, which has no leases yet, is
    /// followed by [`Self::claim_buckets`].
    ///
    /// # Errors
    /// Returns [`Error::FleetExists`] if the engine has a fleet, and other errors if a
    /// server cannot be reached or used.
    pub async fn create_fleet(&mut self, id: &str, check: &str) -> Result<(), Error> {
        let arguments = [id, FORMAT, check].map(str::to_owned);
        let created = self.confirmed(Script::Create, &[FLEET], &arguments).await;
        created.map(drop)
    }

    /// Returns the fleet of the engine, or `None` if it has none.
    ///
    /// # Errors
    /// Returns an error if a server cannot be reached or used.
    pub async fn fleet(&mut self) -> Result<Option<Fleet>, Error> {
        let mut command = redis::cmd("HMGET");
        command.arg(FLEET).arg(&["id", "format", "check"]);
        let fields: Vec<Option<String>> = self.query(&command).await?;
        let mut fields = fields.into_iter().flatten();
        Ok(match (fields.next(), fields.next(), fields.next()) {
            (Some(id), Some(format), Some(check)) => Some(Fleet { id, format, check }),
            _ => None,
        })
    }

    /// Returns the number of hosts that have sent a heartbeat, and have not been removed since.
    ///
    /// # Errors
    /// Returns an error if a server cannot be reached or used.
    pub async fn host_count(&mut self) -> Result<u64, Error> {
        let mut command = redis::cmd("HLEN");
        command.arg(HOSTS);
        self.query(&command).await
    }

    /// Sends a heartbeat, which tells the engine that the host is alive. `text` is a description of
    /// the host, and `recall` is the number of the last recall that the host knows.
    ///
    /// # Errors
    /// Returns [`Error::NoFleet`], [`Error::OtherFleet`] or [`Error::Duplicate`], and
    /// other errors if a server cannot be reached or used.
    pub async fn heartbeat(
        &mut self,
        identity: &Identity,
        text: &str,
        recall: u64,
        wants_hosts: bool,
    ) -> Result<Heartbeat, Error> {
        let Identity {
            fleet,
            host,
            session,
            machine,
        } = identity;
        let (recall, wants) = (recall.to_string(), u8::from(wants_hosts).to_string());
        let arguments = [fleet, host, session, machine, text, &recall, &wants];
        let arguments = arguments.map(str::to_owned);
        let keys = [FLEET, HOSTS, RECALLED];
        let incarnation = self.incarnation().await?;
        let heartbeat = self.unconfirmed(Script::Heartbeat, &keys, &arguments);
        let reply = heartbeat.await?;
        self.read(reply, "the reply of heartbeat.lua", |reply| {
            type Reply = (u64, u64, u64, Vec<(String, u64)>, Vec<(String, String)>);
            let (time, version, recall, recalls, hosts) = Reply::from_redis_value(reply).ok()?;
            let recalls = recalls
                .into_iter()
                .map(|(text, number)| NumberedRecall { number, text })
                .collect();
            let hosts: Option<Vec<Host>> = hosts
                .into_iter()
                .map(|(id, entry)| Host::of(id, &entry))
                .collect();
            Some(Heartbeat {
                incarnation,
                time: Duration::from_millis(time),
                version,
                recall,
                recalls,
                hosts: hosts?,
            })
        })
    }

    /// Returns the present incarnation of the server with the keys of the fleet.
    async fn incarnation(&mut self) -> Result<String, Error> {
        let refresh = async {
            let link = self.primaries.of_fleet(&self.settings).await?;
            link.refresh().await?;
            Ok(link.server.incarnation.clone())
        };
        let result = refresh.await;
        self.forget_after(&result);
        result
    }

    /// Removes a host that has left the fleet. Returns whether the engine knew it.
    ///
    /// # Errors
    /// Returns an error if a server cannot be reached or used.
    pub async fn remove_host(&mut self, host: &str) -> Result<bool, Error> {
        let mut command = redis::cmd("HDEL");
        command.arg(HOSTS).arg(host);
        let removed: u64 = self.query(&command).await?;
        Ok(removed > 0)
    }

    /// Asks all hosts to give back parts of their leases. The daemon defines the form of the texts,
    /// and this crate passes them on unchanged.
    ///
    /// # Errors
    /// Returns an error if a server cannot be reached or used.
    pub async fn recall(&mut self, texts: &[String]) -> Result<(), Error> {
        let keys = [FLEET, RECALLED];
        self.unconfirmed(Script::Recall, &keys, texts)
            .await
            .map(drop)
    }

    /// Changes objects. Each [`Object`] has the new revision and the new value. Returns the version
    /// of the registry, and the results in the order of the objects. The call waits until as many
    /// replicas as [`Self::confirmations`] returns have the changes.
    ///
    /// # Errors
    /// Returns [`Error::NoFleet`] or [`Error::OtherFleet`], [`Error::Unconfirmed`] if the changes
    /// were made and may be lost, and other errors if a server cannot be reached or used.
    pub async fn change(
        &mut self,
        fleet: &str,
        objects: &[(Base, Object)],
    ) -> Result<(u64, Vec<ChangeResult>), Error> {
        let mut arguments = vec![fleet.to_owned()];
        for (base, object) in objects {
            let base = match base {
                Base::Revision(revision) => revision.to_string(),
                Base::Restored => RESTORED.to_owned(),
            };
            let revision = object.revision.to_string();
            arguments.extend([object.name.clone(), base, revision, object.value.clone()]);
        }
        let keys = [FLEET, OBJECTS, VERSIONS];
        let reply = self.confirmed(Script::Change, &keys, &arguments).await?;
        self.read(reply, "the reply of change.lua", |reply| {
            let mut values = Vec::<Value>::from_redis_value(reply).ok()?.into_iter();
            let version = u64::from_redis_value(values.next()?).ok()?;
            let results: Option<Vec<ChangeResult>> = objects
                .iter()
                .map(|(_, object)| {
                    let accepted = u8::from_redis_value(values.next()?).ok()? == 1;
                    let text = String::from_redis_value(values.next()?).ok()?;
                    let present = Object::of(object.name.clone(), &text)?;
                    Some(match accepted {
                        true => ChangeResult::Accepted,
                        false => ChangeResult::Refused(present),
                    })
                })
                .collect();
            Some((version, results?))
        })
    }

    /// Reads up to `limit` objects that have changed after `version`.
    ///
    /// # Errors
    /// Returns [`Error::NoFleet`] or [`Error::OtherFleet`], and other errors if a server cannot be
    /// reached or used.
    pub async fn changes_since(
        &mut self,
        fleet: &str,
        version: u64,
        limit: usize,
    ) -> Result<Changes, Error> {
        let arguments = [fleet.to_owned(), version.to_string(), limit.to_string()];
        let keys = [FLEET, OBJECTS, VERSIONS];
        let reply = self.unconfirmed(Script::Read, &keys, &arguments).await?;
        self.read(reply, "the reply of read.lua", |reply| {
            let mut values = Vec::<Value>::from_redis_value(reply).ok()?.into_iter();
            let version = u64::from_redis_value(values.next()?).ok()?;
            let complete_to = u64::from_redis_value(values.next()?).ok()?;
            let mut objects = Vec::new();
            while let Some(name) = values.next() {
                let name = String::from_redis_value(name).ok()?;
                let text = String::from_redis_value(values.next()?).ok()?;
                objects.push(Object::of(name, &text)?);
            }
            Some(Changes {
                version,
                complete_to,
                objects,
            })
        })
    }

    async fn confirmed(
        &mut self,
        script: Script,
        keys: &[&str],
        arguments: &[String],
    ) -> Result<Value, Error> {
        self.run(script, keys, arguments, true).await
    }

    async fn unconfirmed(
        &mut self,
        script: Script,
        keys: &[&str],
        arguments: &[String],
    ) -> Result<Value, Error> {
        self.run(script, keys, arguments, false).await
    }

    /// Runs a script on the server with the keys of the fleet.
    async fn run(
        &mut self,
        script: Script,
        keys: &[&str],
        arguments: &[String],
        confirmed: bool,
    ) -> Result<Value, Error> {
        let run = async {
            // Only a connection shows whether there are replicas.
            self.primaries.of_fleet(&self.settings).await?;
            let confirmations = match confirmed {
                true => self.primaries.confirmations(&self.settings),
                false => 0,
            };
            let link = self.primaries.of_fleet(&self.settings).await?;
            link.script(script, keys, arguments, confirmations).await
        };
        let result = run.await;
        self.forget_after(&result);
        result
    }

    async fn query<T: FromRedisValue>(&mut self, command: &redis::Cmd) -> Result<T, Error> {
        let query = async {
            let link = self.primaries.of_fleet(&self.settings).await?;
            link.query(command).await
        };
        let result = query.await;
        self.forget_after(&result);
        result
    }

    /// Forgets the servers after an error for which another server may be the reason.
    fn forget_after<T>(&mut self, result: &Result<T, Error>) {
        if result.as_ref().is_err_and(Error::may_differ_elsewhere) {
            self.primaries.drop_link_of_fleet();
        }
    }

    fn read<T>(
        &self,
        reply: Value,
        expected: &'static str,
        read: impl FnOnce(Value) -> Option<T>,
    ) -> Result<T, Error> {
        let address = self.primaries.address_of_fleet();
        match (read(reply), address) {
            (Some(value), _) => Ok(value),
            (None, Some(address)) => Err(Error::Reply {
                address: address.clone(),
                expected,
            }),
            (None, None) => Err(Error::NoUsableServer(Vec::new())),
        }
    }
}

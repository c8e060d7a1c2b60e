// SPDX-License-Identifier: MIT OR Apache-2.0

//! The connection to one server.

use std::{io, sync::OnceLock, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, Value,
    aio::{MultiplexedConnection, PubSub},
    cmd,
};

use super::{Access, CallResult, address::Address, error::Error, server::Server};
use crate::{
    account::{Bucket, account_key, rate_key},
    call::{Answer, Call},
    host::Failure,
    rate::{RateAnswer, RateCall},
    script::{self, OTHER_SERVER},
};

/// The time to connect to a server, and the time for the answer to a command.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The times for which a server waits for its replicas after calls for leases, which are repeated
/// soon, and after a change. They are below [`RESPONSE_TIMEOUT`].
const LEASE_CONFIRM_TIMEOUT: Duration = Duration::from_millis(200);
const CHANGE_CONFIRM_TIMEOUT: Duration = Duration::from_millis(800);

/// Calls about scopes of one bucket, each with the name of the scope. Calls for leases concern one
/// day.
#[derive(Debug, Clone)]
pub(super) struct Batch<C = Call> {
    pub(super) bucket: Bucket,
    pub(super) calls: Vec<(String, C)>,
}

/// The replies to some batches.
pub(super) struct Replies {
    /// The results of each batch.
    pub(super) results: Vec<Vec<CallResult>>,
    /// Whether enough replicas have confirmed the calls.
    pub(super) confirmed: bool,
    /// The buckets that another server has written.
    pub(super) unclaimed: Vec<Bucket>,
    /// The first error.
    pub(super) error: Option<Error>,
}

/// A connection to one server.
pub(super) struct Link {
    pub(super) address: Address,
    pub(super) server: Server,
    connection: MultiplexedConnection,
}

/// A script, which a server knows by its hash after it was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    Lease,
    Claim,
    Create,
    Heartbeat,
    Recall,
    Change,
    Read,
    Rate,
}

impl Script {
    /// All scripts with their texts, in the order of the numbers of their variants.
    const ALL: [(Self, &str); 8] = [
        (Self::Lease, script::LEASE),
        (Self::Claim, script::CLAIM),
        (Self::Create, script::CREATE),
        (Self::Heartbeat, script::HEARTBEAT),
        (Self::Recall, script::RECALL),
        (Self::Change, script::CHANGE),
        (Self::Read, script::READ),
        (Self::Rate, script::RATE),
    ];

    /// Returns the hash of the script. The hashes are computed once.
    fn hash(self) -> &'static str {
        static HASHES: OnceLock<[String; 8]> = OnceLock::new();
        let hashes = HASHES.get_or_init(|| {
            Self::ALL.map(|(_, text)| {
                let mut sha1 = sha1_smol::Sha1::new();
                sha1.update(text.as_bytes());
                sha1.digest().to_string()
            })
        });
        &hashes[self as usize]
    }
}

impl Link {
    /// Connects to a server, and checks that it can be used.
    ///
    /// # Errors
    /// Returns the reason why it cannot.
    pub(super) async fn open(address: &Address, access: &Access) -> Result<Self, Error> {
        let mut connection = connect(address, access).await?;
        let server = describe(address, &mut connection).await?;
        server.check(address)?;
        Ok(Self {
            address: address.clone(),
            server,
            connection,
        })
    }

    /// Reads the description of the server again ([`Server::incarnation`]).
    ///
    /// # Errors
    /// Returns an error if the server does not answer or can no longer be used.
    pub(super) async fn refresh(&mut self) -> Result<(), Error> {
        self.server = describe(&self.address, &mut self.connection).await?;
        self.server.check(&self.address)
    }

    /// Sends batches in one pipeline, and waits until `confirmations` replicas have the results.
    ///
    /// # Errors
    /// Returns an error if the server does not answer. In that case, the calls may or may not have
    /// been executed.
    pub(super) async fn lease(
        &mut self,
        host: &str,
        batches: &[Batch],
        confirmations: u32,
    ) -> Result<Replies, Error> {
        let mut pipeline = Pipeline::new();
        for batch in batches {
            let calls: Vec<Call> = batch.calls.iter().map(|(_, call)| *call).collect();
            let call = pipeline.cmd("EVALSHA").arg(Script::Lease.hash());
            call.arg(calls.len() + 1).arg(batch.bucket.state_key());
            for (scope, of_scope) in &batch.calls {
                call.arg(account_key(scope, of_scope.day));
            }
            call.arg(script::lease_arguments(
                &self.server.incarnation,
                host,
                &calls,
            ));
        }
        add_wait(&mut pipeline, confirmations, LEASE_CONFIRM_TIMEOUT);
        let mut replies = self.send(&pipeline).await?;
        let confirmed = confirmations == 0
            || replies.pop().is_some_and(|reply| {
                u32::from_redis_value(reply).is_ok_and(|replicas| replicas >= confirmations)
            });
        let mut results = Vec::new();
        let mut unclaimed = Vec::new();
        let mut error = None;
        for (batch, reply) in batches.iter().zip(replies) {
            let number = batch.calls.len();
            if has_code(&reply, OTHER_SERVER) {
                unclaimed.push(batch.bucket);
                results.push(vec![Err(Failure::OtherServer); number]);
                continue;
            }
            // An error of one batch does not concern the others.
            let answers = self.answers(reply, number);
            results.push(match answers {
                Ok(answers) if confirmed => answers.into_iter().map(Ok).collect(),
                Ok(_) => vec![Err(Failure::Unanswered); number],
                Err(reason) => {
                    error.get_or_insert(reason);
                    vec![Err(Failure::Unanswered); number]
                }
            });
        }
        if !confirmed {
            error.get_or_insert_with(|| Error::Unconfirmed(self.address.clone()));
        }
        Ok(Replies {
            results,
            confirmed,
            unclaimed,
            error,
        })
    }

    /// Reads the reply to a batch of `number` calls.
    fn answers(&self, reply: Value, number: usize) -> Result<Vec<Answer>, Error> {
        let reply = reply.extract_error().map_err(|error| self.failed(error))?;
        let rows = Vec::<Vec<i64>>::from_redis_value(reply).ok();
        let answers: Option<Vec<Answer>> = rows.and_then(|rows| {
            let answers = rows.iter().map(|row| script::lease_answer(row).ok());
            answers.collect()
        });
        answers
            .filter(|answers| answers.len() == number)
            .ok_or_else(|| Error::Reply {
                address: self.address.clone(),
                expected: "the reply of lease.lua",
            })
    }

    /// Sends reports of demands in one pipeline. Returns the answer to each call of each batch.
    ///
    /// # Errors
    /// Returns an error if the server does not answer, or refuses a batch.
    pub(super) async fn divide_rates(
        &mut self,
        host: &str,
        batches: &[Batch<RateCall>],
    ) -> Result<Vec<Vec<RateAnswer>>, Error> {
        let mut pipeline = Pipeline::new();
        for batch in batches {
            let call = pipeline.cmd("EVALSHA").arg(Script::Rate.hash());
            call.arg(batch.calls.len());
            for (scope, _) in &batch.calls {
                call.arg(rate_key(scope));
            }
            call.arg(script::rate_arguments(host, &batch.calls));
        }
        pipeline.ignore_errors();
        let replies = self.send(&pipeline).await?;
        let answers = replies.into_iter().zip(batches).map(|(reply, batch)| {
            let reply = reply.extract_error().map_err(|error| self.failed(error))?;
            let texts = Vec::<String>::from_redis_value(reply).ok();
            let answers: Option<Vec<RateAnswer>> = texts.and_then(|texts| {
                let answers = texts.iter().map(|text| script::rate_answer(text).ok());
                answers.collect()
            });
            answers
                .filter(|answers| answers.len() == batch.calls.len())
                .ok_or_else(|| Error::Reply {
                    address: self.address.clone(),
                    expected: "the reply of rate.lua",
                })
        });
        answers.collect()
    }

    /// Records this server as the current server of `buckets`. If it was not, or if `force` is set,
    /// it grants nothing for `learning`, so that the hosts can report their leases.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub(super) async fn claim(
        &mut self,
        buckets: &[Bucket],
        learning: Duration,
        force: bool,
    ) -> Result<(), Error> {
        let mut pipeline = Pipeline::new();
        for bucket in buckets {
            let call = pipeline.cmd("EVALSHA").arg(Script::Claim.hash());
            call.arg(1).arg(bucket.state_key());
            call.arg(&self.server.incarnation);
            call.arg(learning.as_millis() as u64).arg(u8::from(force));
        }
        pipeline.ignore_errors();
        for reply in self.send(&pipeline).await? {
            reply.extract_error().map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// Runs a script, and waits until `confirmations` replicas have its changes.
    ///
    /// # Errors
    /// Returns the error of the script, or [`Error::Unconfirmed`].
    pub(super) async fn script(
        &mut self,
        script: Script,
        keys: &[&str],
        arguments: &[String],
        confirmations: u32,
    ) -> Result<Value, Error> {
        let mut pipeline = Pipeline::new();
        let call = pipeline.cmd("EVALSHA").arg(script.hash());
        call.arg(keys.len()).arg(keys).arg(arguments);
        add_wait(&mut pipeline, confirmations, CHANGE_CONFIRM_TIMEOUT);
        let mut replies = self.send(&pipeline).await?.into_iter();
        let failed = |source| Error::of_reply(&self.address, source);
        let reply = replies.next().unwrap_or(Value::Nil);
        let reply = reply.extract_error().map_err(failed)?;
        let replicas = replies
            .next()
            .map_or(Ok(confirmations), u32::from_redis_value);
        match replicas {
            Ok(replicas) if replicas >= confirmations => Ok(reply),
            _ => Err(Error::Unconfirmed(self.address.clone())),
        }
    }

    /// Sends a pipeline. If the server does not have a script, loads all scripts, and sends the
    /// pipeline again. That is harmless: a call whose script was missing was not executed, and the
    /// script for leases ignores a call whose number it has seen.
    async fn send(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, Error> {
        let replies = self.send_once(pipeline).await?;
        if !replies.iter().any(|reply| has_code(reply, "NOSCRIPT")) {
            return Ok(replies);
        }
        let mut load = Pipeline::new();
        for (_, text) in Script::ALL {
            load.cmd("SCRIPT").arg("LOAD").arg(text);
        }
        let loaded: RedisResult<Vec<String>> = load.query_async(&mut self.connection).await;
        loaded.map_err(|source| self.failed(source))?;
        self.send_once(pipeline).await
    }

    async fn send_once(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, Error> {
        let replies = pipeline.query_async(&mut self.connection).await;
        replies.map_err(|source| self.failed(source))
    }

    pub(super) async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Error> {
        let reply = command.query_async(&mut self.connection).await;
        reply.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: RedisError) -> Error {
        Error::Command {
            address: self.address.clone(),
            source,
        }
    }
}

/// Makes a pipeline wait until `confirmations` replicas have its changes, and return errors as
/// replies.
fn add_wait(pipeline: &mut Pipeline, confirmations: u32, timeout: Duration) {
    if confirmations > 0 {
        let timeout = timeout.as_millis() as u64;
        pipeline.cmd("WAIT").arg(confirmations).arg(timeout);
    }
    pipeline.ignore_errors();
}

/// Returns whether a reply is an error with this code.
fn has_code(reply: &Value, code: &str) -> bool {
    matches!(reply, Value::ServerError(error) if error.code() == code)
}

/// Connects to a server or a Sentinel.
///
/// # Errors
/// Returns an error if it cannot be reached or refuses the user.
pub(super) async fn connect(
    address: &Address,
    access: &Access,
) -> Result<MultiplexedConnection, Error> {
    let client = client(address, access)?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT));
    let connected = client.get_multiplexed_async_connection_with_config(&config);
    connected.await.map_err(|source| Error::Connect {
        address: address.clone(),
        source,
    })
}

/// Connects to a server for announcements.
///
/// # Errors
/// Returns an error if it cannot be reached or refuses the user.
pub(super) async fn listen(address: &Address, access: &Access) -> Result<PubSub, Error> {
    let client = client(address, access)?;
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, client.get_async_pubsub());
    let timed_out = |_| Err(io::Error::from(io::ErrorKind::TimedOut).into());
    let connected = connecting.await.unwrap_or_else(timed_out);
    connected.map_err(|source| Error::Connect {
        address: address.clone(),
        source,
    })
}

fn client(address: &Address, access: &Access) -> Result<Client, Error> {
    let info = access.connection_info(address);
    match address.tls {
        true => Client::build_with_tls(info, access.certificates()),
        false => Client::open(info),
    }
    .map_err(Error::Certificates)
}

async fn describe(
    address: &Address,
    connection: &mut MultiplexedConnection,
) -> Result<Server, Error> {
    let info: RedisResult<String> = cmd("INFO").query_async(connection).await;
    let info = info.map_err(|source| Error::Command {
        address: address.clone(),
        source,
    })?;
    Server::of(&info).ok_or_else(|| Error::Reply {
        address: address.clone(),
        expected: "the reply of INFO",
    })
}

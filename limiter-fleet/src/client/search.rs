// SPDX-License-Identifier: MIT OR Apache-2.0

//! The search for the primaries of an engine.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use redis::{FromRedisValue as _, RedisResult, Value, cmd};

use super::{
    Kind, Settings,
    address::Address,
    error::Error,
    link::{Link, connect},
    primaries::Primary,
};

/// Looks for the primaries. The search begins at the address with the index `first`.
pub(super) async fn search(settings: &Settings, first: usize) -> Result<Vec<Primary>, Error> {
    if let Kind::Sentinel { primary } = &settings.kind {
        let address = primary_of_sentinels(settings, primary).await?;
        let link = Link::open(&address, &settings.access).await?;
        return Ok(vec![Primary::single(link)]);
    }
    let mut errors = Vec::new();
    let addresses = settings
        .addresses
        .iter()
        .cycle()
        .skip(first % settings.addresses.len().max(1));
    for address in addresses.take(settings.addresses.len()) {
        match found(address, settings).await {
            Ok(primaries) => return Ok(primaries),
            Err(error) => errors.push(error),
        }
    }
    Err(Error::NoUsableServer(errors))
}

/// Returns the primaries that `address` leads to.
async fn found(address: &Address, settings: &Settings) -> Result<Vec<Primary>, Error> {
    if settings.kind != Kind::Cluster {
        let link = Link::open(address, &settings.access).await?;
        return Ok(vec![Primary::single(link)]);
    }
    let reply = ask(address, settings, &["CLUSTER", "SLOTS"]).await?;
    cluster(address, reply).ok_or_else(|| Error::Reply {
        address: address.clone(),
        expected: "the reply of CLUSTER SLOTS",
    })
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

/// Asks all Sentinels for the address of a primary, and returns the one of the latest
/// configuration. A Sentinel that is cut off has an earlier one.
async fn primary_of_sentinels(settings: &Settings, primary: &str) -> Result<Address, Error> {
    let words = ["SENTINEL", "MASTER", primary];
    let asked = settings.addresses.iter().map(async |sentinel| {
        let reply = ask(sentinel, settings, &words).await?;
        primary_of_sentinel(sentinel, reply).ok_or_else(|| Error::Reply {
            address: sentinel.clone(),
            expected: "the reply of SENTINEL MASTER",
        })
    });
    let (mut latest, mut errors) = (None, Vec::new());
    for answer in join_all(asked).await {
        match answer {
            Ok((epoch, address)) => match &latest {
                Some((known, _)) if *known >= epoch => {}
                _ => latest = Some((epoch, address)),
            },
            Err(Error::Command { address, source }) if source.to_string().contains(UNKNOWN) => {
                let primary = primary.to_owned();
                errors.push(Error::UnknownPrimary { address, primary });
            }
            Err(error) => errors.push(error),
        }
    }
    match latest {
        Some((_, address)) => Ok(address),
        None => Err(Error::NoUsableServer(errors)),
    }
}

/// A part of the error of a Sentinel that does not know a primary.
const UNKNOWN: &str = "No such master";

/// Reads the reply of SENTINEL MASTER, and returns the number of the configuration and the address.
fn primary_of_sentinel(sentinel: &Address, reply: Value) -> Option<(u64, Address)> {
    let fields: BTreeMap<String, String> = BTreeMap::from_redis_value(reply).ok()?;
    let address = Address {
        host: fields.get("ip")?.clone(),
        port: fields.get("port")?.parse().ok()?,
        tls: sentinel.tls,
    };
    Some((fields.get("config-epoch")?.parse().ok()?, address))
}

/// Reads the reply of CLUSTER SLOTS: ranges of slots, each with its servers, of which the first is
/// the primary. A server that does not know its own address has an empty one.
fn cluster(seed: &Address, reply: Value) -> Option<Vec<Primary>> {
    let ranges: Vec<Vec<Value>> = Vec::from_redis_value(reply).ok()?;
    let mut primaries: Vec<Primary> = Vec::new();
    for range in ranges {
        let mut range = range.into_iter();
        let first = u16::from_redis_value(range.next()?).ok()?;
        let last = u16::from_redis_value(range.next()?).ok()?;
        let server: Vec<Value> = Vec::from_redis_value(range.next()?).ok()?;
        let mut server = server.into_iter();
        let host = String::from_redis_value(server.next()?).unwrap_or_default();
        let port = u16::from_redis_value(server.next()?).ok()?;
        let host = if host.is_empty() {
            seed.host.clone()
        } else {
            host
        };
        let tls = seed.tls;
        let address = Address { host, port, tls };
        match primaries.iter_mut().find(|one| one.address == address) {
            Some(known) => known.slots.push(first..=last),
            None => primaries.push(Primary::new(address, first..=last)),
        }
    }
    (!primaries.is_empty()).then_some(primaries)
}

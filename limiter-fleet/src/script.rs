// SPDX-License-Identifier: MIT OR Apache-2.0

//! The scripts that the engine runs, and the conversion of the arguments and replies of the script
//! for leases. The first lines of each script describe it.

use std::{num::ParseFloatError, time::Duration};

use crate::{
    call::{Answer, Call, Purpose, Recall, Status},
    rate::{DIVIDED_FOR, RateAnswer, RateCall},
};

/// Grants and takes back leases.
pub const LEASE: &str = include_str!("scripts/lease.lua");
/// Records a server as the current server of a bucket.
pub const CLAIM: &str = include_str!("scripts/claim.lua");

/// Divides rates among the hosts.
pub const RATE: &str = include_str!("scripts/rate.lua");

/// Creates a fleet.
pub const CREATE: &str = include_str!("scripts/create.lua");
/// Records that a host is alive.
pub const HEARTBEAT: &str = include_str!("scripts/heartbeat.lua");
/// Asks all hosts to give back leases.
pub const RECALL: &str = include_str!("scripts/recall.lua");
/// Changes objects of the registry.
pub const CHANGE: &str = include_str!("scripts/change.lua");
/// Reads objects of the registry.
pub const READ: &str = include_str!("scripts/read.lua");

/// The time for which a server that may lack the last writes grants nothing.
pub const LEARNING: Duration = Duration::from_secs(3);

/// The code of the error with which [`LEASE`] refuses a bucket that another server has written.
pub const OTHER_SERVER: &str = "OTHERSERVER";

/// The argument that stands for [`Purpose::Report`].
const KEEP: &str = "-1";

/// The number of integers in a reply.
const NUMBERS: usize = 6;

/// An error for a reply that does not have the form of a reply of [`LEASE`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the engine's reply {0:?} does not have the form of a reply of lease.lua")]
pub struct BadReply(Vec<i64>);

/// Returns the arguments of [`LEASE`] for `calls`, all of which concern one bucket and one day. The
/// script receives one number for all of them, which is the highest. `incarnation` is that of the
/// server, and `host` is the id of this host.
#[must_use]
pub fn lease_arguments(incarnation: &str, host: &str, calls: &[Call]) -> Vec<String> {
    let mut arguments = vec![incarnation.to_owned(), host.to_owned()];
    let number = calls.iter().map(|call| call.number).max();
    let day = calls.first().map(|call| call.day.0);
    arguments.push(number.unwrap_or_default().to_string());
    arguments.push(day.unwrap_or_default().to_string());
    for call in calls {
        let purpose = match call.purpose {
            Purpose::Extend(total) => total.to_string(),
            Purpose::Report => KEEP.to_owned(),
        };
        arguments.extend([
            call.generation.to_string(),
            call.quota.to_string(),
            call.lease.to_string(),
            call.used.to_string(),
            purpose,
        ]);
    }
    arguments
}

/// Reads the part of a reply of [`LEASE`] that concerns one scope.
///
/// # Errors
/// Returns an error if the numbers are not those of a reply.
pub fn lease_answer(reply: &[i64]) -> Result<Answer, BadReply> {
    let bad = || BadReply(reply.to_vec());
    let numbers: [i64; NUMBERS] = reply.try_into().map_err(|_| bad())?;
    let [lease, free, status, retry_after, recall, used] = numbers;
    Ok(Answer {
        lease: u64::try_from(lease).map_err(|_| bad())?,
        free,
        status: match status {
            0 => Status::Granted,
            1 => Status::LeasedOut,
            2 => Status::UsedUp,
            3 => Status::Learning,
            4 => Status::Superseded,
            5 => Status::OldGeneration,
            6 => Status::OtherDay,
            _ => return Err(bad()),
        },
        retry_after: Duration::from_millis(u64::try_from(retry_after).map_err(|_| bad())?),
        recall: match recall {
            0 => None,
            1 => Some(Recall::Most),
            2 => Some(Recall::All),
            _ => return Err(bad()),
        },
        used: u64::try_from(used).map_err(|_| bad())?,
    })
}

/// Returns the arguments of [`RATE`] for calls, each with the name of its scope. All of them
/// concern one bucket. `host` is the id of this host.
#[must_use]
pub fn rate_arguments(host: &str, calls: &[(String, RateCall)]) -> Vec<String> {
    let mut arguments = vec![host.to_owned(), DIVIDED_FOR.as_millis().to_string()];
    for (scope, call) in calls {
        arguments.extend([
            scope.clone(),
            call.rate.to_string(),
            call.demand.to_string(),
        ]);
    }
    arguments
}

/// Reads the part of a reply of [`RATE`] that concerns one scope.
///
/// # Errors
/// Returns an error if the text is not a number.
pub fn rate_answer(reply: &str) -> Result<RateAnswer, ParseFloatError> {
    let share: f64 = reply.parse()?;
    Ok(if share > 0.0 {
        RateAnswer::Share(share)
    } else {
        RateAnswer::Whole
    })
}

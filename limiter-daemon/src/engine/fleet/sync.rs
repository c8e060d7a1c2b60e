// SPDX-License-Identifier: MIT OR Apache-2.0

//! The exchange of the registry with the engine: changes of other hosts, changes that the engine
//! has lost, and changes that this host has made while the engine could not be reached.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use limiter_fleet::{
    client::Error,
    registry::{Base, ChangeResult, Object},
};

use super::{
    change::OBJECTS,
    link::FleetLink,
    registry::{RegistryState, scopes_first},
};
use crate::{
    engine::{caller::Caller, shared::Shared, state::Engine},
    protocol::error::ApiError,
};

/// The number of objects that are applied while the engine is locked once.
const APPLIED: usize = 50;
/// The largest number of objects that are read at once.
const PAGE: usize = 2_000;

/// Makes the changes of other hosts, and sends the changes that the engine lacks, if there are any.
///
/// # Errors
/// Returns an error if the engine cannot be used, or if some changes could not be made. The error
/// is also in the health of the daemon.
pub(crate) async fn sync(shared: &Arc<Shared>, link: &Arc<FleetLink>) -> Result<(), ApiError> {
    let known = |engine: &mut Engine| {
        let state = engine.registry_state();
        let is_unsettled = engine.has_pending() || !engine.failed_objects().is_empty();
        Ok((engine.fleet_id(), state, is_unsettled))
    };
    let (fleet, state, is_unsettled) = shared.with(known).await?;
    let Some(fleet) = fleet else {
        return Ok(());
    };
    let (version, incarnation, problem) = {
        let news = link.news();
        (news.version, news.incarnation.clone(), news.problem.clone())
    };
    // The heartbeats report the problem.
    if let Some(problem) = problem {
        return Err(ApiError::failed(problem));
    }
    let is_other = state.incarnation != incarnation || version < state.version;
    if !is_other && version == state.version && !is_unsettled {
        let compared_at = link.news().sent_at;
        return note_current(shared, compared_at).await;
    }
    let turn = link.turn().await;
    let begun_at = Utc::now();
    let synced = exchange(shared, link, &fleet, &incarnation).await;
    drop(turn);
    let result = match synced {
        Ok(problems) if problems.is_empty() => note_current(shared, Some(begun_at)).await,
        Ok(problems) => Err(ApiError::failed(problems.join("; "))),
        Err(error) => Err(error),
    };
    let problem = result.as_ref().err().map(|error| error.message.clone());
    let noted = shared.with(|engine| {
        engine.note_health("registry", problem);
        Ok(())
    });
    noted.await?;
    result
}

/// Records that this host has all changes of the registry that were made before `at`.
async fn note_current(shared: &Arc<Shared>, at: Option<DateTime<Utc>>) -> Result<(), ApiError> {
    let Some(at) = at else { return Ok(()) };
    shared
        .with(move |engine| {
            engine.note_current(at);
            Ok(())
        })
        .await
}

/// Returns the problems of single objects.
async fn exchange(
    shared: &Arc<Shared>,
    link: &Arc<FleetLink>,
    fleet: &str,
    incarnation: &str,
) -> Result<Vec<String>, ApiError> {
    let state = shared.with(|engine| Ok(engine.registry_state())).await?;
    let first = read(link, fleet, state.version).await?;
    // After a failover, the server may have given a version that this host knows to another change.
    let is_other = state.incarnation != incarnation || first.version < state.version;
    let read = match is_other && state.version > 0 {
        true => read(link, fleet, 0).await?,
        false => first,
    };
    let mut of_engine = HashMap::new();
    if is_other {
        of_engine.extend(
            read.objects
                .iter()
                .map(|object| (object.name.clone(), object.revision)),
        );
    }
    // Objects that could not be applied before are tried again.
    let failed = shared.with(|engine| Ok(engine.failed_objects())).await?;
    let new: HashSet<&str> = read.objects.iter().map(|new| new.name.as_str()).collect();
    let is_latest = |object: &Object| !new.contains(object.name.as_str());
    let mut objects: Vec<Object> = failed.into_iter().filter(is_latest).collect();
    objects.extend(read.objects);
    objects.sort_by(scopes_first);
    let mut problems = Vec::new();
    for some in objects.chunks(APPLIED) {
        // Other work gets the engine in between.
        let some = some.to_vec();
        let applied = shared.with(move |engine| Ok(engine.apply_objects(some)));
        problems.extend(applied.await?.problems);
        shared.pulse.step();
    }
    let host = link.identity().name.clone();
    let caller = Caller {
        who: format!("limiter on {host}"),
        now: Utc::now(),
    };
    let missing = shared
        .with(move |engine| {
            let mut missing = Vec::new();
            if is_other {
                missing = engine.objects_to_restore(&of_engine, &caller)?;
            }
            missing.extend(engine.pending_objects(&caller)?);
            Ok(missing)
        })
        .await?;
    let mut version = read.version;
    for some in missing.chunks(OBJECTS) {
        let sent = send(shared, link, fleet, some).await?;
        version = version.max(sent.version);
        if sent.has_conflicts {
            // One conflict refuses all changes of a call.
            for one in some.chunks(1) {
                let sent = send(shared, link, fleet, one).await?;
                version = version.max(sent.version);
            }
        }
    }
    let state = RegistryState {
        // The changes that were just sent are read once more, and change nothing.
        version: read.version,
        incarnation: incarnation.to_owned(),
    };
    shared
        .with(move |engine| engine.set_registry_state(state))
        .await?;
    link.news().version = version;
    Ok(problems)
}

/// The objects that are newer than a version.
struct Read {
    version: u64,
    objects: Vec<Object>,
}

async fn read(link: &FleetLink, fleet: &str, since: u64) -> Result<Read, Error> {
    let mut client = link.client().await;
    let (mut since, mut objects) = (since, Vec::new());
    loop {
        let changes = client.changes_since(fleet, since, PAGE).await?;
        objects.extend(changes.objects);
        if changes.complete_to >= changes.version {
            return Ok(Read {
                version: changes.version,
                objects,
            });
        }
        since = changes.complete_to;
    }
}

/// The result of sending objects.
struct Sent {
    /// The version of the registry.
    version: u64,
    /// Whether some of several changes were refused.
    has_conflicts: bool,
}

/// Sends objects that the engine lacks. Gives up a change that is refused, if it was the only one.
async fn send(
    shared: &Arc<Shared>,
    link: &FleetLink,
    fleet: &str,
    objects: &[(Base, Object)],
) -> Result<Sent, ApiError> {
    let (version, results) = link.client().await.change(fleet, objects).await?;
    let mut accepted = Vec::new();
    let mut newer = Vec::new();
    for (sent, result) in objects.iter().zip(results) {
        match result {
            ChangeResult::Accepted => accepted.push(sent.clone()),
            ChangeResult::Refused(present) => newer.push(present),
        }
    }
    let has_conflicts = objects.len() > 1 && !newer.is_empty();
    shared
        .with(move |engine| {
            engine.note_accepted(&accepted)?;
            if !has_conflicts {
                engine.yield_to(newer);
            }
            Ok(())
        })
        .await?;
    Ok(Sent {
        version,
        has_conflicts,
    })
}

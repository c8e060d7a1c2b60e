// SPDX-License-Identifier: MIT OR Apache-2.0

//! The exchange of the registry with the engine: changes of other hosts, changes that the engine
//! has lost, and changes that this host has made while the engine could not be reached.

use std::{collections::HashMap, sync::Arc};

use chrono::Utc;
use limiter_fleet::{
    client::Error,
    registry::{Base, ChangeResult, Object},
};

use super::{change::OBJECTS, link::FleetLink, registry::RegistryState};
use crate::{
    engine::{caller::Caller, shared::Shared, state::Engine},
    protocol::error::ApiError,
};

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
        Ok((engine.fleet_id(), state, engine.has_pending()))
    };
    let (fleet, state, has_pending) = shared.with(known).await?;
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
    if !is_other && version == state.version && !has_pending {
        return Ok(());
    }
    let turn = link.turn().await;
    let synced = exchange(shared, link, &fleet, &incarnation).await;
    drop(turn);
    let result = match synced {
        Ok(problems) if problems.is_empty() => Ok(()),
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
    let objects = read.objects;
    let applied = shared
        .with(move |engine| Ok(engine.apply_objects(objects)))
        .await?;
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
        version = send(shared, link, fleet, some).await?.max(version);
    }
    let problems = applied.problems;
    if problems.is_empty() {
        let state = RegistryState {
            // The changes that were just sent are read once more, and change nothing.
            version: read.version,
            incarnation: incarnation.to_owned(),
        };
        shared
            .with(move |engine| engine.set_registry_state(state))
            .await?;
        link.news().version = version;
    }
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

/// Sends objects that the engine lacks, and returns the version of the registry.
async fn send(
    shared: &Arc<Shared>,
    link: &FleetLink,
    fleet: &str,
    objects: &[(Base, Object)],
) -> Result<u64, ApiError> {
    let (version, results) = link.client().await.change(fleet, objects).await?;
    let mut accepted = Vec::new();
    let mut newer = Vec::new();
    for (sent, result) in objects.iter().zip(results) {
        match result {
            ChangeResult::Accepted => accepted.push(sent.clone()),
            ChangeResult::Refused(present) => newer.push(present),
        }
    }
    shared
        .with(move |engine| {
            engine.note_accepted(&accepted)?;
            engine.yield_to(newer);
            Ok(())
        })
        .await?;
    Ok(version)
}

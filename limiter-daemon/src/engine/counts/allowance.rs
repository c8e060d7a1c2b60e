// SPDX-License-Identifier: MIT OR Apache-2.0

//! The extension of allowances, which limit how far the kernel's counts can be ahead of the store.
//!
//! For each scope and day, the store has the number of used requests and the number of allowed
//! requests (`allowed`). The kernel admits no request beyond the allowed number, and asks for a
//! higher number before the allowed requests are used up. A count that is lost when the host
//! crashes was therefore no greater than the allowed number, and the next daemon counts all allowed
//! requests as used. As long as the maps exist, they have the exact count, even if the daemon
//! crashes.

use std::{collections::HashSet, sync::Arc};

use chrono::Utc;
use limiter_common::abi::{Digest, event};

use crate::{engine::shared::Shared, kernel::EventRing};

/// Extends allowances whenever the kernel asks for larger ones, until the daemon ends.
pub(crate) async fn rounds(shared: Arc<Shared>, events: EventRing) {
    let mut events = match events.watch() {
        Ok(events) => events,
        Err(error) => {
            log::error!("cannot wait for the kernel's events: {error}");
            return;
        }
    };
    loop {
        let events = match events.next().await {
            Ok(events) => events,
            Err(error) => {
                log::error!("cannot wait for the kernel's events: {error}");
                return;
            }
        };
        let of = |kind| events.iter().filter(move |event| event.kind == kind);
        let scopes: HashSet<u32> = of(event::ALLOWANCE).map(|event| event.scope).collect();
        let adopted: Vec<(Digest, u32)> = of(event::ADOPTED)
            .map(|event| (event.key, event.scope))
            .collect();
        let shared = Arc::clone(&shared);
        let work = tokio::task::spawn_blocking(move || {
            let mut engine = shared.engine();
            let now = Utc::now();
            // New scopes are recorded first, because allowances are extended only for recorded
            // scopes.
            let noted = engine.note_adopted(&adopted, now);
            let extended = noted.and_then(|()| engine.extend(&scopes, now));
            let problem = extended.err().map(|error| error.message);
            // After a failure of the store, only a round that writes all counts may report that the
            // store works again.
            if problem.is_some() || engine.is_attended() {
                engine.note_health("store", problem);
            }
        });
        if let Err(error) = work.await {
            log::error!("a round of allowances failed: {error}");
        }
    }
}

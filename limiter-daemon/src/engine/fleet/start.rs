// SPDX-License-Identifier: MIT OR Apache-2.0

//! The heartbeats of a daemon that starts. Loading and attaching the programs can take longer than
//! the silence after which a copy of this host may take over its identity.

use std::sync::Arc;

use tokio::{task::JoinHandle, time::MissedTickBehavior};

use super::link::FleetLink;
use crate::engine::pulse::TICK;

/// A task that sends a heartbeat each second. It ends when this value is dropped.
pub struct StartHeartbeats(JoinHandle<()>);

impl StartHeartbeats {
    pub(super) fn begin(link: Arc<FleetLink>, fleet: String) -> Self {
        Self(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if let Err(error) = link.start_beat(&fleet).await {
                    // The heartbeats of the running daemon report this as a problem.
                    log::debug!("fleet: {error}");
                }
            }
        }))
    }
}

impl Drop for StartHeartbeats {
    fn drop(&mut self) {
        self.0.abort();
    }
}

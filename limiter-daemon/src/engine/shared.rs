// SPDX-License-Identifier: MIT OR Apache-2.0

//! The state that the control interface and the daemon's recurring tasks share.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use tokio::{sync::Notify, task::JoinError};

use crate::{
    engine::{events::log::EventLog, fleet::link::FleetLink, pulse::Pulse, state::Engine},
    protocol::{error::ApiError, views::ImportView},
};

/// The state that the control interface and the daemon's recurring tasks share.
pub struct Shared {
    pub(crate) engine: Mutex<Engine>,
    /// The progress of the import that is running. It is kept outside the engine, because an import
    /// holds the engine for seconds.
    pub(crate) import: Mutex<Option<ImportView>>,
    pub(crate) pulse: Pulse,
    pub(crate) events: Arc<EventLog>,
    /// The connection to the fleet's engine, if the configuration names one.
    fleet: Option<Arc<FleetLink>>,
    pub(crate) stop: Notify,
    pub(crate) detached: AtomicBool,
}

impl Shared {
    /// Returns the shared state for an engine.
    pub fn new(engine: Engine) -> Self {
        Self {
            events: engine.events(),
            engine: Mutex::new(engine),
            import: Mutex::new(None),
            pulse: Pulse::default(),
            fleet: None,
            stop: Notify::new(),
            detached: AtomicBool::new(false),
        }
    }

    /// Returns the same state with a connection to the fleet's engine.
    pub fn with_fleet(self, fleet: Option<Arc<FleetLink>>) -> Self {
        Self { fleet, ..self }
    }

    pub(crate) fn fleet(&self) -> Option<Arc<FleetLink>> {
        self.fleet.clone()
    }

    /// Runs `work` with the engine on a thread that may block, because `work` may wait for the
    /// disk.
    ///
    /// # Errors
    /// Returns the error of `work`, or an error if `work` panicked.
    pub(crate) async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Engine) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&mut shared.engine()))
            .await
            .map_err(|error| unfinished(&error))?
    }

    /// Locks the engine and returns it. The caller must not wait for anything while it holds the
    /// lock.
    pub fn engine(&self) -> MutexGuard<'_, Engine> {
        // A poisoned lock is used like any other, because a panic during one request must not stop
        // the counting. The store and the kernel stay consistent, since a transaction of the store
        // is written completely or not at all.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the log of events, which can be read while the engine is locked.
    pub fn events(&self) -> &EventLog {
        &self.events
    }

    pub(crate) fn lock_import(&self) -> MutexGuard<'_, Option<ImportView>> {
        self.import.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the daemon after the programs and maps have been removed.
    pub fn stop_detached(&self) {
        self.detached.store(true, SeqCst);
        self.stop.notify_one();
    }
}

/// Returns the error for work that did not end because it panicked.
pub(crate) fn unfinished(error: &JoinError) -> ApiError {
    ApiError::failed(format!(
        "the daemon failed while it handled the request: {error}"
    ))
}

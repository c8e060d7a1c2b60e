// SPDX-License-Identifier: MIT OR Apache-2.0

//! The state that the control interface and the daemon's recurring tasks share.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use tokio::sync::Notify;

use crate::{
    engine::{events::log::EventLog, pulse::Pulse, state::Engine},
    protocol::views::ImportView,
};

/// The state that the control interface and the daemon's recurring tasks share.
pub struct Shared {
    pub(crate) engine: Mutex<Engine>,
    /// The progress of the import that is running. It is kept outside the engine, because an import
    /// holds the engine for seconds.
    pub(crate) import: Mutex<Option<ImportView>>,
    pub(crate) pulse: Pulse,
    pub(crate) events: Arc<EventLog>,
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
            stop: Notify::new(),
            detached: AtomicBool::new(false),
        }
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

// SPDX-License-Identifier: MIT OR Apache-2.0

//! A test host that can be rebooted, and whose daemon can be killed, stopped and started.

use chrono::{DateTime, Utc};
use limiter_common::day::Day;

use super::plane::MemoryPlane;
use crate::{
    config::{Config, Overlay},
    domain::{limits::Changes, scope::ScopeName},
    engine::{
        caller::Caller,
        keys::csv_import,
        state::{Engine, Parts},
        time::ClockWords,
    },
    protocol::{
        error::ApiError,
        requests::{AddScope, ClearLimits, ScopeMode, SetLimits, SetMode},
        views::Imported,
    },
    secret,
    store::Store,
};

use tempfile::TempDir;

/// The day 2026-11-24.
pub(crate) const TODAY: Day = Day(20_781);
pub(crate) const TOMORROW: Day = Day(20_782);

pub(crate) struct Host {
    pub(crate) directory: TempDir,
    pub(crate) plane: MemoryPlane,
    pub(crate) engine: Option<Engine>,
    pub(crate) file: std::path::PathBuf,
}

pub(crate) const ATTACH: &str = "[attach]\ninterfaces = [\"lo\"]\nports = [80]\n";

pub(crate) fn at(time: &str) -> DateTime<Utc> {
    time.parse().unwrap()
}

pub(crate) fn noon() -> DateTime<Utc> {
    at("2026-11-24T12:00:00Z")
}

pub(crate) fn caller(now: DateTime<Utc>) -> Caller {
    Caller {
        who: "test".to_owned(),
        now,
    }
}

/// Returns a request to end all limits of a scope's own.
pub(crate) fn clear(note: &str) -> ClearLimits {
    ClearLimits {
        limits: Vec::new(),
        note: note.to_owned(),
    }
}

pub(crate) fn name(text: &str) -> ScopeName {
    text.parse().unwrap()
}

impl Host {
    pub(crate) fn new(config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("limiter.toml");
        std::fs::write(&file, format!("{ATTACH}{config}")).unwrap();
        let mut host = Self {
            directory,
            plane: MemoryPlane::new("boot:one"),
            engine: None,
            file,
        };
        host.start(noon()).unwrap();
        host
    }

    /// Starts a daemon. A previous daemon ends without notice, as after kill -9.
    pub(crate) fn start(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        self.engine = None;
        let parts = self.parts(self.plane.clone());
        self.engine = Some(Engine::start(parts, now)?);
        Ok(())
    }

    /// Returns the parts of an engine that uses these maps.
    pub(crate) fn parts(&self, plane: MemoryPlane) -> Parts {
        let overlay = Overlay {
            file: Some(self.file.clone()),
            ..Overlay::default()
        };
        let store = Store::open(self.directory.path()).unwrap();
        Parts {
            plane: Box::new(plane),
            secret: secret::load_or_create(self.directory.path(), store.key_count().unwrap())
                .unwrap(),
            store,
            config: Config::load(&overlay).unwrap(),
            overlay,
            clock: ClockWords::default(),
        }
    }

    /// Stops the daemon properly.
    pub(crate) fn stop(&mut self, now: DateTime<Utc>) {
        self.engine().flush(now).unwrap();
        self.engine().end().unwrap();
        self.engine = None;
    }

    pub(crate) fn configure(&self, config: &str) {
        std::fs::write(&self.file, format!("{ATTACH}{config}")).unwrap();
    }

    pub(crate) fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().unwrap()
    }

    pub(crate) fn add(&mut self, scope: &str) -> u32 {
        let request = AddScope {
            scope: name(scope),
            tier: None,
        };
        self.engine().add_scope(request, &caller(noon())).unwrap();
        self.engine().scopes.find(&name(scope)).unwrap().record.id
    }

    /// Sets limits of a scope at noon, until they are cleared.
    pub(crate) fn set_limits(&mut self, scope: &str, limits: Changes) {
        let request = SetLimits {
            limits,
            until: None,
            note: "test".to_owned(),
        };
        let engine = self.engine();
        engine
            .set_limits(&name(scope), request, &caller(noon()))
            .unwrap();
    }

    /// Sets the mode of a scope at noon.
    pub(crate) fn set_mode(&mut self, scope: &str, mode: ScopeMode) {
        let request = SetMode {
            mode,
            note: "test".to_owned(),
        };
        let engine = self.engine();
        engine
            .set_mode(&name(scope), &request, &caller(noon()))
            .unwrap();
    }

    /// Imports a file of keys at noon.
    pub(crate) fn import(&mut self, text: &str) -> Result<Imported, ApiError> {
        let progress = |_, _, _| ();
        let engine = self.engine();
        let file = csv_import::read(text.as_bytes(), *engine.secret(), &progress)?;
        engine.import(file, &caller(noon()), &progress)
    }

    pub(crate) fn used(&mut self, scope: &str, now: DateTime<Utc>) -> u64 {
        self.engine()
            .usage_of(&name(scope), None, now)
            .unwrap()
            .used
    }
}

//! A host whose daemon can be killed, started again, and rebooted.

use std::sync::{Arc, atomic::AtomicU64};

use chrono::{DateTime, Utc};
use limiter_common::day::Day;
use tempfile::TempDir;

use super::plane::MemoryPlane;
use crate::{
    api::{AddScope, ApiError, Imported},
    config::{Config, Overlay},
    daemon::{Caller, Engine, Parts, csv_import},
    scope::ScopeName,
    secret,
    store::Store,
};

/// 2026-11-24.
pub(super) const TODAY: Day = Day(20_781);
pub(super) const TOMORROW: Day = Day(20_782);

pub(super) struct Host {
    pub(super) directory: TempDir,
    pub(super) plane: MemoryPlane,
    pub(super) engine: Option<Engine>,
    pub(super) file: std::path::PathBuf,
}

pub(super) const ATTACH: &str = "[attach]\ninterfaces = [\"lo\"]\nports = [80]\n";

pub(super) fn at(time: &str) -> DateTime<Utc> {
    time.parse().unwrap()
}

pub(super) fn noon() -> DateTime<Utc> {
    at("2026-11-24T12:00:00Z")
}

pub(super) fn caller(now: DateTime<Utc>) -> Caller {
    Caller {
        who: "test".to_owned(),
        now,
    }
}

pub(super) fn name(text: &str) -> ScopeName {
    text.parse().unwrap()
}

impl Host {
    pub(super) fn new(config: &str) -> Self {
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

    /// A daemon starts; one that ran before is gone without a word, as after kill -9.
    pub(super) fn start(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        self.engine = None;
        let parts = self.parts(self.plane.clone());
        self.engine = Some(Engine::start(parts, now)?);
        Ok(())
    }

    /// What an engine over these maps is made of.
    pub(super) fn parts(&self, plane: MemoryPlane) -> Parts {
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
            utc_offset: Arc::new(AtomicU64::new(0)),
            attended: Arc::default(),
        }
    }

    /// The daemon stops as it should.
    pub(super) fn stop(&mut self, now: DateTime<Utc>) {
        self.engine().flush(now).unwrap();
        self.engine().end().unwrap();
        self.engine = None;
    }

    pub(super) fn configure(&self, config: &str) {
        std::fs::write(&self.file, format!("{ATTACH}{config}")).unwrap();
    }

    pub(super) fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().unwrap()
    }

    pub(super) fn add(&mut self, scope: &str) -> u32 {
        let request = AddScope {
            scope: name(scope),
            tier: None,
        };
        self.engine().add_scope(request, &caller(noon())).unwrap();
        self.engine().scope(&name(scope)).unwrap().record.id
    }

    /// A file of keys is imported at noon.
    pub(super) fn import(&mut self, text: &str) -> Result<Imported, ApiError> {
        let tell = |_, _, _| ();
        let engine = self.engine();
        let file = csv_import::read(text.as_bytes(), *engine.secret, &tell)?;
        engine.import(file, &caller(noon()), &tell)
    }

    pub(super) fn used(&mut self, scope: &str, now: DateTime<Utc>) -> u64 {
        self.engine()
            .usage_of(&name(scope), None, now)
            .unwrap()
            .used
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! An engine for tests of the modules that use the engine.

use std::path::Path;

use chrono::Utc;

use super::plane::MemoryPlane;
use crate::{
    config::{Config, Overlay},
    engine::{
        state::{Engine, Parts},
        time::ClockWords,
    },
    secret,
    store::Store,
};

/// Returns an engine with an in-memory kernel and a store in `directory`.
pub(crate) fn engine(directory: &Path) -> Engine {
    let overlay = Overlay {
        interfaces: vec!["lo".to_owned()],
        ports: vec![80],
        ..Overlay::default()
    };
    let parts = Parts {
        plane: Box::new(MemoryPlane::new("boot:one")),
        store: Store::open(directory).unwrap(),
        config: Config::parse("", None, &overlay).unwrap(),
        overlay,
        secret: secret::load_or_create(directory, 0).unwrap(),
        clock: ClockWords::default(),
    };
    Engine::start(parts, Utc::now()).unwrap()
}

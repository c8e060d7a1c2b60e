//! An engine for tests of what stands on top of it.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

use chrono::Utc;

use super::plane::MemoryPlane;
use crate::{
    config::{Config, Overlay},
    daemon::{Engine, Parts},
    secret,
    store::Store,
};

/// An engine with a kernel in memory and its store in `directory`.
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
        utc_offset: Arc::new(AtomicU64::new(0)),
        attended: Arc::default(),
    };
    Engine::start(parts, Utc::now()).unwrap()
}

//! Taking everything down where no daemon runs: what the maps have counted is written first, as a daemon
//! that detaches does.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

use anyhow::Context as _;
use chrono::Utc;

use super::{
    Caller, Directories, DirectoryLock, Engine, Parts, clock::utc_offset_ns, reload::lost_counts,
};
use crate::{
    api::Report,
    config::{AttachHook, Config, Overlay, Tables},
    kernel::{Kernel, PinDirectory, Settings, remove_all},
    secret::Secret,
    store::Store,
};

/// Takes down what is pinned in `directories`. `who` is for the audit trail.
///
/// # Errors
/// [`super::LockError::Held`] when a daemon uses one of the directories, or what the kernel refused. A
/// store that cannot be had stops nothing: the report says so.
pub fn detach(directories: &Directories, who: String) -> anyhow::Result<Report> {
    let Directories {
        state,
        runtime,
        pins,
        ..
    } = directories;
    if !pins.exists() {
        return Ok(Report::default());
    }
    // A daemon behind another socket must not lose its maps under its feet.
    let present = [state, runtime, pins]
        .into_iter()
        .filter(|path| path.exists());
    let _locks = present
        .map(|path| DirectoryLock::take(path))
        .collect::<Result<Vec<_>, _>>()?;
    let pins = PinDirectory::new(pins);
    pins.settle()?;
    let counts = match pins.pinned_tables() {
        Ok(None) => Ok(None),
        Ok(Some(tables)) => books(state, &pins, tables).map(Some),
        Err(error) => Err(error.into()),
    };
    let warnings = match counts {
        Ok(Some(mut engine)) => {
            let now = Utc::now();
            return Ok(engine.detach(&Caller { who, now })?);
        }
        Ok(None) => Vec::new(),
        Err(error) => vec![lost_counts(&format!("{error:#}"))],
    };
    let done = remove_all(&pins)?;
    Ok(Report { done, warnings })
}

/// The books of the last daemon, and the maps that go on with them.
fn books(state: &Path, pins: &PinDirectory, tables: Tables) -> anyhow::Result<Engine> {
    // Opening a store makes one where there is none.
    anyhow::ensure!(
        Store::exists(state),
        "there is no store in {}; --state-dir names another directory",
        state.display()
    );
    let store = Store::open(state)?;
    let settings = Settings {
        tables,
        hook: AttachHook::Auto,
        pins: pins.clone(),
    };
    let (kernel, _clock, _events) = Kernel::load(&settings)?;
    let parts = Parts {
        plane: Box::new(kernel),
        store,
        config: Config::nowhere()?,
        overlay: Overlay::default(),
        // Nothing is hashed.
        secret: Secret::default(),
        utc_offset: Arc::new(AtomicU64::new(utc_offset_ns())),
        attended: Arc::default(),
    };
    let engine = Engine::read(parts, Utc::now())?;
    engine.with_context(|| {
        format!(
            "the store in {} is not that of the maps in {}",
            state.display(),
            pins.root().display()
        )
    })
}

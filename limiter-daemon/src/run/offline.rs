// SPDX-License-Identifier: MIT OR Apache-2.0

//! Removes programs and maps while no daemon runs, and writes the counts in the maps to the store,
//! as a daemon does when it detaches.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::Utc;

use crate::{
    config::{AttachHook, Config, Order, Overlay, Tables},
    engine::{
        caller::Caller,
        publish::clock::utc_offset_ns,
        rounds::lost_counts,
        state::{Engine, Parts},
        time::ClockWords,
    },
    kernel::{Kernel, PinDirectory, Settings, remove_all},
    protocol::views::Report,
    run::lock::DirectoryLock,
    secret::Secret,
    store::Store,
};

/// The directories of a daemon that has left its programs and maps in the kernel.
#[derive(Debug)]
pub struct Pinned {
    /// The directory of the store.
    pub state: PathBuf,
    /// The pin directory.
    pub pins: PathBuf,
    /// The runtime directory of the daemon, if the operator named it. It is only locked, since none
    /// of its files is needed. The default directory is not used, because it may belong to a daemon
    /// with other maps.
    pub runtime: Option<PathBuf>,
}

/// Removes the pinned programs and maps. `who` is recorded in the audit trail.
///
/// # Errors
/// Returns [`super::LockError::Held`] if a daemon uses one of the directories, and the kernel's
/// error if the kernel refuses a step. A store that cannot be opened only causes a warning.
pub fn detach(pinned: &Pinned, who: String) -> anyhow::Result<Report> {
    let Pinned {
        state,
        pins,
        runtime,
    } = pinned;
    if !pins.exists() {
        return Ok(Report::default());
    }
    // A daemon that uses these directories may still run with another socket. The locks protect the
    // maps and the store of such a daemon.
    let present = [state, pins]
        .into_iter()
        .chain(runtime)
        .filter(|path| path.exists());
    let _locks = present
        .map(|path| DirectoryLock::take(path))
        .collect::<Result<Vec<_>, _>>()?;
    let pins = PinDirectory::new(pins);
    let _seizure = pins.seize()?;
    pins.settle()?;
    let counts = match pins.pinned_tables() {
        Ok(None) => Ok(None),
        Ok(Some(tables)) => last_engine(state, &pins, tables).map(Some),
        Err(error) => Err(error.into()),
    };
    let warnings = match counts {
        Ok(Some(mut engine)) => {
            let now = Utc::now();
            let detached = engine.detach(&Caller { who, now });
            engine.close_store();
            return Ok(detached?);
        }
        Ok(None) => Vec::new(),
        Err(error) => vec![lost_counts(&format!("{error:#}"))],
    };
    let done = remove_all(&pins)?;
    Ok(Report { done, warnings })
}

/// Returns an engine with the store of the last daemon and the maps that belong to that store.
fn last_engine(state: &Path, pins: &PinDirectory, tables: Tables) -> anyhow::Result<Engine> {
    // Opening a store that does not exist would create one.
    anyhow::ensure!(
        Store::exists(state),
        "there is no store in {}; --state-dir names another directory",
        state.display()
    );
    let store = Store::open_as_owner(state)?;
    let settings = Settings {
        tables,
        hook: AttachHook::Auto,
        order: Order::First,
        pins: pins.clone(),
    };
    let (kernel, _clock, _events) = Kernel::load(&settings)?;
    let parts = Parts {
        plane: Box::new(kernel),
        store,
        config: Config::without_interfaces()?,
        overlay: Overlay::default(),
        // No key is hashed here, so the real secret is not needed.
        secret: Secret::default(),
        clock: ClockWords::with_offset(utc_offset_ns()),
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

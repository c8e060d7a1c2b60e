// SPDX-License-Identifier: MIT OR Apache-2.0

//! The start of the daemon, from a configuration to limits in force. A start that fails undoes what
//! it has changed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use chrono::Utc;
use tokio::net::{TcpListener, UnixListener};

use super::{
    lock::{DirectoryLock, make_directory, make_open_directory, place_of_socket},
    options::{Directories, RunOptions},
};
use crate::{
    api::{self, Access},
    config::{Config, Overlay},
    engine::{
        fleet::{link::FleetLink, start::StartHeartbeats},
        flows::older::Arrival,
        publish::{
            clock::{ClockPublisher, ClockWatch},
            reload::resolve,
        },
        setup::check_tiers,
        state::{Engine, Parts},
        time::ClockWords,
    },
    kernel::{
        Kernel, KernelError, PinDirectory, PinSnapshot, Rings, Settings,
        interfaces::Resolution,
        mounts::{self, Keeper},
        netdev::Interface,
    },
    metrics,
    secret::{self, Secret},
    store::Store,
};

/// The name of the control socket in the runtime directory.
pub const SOCKET_NAME: &str = "limiter.sock";

/// The resources that a daemon needs besides the kernel programs and maps.
pub(super) struct Resources {
    pub(super) interfaces: Resolution,
    pub(super) store: Store,
    pub(super) secret: Secret,
    pub(super) clock_watch: ClockWatch,
    /// The path of the control socket.
    pub(super) socket: PathBuf,
    pub(super) access: Access,
    pub(super) listener: UnixListener,
    /// The listener of the metrics page.
    pub(super) page: Option<TcpListener>,
    /// The connection to the fleet's engine.
    pub(super) fleet: Option<Arc<FleetLink>>,
    /// The heartbeats until the recurring tasks send them.
    pub(super) heartbeats: Option<StartHeartbeats>,
    /// The socket file. It is removed before the locks are released, because fields are dropped in
    /// the order of their declaration.
    _socket_file: SocketFile,
    _locks: [DirectoryLock; 2],
}

impl Resources {
    /// Locks the directories, opens the store, and binds the listeners.
    ///
    /// # Errors
    /// Returns the error of the first step that fails.
    pub(super) async fn open(config: &Config, directories: &Directories) -> anyhow::Result<Self> {
        // While a host starts, some interfaces may not exist yet. Until they appear, the limits are
        // enforced on the other interfaces.
        let interfaces = resolve(config)?;
        for warning in interfaces.warnings.iter().chain(&interfaces.problems) {
            log::warn!("{warning}");
        }
        let state = &make_directory(&directories.state, 0o700)?;
        let runtime = &make_open_directory(&directories.runtime)?;
        let locks = [DirectoryLock::take(state)?, DirectoryLock::take(runtime)?];
        let mut store = Store::open(state)?;
        check_tiers(&store.scopes()?, config)?;
        let secret = secret::load_or_create(state, store.key_count()?)?;
        let (fleet, heartbeats) = match &config.fleet {
            Some(fleet) => {
                let (link, heartbeats) = FleetLink::open(fleet, &mut store, &secret, state).await?;
                (Some(link), heartbeats)
            }
            None => (None, None),
        };
        let clock_watch = ClockWatch::new().context("cannot watch the system's clock")?;
        let socket = directories.socket.clone();
        let socket = socket.unwrap_or_else(|| runtime.join(SOCKET_NAME));
        let access = Access::new(&config.control);
        let (listener, socket_file) = listen(&socket, access.socket_group())?;
        let page = match config.metrics.listen {
            Some(address) => Some(metrics::bind(address).await?),
            None => None,
        };
        Ok(Self {
            interfaces,
            store,
            secret,
            clock_watch,
            socket,
            access,
            listener,
            page,
            fleet,
            heartbeats,
            _socket_file: socket_file,
            _locks: locks,
        })
    }
}

/// The parts of a daemon whose limits are in force.
pub(super) struct Enforcement {
    pub(super) engine: Engine,
    pub(super) clock: Arc<ClockPublisher>,
    pub(super) rings: Rings,
    /// The processes or namespaces that keep the pins' file system mounted after this process ends.
    pub(super) kept: Keeper,
    _pins_lock: DirectoryLock,
}

impl Enforcement {
    /// Opens the pins, loads the programs and attaches them.
    ///
    /// # Errors
    /// Returns an error if the kernel or a system call reports one. Programs and pins are then
    /// restored, with the exceptions of [`PinSnapshot::restore`].
    pub(super) fn begin(
        config: Config,
        options: &RunOptions,
        (store, secret): (Store, Secret),
        interfaces: &Resolution,
    ) -> anyhow::Result<Self> {
        let pins = &options.directories.pins;
        let pin_directory = PinDirectory::new(pins);
        // The lock is taken first, so that the start changes nothing that a running daemon uses.
        let lock = match pins.exists() {
            true => Some(DirectoryLock::take(pins)?),
            false => None,
        };
        let seizure = pin_directory.seize()?;
        let mut before = PinSnapshot::take(&pin_directory);
        let kept = match prepare_pins(&pin_directory, options.private_mounts) {
            Ok(kept) => kept,
            Err(error) => {
                undo(&before, false);
                return Err(error.into());
            }
        };
        let pins_lock = match lock {
            Some(lock) => lock,
            None => DirectoryLock::take(pins)?,
        };
        pin_directory.settle()?;
        before.note_pins()?;
        let overlay = options.overlay.clone();
        let mut attaching = false;
        let started = load_and_attach(
            (config, overlay, store, secret),
            pin_directory,
            &interfaces.interfaces,
            &mut attaching,
        );
        let (mut engine, clock, rings) = match started {
            Ok(started) => started,
            Err(error) => {
                undo(&before, attaching);
                return Err(error);
            }
        };
        seizure.commit();
        engine.note_missing(&interfaces.missing);
        Ok(Self {
            engine,
            clock,
            rings,
            kept,
            _pins_lock: pins_lock,
        })
    }
}

/// The file of the control socket, which is removed when this value is dropped. If the file
/// remained without a listener, commands would report a daemon that does not respond.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            log::debug!("the control socket {}: {error}", self.0.display());
        }
    }
}

/// Listens on the control socket, and creates the socket's directory if it is missing.
fn listen(socket: &Path, group: Option<u32>) -> anyhow::Result<(UnixListener, SocketFile)> {
    let context = || format!("cannot listen on the control socket {}", socket.display());
    let place = place_of_socket(socket).with_context(context)?;
    let listener = api::bind(&place, group).with_context(context)?;
    Ok((listener, SocketFile(place)))
}

/// Creates the pin directories, and returns the processes or namespaces that keep their file system
/// mounted after this process ends.
///
/// # Errors
/// Returns an error if only this process keeps the file system mounted and `private_mounts` is
/// false, or if a system call fails.
fn prepare_pins(pins: &PinDirectory, private_mounts: bool) -> Result<Keeper, KernelError> {
    let is_new = pins.prepare()?;
    let kept = mounts::keeper(pins.root(), is_new).unwrap_or_else(|error| {
        log::debug!("mounts: {error}");
        Keeper::Unknown
    });
    if let Some(why) = kept.warning() {
        if kept == Keeper::ThisProcess && !private_mounts {
            let path = pins.root().to_path_buf();
            return Err(KernelError::PrivateMounts { path, why });
        }
        log::warn!("{why}");
    }
    Ok(kept)
}

/// Loads the programs, fills the maps, and attaches the programs. The limits are in force when this
/// function returns. Sets `attaching` before the first program is attached, and does not clear it
/// if a later step fails.
fn load_and_attach(
    (mut config, overlay, store, secret): (Config, Overlay, Store, Secret),
    pins: PinDirectory,
    interfaces: &[Interface],
    attaching: &mut bool,
) -> anyhow::Result<(Engine, Arc<ClockPublisher>, Rings)> {
    let wanted = config.tables;
    let settings = Settings {
        tables: wanted,
        hook: config.attach.hook,
        order: config.attach.order,
        pins,
    };
    let (kernel, clock_map, rings) = Kernel::load(&settings)?;
    let arrival = Arrival::after(kernel.previous(), &config, interfaces);
    config.tables = kernel.tables();
    let words = ClockWords::default();
    let clock = Arc::new(ClockPublisher::new(Box::new(clock_map), words.clone()));
    clock.publish()?;
    let parts = Parts {
        plane: Box::new(kernel),
        store,
        config,
        overlay,
        secret,
        clock: words,
    };
    let mut engine = Engine::start(parts, Utc::now())?;
    engine.set_publisher(Arc::clone(&clock));
    // From here on the programs enforce allowances (`Clock::attended_until_ns`), because the maps
    // are complete.
    clock.publish()?;
    *attaching = true;
    engine.attach_first(arrival, interfaces)?;
    // Attaching may have taken most of the time for which the store counts as attended.
    engine.tick(Utc::now());
    clock.publish()?;
    if engine.prepare_tables(&wanted) {
        // No round of the engine has extended `Clock::attended_until_ns` while the larger tables
        // were prepared, so one is run now.
        engine.tick(Utc::now());
        clock.publish()?;
        engine.make_tables_larger(&wanted)?;
    }
    Ok((engine, clock, rings))
}

fn undo(before: &PinSnapshot, attaching: bool) {
    match before.restore(attaching) {
        Ok(removed) => removed.iter().for_each(|line| log::info!("{line}")),
        Err(error) => log::error!("cannot undo the failed start: {error}"),
    }
}

//! `limiter run`: from the configuration to limits in force, and on until told to stop.

mod allowance;
mod audit;
mod book;
mod clock;
mod csv_import;
mod departed;
mod engine;
mod events;
mod explain;
mod figures;
mod healing;
mod history;
mod import;
mod in_force;
mod keys;
mod lock;
mod modes;
mod notify;
mod offline;
mod orphans;
mod pace;
mod publish;
mod recount;
mod refusals;
mod reload;
mod scopes;
mod status;
mod sweep;
mod tables;
#[cfg(test)]
mod tests;
mod text_sets;
mod top;
mod unknown;
mod usage;
mod watchdog;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::Context as _;
use chrono::Utc;
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::Notify,
    task::JoinHandle,
    time::MissedTickBehavior,
};

pub(crate) use audit::MAX_NOTE;
pub use engine::{Caller, Engine, Parts};
pub use events::{EventLog, Following};
pub use figures::{Figures, TierFigures, TopScope};
pub(crate) use keys::MAX_LABEL;
pub use lock::{DirectoryLock, LockError};
pub use notify::notify;
pub use offline::detach as detach_offline;
pub use reload::resolve_or_refuse;
#[cfg(test)]
pub(crate) use tests::testing;

use crate::{
    api::{self, Access, ImportView},
    config::{Config, Overlay},
    http::Bounds,
    kernel::{Before, Kernel, PinDirectory, Rings, Settings, netdev::Interface},
    metrics,
    secret::{self, Secret},
    store::Store,
};
use clock::{ClockPublisher, ClockSet};
use engine::check_tiers;
use lock::{make_directory, make_open_directory};
use watchdog::{Pulse, Round};

/// How often clock and counts are looked after.
const TICK: Duration = Duration::from_secs(1);
/// Ticks between two looks at the interfaces.
const INTERFACES_EVERY: u64 = 2;
/// Ticks between two sweeps of dead flows; none while the table of flows is filling up.
const SWEEP_EVERY: u64 = 5;

/// How long answers that are under way may take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Where a daemon lives.
#[derive(Debug, Clone)]
pub struct Directories {
    /// Store and hash secret; survives reboots.
    pub state: PathBuf,
    /// The control socket.
    pub runtime: PathBuf,
    /// Pinned maps and links.
    pub pins: PathBuf,
    /// The control socket, if not in `runtime`.
    pub socket: Option<PathBuf>,
}

/// How to run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Where.
    pub directories: Directories,
    /// What the command line says about the configuration.
    pub overlay: Overlay,
    /// Whether to take everything down at the end.
    pub detach_on_exit: bool,
}

/// What the control interface and the daemon's own rounds share.
pub struct Shared {
    engine: Mutex<Engine>,
    /// The import at work. Apart from the engine, which it holds for seconds.
    import: Mutex<Option<ImportView>>,
    pulse: Pulse,
    events: Arc<EventLog>,
    stop: Notify,
    detached: AtomicBool,
}

impl Shared {
    /// Wraps an engine.
    pub fn new(engine: Engine) -> Self {
        Self {
            events: Arc::clone(&engine.events),
            engine: Mutex::new(engine),
            import: Mutex::new(None),
            pulse: Pulse::default(),
            stop: Notify::new(),
            detached: AtomicBool::new(false),
        }
    }

    /// The engine, for one piece of work that does not wait for anything.
    pub fn engine(&self) -> MutexGuard<'_, Engine> {
        // A panic in one request must not stop the counts: the engine keeps store and kernel in
        // step by itself, since the store's transactions are all or nothing.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened. Apart from the engine, too: who asks waits for nobody.
    pub fn events(&self) -> &EventLog {
        &self.events
    }

    fn lock_import(&self) -> MutexGuard<'_, Option<ImportView>> {
        self.import.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the daemon, after everything was taken down.
    pub fn stop_detached(&self) {
        self.detached.store(true, SeqCst);
        self.stop.notify_one();
    }
}

/// Runs until SIGTERM, SIGINT or `limiter detach`.
///
/// # Errors
/// What keeps limits from being in force, and what goes wrong with the control socket.
pub fn run(config: Config, options: &RunOptions) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(run_async(config, options))
}

async fn run_async(config: Config, options: &RunOptions) -> anyhow::Result<()> {
    let Directories {
        state,
        runtime,
        pins,
        socket,
    } = &options.directories;
    // Signals first: one that comes while we start must not end us half way.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;

    let interfaces = resolve_or_refuse(&config)?;
    for warning in &interfaces.warnings {
        log::warn!("{warning}");
    }
    // What can fail without the kernel comes first: a start that fails leaves nothing behind.
    make_directory(state, 0o700)?;
    make_open_directory(runtime)?;
    let _locks = [DirectoryLock::take(state)?, DirectoryLock::take(runtime)?];
    let store = Store::open(state)?;
    check_tiers(&store.scopes()?, &config)?;
    let secret = secret::load_or_create(state, store.key_count()?)?;
    let clock_set = ClockSet::new().context("cannot watch the system's clock")?;
    let socket = socket
        .clone()
        .unwrap_or_else(|| runtime.join(crate::cli::SOCKET_NAME));
    let access = Access::new(&config.control);
    let (listener, _socket_file) = listen(&socket, access.socket_group())?;
    let metrics = config.metrics.clone();
    let page = match metrics.listen {
        Some(address) => Some(metrics::bind(address).await?),
        None => None,
    };

    let pin_directory = PinDirectory::new(pins);
    let mut before = Before::look(&pin_directory);
    if let Err(error) = pin_directory.prepare() {
        take_back(&before, false);
        return Err(error.into());
    }
    let _pins_lock = DirectoryLock::take(pins)?;
    pin_directory.settle()?;
    before.note_pins()?;
    let overlay = options.overlay.clone();
    let mut attaching = false;
    let started = put_up(
        (config, overlay, store, secret),
        pin_directory,
        &interfaces.interfaces,
        &mut attaching,
    );
    let (engine, clock, rings) = match started {
        Ok(started) => started,
        Err(error) => {
            take_back(&before, attaching);
            return Err(error);
        }
    };
    let shared = Arc::new(Shared::new(engine));
    if page.is_some() && metrics.program_time {
        shared.engine().measure_programs();
    }
    let (stop_server, server_stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(api::serve(
        listener,
        Arc::clone(&shared),
        access,
        Bounds::default(),
        async {
            // Dropping the sender stops the server too.
            let _stopped = server_stopped.await;
        },
    ));
    let rounds = tokio::spawn(rounds(Arc::clone(&shared), Arc::clone(&clock)));
    let healing = tokio::spawn(healing::rounds(Arc::clone(&shared)));
    let allowances = tokio::spawn(allowance::rounds(Arc::clone(&shared), rings.events));
    let refusals = tokio::spawn(refusals::rounds(Arc::clone(&shared), rings.refusals));
    let time = tokio::spawn(tell_time(Arc::clone(&shared), Arc::clone(&clock)));
    let watch = tokio::spawn(watch_clock(clock_set, Arc::clone(&clock)));
    let mut tasks = vec![rounds, healing, allowances, refusals, time, watch];
    log::info!("ready: control socket {}", socket.display());
    let pid = std::process::id();
    shared.events.say(format!(
        "limits are in force, the daemon's process is {pid}"
    ));
    notify("READY=1");
    if let Some(patience) = watchdog::patience() {
        let watched = tasks.iter().map(JoinHandle::abort_handle).collect();
        let signs = watchdog::watch(Arc::clone(&shared), patience, watched);
        tasks.push(tokio::spawn(signs));
    }
    tasks.push(tokio::spawn(metrics::serve(page, Arc::clone(&shared))));

    loop {
        tokio::select! {
            _ = terminate.recv() => { log::info!("SIGTERM: stopping"); break }
            _ = interrupt.recv() => { log::info!("SIGINT: stopping"); break }
            () = shared.stop.notified() => break,
            _ = hangup.recv() => {
                notify("RELOADING=1");
                reload(&shared).await;
                notify("READY=1");
            }
        }
    }
    notify("STOPPING=1");
    for task in tasks {
        task.abort();
    }
    shared.events.say("the daemon ends");
    shared.events.close();
    // An answer that is under way, like that to `limiter detach`, is still read.
    drop(stop_server);
    let mut server = server;
    if tokio::time::timeout(LAST_ANSWERS, &mut server)
        .await
        .is_err()
    {
        server.abort();
    }
    finish(&shared, &clock, options.detach_on_exit);
    Ok(())
}

/// A socket file that nobody listens on would make every command wait for nobody.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            log::debug!("the control socket {}: {error}", self.0.display());
        }
    }
}

/// Listens on the control socket, and makes the directory that it is in.
fn listen(socket: &Path, group: Option<u32>) -> anyhow::Result<(UnixListener, SocketFile)> {
    if let Some(parent) = socket.parent().filter(|path| !path.as_os_str().is_empty()) {
        make_open_directory(parent)?;
    }
    let listener = api::bind(socket, group)
        .with_context(|| format!("cannot listen on the control socket {}", socket.display()))?;
    Ok((listener, SocketFile(socket.to_path_buf())))
}

/// Loads, fills the maps, and attaches: limits are in force when this returns. `attaching` is
/// set when programs may be attached, however this ends.
fn put_up(
    (mut config, overlay, store, secret): (Config, Overlay, Store, Secret),
    pins: PinDirectory,
    interfaces: &[Interface],
    attaching: &mut bool,
) -> anyhow::Result<(Engine, Arc<ClockPublisher>, Rings)> {
    let wanted = config.tables;
    let settings = Settings {
        tables: wanted,
        hook: config.attach.hook,
        pins,
    };
    let (kernel, clock_map, rings) = Kernel::load(&settings)?;
    config.tables = kernel.tables();
    let utc_offset = Arc::new(AtomicU64::new(0));
    let attended = Arc::new(AtomicU64::new(0));
    let clock = Arc::new(ClockPublisher::new(
        Box::new(clock_map),
        Arc::clone(&utc_offset),
        Arc::clone(&attended),
    ));
    clock.publish()?;
    let parts = Parts {
        plane: Box::new(kernel),
        store,
        config,
        overlay,
        secret,
        utc_offset,
        attended,
    };
    let mut engine = Engine::start(parts, Utc::now())?;
    // Enforcement begins here, with complete maps.
    clock.publish()?;
    *attaching = true;
    engine.attach(interfaces)?;
    if engine.prepare_tables(&wanted) {
        // Meanwhile nobody has answered for the store.
        engine.tick(Utc::now());
        clock.publish()?;
        engine.make_tables_larger(&wanted)?;
    }
    Ok((engine, clock, rings))
}

fn take_back(before: &Before, attaching: bool) {
    match before.restore(attaching) {
        Ok(removed) => removed.iter().for_each(|line| log::info!("{line}")),
        Err(error) => log::error!("cannot take back what was begun: {error}"),
    }
}

fn finish(shared: &Shared, clock: &ClockPublisher, detach: bool) {
    if shared.detached.load(SeqCst) {
        return;
    }
    let mut engine = shared.engine();
    let now = Utc::now();
    if detach {
        let caller = Caller {
            who: "limiter run --detach-on-exit".to_owned(),
            now,
        };
        match engine.detach(&caller) {
            Ok(report) => report.done.iter().for_each(|line| log::info!("{line}")),
            Err(error) => log::error!("cannot detach: {}", error.message),
        }
        return;
    }
    if let Err(error) = clock.leave() {
        log::error!("{error}");
    }
    let written = engine.flush(now).and_then(|()| engine.save_last_used());
    match written.and_then(|()| engine.end()) {
        Ok(()) => log::info!("counts are written; limits stay in force"),
        Err(error) => log::error!("counts at the end: {}", error.message),
    }
}

async fn reload(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    let reloaded = tokio::task::spawn_blocking(move || {
        let caller = Caller {
            who: "SIGHUP".to_owned(),
            now: Utc::now(),
        };
        shared.engine().reload(&caller)
    });
    match reloaded.await {
        Ok(Ok(_report)) => {}
        Ok(Err(error)) => log::error!("reload changes nothing: {}", error.message),
        Err(error) => log::error!("reload: {error}"),
    }
}

/// Publishes the clock every second, whatever the engine is busy with.
async fn tell_time(shared: Arc<Shared>, clock: Arc<ClockPublisher>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A failure is told by the engine's next round.
        let _kept = clock.publish();
        shared.pulse.beat(Round::Clock);
    }
}

/// What else comes round every second.
async fn rounds(shared: Arc<Shared>, clock: Arc<ClockPublisher>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut round = 0u64;
    loop {
        ticks.tick().await;
        let shared = Arc::clone(&shared);
        let clock = Arc::clone(&clock);
        let work = tokio::task::spawn_blocking(move || {
            let mut engine = shared.engine();
            engine.note_clock(clock.problem());
            engine.round(Utc::now(), &clock);
            if round.is_multiple_of(INTERFACES_EVERY) {
                engine.follow_interfaces();
            }
            if round.is_multiple_of(SWEEP_EVERY) || engine.is_crowded() {
                engine.sweep(&clock);
            }
            drop(engine);
            shared.pulse.beat(Round::Counts);
        });
        if let Err(error) = work.await {
            log::error!("a round failed: {error}");
        }
        round += 1;
    }
}

/// Publishes the clock again at once when it is set.
async fn watch_clock(watch: ClockSet, clock: Arc<ClockPublisher>) {
    loop {
        if let Err(error) = watch.wait().await {
            log::error!("cannot watch the system's clock: {error}");
            return;
        }
        match clock.publish() {
            Ok(()) => log::info!("the system's clock was set: UTC is published again"),
            Err(error) => log::error!("the system's clock was set: {error}"),
        }
    }
}

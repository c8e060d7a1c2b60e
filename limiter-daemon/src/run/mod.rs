// SPDX-License-Identifier: MIT OR Apache-2.0

//! The life of the daemon, from reading the configuration to the signal that stops it.

pub mod lock;
pub mod notify;
pub mod offline;
mod options;
mod rounds;
mod start;
mod watchdog;

use std::{
    io,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use anyhow::Context as _;
use chrono::Utc;
use tokio::{
    net::UnixListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    task::JoinHandle,
};

pub use options::{Directories, RunOptions};
pub use start::SOCKET_NAME;

use crate::{
    api::{self, Access},
    config::Config,
    engine::{
        caller::Caller, fleet::tasks as fleet, publish::clock::ClockPublisher, shared::Shared,
    },
    http::Bounds,
    kernel::{mounts::Keeper, rights},
    metrics,
};
use notify::notify;
use start::{Enforcement, Resources};

/// The maximum time for which the daemon continues to send responses when it ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Runs the daemon until SIGTERM, SIGINT or `limiter detach`.
///
/// # Errors
/// Returns an error if the limits cannot be put into force or the control socket fails.
pub fn run(config: Config, options: &RunOptions) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(run_async(config, options))
}

async fn run_async(config: Config, options: &RunOptions) -> anyhow::Result<()> {
    // The signal handlers are installed first, so that a signal does not interrupt the start
    // halfway.
    let mut signals = Signals::new()?;
    if let Some(missing) = rights::missing() {
        anyhow::bail!(missing);
    }
    let program_time = config.metrics.program_time;
    // `resources` keeps the locks and the socket file until the daemon ends.
    let resources = Resources::open(&config, &options.directories).await?;
    let stored = (resources.store, resources.secret);
    let in_force = Enforcement::begin(config, options, stored, &resources.interfaces)?;
    let (clock, kept) = (in_force.clock, in_force.kept);
    let shared = Arc::new(Shared::new(in_force.engine).with_fleet(resources.fleet));
    if !options.private_mounts {
        shared.engine().note_pins(kept);
    }
    if resources.page.is_some() && program_time {
        shared.engine().measure_programs();
    }
    let server = Server::start(resources.listener, &shared, resources.access);
    let mut tasks = rounds::spawn(&shared, &clock, resources.clock_watch, in_force.rings);
    drop(resources.heartbeats);
    log::info!("ready: control socket {}", resources.socket.display());
    let pid = std::process::id();
    shared.events.add_message(format!(
        "limits are in force, the daemon's process is {pid}"
    ));
    notify("READY=1");
    if let Some(timeout) = watchdog::timeout() {
        let watched = tasks.iter().map(JoinHandle::abort_handle).collect();
        let messages = watchdog::watch(Arc::clone(&shared), timeout, watched);
        tasks.push(tokio::spawn(messages));
    }
    tasks.push(tokio::spawn(metrics::serve(
        resources.page,
        Arc::clone(&shared),
    )));

    while signals.asks_to_reload(&shared).await {
        notify("RELOADING=1");
        reload(&shared).await;
        notify("READY=1");
    }
    notify("STOPPING=1");
    fleet::give_back(&shared).await;
    for task in tasks {
        task.abort();
    }
    shared.events.add_message("the daemon ends");
    shared.events.close();
    server.stop().await;
    finish(&shared, &clock, options.detach_on_exit, kept);
    Ok(())
}

/// The signals that the daemon waits for.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal or for `limiter detach`. Returns true if the daemon has to reload its
    /// configuration, and false if it has to end.
    async fn asks_to_reload(&mut self, shared: &Shared) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => log::info!("SIGTERM: stopping"),
            _ = self.interrupt.recv() => log::info!("SIGINT: stopping"),
            () = shared.stop.notified() => {}
            _ = self.hangup.recv() => return true,
        }
        false
    }
}

/// The server of the control socket.
struct Server {
    task: JoinHandle<()>,
    /// The sender that stops the server when it is dropped.
    stop: oneshot::Sender<()>,
}

impl Server {
    fn start(listener: UnixListener, shared: &Arc<Shared>, access: Access) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async {
            let _stopped = stopped.await;
        };
        let bounds = Bounds::default();
        let serving = api::serve(listener, Arc::clone(shared), access, bounds, stopped);
        Self {
            task: tokio::spawn(serving),
            stop,
        }
    }

    /// Stops the server after it has completed the response that it is sending, for example the
    /// response to `limiter detach`.
    async fn stop(mut self) {
        drop(self.stop);
        let ended = tokio::time::timeout(LAST_ANSWERS, &mut self.task).await;
        if ended.is_err() {
            self.task.abort();
        }
    }
}

fn finish(shared: &Shared, clock: &ClockPublisher, detach: bool, kept: Keeper) {
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
        Ok(()) => match kept.warning() {
            None => log::info!("counts are written; limits stay in force"),
            Some(warning) => log::warn!("counts are written; {warning}"),
        },
        Err(error) => log::error!("cannot write the counts at the end: {}", error.message),
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
        Ok(Err(error)) => log::error!("the configuration stays as it is: {}", error.message),
        Err(error) => log::error!("reload: {error}"),
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The recurring tasks of the daemon.

use std::sync::Arc;

use chrono::Utc;
use tokio::{task::JoinHandle, time::MissedTickBehavior};

use crate::{
    engine::{
        counts::allowance,
        events::refusals::{self, NewRefusals},
        fleet::{history, rates, tasks as fleet},
        flows::healing,
        publish::{
            clock::{ClockPublisher, ClockWatch},
            interfaces,
        },
        pulse::{Round, TICK},
        shared::Shared,
    },
    kernel::Rings,
};

/// The number of ticks between two sweeps of dead flows. While the table of flows is crowded, flows
/// are swept at every tick.
const SWEEP_EVERY: u64 = 5;

/// Starts each recurring task as a tokio task of its own.
pub(super) fn spawn(
    shared: &Arc<Shared>,
    clock: &Arc<ClockPublisher>,
    clock_watch: ClockWatch,
    rings: Rings,
) -> Vec<JoinHandle<()>> {
    // This happens before the start is reported, so that each later refusal becomes an event.
    let refusals = NewRefusals::begin(shared, rings.refusals);
    let mut tasks = vec![
        tokio::spawn(rounds(Arc::clone(shared), Arc::clone(clock))),
        tokio::spawn(healing::rounds(Arc::clone(shared))),
        tokio::spawn(allowance::rounds(Arc::clone(shared), rings.events)),
        tokio::spawn(refusals::rounds(Arc::clone(shared), refusals)),
        tokio::spawn(publish_clock(Arc::clone(shared), Arc::clone(clock))),
        tokio::spawn(watch_clock(clock_watch, Arc::clone(clock))),
        tokio::spawn(interfaces::watch(Arc::clone(shared))),
    ];
    // A task that has ended counts as a fault, so these tasks begin only on a host with an engine.
    if let Some(link) = shared.fleet() {
        tasks.extend([
            tokio::spawn(fleet::exchange(Arc::clone(shared), Arc::clone(&link))),
            tokio::spawn(fleet::beats(Arc::clone(shared), Arc::clone(&link))),
            tokio::spawn(fleet::listen(Arc::clone(shared), Arc::clone(&link))),
            tokio::spawn(history::copy(Arc::clone(shared), Arc::clone(&link))),
        ]);
        if link.shares_rates() {
            tasks.push(tokio::spawn(rates::divide(Arc::clone(shared), link)));
        }
    }
    tasks
}

/// Publishes the clock every second, regardless of the engine's other work.
async fn publish_clock(shared: Arc<Shared>, clock: Arc<ClockPublisher>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // If the publication fails, the engine's next round reports the failure.
        let _kept = clock.publish();
        shared.pulse.beat(Round::Clock);
    }
}

/// Does the remaining work that is due every second.
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
            engine.follow_interfaces();
            if round.is_multiple_of(SWEEP_EVERY) || engine.is_crowded() {
                engine.sweep(&clock);
            }
            drop(engine);
            shared.pulse.beat(Round::Counts);
        });
        if let Err(error) = work.await {
            log::error!("a round of counting failed: {error}");
        }
        round += 1;
    }
}

/// Publishes the clock again as soon as the system's clock is set.
async fn watch_clock(watch: ClockWatch, clock: Arc<ClockPublisher>) {
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

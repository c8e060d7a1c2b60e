// SPDX-License-Identifier: MIT OR Apache-2.0

//! The recurring checks and recounts, which correct counts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{orphans, recount};
use crate::{
    config::Healing,
    engine::{
        pulse::{self, TICK},
        shared::Shared,
    },
    kernel::sockets::{KernelSockets, SocketTable},
};

/// The minimum interval between the starts of two consecutive runs of a task, as a multiple of the
/// duration of the earlier run. With this value, a task runs for at most 5% of the time.
const SHARE: u32 = 20;

/// A recurring task, with the time and duration of its last run.
struct Task {
    last_began: Instant,
    last_took: Duration,
}

impl Task {
    fn new(now: Instant) -> Self {
        Self {
            last_began: now,
            last_took: Duration::ZERO,
        }
    }

    fn due(&self, interval: Duration) -> Instant {
        self.last_began + interval.max(self.last_took * SHARE)
    }

    fn run(&mut self, work: impl FnOnce()) {
        self.last_began = Instant::now();
        work();
        self.last_took = self.last_began.elapsed();
    }
}

/// Runs checks and recounts until the daemon ends. The checks and recounts are separate from the
/// other recurring tasks, since they may take a while. They lock the engine only for short moments.
pub(crate) async fn rounds(shared: Arc<Shared>) {
    let mut healer = Healer::new();
    loop {
        // The wait is limited to one second, since a reload may change the intervals.
        let next = healer.next(shared.engine().healing());
        tokio::time::sleep_until(next.min(Instant::now() + TICK).into()).await;
        let shared = Arc::clone(&shared);
        let work = tokio::task::spawn_blocking(move || {
            healer.run(&shared);
            shared.pulse.beat(pulse::Round::Healing);
            healer
        });
        healer = match work.await {
            Ok(healer) => healer,
            Err(error) => {
                log::error!("a round of healing failed: {error}");
                Healer::new()
            }
        };
    }
}

struct Healer {
    /// The table of sockets, which is opened when it is first needed.
    sockets: Option<KernelSockets>,
    check: Task,
    recount: Task,
}

impl Healer {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            sockets: None,
            check: Task::new(now),
            recount: Task::new(now),
        }
    }

    fn next(&self, times: Healing) -> Instant {
        let check = self.check.due(times.check_interval.0);
        check.min(self.recount.due(times.recount_interval.0))
    }

    /// Runs the tasks that are due.
    fn run(&mut self, shared: &Shared) {
        let times = shared.engine().healing();
        let now = Instant::now();
        if self.check.due(times.check_interval.0) <= now {
            let Self { sockets, check, .. } = self;
            check.run(|| {
                let failed = orphans::check(shared, || open(sockets)).err();
                if failed.is_some() {
                    *sockets = None;
                }
                let mut engine = shared.engine();
                engine.note_health("sockets", failed.map(|error| error.to_string()));
            });
        }
        if self.recount.due(times.recount_interval.0) <= now {
            self.recount.run(|| {
                let failed = recount::recount(shared).err();
                let mut engine = shared.engine();
                engine.note_health("recount", failed.map(|error| error.to_string()));
            });
        }
    }
}

/// Returns the table of sockets, and opens it if it is not open.
fn open(sockets: &mut Option<KernelSockets>) -> std::io::Result<&mut dyn SocketTable> {
    let open = match sockets.take() {
        Some(open) => open,
        None => KernelSockets::open()?,
    };
    Ok(sockets.insert(open))
}

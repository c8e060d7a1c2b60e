//! What brings counts back to what they count: the rounds of checks and recounts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Shared, TICK, orphans, recount, watchdog};
use crate::{
    config::Healing,
    kernel::sockets::{KernelSockets, SocketTable},
};

/// At least so many times as long as a round took passes before the next: it takes 5% of the time at most.
const SHARE: u32 = 20;

/// Something that comes round.
struct Round {
    last_began: Instant,
    last_took: Duration,
}

impl Round {
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

/// Checks and recounts for as long as the daemon runs. Apart from its other rounds: these may take a
/// while, and hold the engine only for a moment at a time.
pub(super) async fn rounds(shared: Arc<Shared>) {
    let mut healer = Healer::new();
    loop {
        // Not longer than a second, since the intervals may change meanwhile.
        let next = healer.next(shared.engine().config.healing);
        tokio::time::sleep_until(next.min(Instant::now() + TICK).into()).await;
        let shared = Arc::clone(&shared);
        let work = tokio::task::spawn_blocking(move || {
            healer.run(&shared);
            shared.pulse.beat(watchdog::Round::Healing);
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
    /// Opened when it is needed first.
    sockets: Option<KernelSockets>,
    check: Round,
    recount: Round,
}

impl Healer {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            sockets: None,
            check: Round::new(now),
            recount: Round::new(now),
        }
    }

    fn next(&self, times: Healing) -> Instant {
        let check = self.check.due(times.check_interval.0);
        check.min(self.recount.due(times.recount_interval.0))
    }

    /// What is due.
    fn run(&mut self, shared: &Shared) {
        let times = shared.engine().config.healing;
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

/// The way to the sockets, opened again after a failure.
fn open(sockets: &mut Option<KernelSockets>) -> std::io::Result<&mut dyn SocketTable> {
    let open = match sockets.take() {
        Some(open) => open,
        None => KernelSockets::open()?,
    };
    Ok(sockets.insert(open))
}

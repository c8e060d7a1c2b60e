// SPDX-License-Identifier: MIT OR Apache-2.0

//! Refused requests as events. The number of events per second is limited, and the counts in the
//! events add up to all refusals (`refusal_sums.rs`).

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use chrono::Utc;
use limiter_common::abi::RefusalRecord;

use super::refusal_sums::{RefusalCounts, Tally, Window, WindowSums};
use crate::{
    engine::shared::Shared,
    kernel::{RefusalRing, Watch},
};

use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// The period over which refusals are added up.
const WINDOW: Duration = Duration::from_secs(1);
/// The time that the daemon waits after it has emptied the ring of reports before it reads the ring
/// again. The ring has room for the reports of a longer time, and the programs do not wake the
/// daemon during the wait.
const REST: Duration = Duration::from_millis(100);

/// The source of the refusals that are counted after [`NewRefusals::begin`]. They become events.
pub(crate) struct NewRefusals {
    ring: Watch<RefusalRecord>,
    tally: Tally,
    counts: RefusalCounts,
}

impl NewRefusals {
    /// Begins with the next refusal. The refusals that were counted before do not become events.
    ///
    /// # Errors
    /// Returns an error if the kernel's counters or its reports cannot be read.
    pub(crate) fn begin(shared: &Shared, reports: RefusalRing) -> anyhow::Result<Self> {
        let mut ring = reports
            .watch()
            .context("cannot wait for the kernel's reports")?;
        let unknown = RefusalCounts::unknown();
        let counts = shared.engine().refusal_counts(&unknown)?;
        drop(ring.pending());
        Ok(Self {
            ring,
            tally: Tally::after(&counts),
            counts,
        })
    }
}

/// Turns refusals into events until the daemon ends.
pub(crate) async fn rounds(shared: Arc<Shared>, refusals: anyhow::Result<NewRefusals>) {
    let ended = match refusals {
        Ok(refusals) => follow(shared, refusals).await,
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        log::error!("refusals do not become events: {error:#}");
    }
}

async fn follow(shared: Arc<Shared>, refusals: NewRefusals) -> anyhow::Result<()> {
    let NewRefusals {
        mut ring,
        mut tally,
        mut counts,
    } = refusals;
    let mut window = Window::default();
    let mut ticks = interval(WINDOW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rest = Instant::now();
    loop {
        tokio::select! {
            reports = after(rest, &mut ring) => {
                reports?.iter().for_each(|report| window.add(report));
                rest = Instant::now() + REST;
            }
            _ = ticks.tick() => {
                // The counters are read before the ring. When the ring is read, it therefore has
                // the reports of all refusals that these counters include.
                counts = count(&shared, counts).await?;
                ring.pending().iter().for_each(|report| window.add(report));
                let reported = std::mem::take(&mut window);
                let sums = WindowSums::of(&mut tally, reported, &counts);
                if !sums.is_empty() {
                    let shared = Arc::clone(&shared);
                    let add = move || shared.engine().add_refusals(sums, Utc::now());
                    tokio::task::spawn_blocking(add).await?;
                }
            }
        }
    }
}

async fn after(
    rest: Instant,
    ring: &mut Watch<RefusalRecord>,
) -> std::io::Result<Vec<RefusalRecord>> {
    sleep_until(rest).await;
    ring.next().await
}

async fn count(shared: &Arc<Shared>, before: RefusalCounts) -> anyhow::Result<RefusalCounts> {
    let shared = Arc::clone(shared);
    let read = move || shared.engine().refusal_counts(&before);
    Ok(tokio::task::spawn_blocking(read).await??)
}

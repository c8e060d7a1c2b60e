// SPDX-License-Identifier: MIT OR Apache-2.0

//! Recounts, which compare the requests in flight and the connections of scopes with the flows that
//! hold them.
//!
//! The kernel adds up the flows while packets continue to pass. A sweep adds every flow to the sums
//! of the flow's scopes, and from then on each change of the flow changes the sums together with
//! the counts. If a count differs from its sum after all flows have been added, either the count is
//! wrong, or a program is processing a packet and has changed only one of the two so far.

use std::{thread, time::Duration};

use limiter_common::{abi::Sweep, flow::Idle};

use super::corrections::Drifts;
use crate::{
    engine::{shared::Shared, state::Engine},
    kernel::{
        KernelError,
        plane::{Count, CountPair, ReadFirst},
    },
};

/// The time from the beginning of a recount until no program uses the id of the previous recount
/// any more. A program runs only for microseconds.
const GRACE: Duration = Duration::from_millis(5);
/// The maximum number of passes over the table of flows in a recount. A pass skips a flow that
/// another CPU has locked, and the next pass adds it. All flows have been added once two
/// consecutive passes have neither added nor skipped a flow.
const MAX_PASSES: u32 = 20;
/// The number of times that a difference is read. A packet may have changed the count but not yet
/// the sum when both are read. It is unlikely that this happens at every read, and even less likely
/// that it happens in two recounts.
const READS: u32 = 32;
/// The pause between two reads or passes. It is longer than the run time of a program.
const PAUSE: Duration = Duration::from_micros(200);

/// Runs a recount, and corrects the differences that both the new and the previous recount found. A
/// recount that cannot be completed is abandoned.
pub(crate) fn recount(shared: &Shared) -> Result<(), KernelError> {
    let Some(recount) = shared.engine().begin_recount()? else {
        return Ok(());
    };
    thread::sleep(GRACE);
    let complete = add_all(shared);
    let drifts = match complete {
        Ok(true) => Some(drifts(shared, &recount)),
        _ => None,
    };
    shared.engine().end_recount(&recount, drifts);
    complete.map(|_| ())
}

/// A recount in progress.
pub(crate) struct Recount {
    pub(crate) number: u32,
    pub(crate) scopes: Vec<u32>,
}

/// Makes the kernel add up all flows, and returns whether all of them have been added.
fn add_all(shared: &Shared) -> Result<bool, KernelError> {
    let mut nothing_left = 0;
    for _ in 0..MAX_PASSES {
        let mut engine = shared.engine();
        if engine.is_detached() {
            return Ok(false);
        }
        let swept = engine.run_sweep(Sweep {
            idle_ns: Idle::DEFAULT_NS,
            ..Sweep::default()
        })?;
        drop(engine);
        if swept.recounted > 0 || swept.missed > 0 {
            nothing_left = 0;
        } else if nothing_left > 0 {
            return Ok(true);
        } else {
            nothing_left += 1;
        }
        // During the pause, other tasks can lock the engine, and programs can unlock the missed
        // flows.
        thread::sleep(PAUSE);
    }
    Ok(false)
}

/// The difference between one count and its sum, over all reads.
struct Drift {
    scope: u32,
    count: Count,
    /// The smallest amount by which the count was too high at any read.
    high: i64,
    /// The smallest amount by which the count was too low at any read, as a negative number.
    low: i64,
}

impl Drift {
    fn new(scope: u32, count: Count) -> Self {
        Self {
            scope,
            count,
            high: i64::MAX,
            low: i64::MIN,
        }
    }

    /// Reads the count and its sum, and returns whether the count has been too high at every read,
    /// or too low at every read.
    fn read(&mut self, engine: &Engine, number: u32) -> bool {
        let difference = |first| {
            let counted = engine.counted(self.scope, self.count, first, number);
            counted.map_or(0, |CountPair { count, recounted }| {
                let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
                signed(count) - signed(recounted)
            })
        };
        self.high = self.high.min(difference(ReadFirst::Count));
        self.low = self.low.max(difference(ReadFirst::Recounted));
        self.drift() != 0
    }

    fn drift(&self) -> i64 {
        if self.high > 0 {
            self.high
        } else {
            self.low.min(0)
        }
    }
}

fn drifts(shared: &Shared, recount: &Recount) -> Drifts {
    let counts = [Count::InFlight, Count::Connections];
    let scopes = recount.scopes.iter();
    let mut all = scopes.flat_map(|scope| counts.map(|count| Drift::new(*scope, count)));
    let mut drifts: Vec<Drift> = Vec::new();
    for read in 0..READS {
        let engine = shared.engine();
        if engine.is_detached() {
            return Drifts::new();
        }
        if read == 0 {
            // Most counts are correct, and do not have to be read again.
            drifts.extend(all.by_ref().filter_map(|mut drift| {
                let is_wrong = drift.read(&engine, recount.number);
                is_wrong.then_some(drift)
            }));
        } else {
            drifts.retain_mut(|drift| drift.read(&engine, recount.number));
        }
        drop(engine);
        if drifts.is_empty() {
            break;
        }
        thread::sleep(PAUSE);
    }
    drifts
        .iter()
        .map(|drift| ((drift.scope, drift.count), drift.drift()))
        .collect()
}

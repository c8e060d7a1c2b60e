// SPDX-License-Identifier: MIT OR Apache-2.0

//! The engine's part of the daemon's recurring tasks, detach and shutdown.

use chrono::{DateTime, Utc};
use limiter_common::abi::{Suspect, Sweep};

use super::{
    caller::Caller,
    counts::flush::Occasion,
    events::refusal_sums::{Lookup, RefusalCounts, WindowSums},
    flows::{corrections::Drifts, orphans::Forgotten, recount::Recount, table::SweepReport},
    publish::clock::ClockPublisher,
    state::Engine,
};
use crate::{
    config::Healing,
    kernel::{
        KernelError,
        plane::{Count, CountPair, ReadFirst},
    },
    protocol::{error::ApiError, views::Report},
};

impl Engine {
    /// Does the work that is due every second, except for the publication of the clock.
    pub fn tick(&mut self, now: DateTime<Utc>) {
        if self.detached {
            return;
        }
        let expired = self.expire_overrides(now);
        self.note_result("overrides", expired);
        let ended = self.end_keys(now);
        self.note_result("keys", ended);
        let flushed = self.flush_all(Occasion::Tick, now).and_then(|()| {
            self.record.note_day(&mut self.store, now)?;
            Ok(())
        });
        if flushed.is_ok() {
            self.clock.words().attend();
        }
        let leased = flushed.and_then(|()| self.tick_leases(now));
        self.note_result("store", leased);
        let maintained = self.maintain_unknown(now);
        self.note_result("unknown_keys", maintained);
        let keep = self.setup.config().history.keep;
        let pruned = self.record.prune(&mut self.store, keep, now);
        self.note_result("history", pruned.map_err(ApiError::from));
    }

    /// Does the work of [`Self::tick`]. If the store is attended again after this work, publishes
    /// the clock at once, which makes the kernel hold requests to their allowances again. Then does
    /// the work a second time, because the kernel may have admitted further requests before the
    /// publication. The counts of these requests must be in the store before anyone can see that
    /// the store works again.
    pub fn round(&mut self, now: DateTime<Utc>, clock: &ClockPublisher) {
        self.tick(now);
        if self.is_attended() && !clock.is_attended() {
            // If the publication fails, the next round reports the failure.
            let _kept = clock.publish();
            self.tick(now);
        }
    }

    fn note_result(&mut self, part: &'static str, result: Result<(), ApiError>) {
        self.note_health(part, result.err().map(|error| error.message));
    }

    /// Records whether the last publication of the clock failed. `problem` is `None` if it
    /// succeeded.
    pub fn note_clock(&mut self, problem: Option<String>) {
        self.note_health("clock", problem);
    }

    /// Returns whether requests are to be held to their allowances.
    pub(crate) fn is_attended(&self) -> bool {
        self.clock.words().is_attended()
    }

    /// Removes dead flows.
    pub fn sweep(&mut self, clock: &ClockPublisher) {
        if self.detached {
            return;
        }
        let capacity = self.flow_capacity();
        let SweepReport {
            crowding,
            shared_out,
        } = self.flows.sweep(self.plane.as_mut(), clock, capacity);
        let failed = match crowding {
            Ok(problem) => {
                self.note_health("flows", problem);
                shared_out.err()
            }
            Err(error) => Some(error),
        };
        self.note_health("sweep", failed.map(|error| error.to_string()));
    }

    /// Returns whether the table of flows is so full that it has to be swept as often as possible.
    pub fn is_crowded(&self) -> bool {
        self.flows.is_crowded()
    }

    pub(crate) fn run_sweep(&mut self, request: Sweep) -> Result<Sweep, KernelError> {
        self.flows.run(self.plane.as_mut(), request)
    }

    /// Returns the intervals of checks and recounts.
    pub(crate) fn healing(&self) -> Healing {
        self.setup.config().healing
    }

    /// Returns a batch of flows that have been silent for at least `healing.suspect_after`. `first`
    /// is set for the first batch of a check.
    pub(crate) fn find_suspects(&mut self, first: bool) -> Result<Vec<Suspect>, KernelError> {
        if self.detached {
            return Ok(Vec::new());
        }
        let silence = self.healing().suspect_after.0;
        self.flows
            .find_suspects(self.plane.as_mut(), silence, first)
    }

    /// Removes flows whose servers' sockets are gone.
    pub(crate) fn forget(
        &mut self,
        suspects: &[Suspect],
        forgotten: &mut Forgotten,
    ) -> Result<(), KernelError> {
        for suspect in suspects {
            if self.detached {
                break;
            }
            let removed = self.plane.forget(suspect)?;
            forgotten.add(&removed);
            self.corrections.note_orphan(&removed);
        }
        Ok(())
    }

    pub(crate) fn note_check(&mut self) {
        self.corrections.note_check();
    }

    /// Begins a recount. Returns `None` if the programs and maps have been removed.
    pub(crate) fn begin_recount(&mut self) -> Result<Option<Recount>, KernelError> {
        if self.detached {
            return Ok(None);
        }
        let scopes = self.scopes.counted_ids();
        let number = self.flows.begin_recount(self.plane.as_mut(), &scopes)?;
        Ok(Some(Recount { number, scopes }))
    }

    pub(crate) fn counted(
        &self,
        scope: u32,
        count: Count,
        first: ReadFirst,
        number: u32,
    ) -> Option<CountPair> {
        self.plane.counted(scope, count, first, number)
    }

    /// Ends `recount`, and corrects the differences that both this recount and the previous one
    /// found. `drifts` is `None` if the recount was not completed.
    pub(crate) fn end_recount(&mut self, recount: &Recount, drifts: Option<Drifts>) {
        if self.detached {
            return;
        }
        let plane = self.plane.as_ref();
        for scope in &recount.scopes {
            plane.end_recount(*scope, recount.number);
        }
        match drifts {
            Some(drifts) => self.corrections.apply_recount(drifts, plane, &self.scopes),
            None => self.corrections.note_incomplete_recount(),
        }
    }

    /// Reads the counters of refusals.
    pub(crate) fn refusal_counts(
        &self,
        before: &RefusalCounts,
    ) -> Result<RefusalCounts, KernelError> {
        RefusalCounts::read(before, self.plane.as_ref(), &self.scopes)
    }

    /// Adds the refusals of a window to the log of events.
    pub(crate) fn add_refusals(&self, sums: WindowSums, now: DateTime<Utc>) {
        let lookup = Lookup {
            store: &self.store,
            scopes: &self.scopes,
            clock: self.clock.words(),
        };
        for event in sums.events(&lookup, now) {
            self.events.add(event);
        }
    }

    /// Removes the attachments, maps and pins. The counts are written after the attachments have
    /// been removed, because only then do the counts no longer change.
    ///
    /// # Errors
    /// Returns an error if the kernel reports one. An error of the store only causes a warning,
    /// since no limit is in force any more.
    pub fn detach(&mut self, caller: &Caller) -> Result<Report, ApiError> {
        self.detached = true;
        let mut done = self.plane.release()?;
        let written = self
            .flush(caller.now)
            .and_then(|()| self.record_unreported(caller.now))
            .and_then(|()| self.save_last_used());
        done.extend(self.plane.detach()?);
        let detail = done.join("; ");
        let entry = caller.entry("detach", "", &detail);
        let closed = written.and_then(|()| Ok(self.record.close(&mut self.store, &entry)?));
        let warnings: Vec<_> = closed
            .err()
            .map(|error| lost_counts(&error))
            .into_iter()
            .collect();
        for warning in &warnings {
            log::error!("{warning}");
        }
        self.events
            .add_change(caller, "detach", None, None, "detached");
        Ok(Report { done, warnings })
    }

    /// Returns whether the programs and maps have been removed. If they have, nothing must be put
    /// into force any more.
    pub(crate) fn is_detached(&self) -> bool {
        self.detached
    }

    /// Records in the store that all counts have been written and that the daemon ends.
    pub(crate) fn end(&mut self) -> Result<(), ApiError> {
        Ok(self.record.end(&mut self.store)?)
    }

    /// Closes the store.
    pub(crate) fn close_store(self) {
        self.store.close();
    }
}

/// Returns the warning that counts are lost, because maps were removed before their counts could be
/// written to the store.
pub(crate) fn lost_counts(why: &impl std::fmt::Display) -> String {
    format!("today's counts since the last write to the store are lost: {why}")
}

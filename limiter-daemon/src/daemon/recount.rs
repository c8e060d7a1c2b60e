//! Recounting: what scopes are charged for in flight and in connections, held against the flows that
//! it is for.
//!
//! The kernel adds up while packets go on: a sweep adds every flow to the sums of its scopes, and
//! from then on the flow changes the sums along with the counts. What differs in the end is either
//! at this very moment on its way from one to the other, or wrong.

use std::{collections::BTreeMap, thread, time::Duration};

use limiter_common::{abi::Sweep, flow::Idle};

use super::{Shared, engine::Engine};
use crate::kernel::{
    KernelError,
    plane::{Count, Counted, First},
};

/// Until programs that run with the number of the recount before have ended: they take microseconds.
const GRACE: Duration = Duration::from_millis(5);
/// Passes over the table, to find twice that nothing is left to add. Flows that a CPU holds have to
/// wait for the next pass.
const MOST_PASSES: u32 = 20;
/// Looks at the difference. That a packet is between count and sum at each of them, with something
/// else of the same scope, is what they make unlikely, and the second recount again.
const LOOKS: u32 = 32;
/// Between two looks: longer than a program runs.
const PAUSE: Duration = Duration::from_micros(200);

/// By how much counts are too high (or, negative, too low).
pub(super) type Drifts = BTreeMap<(u32, Count), i64>;

/// Recounts, and corrects what the last recount found too. One that does not get done is left.
pub(super) fn recount(shared: &Shared) -> Result<(), KernelError> {
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

/// A recount at work.
struct Recount {
    number: u32,
    scopes: Vec<u32>,
}

/// Lets the kernel add up all flows; false if that came to no end.
fn add_all(shared: &Shared) -> Result<bool, KernelError> {
    let mut nothing_left = 0;
    for _ in 0..MOST_PASSES {
        let mut engine = shared.engine();
        if engine.detached {
            return Ok(false);
        }
        let swept = engine.sweep_with(Sweep {
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
        // Packets go before.
        thread::sleep(PAUSE);
    }
    Ok(false)
}

/// What one count was off by at every look.
struct Drift {
    scope: u32,
    count: Count,
    /// By how much it was too high at least.
    high: i64,
    /// By how much it was too low at least (negative).
    low: i64,
}

impl Drift {
    fn look(&mut self, engine: &Engine, number: u32) {
        let difference = |first| {
            let counted = engine.plane.counted(self.scope, self.count, first, number);
            counted.map_or(0, |Counted { count, recounted }| {
                let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
                signed(count) - signed(recounted)
            })
        };
        self.high = self.high.min(difference(First::Count));
        self.low = self.low.max(difference(First::Recounted));
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
    let mut drifts: Vec<Drift> = Vec::new();
    for look in 0..LOOKS {
        let engine = shared.engine();
        if engine.detached {
            return Drifts::new();
        }
        if look == 0 {
            // Most scopes are found right at once.
            for (scope, count) in recount
                .scopes
                .iter()
                .flat_map(|scope| counts.map(|count| (*scope, count)))
            {
                drifts.push(Drift {
                    scope,
                    count,
                    high: i64::MAX,
                    low: i64::MIN,
                });
                if let Some(drift) = drifts.last_mut() {
                    drift.look(&engine, recount.number);
                }
                if drifts.last().is_some_and(|drift| drift.drift() == 0) {
                    drifts.pop();
                }
            }
        } else {
            drifts.retain_mut(|drift| {
                drift.look(&engine, recount.number);
                drift.drift() != 0
            });
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

impl Engine {
    fn begin_recount(&mut self) -> Result<Option<Recount>, KernelError> {
        if self.detached {
            return Ok(None);
        }
        let number = self.table.recount.wrapping_add(1).max(1);
        let scopes = self.counted_scopes();
        for scope in &scopes {
            self.plane.begin_recount(*scope, number);
        }
        self.plane.set_recount(number)?;
        // Every sweep from here on says so too.
        self.table.recount = number;
        Ok(Some(Recount { number, scopes }))
    }

    /// Ids that the kernel may have counted for: those of scopes, and of scopes that were removed.
    fn counted_scopes(&self) -> Vec<u32> {
        self.ids.keys().chain(&self.retired).copied().collect()
    }

    fn end_recount(&mut self, recount: &Recount, drifts: Option<Drifts>) {
        if self.detached {
            return;
        }
        for scope in &recount.scopes {
            self.plane.end_recount(*scope, recount.number);
        }
        let before = std::mem::take(&mut self.drifts);
        let Some(mut drifts) = drifts else {
            return;
        };
        for (at, drift) in &mut drifts {
            let agreed = before.get(at).map_or(0, |before| agreed(*before, *drift));
            if agreed != 0 {
                *drift -= agreed;
                self.correct(*at, agreed);
            }
        }
        self.drifts = drifts;
        self.healed.recounts += 1;
    }

    fn correct(&mut self, (scope, count): (u32, Count), drift: i64) {
        let by = self.plane.correct(scope, count, -drift);
        let (what, healed) = match count {
            Count::InFlight => ("requests in flight", &mut self.healed.slots),
            Count::Connections => ("connections", &mut self.healed.connections),
        };
        *healed += by;
        let name = self
            .scopes
            .iter()
            .find(|(_, known)| known.record.id == scope);
        let name = match name {
            Some((name, _)) => format!("the scope {name}"),
            None => format!("the unregistered scope with the number {scope}"),
        };
        let direction = if drift > 0 { "many" } else { "few" };
        log::warn!("{name} was charged for {by} {what} too {direction}: corrected");
    }
}

/// What two recounts agree on.
fn agreed(before: i64, now: i64) -> i64 {
    if before > 0 && now > 0 {
        before.min(now)
    } else if before < 0 && now < 0 {
        before.max(now)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_recounts_agree_on_the_lesser_of_two_drifts_of_one_sign() {
        for (before, now, wanted) in [(5, 5, 5), (5, 7, 5), (7, 5, 5), (-2, -3, -2), (5, -5, 0)] {
            assert_eq!(agreed(before, now), wanted);
        }
    }
}

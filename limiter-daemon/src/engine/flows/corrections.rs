// SPDX-License-Identifier: MIT OR Apache-2.0

//! Corrections of counts that checks and recounts found to be wrong, and statistics of the
//! corrections.

use std::collections::BTreeMap;

use limiter_common::abi::Suspect;

use crate::{
    engine::scopes::registry::Scopes,
    kernel::{Plane, plane::Count},
    protocol::views::HealedView,
};

/// For each scope and kind of count, the amount by which the count is too high. A negative amount
/// means that the count is too low.
pub(crate) type Drifts = BTreeMap<(u32, Count), i64>;

/// The corrections that checks and recounts have made since the daemon started.
#[derive(Debug, Default)]
pub(crate) struct Corrections {
    /// The differences that the last recount found and did not correct.
    drifts: Drifts,
    view: HealedView,
}

impl Corrections {
    pub(crate) fn view(&self) -> HealedView {
        self.view
    }

    /// Records that a check for lost sockets has been done.
    pub(crate) fn note_check(&mut self) {
        self.view.checks += 1;
    }

    /// Records a flow that was removed because the server's socket is gone.
    pub(crate) fn note_orphan(&mut self, removed: &Suspect) {
        self.view.orphaned_flows += removed.removed;
        self.view.orphaned_slots += removed.slots;
    }

    /// Discards the differences of the last recount, because the present recount was not completed.
    pub(crate) fn note_incomplete_recount(&mut self) {
        self.drifts.clear();
    }

    /// Corrects each count by the part of its difference in `drifts` that the previous recount
    /// found too.
    pub(crate) fn apply_recount(&mut self, mut drifts: Drifts, plane: &dyn Plane, scopes: &Scopes) {
        let before = std::mem::take(&mut self.drifts);
        for (at, drift) in &mut drifts {
            let agreed = before.get(at).map_or(0, |before| agreed(*before, *drift));
            if agreed != 0 {
                *drift -= agreed;
                self.correct(*at, agreed, plane, scopes);
            }
        }
        self.drifts = drifts;
        self.view.recounts += 1;
    }

    fn correct(
        &mut self,
        (scope, count): (u32, Count),
        drift: i64,
        plane: &dyn Plane,
        scopes: &Scopes,
    ) {
        let by = plane.correct(scope, count, -drift);
        let (object, healed) = match count {
            Count::InFlight => ("requests in flight", &mut self.view.slots),
            Count::Connections => ("connections", &mut self.view.connections),
        };
        *healed += by;
        let name = match scopes.name_of(scope) {
            Some(name) => format!("the scope {name}"),
            None => format!("the unregistered scope with the number {scope}"),
        };
        let direction = if drift > 0 { "many" } else { "few" };
        log::warn!("{name} was charged for {by} {object} too {direction}: corrected");
    }
}

/// Returns the part of a difference that two recounts both found. This is the smaller of the two
/// amounts if they have the same sign, and 0 otherwise.
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
    fn two_recounts_agree_on_the_smaller_of_two_drifts_of_one_sign() {
        for (before, now, wanted) in [(5, 5, 5), (5, 7, 5), (7, 5, 5), (-2, -3, -2), (5, -5, 0)] {
            assert_eq!(agreed(before, now), wanted);
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The sums of refused requests, and the events that they become. The kernel programs count all
//! refusals, and also report each refusal while there are only a few. The reports of a window are
//! added up by scope, reason, key and client. Refusals that were counted but not reported become
//! events that name only a scope and a reason.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
};

use chrono::{DateTime, Utc};
use limiter_common::abi::{Digest, NO_SCOPE, RefusalRecord, reason};

use super::log::NewEvent;
use crate::{
    domain::scope::ScopeName,
    engine::{scopes::registry::Scopes, time::ClockWords},
    kernel::{KernelError, Plane},
    protocol::events::EventKind,
    store::Store,
};

/// The maximum number of events in a window that name a client. The same limit applies separately
/// to the events that name only a scope.
const LINES: usize = 64;

const LIMITS: usize = reason::LIMITS as usize;
const REASONS: usize = reason::COUNT as usize;

/// The properties that refusals must have in common to be added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Group {
    scope: u32,
    reason: u32,
    key: Digest,
    client: [u32; 4],
}

/// The refusals of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct GroupSum {
    /// The time of the first report, on the boot clock.
    at_ns: u64,
    /// The client's port in the last report.
    port: u16,
    count: u64,
}

/// The sums of the refusals that were reported within a window.
#[derive(Default)]
pub(super) struct Window(HashMap<Group, GroupSum>);

impl Window {
    /// Adds a report. A report that does not fit into the window is ignored. Its refusal still
    /// becomes part of an event, because the counters include it.
    pub(super) fn add(&mut self, report: &RefusalRecord) {
        if report.reason >= reason::COUNT {
            return;
        }
        let group = Group {
            scope: report.scope,
            reason: report.reason,
            key: report.key,
            client: report.client,
        };
        let port = u16::from_be(report.client_port);
        if let Some(sum) = self.0.get_mut(&group) {
            sum.count += 1;
            sum.port = port;
        } else if self.0.len() < LINES {
            let sum = GroupSum {
                at_ns: report.at_ns,
                port,
                count: 1,
            };
            self.0.insert(group, sum);
        }
    }
}

/// The values of the refusal counters at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct RefusalCounts {
    /// The numbers of all refusals, by reason.
    all: [u64; REASONS],
    /// Whether `all` has changed since the previous reading.
    changed: bool,
    /// The numbers of refusals of each scope, for the reasons that are limits. The list is empty if
    /// these numbers cannot have changed.
    scopes: Vec<(u32, [u64; LIMITS])>,
}

impl RefusalCounts {
    /// Returns the value for the first reading, before which no counter is known.
    pub(super) fn unknown() -> Self {
        Self {
            changed: true,
            ..Self::default()
        }
    }

    /// Reads the counters. Reads those of the scopes only if `all` has changed since the previous
    /// reading, or had changed at that reading. The second case is included because a refusal is
    /// counted in `all` and for its scope at slightly different moments.
    pub(crate) fn read(
        before: &Self,
        plane: &dyn Plane,
        scopes: &Scopes,
    ) -> Result<Self, KernelError> {
        let counters = plane.counters()?;
        let at = |index: u32| counters.get(index as usize).copied().unwrap_or(0);
        let all = reason::COUNTERS.map(at);
        let changed = all != before.all;
        let scopes = if changed || before.changed {
            let ids = scopes.iter().map(|scope| scope.record.id);
            ids.map(|id| (id, plane.state(id).refused)).collect()
        } else {
            Vec::new()
        };
        Ok(Self {
            all,
            changed,
            scopes,
        })
    }
}

/// The state of one refusal counter. It is used to calculate the number of counted refusals that
/// have not been reported.
#[derive(Debug, Clone, Copy, Default)]
struct Account {
    /// The value of the counter at the last reading.
    last: u64,
    /// The number of reported refusals that `last` does not include yet.
    ahead: u64,
}

impl Account {
    /// Records the present value of the counter, and returns the number of refusals that were
    /// counted since the last reading and have not been reported.
    fn unreported(&mut self, now: u64) -> u64 {
        // When an id is given to another scope, its counters start again from zero. If a counter is
        // lower than before, all of its refusals are therefore new.
        let new = now.checked_sub(self.last).unwrap_or(now);
        self.last = now;
        let unreported = new.saturating_sub(self.ahead);
        self.ahead = self.ahead.saturating_sub(new);
        unreported
    }
}

/// Refusals that were counted but not reported individually.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unreported {
    scope: u32,
    reason: u32,
    count: u64,
}

/// The states of all counters of refusals.
#[derive(Default)]
pub(super) struct Tally {
    common: [Account; REASONS],
    scopes: HashMap<u32, [Account; LIMITS]>,
}

impl Tally {
    /// Returns the states after the refusals in `counts`, none of which becomes an event.
    pub(super) fn after(counts: &RefusalCounts) -> Self {
        let mut tally = Self::default();
        tally.take_unreported(counts);
        tally
    }

    /// Adds the reported refusals of `window` to the states, so that [`Self::take_unreported`]
    /// leaves them out.
    fn add_reported(&mut self, window: &Window) {
        for (group, sum) in &window.0 {
            let reason = group.reason as usize;
            let account = if group.scope == NO_SCOPE {
                self.common.get_mut(reason)
            } else {
                self.scopes.entry(group.scope).or_default().get_mut(reason)
            };
            if let Some(account) = account {
                account.ahead += sum.count;
            }
        }
    }

    /// Returns the refusals in `counts` that were not reported and are not in any event yet, by
    /// scope and reason.
    fn take_unreported(&mut self, counts: &RefusalCounts) -> Vec<Unreported> {
        let mut unreported = Vec::new();
        for (reason, account) in (0..).zip(&mut self.common).skip(LIMITS) {
            let now = counts.all.get(reason as usize).copied().unwrap_or(0);
            unreported.push(Unreported {
                scope: NO_SCOPE,
                reason,
                count: account.unreported(now),
            });
        }
        for (scope, now) in &counts.scopes {
            if *now == [0; LIMITS] && !self.scopes.contains_key(scope) {
                continue;
            }
            let accounts = self.scopes.entry(*scope).or_default();
            for ((reason, account), now) in (0..).zip(accounts).zip(now) {
                unreported.push(Unreported {
                    scope: *scope,
                    reason,
                    count: account.unreported(*now),
                });
            }
        }
        unreported.retain(|refusals| refusals.count > 0);
        unreported
    }
}

/// Returns the [`LINES`] items with the largest counts. The counts of all other items are added up
/// by reason alone, and get no scope.
fn bounded(mut rest: Vec<Unreported>) -> Vec<Unreported> {
    if rest.len() <= LINES {
        return rest;
    }
    rest.sort_unstable_by_key(|rest| std::cmp::Reverse(rest.count));
    let mut others = [0; REASONS];
    for other in rest.drain(LINES..) {
        if let Some(sum) = others.get_mut(other.reason as usize) {
            *sum += other.count;
        }
    }
    let others = (0..).zip(others).map(|(reason, count)| Unreported {
        scope: NO_SCOPE,
        reason,
        count,
    });
    rest.extend(others.filter(|other| other.count > 0));
    rest
}

/// The refusals of one window, before they become events.
pub(crate) struct WindowSums {
    reported: Window,
    unreported: Vec<Unreported>,
}

impl WindowSums {
    /// Returns the refusals that were counted up to `counts` and are not in any event yet.
    /// `reported` has those that were reported individually.
    pub(super) fn of(tally: &mut Tally, reported: Window, counts: &RefusalCounts) -> Self {
        tally.add_reported(&reported);
        Self {
            unreported: tally.take_unreported(counts),
            reported,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reported.0.is_empty() && self.unreported.is_empty()
    }

    /// Returns the events in ascending order of time.
    pub(crate) fn events(self, lookup: &Lookup<'_>, now: DateTime<Utc>) -> Vec<NewEvent> {
        let mut events: Vec<NewEvent> = self
            .reported
            .0
            .iter()
            .map(|(group, sum)| lookup.event(*group, *sum, now))
            .collect();
        for rest in bounded(self.unreported) {
            let group = Group {
                scope: rest.scope,
                reason: rest.reason,
                key: [0; 2],
                client: [0; 4],
            };
            let sum = GroupSum {
                at_ns: 0,
                port: 0,
                count: rest.count,
            };
            events.push(NewEvent {
                client: None,
                ..lookup.event(group, sum, now)
            });
        }
        events.sort_by_key(|event| event.at);
        events
    }
}

/// The parts of the engine with which the names and times in events are looked up.
pub(crate) struct Lookup<'a> {
    pub(crate) store: &'a Store,
    pub(crate) scopes: &'a Scopes,
    pub(crate) clock: &'a ClockWords,
}

impl Lookup<'_> {
    fn event(&self, group: Group, sum: GroupSum, now: DateTime<Utc>) -> NewEvent {
        let record = if group.key == [0; 2] {
            None
        } else {
            // If the store cannot be read, the event lacks the details of the key, and the problem
            // of the store is reported by an event of its own.
            self.store.key_by_digest(group.key).ok().flatten()
        };
        let scope: Option<ScopeName> = self.scopes.name_of(group.scope).cloned();
        NewEvent {
            at: self.clock.utc(sum.at_ns).unwrap_or(now),
            kind: EventKind::Refused,
            scope: scope.or_else(|| record.as_ref().map(|key| key.scope.clone())),
            key: record.map(|key| key.id),
            client: Some((address(group.client), sum.port)),
            reason: reason::NAMES.get(group.reason as usize).copied(),
            action: None,
            count: sum.count,
            message: None,
        }
    }
}

/// Converts an address from the four 32-bit words in which the kernel programs store it.
fn address(words: [u32; 4]) -> IpAddr {
    let mut bytes = [0; 16];
    for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(bytes).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: [u32; 4] = [0, 0, 0xffff_0000, 0x0200_000a];

    fn report(scope: u32, why: u32, port: u16) -> RefusalRecord {
        RefusalRecord {
            at_ns: u64::from(port),
            key: [1, 2],
            client: V4,
            scope,
            reason: why,
            client_port: port.to_be(),
            reserved: [0; 3],
        }
    }

    fn unreported(scope: u32, reason: u32, count: u64) -> Unreported {
        Unreported {
            scope,
            reason,
            count,
        }
    }

    #[test]
    fn addresses_are_written_in_their_own_family() {
        assert_eq!(address(V4).to_string(), "10.0.0.2");
        let [a, b] = [0xfd00_0000_u32, 5].map(u32::to_be);
        assert_eq!(address([a, 0, 0, b]).to_string(), "fd00::5");
    }

    #[test]
    fn the_same_client_is_one_line_and_lines_are_bounded() {
        let mut window = Window::default();
        for port in 1..=5 {
            window.add(&report(7, reason::RATE, port));
        }
        let sums: Vec<GroupSum> = window.0.values().copied().collect();
        let one = GroupSum {
            at_ns: 1,
            port: 5,
            count: 5,
        };
        assert_eq!(sums, [one]);
        for client in 0..1000 {
            window.add(&RefusalRecord {
                client: [client; 4],
                ..report(7, reason::RATE, 9)
            });
        }
        assert_eq!(window.0.len(), LINES);
        // Refusals of groups that are already in the window are still counted.
        window.add(&report(7, reason::RATE, 6));
        assert_eq!(window.0.values().map(|sum| sum.count).max(), Some(6));
    }

    #[test]
    fn unreported_refusals_are_the_counters_difference_and_none_counts_twice() {
        let mut tally = Tally::default();
        let counts = |rate, malformed| RefusalCounts {
            all: [0, 0, 0, 0, 0, 0, 0, malformed, 0],
            changed: true,
            scopes: vec![(7, [rate, 0, 0, 0]), (8, [0; LIMITS])],
        };
        // These refusals were counted before the daemon started.
        tally.take_unreported(&counts(100, 4));
        let mut window = Window::default();
        for port in 0..3 {
            window.add(&report(7, reason::RATE, port));
        }
        tally.add_reported(&window);
        // One of the three reported refusals was counted only after the counters were read.
        assert_eq!(tally.take_unreported(&counts(102, 4)), []);
        assert_eq!(tally.take_unreported(&counts(103, 4)), []);
        assert_eq!(
            tally.take_unreported(&counts(110, 6)),
            [
                unreported(NO_SCOPE, reason::MALFORMED, 2),
                unreported(7, reason::RATE, 7)
            ]
        );
        // The id now belongs to another scope.
        assert_eq!(
            tally.take_unreported(&counts(2, 6)),
            [unreported(7, reason::RATE, 2)]
        );
        assert!(!tally.scopes.contains_key(&8));
    }

    #[test]
    fn many_scopes_become_the_largest_and_one_line_for_each_reason() {
        let rest: Vec<_> = (0..1000)
            .map(|scope| unreported(scope, scope % 2, 1000))
            .collect();
        let total = |rest: &[Unreported]| rest.iter().map(|rest| rest.count).sum::<u64>();
        let lines = bounded(rest.clone());
        assert_eq!(lines.len(), LINES + 2);
        assert_eq!(total(&lines), total(&rest));
    }
}

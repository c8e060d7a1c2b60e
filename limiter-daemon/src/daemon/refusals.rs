//! Refused requests as events: at most so many lines a second, that together count each of them.
//!
//! The programs tell of some refusals, of each where there are few, and count all. What they told within a
//! second is added up by scope, reason, key and client; what the counters have beyond that, in the programs'
//! haste or for want of room, becomes a line by scope and reason alone.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use limiter_common::abi::{Digest, NO_SCOPE, Refused, counter, reason};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{Shared, engine::Engine, events::NewEvent};
use crate::{
    api::{ApiError, EventKind},
    kernel::{Refusals, Watch},
};

/// How long refusals are added up.
const WINDOW: Duration = Duration::from_secs(1);
/// How long the ring is left to fill once it was emptied: it has room for more than that, and the programs
/// need not wake anybody meanwhile.
const REST: Duration = Duration::from_millis(100);
/// Lines of a window that name a client, and lines that name a scope alone.
const LINES: usize = 64;

const LIMITS: usize = reason::LIMITS as usize;
const REASONS: usize = reason::COUNT as usize;

/// The counters that tell how many requests were refused, by [`reason`].
const COUNTERS: [u32; REASONS] = [
    counter::REFUSED_RATE,
    counter::REFUSED_CONCURRENCY,
    counter::REFUSED_CONNECTIONS,
    counter::REFUSED_DAILY_QUOTA,
    counter::MISSING_KEY_REFUSED,
    counter::UNKNOWN_KEY_REFUSED,
    counter::DISABLED_KEY_REFUSED,
    counter::MALFORMED_REFUSED,
];

/// Reasons by name.
pub(super) const NAMES: [&str; REASONS] = [
    "rate",
    "concurrency",
    "connections",
    "daily_quota",
    "missing_key",
    "unknown_key",
    "disabled_key",
    "malformed",
];

/// Whose requests are added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Who {
    scope: u32,
    reason: u32,
    key: Digest,
    client: [u32; 4],
}

/// What was told of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    at_ns: u64,
    port: u16,
    count: u64,
}

/// What was told within a window.
#[derive(Default)]
struct Window(HashMap<Who, Seen>);

impl Window {
    /// What finds no room is left to the counters.
    fn add(&mut self, told: &Refused) {
        if told.reason >= reason::COUNT {
            return;
        }
        let who = Who {
            scope: told.scope,
            reason: told.reason,
            key: told.key,
            client: told.client,
        };
        let port = u16::from_be(told.client_port);
        if let Some(seen) = self.0.get_mut(&who) {
            seen.count += 1;
            seen.port = port;
        } else if self.0.len() < LINES {
            let seen = Seen {
                at_ns: told.at_ns,
                port,
                count: 1,
            };
            self.0.insert(who, seen);
        }
    }
}

/// Refusals as the counters have them.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    /// By reason.
    all: [u64; REASONS],
    /// Whether that is not what it was at the look before.
    changed: bool,
    /// By scope, for reasons that are limits; empty when nothing can be new in them.
    scopes: Vec<(u32, [u64; LIMITS])>,
}

/// How far one counter has been told of.
#[derive(Debug, Clone, Copy, Default)]
struct Account {
    /// What it was.
    last: u64,
    /// How many refusals were told that were not in it then.
    ahead: u64,
}

impl Account {
    /// The counter is at `now`: how many refusals in it have not been told.
    fn untold(&mut self, now: u64) -> u64 {
        // A scope's counters begin anew when it gets another one's place.
        let new = now.checked_sub(self.last).unwrap_or(now);
        self.last = now;
        let untold = new.saturating_sub(self.ahead);
        self.ahead = self.ahead.saturating_sub(new);
        untold
    }
}

/// What has been told of all counters.
#[derive(Default)]
struct Tally {
    common: [Account; REASONS],
    scopes: HashMap<u32, [Account; LIMITS]>,
}

impl Tally {
    fn told(&mut self, window: &Window) {
        for (who, seen) in &window.0 {
            let why = who.reason as usize;
            let account = if who.scope == NO_SCOPE {
                self.common.get_mut(why)
            } else {
                self.scopes.entry(who.scope).or_default().get_mut(why)
            };
            if let Some(account) = account {
                account.ahead += seen.count;
            }
        }
    }

    /// What none of the lines so far tells of, by scope and reason.
    fn rest(&mut self, counts: &Counts) -> Vec<(u32, u32, u64)> {
        let mut rest = Vec::new();
        for (why, account) in (0..).zip(&mut self.common).skip(LIMITS) {
            let now = counts.all.get(why as usize).copied().unwrap_or(0);
            rest.push((NO_SCOPE, why, account.untold(now)));
        }
        for (scope, now) in &counts.scopes {
            if *now == [0; LIMITS] && !self.scopes.contains_key(scope) {
                continue;
            }
            let accounts = self.scopes.entry(*scope).or_default();
            for ((why, account), now) in (0..).zip(accounts).zip(now) {
                rest.push((*scope, why, account.untold(*now)));
            }
        }
        rest.retain(|(_, _, count)| *count > 0);
        rest
    }
}

/// The greatest of these by scope and reason; what is beyond that by reason alone.
fn bounded(mut rest: Vec<(u32, u32, u64)>) -> Vec<(u32, u32, u64)> {
    if rest.len() <= LINES {
        return rest;
    }
    rest.sort_unstable_by_key(|(_, _, count)| std::cmp::Reverse(*count));
    let mut others = [0; REASONS];
    for (_, why, count) in rest.drain(LINES..) {
        if let Some(other) = others.get_mut(why as usize) {
            *other += count;
        }
    }
    let others = (0..).zip(others).map(|(why, count)| (NO_SCOPE, why, count));
    rest.extend(others.filter(|(_, _, count)| *count > 0));
    rest
}

impl Engine {
    /// The counters of refusals. Those of the scopes are looked at when others have changed, and once
    /// more: a request is in one a moment before it is in the other.
    fn refusal_counts(&self, before: &Counts) -> Result<Counts, ApiError> {
        let counters = self.plane.counters()?;
        let at = |index: u32| counters.get(index as usize).copied().unwrap_or(0);
        let all = COUNTERS.map(at);
        let changed = all != before.all;
        let scopes = if changed || before.changed {
            let ids = self.scopes.values().map(|scope| scope.record.id);
            ids.map(|id| (id, self.plane.state(id).refused)).collect()
        } else {
            Vec::new()
        };
        Ok(Counts {
            all,
            changed,
            scopes,
        })
    }

    /// Tells of a window's refusals.
    fn tell_refusals(&self, window: &Window, rest: Vec<(u32, u32, u64)>, now: DateTime<Utc>) {
        let mut events: Vec<NewEvent> = window
            .0
            .iter()
            .map(|(who, seen)| self.refused(*who, *seen, now))
            .collect();
        for (scope, why, count) in bounded(rest) {
            let who = Who {
                scope,
                reason: why,
                key: [0; 2],
                client: [0; 4],
            };
            let seen = Seen {
                at_ns: 0,
                port: 0,
                count,
            };
            events.push(NewEvent {
                client: None,
                ..self.refused(who, seen, now)
            });
        }
        events.sort_by_key(|event| event.at);
        for event in events {
            self.events.tell(event);
        }
    }

    fn refused(&self, who: Who, seen: Seen, now: DateTime<Utc>) -> NewEvent {
        let record = if who.key == [0; 2] {
            None
        } else {
            // Without it the event says less; a store in trouble has an event of its own.
            self.store.key_by_digest(who.key).ok().flatten()
        };
        let scope = self.ids.get(&who.scope).cloned();
        NewEvent {
            at: self.utc(seen.at_ns).unwrap_or(now),
            kind: EventKind::Refused,
            scope: scope.or_else(|| record.as_ref().map(|key| key.scope.clone())),
            key: record.map(|key| key.id),
            client: Some((address(who.client), seen.port)),
            reason: NAMES.get(who.reason as usize).copied(),
            action: None,
            count: seen.count,
            message: None,
        }
    }
}

/// An address as the programs have it.
fn address(words: [u32; 4]) -> IpAddr {
    let mut bytes = [0; 16];
    for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(bytes).to_canonical()
}

/// Refusals become events, second by second.
pub(super) async fn rounds(shared: Arc<Shared>, refusals: Refusals) {
    match refusals.watch() {
        Ok(ring) => {
            if let Err(error) = follow(shared, ring).await {
                log::error!("refusals are told no more: {error:#}");
            }
        }
        Err(error) => log::error!("cannot wait for the kernel's refusals: {error}"),
    }
}

async fn follow(shared: Arc<Shared>, mut ring: Watch<Refused>) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    let unknown = Counts {
        changed: true,
        ..Counts::default()
    };
    let mut counts = count(&shared, unknown).await?;
    // What was refused before this daemon came is told of no more.
    let _before = tally.rest(&counts);
    drop(ring.told());
    let mut window = Window::default();
    let mut ticks = interval(WINDOW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rest = Instant::now();
    loop {
        tokio::select! {
            told = after(rest, &mut ring) => {
                told?.iter().for_each(|told| window.add(told));
                rest = Instant::now() + REST;
            }
            _ = ticks.tick() => {
                // In this order: what is in the counters has been told by then.
                counts = count(&shared, counts).await?;
                ring.told().iter().for_each(|told| window.add(told));
                let told = std::mem::take(&mut window);
                tally.told(&told);
                let untold = tally.rest(&counts);
                if !told.0.is_empty() || !untold.is_empty() {
                    let shared = Arc::clone(&shared);
                    let tell = move || shared.engine().tell_refusals(&told, untold, Utc::now());
                    tokio::task::spawn_blocking(tell).await?;
                }
            }
        }
    }
}

async fn after(rest: Instant, ring: &mut Watch<Refused>) -> std::io::Result<Vec<Refused>> {
    sleep_until(rest).await;
    ring.next().await
}

async fn count(shared: &Arc<Shared>, before: Counts) -> anyhow::Result<Counts> {
    let shared = Arc::clone(shared);
    let look = move || shared.engine().refusal_counts(&before);
    Ok(tokio::task::spawn_blocking(look).await??)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: [u32; 4] = [0, 0, 0xffff_0000, 0x0200_000a];

    fn told(scope: u32, why: u32, port: u16) -> Refused {
        Refused {
            at_ns: u64::from(port),
            key: [1, 2],
            client: V4,
            scope,
            reason: why,
            client_port: port.to_be(),
            reserved: [0; 3],
        }
    }

    #[test]
    fn addresses_are_told_in_their_own_family() {
        assert_eq!(address(V4).to_string(), "10.0.0.2");
        let [a, b] = [0xfd00_0000_u32, 5].map(u32::to_be);
        assert_eq!(address([a, 0, 0, b]).to_string(), "fd00::5");
    }

    #[test]
    fn the_same_client_is_one_line_and_lines_are_bounded() {
        let mut window = Window::default();
        for port in 1..=5 {
            window.add(&told(7, reason::RATE, port));
        }
        let seen: Vec<Seen> = window.0.values().copied().collect();
        let one = Seen {
            at_ns: 1,
            port: 5,
            count: 5,
        };
        assert_eq!(seen, [one]);
        for client in 0..1000 {
            window.add(&Refused {
                client: [client; 4],
                ..told(7, reason::RATE, 9)
            });
        }
        assert_eq!(window.0.len(), LINES);
        // Those that had found room are still counted.
        window.add(&told(7, reason::RATE, 6));
        assert_eq!(window.0.values().map(|seen| seen.count).max(), Some(6));
    }

    #[test]
    fn what_was_not_told_is_the_counters_difference_and_nothing_is_told_twice() {
        let mut tally = Tally::default();
        let counts = |rate, malformed| Counts {
            all: [0, 0, 0, 0, 0, 0, 0, malformed],
            changed: true,
            scopes: vec![(7, [rate, 0, 0, 0]), (8, [0; LIMITS])],
        };
        // Before the daemon.
        tally.rest(&counts(100, 4));
        let mut window = Window::default();
        for port in 0..3 {
            window.add(&told(7, reason::RATE, port));
        }
        tally.told(&window);
        // One of the three was counted just after the counters were read.
        assert_eq!(tally.rest(&counts(102, 4)), []);
        assert_eq!(tally.rest(&counts(103, 4)), []);
        assert_eq!(
            tally.rest(&counts(110, 6)),
            [(NO_SCOPE, reason::MALFORMED, 2), (7, reason::RATE, 7)]
        );
        // The scope's place went to another one.
        assert_eq!(tally.rest(&counts(2, 6)), [(7, reason::RATE, 2)]);
        assert!(!tally.scopes.contains_key(&8));
    }

    #[test]
    fn many_scopes_become_the_greatest_and_one_line_for_each_reason() {
        let rest: Vec<_> = (0..1000).map(|scope| (scope, scope % 2, 1000)).collect();
        let total = |rest: &[(u32, u32, u64)]| rest.iter().map(|(_, _, count)| count).sum::<u64>();
        let lines = bounded(rest.clone());
        assert_eq!(lines.len(), LINES + 2);
        assert_eq!(total(&lines), total(&rest));
    }
}

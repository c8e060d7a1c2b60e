//! Sweeping dead flows out of the kernel's table, and what to do when it fills up.

use limiter_common::{abi::Sweep, flow::Idle};

use super::{clock::ClockPublisher, engine::Engine};
use crate::{
    api::{ApiError, FlowsView},
    kernel::KernelError,
};

const NS_PER_SECOND: u64 = 1_000_000_000;
/// The class of half-open connections.
const HANDSHAKE: usize = Idle::Handshake as usize;
/// How long a server may hold on to a half-open connection after its last packet, and some time for
/// the client's to be under way: one that was given up before may come to life until then.
const STRANGER_NS: u64 = Idle::DEFAULT_NS[HANDSHAKE] + 5 * NS_PER_SECOND;
/// Sweeps (one a second while it is crowded) that the table must have been emptier for, before
/// half-open connections get more time again: a flood would make it go back and forth.
const CALM_SWEEPS: u32 = 10;

/// How full the table is: past `percent`, half-open connections get `seconds`.
///
/// Until half of it is taken, all get what a server gives them. The time counts from the server's last
/// SYN-ACK, which it sends after 0, 1, 3, 7, 15 and 31 s (tcp(7), `tcp_synack_retries`): with 20 s none
/// is given up before the last of them, with 5 s before the fourth, with 2 s before the third, and a
/// round trip to anywhere takes less. SYN cookies, which a server under a flood sends instead, are
/// sent once: with 2 s and a sweep a second, the table holds 3 s of such a flood.
struct Crowding {
    percent: u64,
    seconds: u64,
}

const CROWDING: [Crowding; 3] = [
    Crowding {
        percent: 50,
        seconds: 20,
    },
    Crowding {
        percent: 75,
        seconds: 5,
    },
    Crowding {
        percent: 90,
        seconds: 2,
    },
];

/// Half-open connections are given up early only where they are a tenth of the table or more: a
/// table full of open ones gains nothing by it.
const HALF_OPEN_PERCENT: u64 = 10;

/// What is known of the table of flows.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Flows left by the last sweep.
    open: u64,
    /// Of these, half open.
    half_open: u64,
    /// How many of [`CROWDING`]'s limits it is past.
    level: usize,
    /// Sweeps in a row that found it emptier than that.
    calm: u32,
    /// The recount that new flows begin with; at least 1 once the engine has started.
    pub(super) recount: u32,
    /// The last check that named suspects.
    pub(super) check: u32,
    /// Whether that check has not been through the table yet.
    pub(super) more_to_name: bool,
}

impl Table {
    fn note(&mut self, swept: &Sweep, capacity: u64) {
        self.open = swept.flows.saturating_sub(swept.removed);
        self.half_open = swept.handshakes.min(self.open);
        let full = |past: &&Crowding| self.open * 100 > capacity * past.percent;
        let level = CROWDING.iter().take_while(full).count();
        if level >= self.level {
            (self.level, self.calm) = (level, 0);
        } else if self.calm + 1 < CALM_SWEEPS {
            self.calm += 1;
        } else {
            (self.level, self.calm) = (level, 0);
        }
    }

    fn crowding(&self) -> Option<&'static Crowding> {
        CROWDING.get(self.level.checked_sub(1)?)
    }

    /// How long half-open connections get at the next sweep, if that is less than usual, ns.
    fn hurry(&self, capacity: u64) -> Option<u64> {
        let many = self.half_open * 100 >= capacity * HALF_OPEN_PERCENT;
        let crowding = self.crowding().filter(|_| many)?;
        Some(crowding.seconds * NS_PER_SECOND)
    }

    fn problem(&self, capacity: u64) -> Option<String> {
        let Crowding { percent, seconds } = self.crowding()?;
        Some(format!(
            "the table of connections is more than {percent}% full (`tables.flows` is {capacity}); if many are half open, they are given up after {seconds} s, and connections that are not known are refused meanwhile"
        ))
    }
}

impl Engine {
    /// Removes dead flows.
    pub fn sweep(&mut self, clock: &ClockPublisher) {
        if self.detached {
            return;
        }
        let mut idle_ns = Idle::DEFAULT_NS;
        if let Some(hurry) = self.table.hurry(self.capacity()) {
            // One that is given up early must not come back as one that is older than the program.
            // Without that, all wait as long as ever; what keeps the clock is told by its own part.
            if clock.refuse_strangers_for(STRANGER_NS).is_ok() {
                idle_ns[HANDSHAKE] = hurry;
            }
        }
        let swept = self.sweep_with(Sweep {
            idle_ns,
            ..Sweep::default()
        });
        if let Ok(swept) = &swept {
            let capacity = self.capacity();
            self.table.note(swept, capacity);
            self.note_health("flows", self.table.problem(capacity));
        }
        self.note_health("sweep", swept.err().map(|error| error.to_string()));
    }

    /// Whether the table of flows is so full that it is to be swept as often as can be.
    pub fn is_crowded(&self) -> bool {
        self.table.level > 0
    }

    /// A sweep for whatever `ask` says.
    pub(super) fn sweep_with(&mut self, ask: Sweep) -> Result<Sweep, KernelError> {
        let swept = self.plane.sweep(&Sweep {
            recount: self.table.recount,
            ..ask
        })?;
        if swept.slots > 0 || swept.connections > 0 {
            log::info!(
                "swept {} dead flows of {}: {} slots and {} connections given back",
                swept.removed,
                swept.flows,
                swept.slots,
                swept.connections
            );
        }
        Ok(swept)
    }

    /// Goes on with the numbers of the daemon before this one: flows carry them.
    pub(super) fn continue_numbers(&mut self) -> Result<(), ApiError> {
        let last = self.plane.last_sweep()?;
        self.table.recount = last.recount.max(1);
        self.table.check = last.check;
        self.plane.set_recount(self.table.recount)?;
        Ok(())
    }

    fn capacity(&self) -> u64 {
        u64::from(self.config.tables.flows)
    }

    pub(super) fn flows_view(&self) -> FlowsView {
        FlowsView {
            open: self.table.open,
            half_open: self.table.half_open,
            capacity: self.capacity(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: u64 = 1000;

    fn swept(flows: u64, handshakes: u64) -> Sweep {
        Sweep {
            flows,
            handshakes,
            ..Sweep::default()
        }
    }

    fn hurry_s(table: &Table) -> Option<u64> {
        table.hurry(CAPACITY).map(|ns| ns / NS_PER_SECOND)
    }

    #[test]
    fn the_fuller_the_table_the_less_time_half_open_connections_get() {
        for (flows, handshakes, wanted) in [
            (0, 0, None),
            (500, 500, None),
            (501, 400, Some(20)),
            (751, 400, Some(5)),
            (901, 400, Some(2)),
            (1000, 100, Some(2)),
            // Nothing to gain.
            (1000, 99, None),
        ] {
            let mut table = Table::default();
            table.note(&swept(flows, handshakes), CAPACITY);
            assert_eq!(hurry_s(&table), wanted, "{flows} {handshakes}");
            assert_eq!(table.problem(CAPACITY).is_some(), flows > 500);
        }
    }

    #[test]
    fn hurry_ends_only_when_it_has_been_calm_for_a_while() {
        let mut table = Table::default();
        table.note(&swept(950, 900), CAPACITY);
        for _ in 1..CALM_SWEEPS {
            table.note(&swept(600, 300), CAPACITY);
            assert_eq!(hurry_s(&table), Some(2));
        }
        table.note(&swept(600, 300), CAPACITY);
        assert_eq!(hurry_s(&table), Some(20));
        for _ in 0..CALM_SWEEPS {
            table.note(&swept(100, 100), CAPACITY);
        }
        assert_eq!(hurry_s(&table), None);
        assert_eq!(table.problem(CAPACITY), None);
    }

    #[test]
    fn what_was_removed_no_longer_counts() {
        let mut table = Table::default();
        let swept = Sweep {
            removed: 700,
            ..swept(1000, 900)
        };
        table.note(&swept, CAPACITY);
        assert_eq!((table.open, table.half_open), (300, 300));
        assert_eq!(table.problem(CAPACITY), None);
    }
}

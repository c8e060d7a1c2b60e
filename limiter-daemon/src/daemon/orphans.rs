//! Connections whose server's socket is gone: nothing will ever be sent on them again, though no
//! FIN or RST was seen.

use std::{collections::HashMap, io, net::SocketAddr, thread, time::Duration};

use limiter_common::{
    abi::{MAX_SUSPECTS, Suspect, Sweep},
    flow::Idle,
};
use thiserror::Error;

use super::{Shared, engine::Engine};
use crate::kernel::{
    KernelError,
    sockets::{Dump, Ends, SocketTable},
};

/// Times in a row that a socket must have been missing: while the kernel lists a long chain of its
/// table in parts, one that closes in it can hide its neighbour.
const MISSING: u32 = 2;
/// Dumps that are tried in a check, of which those that were interrupted count for nothing.
const MOST_DUMPS: u32 = 6;
/// Sweeps in a check that name suspects: 65,536 of them take 5 MiB here, others wait for the next.
const MOST_BATCHES: u32 = 16;
/// Flows that are forgotten while the engine is held.
const FORGET_AT_ONCE: usize = 256;
/// Between two dumps that are to show the same.
const PAUSE: Duration = Duration::from_millis(10);

/// Why a check came to nothing.
#[derive(Debug, Error)]
pub(super) enum CheckError {
    /// The kernel programs' side.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The sockets' side.
    #[error("cannot list the sockets of this host: {0}")]
    Sockets(#[from] io::Error),
}

/// Forgets the connections of this host's servers that have no socket any more.
pub(super) fn check<'a>(
    shared: &Shared,
    sockets: impl FnOnce() -> io::Result<&'a mut dyn SocketTable>,
) -> Result<(), CheckError> {
    let mut suspects = name_suspects(shared)?;
    if !suspects.is_empty() {
        keep_missing(sockets()?, &mut suspects)?;
        let mut forgotten = Forgotten::default();
        let mut suspects: Vec<Suspect> = suspects.into_values().flatten().collect();
        while !suspects.is_empty() {
            let some = suspects.split_off(suspects.len().saturating_sub(FORGET_AT_ONCE));
            shared.engine().forget(&some, &mut forgotten)?;
        }
        forgotten.tell();
    }
    shared.engine().healed.checks += 1;
    Ok(())
}

/// Connections by their client's end. The server's may have been translated on its way to the
/// socket (netfilter's DNAT and REDIRECT come behind traffic control); the client's tells which
/// socket it is all the same, and one too many only lets a dead connection stay.
type Suspects = HashMap<SocketAddr, Vec<Suspect>>;

/// All connections of this host's servers that have been silent for a while.
fn name_suspects(shared: &Shared) -> Result<Suspects, KernelError> {
    let mut suspects = Suspects::new();
    for batch in 0..MOST_BATCHES {
        let named = shared.engine().name_suspects(batch == 0)?;
        let last = named.len() < MAX_SUSPECTS as usize;
        for named in named {
            let client = Ends::from(&named.key).client;
            suspects.entry(client).or_default().push(named);
        }
        if last {
            break;
        }
    }
    Ok(suspects)
}

/// Leaves only those that have no socket; none, if that cannot be said.
fn keep_missing(sockets: &mut dyn SocketTable, suspects: &mut Suspects) -> io::Result<()> {
    let mut complete = 0;
    for _ in 0..MOST_DUMPS {
        let dump = sockets.dump(&mut |ends| {
            suspects.remove(&ends.client);
        })?;
        complete = match dump {
            Dump::Complete => complete + 1,
            Dump::Interrupted => 0,
        };
        if suspects.is_empty() {
            return Ok(());
        }
        if complete == MISSING {
            // The last word: what hides from a list is found by its name.
            for suspect in suspects.values_mut() {
                let mut missing = Vec::with_capacity(suspect.len());
                for suspect in suspect.drain(..) {
                    if !sockets.find(Ends::from(&suspect.key))? {
                        missing.push(suspect);
                    }
                }
                *suspect = missing;
            }
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
    suspects.clear();
    Ok(())
}

/// What was forgotten in one check.
#[derive(Debug, Default)]
struct Forgotten {
    flows: u64,
    slots: u64,
    connections: u64,
}

impl Forgotten {
    fn tell(&self) {
        let Self {
            flows,
            slots,
            connections,
        } = self;
        if *flows > 0 {
            log::info!(
                "{flows} connections had lost their sockets: {slots} slots and {connections} connections given back"
            );
        }
    }
}

impl Engine {
    /// One batch of suspects; `first`: of a new check, if the last one has been through the table.
    fn name_suspects(&mut self, first: bool) -> Result<Vec<Suspect>, KernelError> {
        if self.detached {
            return Ok(Vec::new());
        }
        if first && !self.table.more_to_name {
            self.table.check = self.table.check.wrapping_add(1).max(1);
        }
        let suspect_ns = self.config.healing.suspect_after.0.as_nanos();
        let swept = self.sweep_with(Sweep {
            idle_ns: Idle::DEFAULT_NS,
            check: self.table.check,
            suspect_ns: u64::try_from(suspect_ns).unwrap_or(u64::MAX),
            ..Sweep::default()
        })?;
        self.table.more_to_name = swept.suspects >= u64::from(MAX_SUSPECTS);
        self.plane.suspects(swept.suspects)
    }

    fn forget(
        &mut self,
        suspects: &[Suspect],
        forgotten: &mut Forgotten,
    ) -> Result<(), KernelError> {
        for suspect in suspects {
            if self.detached {
                break;
            }
            let Suspect {
                removed,
                slots,
                connections,
                ..
            } = self.plane.forget(suspect)?;
            forgotten.flows += removed;
            forgotten.slots += slots;
            forgotten.connections += connections;
            self.healed.orphaned_flows += removed;
            self.healed.orphaned_slots += slots;
        }
        Ok(())
    }
}

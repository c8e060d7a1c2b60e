// SPDX-License-Identifier: MIT OR Apache-2.0

//! Orphaned connections, and the check that removes their flows. The server, which is on this host,
//! no longer has a socket for such a connection, and sends no more packets on it, although the
//! programs have seen no FIN or RST.

use std::{collections::HashMap, io, net::SocketAddr, thread, time::Duration};

use limiter_common::abi::{MAX_SUSPECTS, Suspect};

use crate::{
    engine::shared::Shared,
    kernel::{
        KernelError,
        sockets::{Dump, Ends, SocketTable},
    },
};
use thiserror::Error;

/// The number of consecutive complete dumps in which a socket must be missing. One dump is not
/// enough, because the kernel lists a long hash chain of its socket table in parts. If a socket of
/// the chain is closed between two parts, the dump can lack the next socket.
const MISSING: u32 = 2;
/// The maximum number of dumps in a check. Interrupted dumps are included, although they cannot
/// show that a socket is missing.
const MAX_DUMPS: u32 = 6;
/// The maximum number of sweeps with which one check collects suspects. Together, these sweeps
/// report up to 65,536 suspects, which take 5 MiB of the daemon's memory. Any further suspects are
/// left to the next check.
const MAX_BATCHES: u32 = 16;
/// The number of flows that are removed each time the engine is locked.
const FORGET_AT_ONCE: usize = 256;
/// The pause between two dumps.
const PAUSE: Duration = Duration::from_millis(10);

/// The reason why a check failed.
#[derive(Debug, Error)]
pub(crate) enum CheckError {
    /// The kernel could not report or remove flows.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The sockets could not be listed.
    #[error("cannot list the sockets of this host: {0}")]
    Sockets(#[from] io::Error),
}

/// Removes the flows of connections to servers on this host if the server's socket no longer
/// exists.
pub(crate) fn check<'a>(
    shared: &Shared,
    sockets: impl FnOnce() -> io::Result<&'a mut dyn SocketTable>,
) -> Result<(), CheckError> {
    let mut suspects = find_suspects(shared)?;
    if !suspects.is_empty() {
        keep_missing(sockets()?, &mut suspects)?;
        let mut forgotten = Forgotten::default();
        let mut suspects: Vec<Suspect> = suspects.into_values().flatten().collect();
        while !suspects.is_empty() {
            let some = suspects.split_off(suspects.len().saturating_sub(FORGET_AT_ONCE));
            shared.engine().forget(&some, &mut forgotten)?;
        }
        forgotten.log();
    }
    shared.engine().note_check();
    Ok(())
}

/// Suspects by the address and port of the client. The server's address is not used, because
/// netfilter's DNAT and REDIRECT change it after traffic control, and the address in the flow may
/// therefore differ from that of the socket. If a client's address and port match the socket of
/// another connection, the only effect is that a dead connection is kept.
type Suspects = HashMap<SocketAddr, Vec<Suspect>>;

/// Returns the connections to servers on this host that have been silent for at least
/// `healing.suspect_after`.
fn find_suspects(shared: &Shared) -> Result<Suspects, KernelError> {
    let mut suspects = Suspects::new();
    for batch in 0..MAX_BATCHES {
        let named = shared.engine().find_suspects(batch == 0)?;
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

/// Removes from `suspects` the connections that have a socket. If the sockets cannot be listed
/// completely, removes all connections.
fn keep_missing(sockets: &mut dyn SocketTable, suspects: &mut Suspects) -> io::Result<()> {
    let mut complete = 0;
    for _ in 0..MAX_DUMPS {
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
            // A socket that is missing from the dumps may still be found by a lookup of its
            // addresses and ports.
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

/// The totals of the flows that one check has removed.
#[derive(Debug, Default)]
pub(crate) struct Forgotten {
    flows: u64,
    slots: u64,
    connections: u64,
}

impl Forgotten {
    pub(crate) fn add(&mut self, removed: &Suspect) {
        self.flows += removed.removed;
        self.slots += removed.slots;
        self.connections += removed.connections;
    }

    fn log(&self) {
        let Self {
            flows,
            slots,
            connections,
        } = self;
        if *flows > 0 {
            log::info!(
                "removed {flows} connections that had lost their sockets, and released {slots} slots and {connections} connections"
            );
        }
    }
}

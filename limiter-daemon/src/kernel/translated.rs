// SPDX-License-Identifier: MIT OR Apache-2.0

//! Ends the connections whose packets are translated ([`abi::Splice`]), before the programs no
//! longer see them. Without the programs, neither side would understand the packets of the other.

use limiter_common::abi::{FLOW_LOCAL, FLOW_SPLICED, Flow, map};

use super::{
    maps::{FlowEntries, each},
    sockets::{Ends, KernelSockets},
};
use crate::domain::plain::counted;

/// Resets both sides of the connections to servers on this host whose packets are translated and
/// for which `is_wanted` returns true. Returns descriptions of what was done. Connections to other
/// hosts cannot be ended from here, and are only reported. An error is logged, because it must not
/// keep the programs attached.
pub(super) fn end(flows: &FlowEntries, is_wanted: impl Fn(&Flow) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    let read = each(flows, map::FLOWS, |some| {
        let spliced = some
            .iter()
            .filter(|(_, entry)| entry.0.flow.flags & FLOW_SPLICED != 0)
            .filter(|(_, entry)| is_wanted(&entry.0.flow));
        found.extend(spliced.map(|(key, entry)| (Ends::from(&key.0), entry.0.flow.flags)));
        Ok(())
    });
    if let Err(error) = read {
        log::warn!("look for connections that went on after refusals: {error}");
    }
    let is_local = |flags: u32| flags & FLOW_LOCAL != 0;
    let (local, other): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, f)| is_local(*f));
    let reset = if local.is_empty() { 0 } else { reset(&local) };
    let mut done = Vec::new();
    if reset > 0 {
        let connections = counted(reset, "connection");
        done.push(format!("reset {connections} that went on after refusals"));
    }
    if !other.is_empty() {
        let connections = counted(other.len(), "connection");
        done.push(format!(
            "left {connections} to servers on other hosts that went on after refusals: the two sides \
             no longer understand each other, and end by their own timeouts"
        ));
    }
    done
}

/// Resets connections to servers on this host, and returns their number. A connection that has
/// ended in the meantime is not counted.
fn reset(connections: &[(Ends, u32)]) -> usize {
    let mut sockets = match KernelSockets::open() {
        Ok(sockets) => sockets,
        Err(error) => {
            log::warn!("reset connections that went on after refusals: {error}");
            return 0;
        }
    };
    let mut reset = 0;
    for (ends, _) in connections {
        match sockets.destroy(*ends) {
            Ok(found) => reset += usize::from(found),
            Err(error) => log::warn!("reset the connection of {}: {error}", ends.client),
        }
    }
    reset
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Ends the connections whose packets are translated ([`abi::Splice`]), before the programs are
//! detached. Without the programs, neither side would understand the packets of the other.

use limiter_common::abi::{FLOW_SPLICED, map};

use super::{
    KernelError,
    maps::{FlowEntries, each},
    sockets::{Ends, KernelSockets},
};
use crate::domain::plain::counted;

/// Resets both sides of all connections to servers on this host whose packets are translated.
/// Returns descriptions of what was done. Connections to other hosts cannot be ended from here, and
/// are only reported.
///
/// # Errors
/// Returns an error if the table of flows cannot be read.
pub(super) fn end_all(flows: &FlowEntries) -> Result<Vec<String>, KernelError> {
    let mut translated = Vec::new();
    each(flows, map::FLOWS, |some| {
        let spliced = some
            .iter()
            .filter(|(_, entry)| entry.0.flow.flags & FLOW_SPLICED != 0);
        translated.extend(spliced.map(|(key, _)| Ends::from(&key.0)));
        Ok(())
    })?;
    if translated.is_empty() {
        return Ok(Vec::new());
    }
    let mut reset = 0;
    match KernelSockets::open() {
        Ok(mut sockets) => {
            for ends in &translated {
                match sockets.destroy(*ends) {
                    Ok(found) => reset += usize::from(found),
                    Err(error) => log::warn!("reset the connection of {}: {error}", ends.client),
                }
            }
        }
        Err(error) => log::warn!("reset connections that went on after refusals: {error}"),
    }
    let mut done = Vec::new();
    if reset > 0 {
        let connections = counted(reset, "connection");
        done.push(format!("reset {connections} that went on after refusals"));
    }
    if reset < translated.len() {
        let connections = counted(translated.len() - reset, "connection");
        done.push(format!(
            "left {connections} that went on after refusals, to servers on other hosts: the two \
             sides no longer understand each other, and end by their own timeouts"
        ));
    }
    Ok(done)
}

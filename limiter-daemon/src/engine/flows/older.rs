// SPDX-License-Identifier: MIT OR Apache-2.0

//! Connections that already existed when the limiter started. The limiter lets them continue, but
//! must not mistake a new connection for one of them. If this host is the server, its older
//! connections are in the list of its sockets. If it forwards packets, it has no list of the
//! forwarded connections. On such a host, every untracked connection that is seen within [`GRACE`]
//! therefore counts as older.

use std::{fs, io, path::Path, time::Duration};

use limiter_common::abi::FlowKey;

use crate::{
    config::Config,
    engine::{publish::clock::ClockPublisher, scopes::registry::Scopes},
    kernel::{
        KernelError, Plane, PreviousSettings,
        netdev::Interface,
        plane::Count,
        sockets::{Dump, KernelSockets, SocketTable},
        topology,
    },
};

/// The maximum time for which a forwarded connection can be silent after the start of the limiter
/// and still count as older. Most pools keep an idle connection for about this time
/// (`keepalive_timeout` of nginx is 75 s for clients and 60 s for upstreams).
pub(crate) const GRACE: Duration = Duration::from_secs(60);
/// The maximum number of attempts to get a complete dump of the sockets.
const MAX_DUMPS: u32 = 6;
/// The name of this part in the daemon's health.
pub(crate) const PART: &str = "older_connections";

/// The ports and interfaces that the limiter begins to guard.
pub(crate) struct Arrival {
    /// The ports that may have older connections.
    ports: Vec<u16>,
    /// Whether this host forwards packets of other hosts.
    forwards: bool,
    /// Whether the limiter knows no connections yet, because the maps are new or have another
    /// layout.
    is_first: bool,
}

impl Arrival {
    /// Returns the ports and interfaces of the configuration that were not guarded when the maps
    /// were opened, or `None` if all of them were guarded.
    pub(crate) fn after(
        found: &PreviousSettings,
        config: &Config,
        interfaces: &[Interface],
    ) -> Option<Self> {
        let Some(before) = &found.guarded else {
            let arrival = Self::at(config.attach.ports.clone(), interfaces)?;
            return Some(Self {
                is_first: true,
                ..arrival
            });
        };
        let is_new = |interface: &Interface| match &found.interfaces {
            Some(names) => !names.contains(&interface.name),
            None => false,
        };
        Self::at(
            newly_guarded(before, &config.attach.ports, interfaces.iter().any(is_new)),
            interfaces,
        )
    }

    /// Returns the ports and interfaces that `config` adds to those of `before`. An interface is
    /// new if no program is attached to it.
    pub(crate) fn at_reload(
        before: &Config,
        config: &Config,
        interfaces: &[Interface],
        plane: &dyn Plane,
    ) -> Option<Self> {
        let attached = plane.attached();
        let is_new = |interface: &Interface| {
            !attached
                .iter()
                .any(|attached| attached.interface == interface.name)
        };
        let before = &before.attach.ports;
        let ports = newly_guarded(before, &config.attach.ports, interfaces.iter().any(is_new));
        Self::at(ports, interfaces)
    }

    fn at(ports: Vec<u16>, interfaces: &[Interface]) -> Option<Self> {
        (!ports.is_empty()).then(|| Self {
            ports,
            forwards: forwards(interfaces),
            is_first: false,
        })
    }

    /// Lets untracked connections count as older for [`GRACE`]. On a host that does not forward
    /// packets, [`Self::finish`] ends this period earlier.
    pub(crate) fn begin(&self, clock: &ClockPublisher) -> Result<(), KernelError> {
        clock.expect_older_for(ns(GRACE))
    }

    /// Clears the requests in flight and the connections of all scopes if the limiter knows no
    /// connections. In that case, counts may be left over from maps of an older layout version.
    pub(crate) fn clear_counts(&self, scopes: &Scopes, plane: &dyn Plane) {
        if !self.is_first {
            return;
        }
        for scope in scopes.ids() {
            let state = plane.state(scope);
            for (count, held) in [
                (Count::InFlight, state.in_flight),
                (Count::Connections, state.connections),
            ] {
                let held = i64::try_from(held).unwrap_or(i64::MAX);
                plane.correct(scope, count, -held);
            }
        }
    }

    /// Adds the connections of this host's sockets to the untracked connections. The programs must
    /// already follow new connections when this is called. Returns the reason if the sockets cannot
    /// be listed, and `None` otherwise.
    pub(crate) fn finish(
        self,
        plane: &mut dyn Plane,
        clock: &ClockPublisher,
    ) -> Result<Option<String>, KernelError> {
        let mut sockets = KernelSockets::open();
        let listed = match &mut sockets {
            Ok(sockets) => self.connections(sockets),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        let keys = match listed {
            Ok(keys) => keys,
            // Untracked connections then count as older until [`GRACE`] is over. This is better
            // than resetting valid connections.
            Err(error) => {
                return Ok(Some(format!(
                    "cannot list the sockets of this host: {error}; connections that are silent for {} s count as new",
                    GRACE.as_secs()
                )));
            }
        };
        let older = plane.add_older(&keys)?;
        if older > 0 {
            log::info!(
                "{older} connections are older than the limiter, and are not limited (`policy.untracked`)"
            );
        }
        if !self.forwards {
            clock.expect_older_for(0)?;
        }
        Ok(None)
    }

    fn connections(&self, sockets: &mut dyn SocketTable) -> io::Result<Vec<FlowKey>> {
        let mut keys = Vec::new();
        for _ in 0..MAX_DUMPS {
            let dump = sockets.dump(&mut |ends| {
                // The client's port is 0 for a listening socket, which has no client.
                if ends.client.port() != 0 && self.ports.contains(&ends.server.port()) {
                    keys.push(FlowKey::from(ends));
                }
            })?;
            if dump == Dump::Complete {
                break;
            }
        }
        Ok(keys)
    }
}

fn newly_guarded(before: &[u16], now: &[u16], on_new_interface: bool) -> Vec<u16> {
    let is_new = |port: &&u16| on_new_interface || !before.contains(port);
    now.iter().filter(is_new).copied().collect()
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns whether this host may forward packets between other hosts, because it routes them or
/// because one of `interfaces` is a port of a bridge.
fn forwards(interfaces: &[Interface]) -> bool {
    let routes = |family: &str, name: &str| {
        let path = format!("/proc/sys/net/{family}/conf/{name}/forwarding");
        fs::read_to_string(Path::new(&path)).is_ok_and(|text| text.trim() != "0")
    };
    let names = || interfaces.iter().map(|interface| interface.name.as_str());
    let bridged = || {
        topology::devices().is_ok_and(|devices| {
            devices.iter().any(|device| {
                device.controller.is_some() && names().any(|name| name == device.name)
            })
        })
    };
    ["ipv4", "ipv6"]
        .into_iter()
        .any(|family| names().chain(["all"]).any(|name| routes(family, name)))
        || bridged()
}

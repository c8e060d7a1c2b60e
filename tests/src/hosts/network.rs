// SPDX-License-Identifier: MIT OR Apache-2.0

//! The network between the hosts of a fleet and the servers of their engine.

use std::path::Path;

use crate::{Lab, Namespace, engine::Place};

/// The bridge to which hosts and servers are connected, and the one to which a separated part of
/// them is connected.
const BRIDGES: [&str; 2] = ["together", "apart"];

/// The interface of each host and server that leads to the bridge. The limits do not apply to it.
pub(super) const INTERFACE: &str = "e0";

/// The addresses of the servers.
const SERVERS: [&str; 6] = [
    "198.51.100.1",
    "198.51.100.2",
    "198.51.100.3",
    "198.51.100.4",
    "198.51.100.5",
    "198.51.100.6",
];
/// The last byte of the address of the first host.
const FIRST_HOST: usize = 10;

/// One end of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The server of the engine with this index, and the Sentinel beside it.
    Server(usize),
    /// The host with this index.
    Host(usize),
}

impl End {
    /// Returns the name of the port of the bridge that leads to this end.
    fn port(self) -> String {
        match self {
            Self::Server(index) => format!("server{index}"),
            Self::Host(index) => format!("host{index}"),
        }
    }
}

/// A namespace with a bridge, and a namespace for each server of the engine.
#[derive(Debug)]
pub struct Network {
    servers: Vec<Namespace>,
    /// The namespace of the bridges, and the directory of the engine.
    lab: Lab,
}

impl Network {
    /// Creates a network with `servers` namespaces for servers.
    pub(super) fn new(servers: usize) -> Self {
        let lab = Lab::loopback();
        for bridge in BRIDGES {
            lab.server().ip(&format!("link add {bridge} type bridge"));
            lab.server().ip(&format!("link set {bridge} up"));
        }
        let name = lab.name().to_owned();
        let mut network = Self {
            servers: Vec::new(),
            lab,
        };
        for (index, address) in SERVERS.iter().enumerate().take(servers) {
            let namespace = Namespace::new(&format!("{name}e{index}"));
            network.connect(End::Server(index), &namespace, address);
            network.servers.push(namespace);
        }
        network
    }

    /// Returns the directory for the files of the engine.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.lab.directory()
    }

    /// Returns a place in the namespace of the server with the index `index`.
    #[must_use]
    pub fn place(&self, index: usize, port: u16) -> Place<'_> {
        Place {
            namespace: &self.servers[index],
            host: SERVERS[index],
            port,
        }
    }

    /// Connects the namespace of the host with the index `index`.
    pub(super) fn connect_host(&self, index: usize, namespace: &Namespace) {
        let address = format!("198.51.100.{}", FIRST_HOST + index);
        self.connect(End::Host(index), namespace, &address);
    }

    fn connect(&self, end: End, namespace: &Namespace, address: &str) {
        let (hub, port) = (self.lab.server(), end.port());
        hub.ip(&format!(
            "link add {port} type veth peer name {INTERFACE} netns {}",
            namespace.name()
        ));
        hub.ip(&format!("link set {port} master {}", BRIDGES[0]));
        hub.ip(&format!("link set {port} up"));
        namespace.ip(&format!("addr add {address}/24 dev {INTERFACE}"));
        namespace.ip(&format!("link set {INTERFACE} up"));
    }

    /// Drops all packets from and to an end. Neither side is told.
    pub fn cut(&self, end: End) {
        let hub = self.lab.server();
        hub.ip(&format!("link set {} nomaster", end.port()));
    }

    /// Separates some ends from the others. They can still reach each other.
    pub fn separate(&self, ends: &[End]) {
        self.move_to(BRIDGES[1], ends);
    }

    /// Connects some ends with the others, after [`Self::cut`] or [`Self::separate`].
    pub fn heal(&self, ends: &[End]) {
        self.move_to(BRIDGES[0], ends);
    }

    fn move_to(&self, bridge: &str, ends: &[End]) {
        for end in ends {
            let hub = self.lab.server();
            hub.ip(&format!("link set {} master {bridge}", end.port()));
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! A cluster of six servers.

use std::path::Path;

use super::{Engine, Place, Program};
use crate::eventually;

/// The options of each server. A server that is silent is replaced by its replica only after a long
/// time, because servers may be silent for seconds on a busy machine, and a test expects only its
/// own failovers.
const OPTIONS: [&str; 4] = [
    "--cluster-enabled",
    "yes",
    "--cluster-node-timeout",
    "60000",
];
/// The same time in milliseconds, for a failover that the test expects.
const ALERT: &str = "1000";

/// A cluster of three primaries, each of which has a replica.
#[derive(Debug)]
pub struct Cluster {
    /// The servers. The first three are the primaries at the start.
    pub servers: [Engine; 6],
}

impl Cluster {
    /// Starts a cluster, and waits until it is complete.
    #[track_caller]
    pub fn start(program: Program, places: [Place<'_>; 6], directory: &Path) -> Self {
        let servers = places.map(|place| Engine::start(program, place, directory, &OPTIONS));
        let addresses = places.map(|place| format!("{}:{}", place.host, place.port));
        let mut create = vec!["--cluster", "create"];
        create.extend(addresses.iter().map(String::as_str));
        create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        servers[0].cli(&create);
        let cluster = Self { servers };
        cluster.wait_until_complete();
        cluster
    }

    /// Waits until each server knows all servers, and each primary has its replica.
    #[track_caller]
    pub fn wait_until_complete(&self) {
        let is_complete = |engine: &Engine| {
            let info = engine.cli(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:6")
        };
        let is_replicated = |engine: &Engine| {
            let info = engine.cli(&["INFO", "replication"]);
            info.contains("master_link_status:up") || info.contains("state=online")
        };
        eventually("the cluster is complete", || {
            self.servers.iter().all(is_complete) && self.servers.iter().all(is_replicated)
        });
    }

    /// Lets `servers` notice that a primary has been killed, and waits until the first of them has
    /// seen that its replica was promoted. All of them must be running.
    #[track_caller]
    pub fn replace_primary(servers: &[&Engine]) {
        for server in servers {
            server.cli(&["CONFIG", "SET", "cluster-node-timeout", ALERT]);
        }
        eventually("a replica is promoted", || {
            let nodes = servers[0].cli(&["CLUSTER", "NODES"]);
            let flags = nodes.lines().filter_map(|line| line.split(' ').nth(2));
            let (failed, alive): (Vec<&str>, Vec<&str>) =
                flags.partition(|flags| flags.contains("fail"));
            let primaries = alive.iter().filter(|flags| flags.contains("master"));
            !failed.is_empty() && primaries.count() == 3
        });
    }
}

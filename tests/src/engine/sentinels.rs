// SPDX-License-Identifier: MIT OR Apache-2.0

//! A primary with two replicas, and three Sentinels that watch them.

use std::{fs, path::Path};

use super::{Engine, Place, Program};
use crate::eventually;

/// The time in milliseconds after which a silent server counts as down at first. It is long,
/// because servers may be silent for seconds on a busy machine, and a test expects only its own
/// failovers.
const PATIENT: u32 = 60_000;
/// The same time from [`Sentinels::be_alert`] on.
const ALERT: u32 = 1_000;

/// The difference between the port of a Sentinel and that of the server beside it.
const SENTINEL_PORT: u16 = 20_000;

/// A primary with two replicas, and three Sentinels, each of which runs beside one of the servers.
#[derive(Debug)]
pub struct Sentinels {
    /// The servers. The first one is the primary at the start.
    pub servers: [Engine; 3],
    /// The Sentinels, in the order of the servers.
    pub sentinels: [Engine; 3],
}

impl Sentinels {
    /// The name under which the Sentinels know the primary.
    pub const PRIMARY: &'static str = "limiter";

    /// Starts servers with `options` at `places`, and waits until they and the Sentinels know each
    /// other.
    #[track_caller]
    pub fn start(
        program: Program,
        places: [Place<'_>; 3],
        directory: &Path,
        options: &[&str],
    ) -> Self {
        let [host, port] = [places[0].host, &places[0].port.to_string()];
        let primary = format!("{host} {port}");
        let mut is_primary = true;
        let servers = places.map(|place| {
            let replica: &[&str] = match std::mem::replace(&mut is_primary, false) {
                true => &[],
                false => &["--replicaof", host, port],
            };
            Engine::start(program, place, directory, &[options, replica].concat())
        });
        servers[0].wait_for_replicas(2);
        let sentinels = places.map(|place| sentinel(program, &primary, place, directory));
        let group = Self { servers, sentinels };
        eventually("the Sentinels know each other and the replicas", || {
            group.sentinels.iter().all(|sentinel| {
                let number = |name| field(sentinel, name).and_then(|text| text.parse::<u32>().ok());
                number("num-other-sentinels") == Some(2) && number("num-slaves") == Some(2)
            })
        });
        group
    }

    /// Makes the Sentinels promote a replica when the primary has been silent for a second. Until
    /// then, they do not notice that it is silent.
    pub fn be_alert(&self) {
        let alert = ALERT.to_string();
        let option = ["down-after-milliseconds", &alert];
        for sentinel in &self.sentinels {
            sentinel.cli(&[&["SENTINEL", "SET", Self::PRIMARY][..], &option].concat());
        }
    }

    /// Returns the index of the server that is the primary in the view of the Sentinel with the
    /// index `sentinel`.
    #[must_use]
    pub fn primary(&self, sentinel: usize) -> Option<usize> {
        let sentinel = &self.sentinels[sentinel];
        let [host, port] = ["ip", "port"].map(|name| field(sentinel, name));
        let place = (host?, port?.parse().ok()?);
        self.servers
            .iter()
            .position(|server| (&server.host, server.port) == (&place.0, place.1))
    }
}

/// Returns a field of the description of the primary by a Sentinel.
fn field(sentinel: &Engine, name: &str) -> Option<String> {
    let state = sentinel.cli(&["SENTINEL", "MASTER", Sentinels::PRIMARY]);
    let value = state.lines().skip_while(|line| *line != name).nth(1);
    value.map(str::to_owned)
}

fn sentinel(program: Program, primary: &str, server: Place<'_>, directory: &Path) -> Engine {
    let place = Place {
        port: server.port + SENTINEL_PORT,
        ..server
    };
    let (name, host, port) = (Sentinels::PRIMARY, place.host, place.port);
    let file = directory.join(format!("sentinel-{host}-{port}.conf"));
    let text = format!(
        "port {port}\nbind {host}\nprotected-mode no\nsentinel monitor {name} {primary} 2\n\
         sentinel down-after-milliseconds {name} {PATIENT}\nsentinel failover-timeout {name} 5000\n"
    );
    fs::write(&file, text).expect("the configuration of a Sentinel");
    let options = [file.to_str().expect("a path"), "--sentinel"];
    Engine::start(program, place, directory, &options)
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Several hosts that share daily quotas through an engine.

mod network;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::Value;

use self::network::INTERFACE;
pub use self::network::{End, Network};
use crate::{
    Config, Conn, GUARDED, Lab, Limiter, Net, Nginx, Response, Rig,
    clock::{self, Span},
    engine::{Cluster, Engine, Program, Secured, Sentinels},
};

/// The port of each server of the engine.
const PORT: u16 = 6379;

/// The hash secret of all hosts.
pub const SECRET: [u8; 16] = *b"the same for all";

/// The name of the file with the hash secret in the state directory.
const SECRET_FILE: &str = "hash.key";

/// With these options, an engine that is killed has lost no change that it has confirmed.
pub const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// Some hosts, each with a client, nginx and a daemon, and an engine that all of them can reach.
/// Fields are dropped in the order of their declaration, so the daemons end first.
#[derive(Debug)]
pub struct Hosts<E = Engine> {
    pub rigs: Vec<Rig>,
    pub engine: E,
    pub network: Network,
}

/// An engine that the configuration of a host can name.
pub trait ForHosts {
    /// Returns the lines of the section `[fleet]` that lead to the engine.
    fn entries(&self) -> String;
}

impl ForHosts for Engine {
    fn entries(&self) -> String {
        plain(&[self])
    }
}

impl ForHosts for Sentinels {
    fn entries(&self) -> String {
        let addresses = plain(&self.sentinels.each_ref());
        format!(
            "{addresses}kind = \"sentinel\"\nmaster = \"{}\"\n",
            Self::PRIMARY
        )
    }
}

impl ForHosts for Cluster {
    fn entries(&self) -> String {
        plain(&self.servers.each_ref()) + "kind = \"cluster\"\n"
    }
}

impl ForHosts for Secured {
    fn entries(&self) -> String {
        let Engine { host, port, .. } = &self.engine;
        let password = self.password_file(Self::PASSWORD);
        format!(
            "engine = [\"rediss://{host}:{port}\"]\nuser = {:?}\npassword_file = {password:?}\n\
             ca_file = {:?}\n",
            Self::USER,
            self.authority.certificate
        )
    }
}

/// Returns the lines for servers or Sentinels without TLS.
fn plain(servers: &[&Engine]) -> String {
    let addresses: Vec<String> = servers.iter().map(|server| server.url()).collect();
    format!("engine = {addresses:?}\nallow_plain = true\n")
}

/// An answer to a request, as a client of a fleet has to understand it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Admitted,
    /// The quota is used up: the client is told to come back at midnight.
    UsedUp,
    /// The client is told to come back after these seconds.
    Later(u64),
}

impl Hosts {
    /// Starts an engine of one server and `count` hosts, which form a fleet. `configure` changes
    /// the configuration of each host.
    #[track_caller]
    pub fn in_fleet(
        program: Program,
        count: usize,
        configure: impl Fn(Config) -> Config + Copy,
    ) -> Self {
        let mut hosts = Self::alone(program);
        hosts.form_fleet(count, configure);
        hosts
    }

    /// Starts an engine of one server that has no hosts yet.
    #[track_caller]
    pub fn alone(program: Program) -> Self {
        Self::on(1, |network| {
            Engine::start(
                program,
                network.place(0, PORT),
                network.directory(),
                &DURABLE,
            )
        })
    }
}

impl Hosts<Sentinels> {
    /// Starts a primary with two replicas, and three Sentinels, which have no hosts yet.
    #[track_caller]
    pub fn with_sentinels(program: Program) -> Self {
        Self::on(3, |network| {
            let places = [0, 1, 2].map(|index| network.place(index, PORT));
            Sentinels::start(
                program,
                places,
                network.directory(),
                &["--appendonly", "yes"],
            )
        })
    }
}

impl Hosts<Cluster> {
    /// Starts a cluster of six servers, which has no hosts yet.
    #[track_caller]
    pub fn with_cluster(program: Program) -> Self {
        Self::on(6, |network| {
            let places = [0, 1, 2, 3, 4, 5].map(|index| network.place(index, PORT));
            Cluster::start(program, places, network.directory())
        })
    }
}

impl Hosts<Secured> {
    /// Starts a server with TLS that has no hosts yet. The user of limiter has exactly the rights
    /// that `limiter fleet acl` prints.
    #[track_caller]
    pub fn with_tls() -> Self {
        let printed = Limiter::alone(&["fleet", "acl", "--user", Secured::USER]);
        let user = printed.stdout.replace("PASSWORD", Secured::PASSWORD);
        Self::on(1, |network| {
            Secured::start(
                network.place(0, PORT),
                network.directory(),
                user.trim(),
                &DURABLE,
            )
        })
    }
}

impl<E: ForHosts> Hosts<E> {
    /// Starts an engine on a network with places for `servers` servers.
    fn on(servers: usize, start: impl FnOnce(&Network) -> E) -> Self {
        let network = Network::new(servers);
        Self {
            rigs: Vec::new(),
            engine: start(&network),
            network,
        }
    }

    /// Starts `count` hosts, which form a fleet. There must be no other hosts.
    #[track_caller]
    pub fn form_fleet(&mut self, count: usize, configure: impl Fn(Config) -> Config + Copy) {
        for _ in 0..count {
            self.add(&SECRET, configure);
        }
        self.start_fleet();
    }

    /// Starts the daemons of all hosts, which form a fleet.
    #[track_caller]
    pub fn start_fleet(&mut self) {
        for rig in &mut self.rigs {
            rig.limiter.launch(&[]);
        }
        for rig in &mut self.rigs {
            rig.limiter.wait_until_ready();
        }
        self.rigs[0].limiter.done(&["fleet", "init"]);
        // The other hosts have no scopes yet, so they join by themselves.
        self.wait_for_members(self.rigs.len());
    }

    /// Adds a host with the hash secret `secret`, whose daemon does not run yet, and returns it.
    pub fn add(&mut self, secret: &[u8], configure: impl FnOnce(Config) -> Config) -> &mut Rig {
        let lab = Lab::new(Net::Veth);
        // A request that the kernel holds is sent again sooner.
        lab.tune_for_packet_loss();
        let index = self.rigs.len();
        self.network.connect_host(index, lab.server());
        let nginx = Nginx::start(&lab, &[GUARDED]);
        let name = format!("host = \"web-{}\"\n", index + 1);
        let config = Config::new(&lab).section("fleet", &(self.engine.entries() + &name));
        let limiter = Limiter::prepare(&lab, "limiter", &configure(config));
        write_secret(&limiter, secret);
        self.rigs.push(Rig {
            limiter,
            nginx,
            lab,
        });
        self.rigs.last_mut().expect("just added")
    }
}

impl<E> Hosts<E> {
    /// Waits until each host is a part of the fleet and knows `count` hosts.
    #[track_caller]
    pub fn wait_for_members(&self, count: usize) {
        for rig in &self.rigs {
            clock::eventually("the host has joined the fleet", || {
                let status = status(rig);
                let hosts = status["hosts"].as_array().map_or(0, Vec::len);
                status["fleet"].is_string() && hosts == count
            });
        }
    }

    /// Creates a scope and a key for it on the first host, waits until all hosts have both, and
    /// returns the key.
    #[track_caller]
    pub fn key(&self, scope: &str) -> String {
        let key = self.rigs[0].limiter.key(scope);
        self.wait_for_changes();
        key
    }

    /// Changes the daily quota of a scope on the first host, and waits until all hosts have the
    /// change.
    #[track_caller]
    pub fn set_quota(&self, scope: &str, daily: u64) {
        self.rigs[0].limiter.set_quota(scope, daily);
        self.wait_for_changes();
    }

    /// Waits until all hosts have the present version of the registry.
    #[track_caller]
    pub fn wait_for_changes(&self) {
        for rig in &self.rigs {
            clock::eventually("the host has all changes", || {
                let status = status(rig);
                status["version"] == status["engine"]["version"]
            });
        }
    }

    /// Returns the number of requests with `key` that have reached the servers of all hosts.
    pub fn served(&self, key: &str) -> u64 {
        self.rigs.iter().map(|rig| rig.nginx.served(key)).sum()
    }

    /// Asserts that the servers have received `expected` requests with `key`, and that the hosts
    /// have charged the same number to the scope of the key. All daemons must be running, and so
    /// must the engine.
    #[track_caller]
    pub fn assert_charged_as_served(&self, scope: &str, key: &str, expected: u64) {
        // After a failover, a host may need a moment to find the new primary.
        let (usages, charged) = clock::eventually_some("each host asks all hosts", || {
            let usages: Vec<_> = self
                .rigs
                .iter()
                .map(|rig| rig.limiter.usage(scope))
                .collect();
            let charged = usages
                .iter()
                .map(|usage| usage.host_used)
                .sum::<Option<u64>>();
            Some((usages, charged?))
        });
        assert_eq!(
            (self.served(key), charged),
            (expected, expected),
            "served and charged: {usages:?}"
        );
        // Each host knows the sum over all hosts.
        for usage in &usages {
            assert_eq!(usage.used, expected, "{usages:?}");
        }
    }
}

/// Writes the hash secret into the state directory of a daemon that has not been started yet.
fn write_secret(limiter: &Limiter, secret: &[u8]) {
    let state = limiter.state_dir();
    fs::create_dir_all(&state).expect("the state directory");
    let mode = |path: &Path, mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(path, permissions).expect("the mode of a private file");
    };
    mode(&state, 0o700);
    let file = state.join(SECRET_FILE);
    fs::write(&file, secret).expect("write the secret");
    mode(&file, 0o600);
}

/// Cuts the connection between a host and the engine.
pub fn cut_off(rig: &Rig) {
    let server = rig.lab.server();
    server.ip(&format!("link set {INTERFACE} down"));
}

/// Restores the connection between a host and the engine.
pub fn reconnect(rig: &Rig) {
    let server = rig.lab.server();
    server.ip(&format!("link set {INTERFACE} up"));
}

/// Returns the output of `limiter fleet status` on a host.
#[track_caller]
pub fn status(rig: &Rig) -> Value {
    rig.limiter.json(&["fleet", "status"])
}

/// Returns the number of requests that a host may still admit from its leases.
#[track_caller]
pub fn left(rig: &Rig) -> u64 {
    let status = status(rig);
    let left = status["leases"]["left"].as_u64();
    left.unwrap_or_else(|| panic!("no leases in {status}"))
}

impl Verdict {
    /// Returns the meaning of a response to a request that was sent and answered within `span`.
    ///
    /// # Panics
    /// Panics if the response is neither that of the server nor a refusal by the daily quota.
    #[track_caller]
    pub fn of(response: &Response, span: Span) -> Self {
        if response.status == 200 {
            return Self::Admitted;
        }
        assert_eq!(response.status, 429, "{response:?}");
        assert_eq!(response.violated(), ["daily-quota"]);
        let wait = response.required("retry-after").trim().parse();
        let seconds = wait.unwrap_or_else(|_| panic!("no seconds in {response:?}"));
        if span.leads_to_midnight(seconds) {
            Self::UsedUp
        } else {
            Self::Later(seconds)
        }
    }
}

/// Sends one request to a host, on a connection of its own.
#[track_caller]
pub fn ask(lab: &Lab, key: &str) -> Verdict {
    ask_on(&mut lab.connect(GUARDED), key)
}

/// Sends one request on a connection.
#[track_caller]
pub fn ask_on(conn: &mut Conn, key: &str) -> Verdict {
    let (response, span) = Span::around(|| conn.get("/", key));
    Verdict::of(&response, span)
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Helpers of the tests.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use limiter_common::day::Day;
use limiter_fleet::{
    Answer, Call, Failure, Purpose, Status,
    client::{Access, Client, Error, Kind, Settings},
};
use limiter_tests::{
    Lab, avoid_midnight,
    clock::{TIMEOUT, unix_now},
    engine::{Engine, Place, Program},
};

/// The scope of most calls.
pub const SCOPE: &str = "acme";
pub const QUOTA: u64 = 1_000;

/// The maximum duration of a test. A test waits until midnight UTC has passed if it could not end
/// before it.
const MAX_DURATION: Duration = Duration::from_secs(120);

/// Returns the settings for servers without TLS.
pub fn settings(kind: Kind, engines: &[&Engine]) -> Settings {
    let address = |engine: &&Engine| engine.url().parse().expect("an address");
    Settings {
        kind,
        addresses: engines.iter().map(address).collect(),
        access: Access::default(),
        confirmations: None,
    }
}

/// Starts a server at a port of the lab's loopback address.
pub fn server(program: Program, lab: &Lab, port: u16, options: &[&str]) -> Engine {
    let place = Place::local(lab.server(), port);
    Engine::start(program, place, lab.directory(), options)
}

/// Starts a primary and a replica that follows it.
pub fn pair(program: Program, lab: &Lab) -> (Engine, Engine) {
    let primary = server(program, lab, 6379, &[]);
    let replica = server(program, lab, 6380, &["--replicaof", "127.0.0.1 6379"]);
    primary.wait_for_replicas(1);
    (primary, replica)
}

/// Runs `work` in the network namespace of a new lab, which exists until `work` ends.
pub fn run(work: impl AsyncFnOnce(&Lab) + Send) {
    avoid_midnight(MAX_DURATION);
    let lab = Lab::loopback();
    lab.server().enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(work(&lab));
    });
}

/// A client that numbers its calls.
pub struct Host {
    pub client: Client,
    number: Cell<u64>,
}

impl Host {
    pub fn new(settings: Settings, name: &str) -> Self {
        Self {
            client: Client::new(settings, name),
            number: Cell::new(0),
        }
    }

    /// Returns a call of today for a host that knows of a lease.
    pub fn call(&self, lease: u64, used: u64, purpose: Purpose) -> Call {
        self.number.set(self.number.get() + 1);
        Call {
            scope: 0,
            day: today(),
            generation: 0,
            quota: QUOTA,
            lease,
            used,
            purpose,
            number: self.number.get(),
        }
    }

    /// Asks for a lease of [`SCOPE`].
    pub async fn ask(
        &mut self,
        lease: u64,
        purpose: Purpose,
    ) -> (Result<Answer, Failure>, Option<Error>) {
        let call = self.call(lease, lease, purpose);
        let (mut results, error) = self.client.lease(&[(SCOPE.to_owned(), call)]).await;
        (results.remove(0), error)
    }

    /// Asks until the engine grants leases again, and returns the answer.
    pub async fn ask_until_granted(&mut self, lease: u64, purpose: Purpose) -> Answer {
        let start = Instant::now();
        loop {
            let (result, error) = self.ask(lease, purpose).await;
            match result {
                Ok(answer) if answer.status != Status::Learning => return answer,
                result => assert!(start.elapsed() < TIMEOUT, "{result:?}, {error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

pub fn today() -> Day {
    Day((unix_now() / 86_400) as u32)
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The time from a revocation on one host until the other hosts refuse the key.
//!
//! In each round, clients send requests with a new key to all other hosts, one after the other on
//! a connection, until the first one is refused.

use std::{
    fmt,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use limiter_tests::{GUARDED, Hosts, Rig, avoid_midnight, bench::Target, engine::Program};
use serde_json::{Value, json};

use crate::times::Times;

pub const NAME: &str = "revocation";

const HOSTS: usize = 3;
const ROUNDS: usize = 30;
const QUICK_ROUNDS: usize = 3;
/// The maximum duration of this part, which must not run past midnight UTC.
const LONGEST: Duration = Duration::from_secs(180);

const SCOPE: &str = "acme/revoked";
/// The pause of a client after a response.
const PAUSE: Duration = Duration::from_millis(1);
/// The time within which all hosts have to refuse the key, in ms.
const WANTED: f64 = 1_000.0;

/// The times from the start of `limiter key revoke` to two events.
pub struct Revocations {
    /// The last of the other hosts has refused a request.
    refused: Times,
    /// The command has ended.
    ended: Times,
}

pub fn measure(quick: bool) -> Revocations {
    avoid_midnight(LONGEST);
    let hosts = Hosts::in_fleet(Program::Redis7, HOSTS, |config| config);
    hosts.rigs[0].limiter.scope(SCOPE);
    let rounds = if quick { QUICK_ROUNDS } else { ROUNDS };
    let (refused, ended): (Vec<_>, Vec<_>) = (0..rounds).map(|_| round(&hosts)).unzip();
    Revocations {
        refused: refused.into_iter().collect(),
        ended: ended.into_iter().collect(),
    }
}

/// Returns the times until all other hosts refuse the key, and until the command has ended.
fn round(hosts: &Hosts) -> (Duration, Duration) {
    let (first, others) = hosts.rigs.split_first().expect("there is a host");
    let made = first.limiter.json(&["key", "create", SCOPE]);
    let text = |name: &str| made[name].as_str().expect("a new key").to_owned();
    let (key, id) = (text("key"), text("id"));
    hosts.wait_for_changes();
    let (admitted, admissions) = mpsc::channel();
    thread::scope(|threads| {
        let clients: Vec<_> = others
            .iter()
            .map(|rig| {
                let admitted = admitted.clone();
                let key = &key;
                threads.spawn(move || ask_until_refused(rig, key, &admitted))
            })
            .collect();
        for _ in others {
            admissions.recv().expect("each host admits a request");
        }
        let begun = Instant::now();
        first.limiter.done(&["key", "revoke", &id]);
        let ended = begun.elapsed();
        let refused = clients
            .into_iter()
            .map(|client| client.join().expect("a client"))
            .max()
            .expect("there are other hosts");
        (refused.duration_since(begun), ended)
    })
}

/// Sends requests until one is refused, and returns the time of that refusal. The first admission
/// is reported to `admitted`.
fn ask_until_refused(rig: &Rig, key: &str, admitted: &mpsc::Sender<()>) -> Instant {
    let mut conn = rig.lab.connect(GUARDED);
    let mut has_reported = false;
    loop {
        match conn.get("/", key).status {
            200 => {
                if !has_reported {
                    admitted.send(()).expect("the round waits for this");
                    has_reported = true;
                }
            }
            401 if has_reported => return Instant::now(),
            status => panic!("the status is {status}"),
        }
        thread::sleep(PAUSE);
    }
}

impl Revocations {
    pub fn targets(&self) -> impl Iterator<Item = Target> {
        let name = "a revoked key is refused on all other hosts, ms: max";
        [Target::at_most(name, WANTED, self.refused.max())].into_iter()
    }

    pub fn json(&self) -> Value {
        json!({"refused": self.refused.json(), "command_ended": self.ended.json()})
    }
}

impl fmt::Display for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles = Times::titles("limiter key revoke, from its start until");
        writeln!(f, "\n{titles}")?;
        let refused = "both other hosts have refused a request with the key";
        writeln!(f, "{}", self.refused.line(refused))?;
        writeln!(f, "{}", self.ended.line("the command has ended"))
    }
}

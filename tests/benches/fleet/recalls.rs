// SPDX-License-Identifier: MIT OR Apache-2.0

//! The time until a host gets the lease that another host does not use.
//!
//! In each round, one host has used half of a new quota of two requests, and its lease contains the
//! other one. After a while, another host receives a request. The kernel holds this request, the
//! host asks the engine, which has nothing left and therefore asks for a recall, and the first host
//! gives its lease back. A connection to the engine shows when that is recorded. The request is
//! admitted when the client's TCP sends it again.

use std::{
    fmt,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use limiter_common::day::Day;
use limiter_fleet::account_key;
use limiter_tests::{
    GUARDED, Hosts, Rig, avoid_midnight,
    bench::Target,
    clock::{TIMEOUT, unix_now},
    engine::Program,
    eventually,
    hosts::{self, Verdict},
};
use serde_json::{Value, json};

use crate::times::Times;

pub const NAME: &str = "recall";

const HOSTS: usize = 3;
const ROUNDS: usize = 30;
const QUICK_ROUNDS: usize = 3;
/// The maximum duration of this part, which must not run past midnight UTC.
const LONGEST: Duration = Duration::from_secs(180);

/// The daily quota of each scope.
const QUOTA: u64 = 2;
/// The smallest retransmission timeout of Linux, in µs. The hosts of the tests have a shorter one.
const RETRANSMISSION_TIMEOUT: &str = "200000";
/// The time before the request. The holder has called for a recall when it leased the last request,
/// in vain. The engine does not repeat this recall within 0.2 s, and the hosts hear of it again
/// with their next heartbeat, up to a second later.
const IDLE: Duration = Duration::from_millis(1_500);
/// The interval between two looks at the engine's account.
const LOOK: Duration = Duration::from_micros(500);
/// The time within which an idle lease has to be back, in ms.
const WANTED: f64 = 200.0;

/// The times from a request to two events.
pub struct Recalls {
    /// The lease is free in the engine's account.
    returned: Times,
    /// The client has the response to the request.
    admitted: Times,
}

pub fn measure(quick: bool) -> Recalls {
    avoid_midnight(LONGEST);
    let hosts = Hosts::in_fleet(Program::Redis7, HOSTS, |config| {
        config.tier("profile", &format!("daily_quota = {QUOTA}"))
    });
    for rig in &hosts.rigs {
        let client = rig.lab.client();
        client.set_if_there("net/ipv4/tcp_rto_min_us", RETRANSMISSION_TIMEOUT);
    }
    let rounds = if quick { QUICK_ROUNDS } else { ROUNDS };
    let (returned, admitted): (Vec<_>, Vec<_>) =
        (0..rounds).map(|number| round(&hosts, number)).unzip();
    Recalls {
        returned: returned.into_iter().collect(),
        admitted: admitted.into_iter().collect(),
    }
}

/// Returns the times until the lease is back, and until the request is admitted.
fn round(hosts: &Hosts, number: usize) -> (Duration, Duration) {
    let [holder, other, ..] = hosts.rigs.as_slice() else {
        panic!("{HOSTS} hosts")
    };
    let scope = format!("acme/recalled-{number}");
    let key = hosts.key(&scope);
    assert_eq!(hosts::ask(&holder.lab, &key), Verdict::Admitted);
    eventually("the lease contains the rest", || hosts::left(holder) == 1);
    thread::sleep(IDLE);
    let mut account = Account::of(hosts, holder, &scope);
    assert_eq!(account.lease(), QUOTA);
    let mut conn = other.lab.connect(GUARDED);
    let (looking, looks) = mpsc::channel();
    thread::scope(|threads| {
        let returned = threads.spawn(move || {
            looking.send(()).expect("the round waits for this");
            let begun = Instant::now();
            while account.lease() == QUOTA {
                assert!(begun.elapsed() < TIMEOUT, "the lease does not come back");
                thread::sleep(LOOK);
            }
            Instant::now()
        });
        looks.recv().expect("the account is looked at");
        let asked = Instant::now();
        assert_eq!(hosts::ask_on(&mut conn, &key), Verdict::Admitted);
        let admitted = asked.elapsed();
        let returned = returned.join().expect("the lease comes back");
        (returned.duration_since(asked), admitted)
    })
}

/// A connection to the engine that reads the lease of a host on a scope.
struct Account {
    stream: BufReader<TcpStream>,
    command: String,
}

impl Account {
    fn of(hosts: &Hosts, rig: &Rig, scope: &str) -> Self {
        let place = (hosts.engine.host.as_str(), hosts.engine.port);
        let stream = rig.lab.server().enter(|| TcpStream::connect(place));
        let status = hosts::status(rig);
        let host = status["host"].as_str().expect("the id of the host");
        let account = account_key(scope, Day((unix_now() / 86_400) as u32));
        Self {
            stream: BufReader::new(stream.expect("a connection to the engine")),
            command: format!("HGET {account} h:{host}\r\n"),
        }
    }

    /// Returns the lease. The protocol of the engine is described at
    /// <https://redis.io/docs/latest/develop/reference/protocol-spec/>.
    fn lease(&mut self) -> u64 {
        let command = self.command.as_bytes();
        self.stream
            .get_mut()
            .write_all(command)
            .expect("the engine takes the command");
        let mut reply = String::new();
        // The length of the value comes first.
        for _ in 0..2 {
            reply.clear();
            self.stream.read_line(&mut reply).expect("a reply");
        }
        let lease = reply
            .split_once(':')
            .and_then(|(lease, _)| lease.parse().ok());
        lease.unwrap_or_else(|| panic!("no lease in {reply:?}"))
    }
}

impl Recalls {
    pub fn targets(&self) -> impl Iterator<Item = Target> {
        let back = "an idle lease is back, ms: ";
        [
            Target::at_most(format!("{back}p50"), WANTED, self.returned.p50()),
            Target::at_most(format!("{back}max"), WANTED, self.returned.max()),
        ]
        .into_iter()
    }

    pub fn json(&self) -> Value {
        json!({"returned": self.returned.json(), "admitted": self.admitted.json()})
    }
}

impl fmt::Display for Recalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles = Times::titles("another host has leased the rest, from the request until");
        writeln!(f, "\n{titles}")?;
        let returned = "that host has given it back in the engine's account";
        writeln!(f, "{}", self.returned.line(returned))?;
        writeln!(f, "{}", self.admitted.line("the request is admitted"))
    }
}

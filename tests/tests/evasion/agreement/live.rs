// SPDX-License-Identifier: MIT OR Apache-2.0

//! Agreement with real servers behind the limiter. Every request that a server serves must have
//! been charged to the scope of the key that the server found in the request.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::{self, ErrorKind},
};

use limiter_tests::{
    Config, GUARDED, Lab, Limiter, Nginx, clock, limiter::Usage, nginx::Access, process::Process,
    tools,
};
use proptest::{
    collection::vec,
    prelude::any,
    sample::Index,
    strategy::{Strategy as _, ValueTree as _},
};
use serde_json::Value;

use super::{
    peers,
    rule::{self, Fields},
    wild::{self, Stream},
};

/// The number of streams, which `LIMITER_CASES` and `LIMITER_LONG` can change ([`wild::runner`]).
const CASES: u32 = 240;

/// The keys that the streams contain. Each key belongs to a scope of its own.
const KEYS: [&str; 6] = [
    "alpha",
    "beta",
    "gamma",
    "YWxwaGE6",
    "YmV0YTo=",
    "Z2FtbWE6Zw==",
];

/// A server that records what it serves.
enum Server {
    Nginx(Nginx),
    Script(Process),
}

impl Server {
    fn script(lab: &Lab, program: &str, option: &str, text: &str) -> Self {
        let mut command = lab.server().command(program);
        command.args([option, text, &GUARDED.to_string()]);
        let process = Process::start(program, &mut command, &lab.file("served"));
        clock::eventually("the server listens", || lab.listens(GUARDED));
        Self::Script(process)
    }

    /// Returns the fields of all requests that have been served so far.
    fn served(&self) -> Vec<Fields> {
        match self {
            Self::Nginx(nginx) => {
                // nginx also logs requests that it rejects before it has read the whole head, and
                // therefore does not serve: malformed requests (400), slow requests (408), and
                // requests with an unknown version (505), which nginx rejects at the first digit of
                // the version.
                let served = |access: &Access| !matches!(access.status, 400 | 408 | 505);
                let log = nginx.log().into_iter().filter(served);
                log.map(|access| {
                    let fields = [
                        ("x-api-key", access.api_key),
                        ("authorization", access.authorization),
                    ];
                    fields
                        .map(|(name, value)| (name.into(), value.into_bytes()))
                        .into()
                })
                .collect()
            }
            Self::Script(process) => {
                let log = process.log();
                let lines = log.lines().filter(|line| line.starts_with('{'));
                lines
                    .map(|line| {
                        let line: Value = serde_json::from_str(line).expect("a line of JSON");
                        peers::fields(&line["fields"])
                    })
                    .collect()
            }
        }
    }
}

/// The numbers of requests that have been served or charged so far, for each key and in total.
#[derive(Clone, Debug, Default)]
struct Counts {
    keys: BTreeMap<String, u64>,
    /// The number of all requests, with or without a key.
    all: u64,
}

struct Rig {
    limiter: Limiter,
    server: Server,
    lab: Lab,
    /// The counts before the last stream, and the counts before the stream that preceded it. Each
    /// element has the counts of served requests, and then those of charged requests.
    before: RefCell<[[Counts; 2]; 2]>,
}

/// Returns the increase of each number between `before` and `now`.
fn since(now: &[Counts; 2], before: &[Counts; 2]) -> [Counts; 2] {
    let mut since = now.clone();
    for (since, before) in since.iter_mut().zip(before) {
        since.all -= before.all;
        for (key, count) in &mut since.keys {
            *count -= before.keys.get(key).copied().unwrap_or_default();
        }
    }
    since
}

impl Rig {
    fn start(server: impl FnOnce(&Lab) -> Server) -> Self {
        let lab = Lab::veth();
        // With this setting, bytes that were dropped are soon retransmitted. Without it, a run
        // would spend most of its time waiting for retransmissions.
        lab.client()
            .ip("route change 192.0.2.0/24 dev c0 rto_min 10ms");
        let server = server(&lab);
        let config = Config::new(&lab).sources(r#"["header:x-api-key", "bearer", "basic"]"#);
        let limiter = Limiter::start(&lab, &config);
        for (number, key) in KEYS.iter().enumerate() {
            let scope = format!("acme/{number}");
            limiter.scope(&scope);
            let output = limiter.cli_with_input(&["key", "import", &scope], &format!("{key}\n"));
            assert_eq!(output.code, 0, "{output:?}");
        }
        Self {
            limiter,
            server,
            lab,
            before: RefCell::default(),
        }
    }

    fn served_so_far(&self) -> Counts {
        let mut counts = Counts::default();
        for fields in self.server.served() {
            counts.all += 1;
            if let Some(Some((_, key))) = rule::keys(&fields).first() {
                *counts.keys.entry(key.clone()).or_default() += 1;
            }
        }
        counts
    }

    fn charged_so_far(&self) -> Counts {
        let status = self.limiter.status();
        let number = |name: &str| status["totals"][name].as_u64().expect("a number");
        let usage = self.limiter.json(&["usage"]);
        let scopes = usage.as_array().expect("a list").iter().map(Usage::parse);
        let keys = scopes.filter_map(|usage| {
            let number = usage.scope.strip_prefix("acme/")?.parse::<usize>().ok()?;
            Some((KEYS[number].to_owned(), usage.used))
        });
        Counts {
            keys: keys.collect(),
            all: number("admitted") + number("missing_key") + number("unknown_key"),
        }
    }

    /// Sends a stream, and asserts that all requests that the server served from it were charged.
    fn check(&self, bytes: &[u8], cuts: &[usize], v6: bool) {
        self.send(bytes, cuts, v6);
        self.check_charged(bytes, cuts);
    }

    /// Asserts that all requests that the server served from the last stream were charged.
    fn check_charged(&self, bytes: &[u8], cuts: &[usize]) {
        Nginx::wait_until_no_sockets(&self.lab, GUARDED);
        let now = [self.served_so_far(), self.charged_so_far()];
        let mut before = self.before.borrow_mut();
        // If the server's socket for the previous stream was reset, the server may log the last
        // requests of that stream late. The present counts are therefore compared with those before
        // the last stream, and also with those before the previous one. One of the two comparisons
        // has to succeed.
        let covered = before.iter().any(|before| {
            let [served, charged] = since(&now, before);
            let of_key = |(key, count): (&String, &u64)| {
                charged.keys.get(key).is_none_or(|charged| charged >= count)
            };
            served.all <= charged.all && served.keys.iter().all(of_key)
        });
        assert!(
            covered,
            "served and charged {:?} of {:?}, cut at {cuts:?}",
            since(&now, &before[0]),
            Stream(bytes.to_vec())
        );
        before[1] = std::mem::replace(&mut before[0], now);
    }

    /// Sends a stream in pieces that end at `cuts`, and waits until the connection ends.
    fn send(&self, bytes: &[u8], cuts: &[usize], v6: bool) {
        let address = if v6 { self.lab.v6() } else { self.lab.v4() };
        let mut conn = self.lab.connect_to(address, GUARDED);
        let mut from = 0;
        for &to in cuts.iter().chain([&bytes.len()]) {
            // The connection may already have ended, for example with a refusal.
            if from < to && conn.try_send(&bytes[from..to]).is_err() {
                break;
            }
            from = from.max(to);
        }
        conn.finish();
        assert_ended(&conn.rest(), bytes);
    }
}

/// Asserts that the connection on which `bytes` were sent has ended, with a FIN or with a reset.
fn assert_ended(fate: &io::Result<Vec<u8>>, bytes: &[u8]) {
    let waits = matches!(fate, Err(error) if error.kind() == ErrorKind::WouldBlock);
    assert!(
        !waits,
        "no response and no end after {:?}",
        Stream(bytes.to_vec())
    );
}

/// Sends random streams to a server, and asserts that all served requests were charged.
fn assert_random_streams_charged(server: impl Fn(&Lab) -> Server) {
    let mut runner = wild::runner(CASES);
    let strategy = (wild::stream(), vec(any::<Index>(), 0..5), any::<bool>());
    let cases = runner.config().cases;
    let mut served = 0;
    // The cases are divided among several servers, because the whole log of a server is read again
    // after each stream.
    for from in (0..cases).step_by(CASES as usize) {
        let rig = Rig::start(&server);
        for _ in from..cases.min(from + CASES) {
            let tree = strategy.new_tree(&mut runner).expect("a stream");
            let (Stream(bytes), cuts, v6) = tree.current();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            rig.check(&bytes, &cuts, v6);
        }
        served += rig.before.borrow()[0][0].all;
    }
    // The test would prove nothing if nearly all streams were refused.
    assert!(
        served > u64::from(cases) / 8,
        "{served} requests of {cases} streams were served"
    );
}

#[test]
fn requests_that_nginx_serves_are_charged() {
    let timeouts = "client_header_timeout 3s; client_body_timeout 3s;";
    assert_random_streams_charged(|lab| {
        Server::Nginx(Nginx::start_with(lab, &[GUARDED], timeouts))
    });
}

#[test]
fn requests_that_node_serves_are_charged() {
    let text = include_str!("../../../peers/node_server.js");
    assert_random_streams_charged(|lab| Server::script(lab, "node", "-e", text));
}

#[test]
fn requests_that_python_serves_are_charged() {
    assert_random_streams_charged(python);
}

/// Streams that end within a head. Python treats the end of the connection as the end of the head.
/// If the client's FIN reached Python, Python would serve a request that the limiter has not
/// charged.
const CUT_OFF: [&str; 3] = [
    "GET / HTTP/1.1\r\nHost: h\r\nX-Api-Key: alpha\r\n",
    "GET / HTTP/1.1\r\nX-Api-Key: alpha",
    "GET / HTTP/1.1\r\nX-Api-Key: beta\r\n\r\nGET / HTTP/1.1\r\nX-Api-Key: alpha\r\n",
];

fn python(lab: &Lab) -> Server {
    let text = include_str!("../../../peers/python_server.py");
    Server::script(lab, tools::PYTHON, "-c", text)
}

#[test]
fn a_request_whose_head_is_cut_off_is_not_served() {
    let rig = Rig::start(python);
    for stream in CUT_OFF {
        rig.check(stream.as_bytes(), &[20], false);
    }
}

#[test]
fn head_cut_off_in_its_own_segment_stalls_no_connection() {
    let rig = Rig::start(python);
    for stream in CUT_OFF {
        let bytes = stream.as_bytes();
        let mut conn = rig.lab.connect(GUARDED);
        conn.send_with_end(bytes);
        assert_ended(&conn.rest(), bytes);
        rig.check_charged(bytes, &[]);
    }
}

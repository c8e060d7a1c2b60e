//! Agreement with real servers behind the limiter: whatever of a stream they serve was charged, to
//! the scope of the key that they have found.

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

use crate::{
    agreement::{self, Fields},
    peers,
    wild::{self, Stream},
};

/// Streams of a run that is not told how many.
const CASES: u32 = 240;

/// The keys that streams have, each of a scope of its own: of two no use should be made.
const KEYS: [&str; 6] = [
    "alpha",
    "beta",
    "gamma",
    "YWxwaGE6",
    "YmV0YTo=",
    "Z2FtbWE6Zw==",
];

/// A server that notes what it serves.
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

    /// The fields of all requests served so far.
    fn served(&self) -> Vec<Fields> {
        match self {
            Self::Nginx(nginx) => {
                // What it gives up on within the head it notes too: as malformed, as too slow, or
                // from the first digit of a version that it does not know on.
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

/// What was served, or charged, so far.
#[derive(Clone, Debug, Default)]
struct Counts {
    keys: BTreeMap<String, u64>,
    /// Of any key, or none.
    all: u64,
}

struct Rig {
    limiter: Limiter,
    server: Server,
    lab: Lab,
    /// What was served and charged before the stream, and before the one before it.
    before: RefCell<[[Counts; 2]; 2]>,
}

/// What came to it since `before`.
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
        // What is dropped is sent again at once: most of a run would be waiting for that.
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
            if let Some(Some((_, key))) = agreement::keys(&fields).first() {
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

    /// Sends a stream; what is served of it must have been charged.
    fn check(&self, bytes: &[u8], cuts: &[usize], v6: bool) {
        self.send(bytes, cuts, v6);
        self.check_charged(bytes, cuts);
    }

    /// What was served of the stream that was sent last must have been charged.
    fn check_charged(&self, bytes: &[u8], cuts: &[usize]) {
        Nginx::wait_until_no_sockets(&self.lab, GUARDED);
        let now = [self.served_so_far(), self.charged_so_far()];
        let mut before = self.before.borrow_mut();
        // A server may note the end of the stream before late: its socket was reset meanwhile.
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

    /// Sends a stream, in the pieces that end at `cuts`, and waits for the connection's end.
    fn send(&self, bytes: &[u8], cuts: &[usize], v6: bool) {
        let address = if v6 { self.lab.v6() } else { self.lab.v4() };
        let mut conn = self.lab.connect_to(address, GUARDED);
        let mut from = 0;
        for &to in cuts.iter().chain([&bytes.len()]) {
            // It may be over already.
            if from < to && conn.try_send(&bytes[from..to]).is_err() {
                break;
            }
            from = from.max(to);
        }
        conn.finish();
        assert_over(&conn.fate(), bytes);
    }
}

/// A connection on which these bytes were sent must come to an end, any end.
fn assert_over(fate: &io::Result<Vec<u8>>, bytes: &[u8]) {
    let waits = matches!(fate, Err(error) if error.kind() == ErrorKind::WouldBlock);
    assert!(
        !waits,
        "no answer and no end after {:?}",
        Stream(bytes.to_vec())
    );
}

/// Throws streams at a server; whatever it serves of each was charged.
fn throw(server: impl Fn(&Lab) -> Server) {
    let mut runner = wild::runner(CASES);
    let strategy = (wild::stream(), vec(any::<Index>(), 0..5), any::<bool>());
    let cases = runner.config().cases;
    let mut served = 0;
    // A server of its own for so many, as its log is read again after each.
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
    // Not all of it was refused.
    assert!(
        served > u64::from(cases) / 8,
        "{served} requests of {cases} streams were served"
    );
}

#[test]
fn what_nginx_serves_was_charged() {
    let patience = "client_header_timeout 3s; client_body_timeout 3s;";
    throw(|lab| Server::Nginx(Nginx::start_with(lab, &[GUARDED], patience)));
}

#[test]
fn what_node_serves_was_charged() {
    let text = include_str!("../../peers/node_server.js");
    throw(|lab| Server::script(lab, "node", "-e", text));
}

#[test]
fn what_python_serves_was_charged() {
    throw(python);
}

/// Streams whose end cuts a head off. Python takes the end of the connection for the end of the
/// head: the request would be served for nothing.
const CUT_OFF: [&str; 3] = [
    "GET / HTTP/1.1\r\nHost: h\r\nX-Api-Key: alpha\r\n",
    "GET / HTTP/1.1\r\nX-Api-Key: alpha",
    "GET / HTTP/1.1\r\nX-Api-Key: beta\r\n\r\nGET / HTTP/1.1\r\nX-Api-Key: alpha\r\n",
];

fn python(lab: &Lab) -> Server {
    let text = include_str!("../../peers/python_server.py");
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
fn a_head_that_is_cut_off_in_its_own_segment_strands_nobody() {
    let rig = Rig::start(python);
    for stream in CUT_OFF {
        let bytes = stream.as_bytes();
        let mut conn = rig.lab.connect(GUARDED);
        conn.send_with_end(bytes);
        assert_over(&conn.fate(), bytes);
        rig.check_charged(bytes, &[]);
    }
}

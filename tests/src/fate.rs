//! Odd requests, each with another one behind it on the same connection: what
//! nginx serves of either must be what is charged.

use crate::{GUARDED, Nginx, Rig, limiter::Usage, request};

/// What becomes of a request, and of the one behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Both are served.
    Both,
    /// The first is served, and nginx ends the connection: what is behind has
    /// reached it, and is charged.
    First,
    /// The first is charged, and its connection reset for its body.
    Broken,
    /// The program answers 400.
    Refused,
    /// nginx answers the first with 400 and ends the connection.
    ServersOwn,
}
/// A name, what is sent (`$K` stands for a key), its fate.
pub type Case<'a> = (&'a str, &'a str, Fate);

/// Of the two keys, how many requests were served and charged.
type Counts = [(u64, u64); 2];

const SCOPES: [&str; 2] = ["acme/odd", "acme/probe"];

fn counts(rig: &Rig, keys: [&str; 2]) -> Counts {
    let log = rig.nginx.log();
    let usage = rig.limiter.json(&["usage"]);
    let usage: Vec<Usage> = usage
        .as_array()
        .expect("all scopes")
        .iter()
        .map(Usage::parse)
        .collect();
    [0, 1].map(|at| {
        let used = usage.iter().find(|usage| usage.scope == SCOPES[at]);
        (
            Nginx::served_in(&log, keys[at]),
            used.map_or(0, |usage| usage.used),
        )
    })
}

/// How the connection ended for the client.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Servers,
    /// 400 by the program.
    Ours,
    Reset,
}

impl Answer {
    fn of(read: std::io::Result<Vec<u8>>) -> Self {
        let Ok(bytes) = read else {
            return Self::Reset;
        };
        let text = String::from_utf8_lossy(&bytes);
        if text.starts_with("HTTP/1.1 400 ") && text.contains("application/problem+json") {
            Self::Ours
        } else {
            Self::Servers
        }
    }
}

/// Sends every case on a connection of its own, and expects its fate.
///
/// # Panics
/// With all cases that have another.
#[track_caller]
pub fn assert_fates(cases: &[Case<'_>]) {
    let rig = Rig::veth(|config| config);
    let [key, probe] = SCOPES.map(|scope| rig.limiter.key(scope));
    let behind = request("/probe", &probe);
    let mut failed = Vec::new();
    let mut before = counts(&rig, [&key, &probe]);
    for (name, text, fate) in cases {
        let bytes = [text.replace("$K", &key).as_bytes(), &behind].concat();
        let mut conn = rig.lab.connect(GUARDED);
        conn.send(&bytes);
        conn.finish();
        let answer = Answer::of(conn.fate());
        let after = counts(&rig, [&key, &probe]);
        let happened = [0, 1].map(|at| {
            let (before, after) = (before[at], after[at]);
            (after.0 - before.0, after.1 - before.1)
        });
        let expected = match fate {
            Fate::Both => ([(1, 1), (1, 1)], Answer::Servers),
            Fate::First => ([(1, 1), (0, 1)], Answer::Servers),
            Fate::Broken => ([(0, 1), (0, 0)], Answer::Reset),
            Fate::Refused => ([(0, 0), (0, 0)], Answer::Ours),
            Fate::ServersOwn => ([(0, 1), (0, 1)], Answer::Servers),
        };
        if (happened, &answer) != (expected.0, &expected.1) {
            failed.push(format!("{name}: {fate:?}, but {happened:?} and {answer:?}"));
        }
        before = after;
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Unusual requests, each followed by another request on the same connection. Every request that
//! nginx serves must be charged, and a request that the kernel program answers must not be charged.

use crate::{GUARDED, Nginx, Rig, limiter::Usage, request};

/// The expected outcome for a request and for the request that follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Both requests are served.
    Both,
    /// The first request is served, and nginx closes the connection. The second request is charged
    /// because it has reached nginx, although nginx does not serve it.
    First,
    /// The first request is charged, and then the connection is reset because the request's body is
    /// invalid.
    Broken,
    /// The kernel program answers the first request with 400, or with 405 if the method is CONNECT.
    Refused,
    /// nginx answers the first request with 400 and closes the connection. Both requests are
    /// charged.
    ServersOwn,
}
/// A name, the bytes to send (with `$K` in place of the key), and the expected fate.
pub type Case<'a> = (&'a str, &'a str, Fate);

/// The number of served and of charged requests, for each of the two keys.
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

/// The end of the connection as the client saw it.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Servers,
    /// A response with status 400 or 405 from the kernel program.
    Ours,
    Reset,
}

impl Answer {
    fn of(read: std::io::Result<Vec<u8>>) -> Self {
        let Ok(bytes) = read else {
            return Self::Reset;
        };
        let text = String::from_utf8_lossy(&bytes);
        let refused = text.starts_with("HTTP/1.1 400 ") || text.starts_with("HTTP/1.1 405 ");
        if refused && text.contains("application/problem+json") {
            Self::Ours
        } else {
            Self::Servers
        }
    }
}

/// Sends every case on a separate connection, and checks the fate of the requests.
///
/// # Panics
/// Panics if any case has a different fate. The message lists all such cases.
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
        let answer = Answer::of(conn.rest());
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

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Common clients and client libraries read every refusal to its end, and then behave as
//! `docs/CLIENTS.md` describes.

use std::thread;

use limiter_tests::{
    GUARDED, Net, Nginx, Rig,
    clock::Span,
    eventually_some, long,
    peers::{Job, JobResult, Peer},
    process::{self, Process},
    tools,
};

/// The number of requests that are served before the refusals begin.
const SERVED: usize = 20;

/// The number of consecutive GET requests that are refused.
const REFUSED: usize = 1_000;

/// Creates a rig on `net` whose tier has a daily quota, and no other limit that these tests can
/// reach.
fn limited(net: Net, on_limit: &str) -> Rig {
    Rig::on(net, |config| {
        config
            .tier("profile", &format!("daily_quota = {SERVED}"))
            .policy(&format!("on_limit = {on_limit:?}"))
    })
}

/// Returns the test cases for each client. A case consists of a bool that is true if the client
/// uploads, the number of requests that the client sends at a time, and the number of its requests
/// that exceed the quota.
fn cases() -> [(bool, usize, usize); 4] {
    [
        (false, 1, REFUSED),
        (false, 4, 200),
        (true, 1, if long() { REFUSED } else { 30 }),
        (true, 4, 20),
    ]
}

/// Returns the networks between the client and the server. The bool of a network is true if the
/// client uses IPv6 on that network. A long run covers all networks.
fn ways() -> Vec<(Net, bool)> {
    if long() {
        Net::ALL.map(|net| (net, net != Net::Veth)).to_vec()
    } else {
        vec![(Net::Veth, false)]
    }
}

/// Runs every case with the client `peer`. The server must serve exactly as many requests as the
/// quota permits, all other responses must be complete refusals, and the client must send each
/// request exactly once.
#[track_caller]
fn assert_reads_every_refusal(peer: Peer) {
    for (net, v6) in ways() {
        let rig = limited(net, "close");
        let address = rig.lab.addresses()[usize::from(v6)];
        let url = rig.lab.url_of(address, GUARDED, Nginx::READ);
        for (number, (upload, workers, refused)) in cases().into_iter().enumerate() {
            let scope = format!("acme/case-{number}");
            let key = rig.limiter.key(&scope);
            let job = Job {
                upload,
                ..Job::gets(&url, &key, SERVED + refused).workers(workers)
            };
            println!("{peer:?} {net:?} {url} upload: {upload}, {workers} at a time");
            let report = peer.run(&rig.lab, &job);
            report.assert_served_then_refused(SERVED, workers == 1);
            assert_eq!(report.answers.len(), SERVED + refused);
            rig.assert_charged_as_served(&scope, &key, SERVED as u64);
            let asked_in_vain = rig.limiter.usage(&scope).refused.daily_quota;
            assert_eq!(asked_in_vain, refused as u64, "no retries of its own");
            assert_connections(&job, &report, refused);
            rig.assert_no_sockets(&scope);
        }
    }
}

/// Asserts that the client kept its connection open as long as its requests were served, and opened
/// a new connection for the request after each refusal.
#[track_caller]
fn assert_connections(job: &Job<'_>, report: &JobResult, refused: usize) {
    let opened = usize::try_from(report.opened).expect("a count");
    println!("{opened} connections for {} requests", job.count);
    // The first refusal is sent on the connection on which the requests were served, and each
    // further refusal is sent on a new connection. There are therefore as many connections as
    // refusals. A client with several workers has a connection pool, which may open further
    // connections and leave them unused.
    let idle = if job.workers == 1 { 0 } else { job.workers };
    let expected = refused..=refused + idle;
    assert!(expected.contains(&opened), "{opened}, not {expected:?}");
}

/// Runs the client `peer` where connections go on after refusals. The client must read every
/// refusal and keep its connections, except after uploads, which are too long to be withheld.
#[track_caller]
fn assert_keeps_connections(peer: Peer) {
    for (net, v6) in ways() {
        let rig = limited(net, "keepalive");
        let address = rig.lab.addresses()[usize::from(v6)];
        let url = rig.lab.url_of(address, GUARDED, Nginx::READ);
        for (number, (upload, workers, refused)) in [(false, 1, 200), (false, 4, 100), (true, 1, 5)]
            .into_iter()
            .enumerate()
        {
            let scope = format!("acme/case-{number}");
            let key = rig.limiter.key(&scope);
            let job = Job {
                upload,
                ..Job::gets(&url, &key, SERVED + refused).workers(workers)
            };
            let report = peer.run(&rig.lab, &job);
            report.assert_served_then_refused(SERVED, workers == 1);
            assert_eq!(report.answers.len(), SERVED + refused);
            rig.assert_charged_as_served(&scope, &key, SERVED as u64);
            let over_quota = rig.limiter.usage(&scope).refused.daily_quota;
            assert_eq!(over_quota, refused as u64, "no retries of its own");
            let opened = usize::try_from(report.opened).expect("a count");
            println!("{peer:?} {net:?} upload: {upload}: {opened} connections");
            // A connection pool may open further connections and leave them unused.
            let most = if upload { refused } else { 2 * workers };
            assert!(opened <= most, "{peer:?}: {opened} connections");
            rig.assert_no_sockets(&scope);
        }
    }
}

#[test]
fn clients_keep_their_connections_if_refusals_do() {
    for peer in [
        Peer::Curl,
        Peer::CurlUnasked,
        Peer::HttpClient,
        Peer::Requests,
        Peer::Aiohttp,
        Peer::Agent,
        Peer::Fetch,
        Peer::Java,
        Peer::Go,
    ] {
        assert_keeps_connections(peer);
    }
}

#[test]
fn curl_reads_every_refusal() {
    assert_reads_every_refusal(Peer::Curl);
}

#[test]
fn curl_reads_every_refusal_of_an_upload_that_it_sends_at_once() {
    assert_reads_every_refusal(Peer::CurlUnasked);
}

#[test]
fn python_http_client_reads_every_refusal() {
    assert_reads_every_refusal(Peer::HttpClient);
}

#[test]
fn python_requests_reads_every_refusal() {
    assert_reads_every_refusal(Peer::Requests);
}

#[test]
fn python_aiohttp_reads_every_refusal() {
    assert_reads_every_refusal(Peer::Aiohttp);
}

#[test]
fn node_agent_reads_every_refusal() {
    assert_reads_every_refusal(Peer::Agent);
}

#[test]
fn node_fetch_reads_every_refusal() {
    assert_reads_every_refusal(Peer::Fetch);
}

#[test]
fn java_http_client_reads_every_refusal() {
    assert_reads_every_refusal(Peer::Java);
}

#[test]
fn go_net_http_reads_every_refusal() {
    assert_reads_every_refusal(Peer::Go);
}

#[test]
fn wrk_reads_every_refusal_at_full_speed() {
    for (net, v6) in ways() {
        let rig = limited(net, "close");
        let address = rig.lab.addresses()[usize::from(v6)];
        let url = rig.lab.url_of(address, GUARDED, Nginx::READ);
        for (scope, upload) in [("acme/get", false), ("acme/upload", true)] {
            let key = rig.limiter.key(scope);
            let job = Job {
                upload,
                ..Job::gets(&url, &key, SERVED + REFUSED).workers(10)
            };
            let report = Peer::Wrk.run(&rig.lab, &job);
            report.assert_served_then_refused(SERVED, false);
            assert_eq!(report.answers.len(), SERVED + REFUSED);
            rig.assert_charged_as_served(scope, &key, SERVED as u64);
            rig.assert_no_sockets(scope);
        }
    }
}

#[test]
fn a_client_that_retries_waits_as_long_as_the_refusal_says() {
    let rig = Rig::veth(|config| config.tier("profile", "rate = \"1/s\"\nburst = 1"));
    let url = rig.lab.url(GUARDED, "/");
    for (scope, peer, shows_refusals) in [
        ("acme/curl", Peer::Curl, true),
        ("acme/requests", Peer::Requests, false),
    ] {
        let key = rig.limiter.key(scope);
        let job = Job {
            retries: Some(1),
            ..Job::gets(&url, &key, 3)
        };
        let statuses = peer.run(&rig.lab, &job).statuses();
        let refused = rig.limiter.usage(scope).refused.rate;
        println!("{peer:?}: {statuses:?}, {refused} refused");
        // The second and the third request are refused at first. If the client is slow, one of
        // these requests may be admitted without a refusal.
        assert!((1..=2).contains(&refused), "{peer:?}: {refused} refused");
        let count = |wanted| statuses.iter().filter(|&&status| status == wanted).count();
        let shown = if shows_refusals { refused } else { 0 };
        assert_eq!((count(200), count(429) as u64), (3, shown), "{peer:?}");
        rig.assert_charged_as_served(scope, &key, 3);
    }
}

/// A Python script that sends a request with one retry. Instead of sleeping before the retry, the
/// script prints the time for which it would sleep.
const SLEEPER: &str = r#"
import sys, time, requests
from requests.adapters import HTTPAdapter
def sleep(seconds): raise SystemExit(f"{seconds}")
time.sleep = sleep
session = requests.Session()
session.trust_env = False
session.mount("http://", HTTPAdapter(max_retries=1))
session.get(sys.argv[1], headers={"X-Api-Key": sys.argv[2]})
"#;

#[test]
fn retrying_client_waits_for_midnight_unless_its_wait_is_limited() {
    let rig = limited(Net::Veth, "close");
    let key = rig.limiter.key("acme/web");
    let url = rig.lab.url(GUARDED, "/");
    let report = Peer::Curl.run(&rig.lab, &Job::gets(&url, &key, SERVED));
    assert_eq!(report.statuses(), [200; SERVED]);
    let header = format!("X-Api-Key: {key}");
    let curl = |options: &[&str]| {
        let mut command = rig.lab.client().command("curl");
        command.args(["-q", "--noproxy", "*", "--retry", "1"]);
        command.args(options).args(["-H", &header, &url]);
        command
    };
    let waits = |log: &str| {
        let (_, rest) = log.split_once("Will retry in ")?;
        rest.split_once(" seconds")?.0.parse::<u64>().ok()
    };
    let log = rig.lab.file("curl.log");
    let (wait, span) = Span::around(|| {
        let waiting = Process::start("curl", &mut curl(&[]), &log);
        eventually_some("curl prints how long it waits", || waits(&waiting.log()))
    });
    assert!(span.leads_to_midnight(wait), "{wait}");

    let mut output = process::output(&mut curl(&["-i", "--retry-max-time", "60"]));
    assert!(output.status.success());
    let response = tools::take_response(&mut output.stdout);
    assert_eq!(response.expect("the refusal").status, 429);

    let (printed, span) = Span::around(|| {
        let mut command = rig.lab.client().command(tools::PYTHON);
        process::output(command.args(["-c", SLEEPER, &url, &key])).stderr
    });
    let printed = String::from_utf8_lossy(&printed);
    let wait = printed.trim().parse().expect("seconds");
    assert!(span.leads_to_midnight(wait), "{wait}");
    assert_eq!(rig.limiter.usage("acme/web").refused.daily_quota, 3);
}

/// The errors that a client reports, and the number of requests that it sends, if it gets no
/// response.
struct UnansweredClient {
    peer: Peer,
    /// A part of the client's error message after a reset.
    reset: &'static str,
    /// The number of refusals, including those of retries, if the client makes three requests and
    /// all of them are reset. The first element is for GET requests, and the second is for uploads.
    /// The first of the three requests is sent on a connection on which earlier requests were
    /// served, which is why some clients retry it.
    asks: [u64; 2],
    /// A part of the client's error message after a timeout.
    silence: &'static str,
}

const UNANSWERED: [UnansweredClient; 8] = {
    const fn new(
        peer: Peer,
        reset: &'static str,
        asks: [u64; 2],
        silence: &'static str,
    ) -> UnansweredClient {
        UnansweredClient {
            peer,
            reset,
            asks,
            silence,
        }
    }
    [
        // curl retries a request if an earlier request was served on the same connection.
        new(
            Peer::Curl,
            "curl: (56) Recv failure: Connection reset",
            [4, 4],
            "curl: (28)",
        ),
        new(
            Peer::HttpClient,
            "ConnectionResetError",
            [3, 3],
            "TimeoutError",
        ),
        new(
            Peer::Requests,
            "requests.exceptions.ConnectionError",
            [3, 3],
            "ReadTimeout",
        ),
        new(
            Peer::Aiohttp,
            "aiohttp.client_exceptions.ClientOSError",
            [3, 3],
            "TimeoutError",
        ),
        new(Peer::Agent, "ECONNRESET", [3, 3], "timed out"),
        new(
            Peer::Fetch,
            "fetch failed: ECONNRESET",
            [3, 3],
            "TimeoutError",
        ),
        // Java retries every GET.
        new(
            Peer::Java,
            "header parser received no bytes",
            [6, 3],
            "HttpTimeoutException",
        ),
        // Go retries a GET if an earlier request was served on the same connection.
        new(
            Peer::Go,
            "connection reset by peer",
            [4, 3],
            "context deadline exceeded",
        ),
    ]
};

/// Returns the clients that start quickly, or all clients in a long run.
fn unanswered() -> impl Iterator<Item = &'static UnansweredClient> {
    UNANSWERED
        .iter()
        .filter(|client| long() || !matches!(client.peer, Peer::Java | Peer::Go))
}

#[test]
fn a_reset_is_an_error_to_every_client_and_some_try_again() {
    const RESET: usize = 3;
    let rig = limited(Net::Veth, "reset");
    let url = rig.lab.url(GUARDED, Nginx::READ);
    for client in unanswered() {
        for upload in [false, true] {
            let scope = format!("{:?}/{upload}", client.peer).to_lowercase();
            let key = rig.limiter.key(&scope);
            let job = Job {
                upload,
                ..Job::gets(&url, &key, SERVED + RESET)
            };
            let report = client.peer.run(&rig.lab, &job);
            assert_eq!(report.responses().count(), SERVED, "{scope}");
            let errors = report.errors();
            assert_eq!(errors.len(), RESET, "{scope}: {errors:?}");
            // The error for an upload depends on whether the client's read or its write fails
            // first. The text of this error is therefore not checked.
            let is_reset = |error: &&str| upload || error.contains(client.reset);
            assert!(errors.iter().all(is_reset), "{scope}: {errors:?}");
            let asked = rig.limiter.usage(&scope).refused.daily_quota;
            assert_eq!(asked, client.asks[usize::from(upload)], "{scope}");
            rig.assert_charged_as_served(&scope, &key, SERVED as u64);
        }
    }
}

#[test]
fn dropped_requests_hold_every_client_until_its_own_timeout() {
    let rig = limited(Net::Veth, "drop");
    let url = rig.lab.url(GUARDED, Nginx::READ);
    let wait = |client: &UnansweredClient| {
        let scope = format!("acme/{:?}", client.peer).to_lowercase();
        let key = rig.limiter.key(&scope);
        let job = Job {
            seconds: 8,
            ..Job::gets(&url, &key, SERVED + 1)
        };
        let report = client.peer.run(&rig.lab, &job);
        assert_eq!(report.responses().count(), SERVED, "{scope}");
        let [error] = report.errors()[..] else {
            panic!("{scope}: {:?}", report.errors());
        };
        assert!(error.contains(client.silence), "{scope}: {error}");
        assert_eq!(rig.limiter.usage(&scope).refused.daily_quota, 1, "{scope}");
        rig.assert_charged_as_served(&scope, &key, SERVED as u64);
    };
    thread::scope(|scope| {
        for client in unanswered() {
            scope.spawn(|| wait(client));
        }
    });
}

#[test]
fn refusal_fields_have_no_unexpected_white_space() {
    let rig = limited(Net::Veth, "close");
    let (url, key) = (rig.lab.url(GUARDED, "/"), rig.limiter.key("acme/web"));
    // The test uses http.client because it keeps the trailing spaces of a field value, which other
    // clients remove (RFC 9110, section 5.5).
    let report = Peer::HttpClient.run(&rig.lab, &Job::gets(&url, &key, SERVED + 1));
    let refusal = report.responses().last().expect("an answer");
    assert_eq!(refusal.status, 429);
    for (name, value) in &refusal.headers {
        let padded = matches!(&*name.to_ascii_lowercase(), "retry-after" | "ratelimit");
        assert_eq!(value.trim_start(), value, "{name}");
        assert!(padded || value.trim_end() == value, "{name}: {value:?}");
    }
}

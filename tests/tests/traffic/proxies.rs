// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reverse proxies in front of the guarded server forward a refusal unchanged, and do not treat the
//! server as broken.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, thread};

use limiter_tests::{
    GUARDED, Net, Nginx, Rig, UNGUARDED, long,
    peers::{Job, Peer},
    proxies::{self, Apache, Envoy, Haproxy, NginxProxy},
    skip,
};

/// The number of requests that are served before the refusals begin.
const SERVED: usize = 20;

/// The number of GET requests that are refused.
const REFUSED: usize = 1_000;

/// The number of requests of the client that stays within its limits.
const GOOD: usize = 300;

/// The number of requests that a client sends at a time.
const WORKERS: usize = 4;

/// The policies under which a connection is closed after a refusal.
const CLOSE: &[&str] = &["on_limit = \"close\""];

/// The policies under which a connection goes on after a refusal.
const KEEP: &[&str] = &["on_limit = \"keepalive\""];

/// The networks between the proxy and the server, and the policies. With [`Net::Veth`], the proxy
/// and the server run on two hosts. With [`Net::Loopback`], both run on the server's host.
const CASES: [(Net, &[&str]); 3] = [(Net::Veth, KEEP), (Net::Loopback, KEEP), (Net::Veth, CLOSE)];

fn uploads() -> usize {
    if long() { REFUSED } else { 30 }
}

/// Creates a rig whose tier has a daily quota.
fn limited(net: Net, policies: &[&str]) -> Rig {
    Rig::on(net, |config| {
        let config = config.tier("profile", &format!("daily_quota = {SERVED}"));
        policies
            .iter()
            .fold(config, |config, policy| config.policy(policy))
    })
}

/// Sends requests of three customers through the proxy. The first customer stays within its limits,
/// and at the same time the second customer sends many requests beyond its quota. After that, the
/// third customer uploads more often than its quota permits. Asserts that each customer gets the
/// right responses, and returns the number of served requests and the number of refused requests.
#[track_caller]
fn ask_through(rig: &Rig) -> (usize, usize) {
    let url = proxies::url(Nginx::READ);
    let key = |scope| rig.limiter.key(scope);
    let (greedy, good, upload) = (key("acme/greedy"), key("good"), key("acme/upload"));
    thread::scope(|scope| {
        scope.spawn(|| {
            let job = Job::gets(&url, &good, GOOD).workers(WORKERS);
            let statuses = Peer::HttpClient.run(&rig.lab, &job).statuses();
            assert_eq!(statuses, [200; GOOD], "the customer within its limits");
        });
        let job = Job::gets(&url, &greedy, SERVED + REFUSED).workers(WORKERS);
        let report = Peer::HttpClient.run(&rig.lab, &job);
        report.assert_served_then_refused(SERVED, false);
    });
    let job = Job::uploads(&url, &upload, SERVED + uploads());
    let report = Peer::HttpClient.run(&rig.lab, &job);
    report.assert_served_then_refused(SERVED, true);

    rig.assert_charged_as_served("good", &good, GOOD as u64);
    for (scope, key, refused) in [
        ("acme/greedy", &greedy, REFUSED),
        ("acme/upload", &upload, uploads()),
    ] {
        rig.assert_charged_as_served(scope, key, SERVED as u64);
        let asked_in_vain = rig.limiter.usage(scope).refused.daily_quota;
        assert_eq!(asked_in_vain, refused as u64, "{scope}: no retries");
    }
    (GOOD + 2 * SERVED, REFUSED + uploads())
}

#[test]
fn haproxy_passes_refusals_on_and_keeps_the_server_up() {
    for (net, policies) in CASES {
        for lines in ["http-reuse always", "retry-on all-retryable-errors"] {
            let rig = limited(net, policies);
            let proxy = Haproxy::start(&rig.lab, lines);
            proxy.wait_until("UP");
            let (served, refused) = ask_through(&rig);
            let row = proxy.guarded();
            let count = |name: &str| row[name].parse::<usize>().unwrap_or_default();
            // A star means that a check is in progress. The text after it is the result of the
            // previous check.
            let check = row["check_status"].trim_start_matches("* ");
            assert_eq!((row["status"].as_str(), check), ("UP", "L7OK"));
            assert_eq!((count("hrsp_2xx"), count("hrsp_4xx")), (served, refused));
            for name in [
                "chkfail", "chkdown", "downtime", "hanafail", "econ", "eresp", "wretr", "wredis",
            ] {
                assert_eq!(count(name), 0, "{net:?}, {lines}: {name}");
            }
            assert_eq!(
                proxy.row("api", "other")["stot"],
                "0",
                "the backup was used"
            );
        }
    }
}

#[test]
fn nginx_passes_refusals_on_and_keeps_the_server_up() {
    for (net, policies) in CASES {
        let rig = limited(net, policies);
        let proxy = NginxProxy::start(&rig.lab, "");
        let (served, refused) = ask_through(&rig);
        let passed = proxy.passed(served + refused);
        let guarded = SocketAddr::new(rig.lab.v4(), GUARDED).to_string();
        assert!(
            passed.iter().all(|passed| passed.servers == guarded),
            "{net:?}"
        );
        let count = |status| {
            passed
                .iter()
                .filter(|passed| passed.status == status)
                .count()
        };
        assert_eq!((count(200), count(429)), (served, refused));
        assert_eq!(proxy.complaints(), [""; 0]);
        // The clients keep their connections to the proxy when a request is refused. Each worker of
        // the two customers that send GET requests therefore opened only one connection, and so did
        // the customer that uploads.
        let connections: BTreeSet<u64> = passed.iter().map(|passed| passed.connection).collect();
        assert_eq!(connections.len(), 2 * WORKERS + 1);
    }
}

/// Asserts that the proxy passes on all refusals, and that its requests needed no more than
/// `connections` connections to the server.
#[track_caller]
fn assert_keeps_its_connections(rig: &Rig, connections: u64) {
    ask_through(rig);
    let opened = rig.limiter.count("/coverage/flows_opened");
    let kept = rig.limiter.count("/coverage/kept");
    assert!(opened <= connections, "{opened} connections");
    // Uploads of 3 MB exceed what the programs withhold, so their connections are closed.
    assert_eq!(kept, REFUSED as u64);
}

#[test]
fn apache_passes_refusals_on_and_keeps_its_connections() {
    let rig = limited(Net::Veth, KEEP);
    let _proxy = Apache::start(&rig.lab);
    assert_keeps_its_connections(&rig, (Apache::THREADS + uploads()) as u64);
}

#[test]
fn envoy_passes_refusals_on_and_keeps_its_connections() {
    // Debian has no Envoy package, so `cargo xtask test` provides the program.
    let Some(envoy) = std::env::var_os("LIMITER_ENVOY") else {
        return skip(
            "envoy_passes_refusals_on_and_keeps_its_connections",
            "LIMITER_ENVOY names no Envoy, `cargo xtask test` sets it",
        );
    };
    let rig = limited(Net::Veth, KEEP);
    let _proxy = Envoy::start(&rig.lab, Path::new(&envoy));
    assert_keeps_its_connections(&rig, (2 * WORKERS + uploads()) as u64);
}

#[test]
fn haproxys_health_check_needs_a_key_where_a_request_without_one_is_refused() {
    let rig = limited(Net::Veth, &["missing_key = \"reject\""]);
    let proxy = Haproxy::start(&rig.lab, "");
    proxy.wait_until("DOWN");
    assert_eq!(proxy.guarded()["check_code"], "401");
    drop(proxy);

    rig.limiter.done(&["scope", "add", "monitor"]);
    let key = rig.limiter.another_key("monitor");
    let lines = format!("http-check send hdr X-Api-Key {key}");
    let proxy = Haproxy::start(&rig.lab, &lines);
    proxy.wait_until("UP");
    assert_eq!(proxy.guarded()["check_code"], "200");
    assert!(rig.limiter.usage("monitor").used > 0);
}

/// Sends as many requests as the quota permits, and two more.
#[track_caller]
fn use_up(rig: &Rig) {
    let key = rig.limiter.key("acme/web");
    let url = proxies::url(Nginx::READ);
    Peer::HttpClient.run(&rig.lab, &Job::gets(&url, &key, SERVED + 2));
    assert!(rig.limiter.usage("acme/web").refused.daily_quota > 0);
}

#[test]
fn unanswered_refusals_make_a_proxy_mark_the_server_down() {
    for on_limit in ["reset", "drop"] {
        let policy = format!("on_limit = {on_limit:?}");

        let rig = limited(Net::Veth, &[&policy]);
        let proxy = Haproxy::start(&rig.lab, "timeout server 2s");
        proxy.wait_until("UP");
        use_up(&rig);
        // After a while, the proxy's checks mark the server up again.
        assert_ne!(
            proxy.guarded()["chkdown"],
            "0",
            "{on_limit}: {}",
            proxy.log()
        );

        let rig = limited(Net::Veth, &[&policy]);
        let proxy = NginxProxy::start(&rig.lab, "proxy_read_timeout 2s;");
        use_up(&rig);
        assert_disabled(&rig, &proxy);
    }
}

#[test]
fn nginx_that_tries_the_next_server_on_429_takes_the_server_down() {
    let rig = limited(Net::Veth, &[]);
    let proxy = NginxProxy::start(&rig.lab, "proxy_next_upstream error timeout http_429;");
    use_up(&rig);
    assert_disabled(&rig, &proxy);
}

#[track_caller]
fn assert_disabled(rig: &Rig, proxy: &NginxProxy) {
    let complaints = proxy.complaints();
    let disabled = |line: &String| line.contains("upstream server temporarily disabled");
    assert!(complaints.iter().any(disabled), "{complaints:?}");
    let passed = proxy.passed(SERVED + 2);
    let other = SocketAddr::new(rig.lab.v4(), UNGUARDED).to_string();
    assert_eq!(passed.last().expect("a request").servers, other);
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! A daemon takes over from the previous one under load from wrk. According to nginx's log, no
//! request is refused by mistake, no request passes without limits, and no connection becomes
//! untracked.

use limiter_tests::{
    Config, GUARDED, Lab, Limiter, Nginx, avoid_midnight, eventually,
    tools::{Load, Wrk},
};

/// The number of connections of the scope whose requests must not be refused.
const CONNECTIONS: u32 = 50;
/// The number of connections of each of the two scopes whose requests exceed a limit.
const LIMITED: u32 = 8;

/// The number of takeovers.
const TAKEOVERS: u32 = 10;

/// The daily quota of `acme/quota`.
const QUOTA: u64 = 400;
/// The minimum time between two requests under the rate of `acme/rate`, in ms.
const APART_MS: f64 = 20.0;

/// Each test starts at least this long before midnight UTC. It takes much less time, so all of its
/// requests are counted on one day.
const TIME_BEFORE_MIDNIGHT: std::time::Duration = std::time::Duration::from_secs(120);

fn takeovers(hook: &str, headers: &[&str]) {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let lab = Lab::veth();
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let free = "rate = \"1000000/ms\"\nconcurrency = \"unlimited\"";
    let config = Config::new(&lab)
        .attach_lines(&format!(
            "interfaces = [\"s0\"]\nports = [{GUARDED}]\nhook = \"{hook}\"\n"
        ))
        .tier("profile", free)
        .tier("quota", &format!("daily_quota = {QUOTA}\n{free}"))
        .tier("rate", &format!("rate = \"1/{APART_MS}ms\"\nburst = 1"));
    let mut limiter = Limiter::start(&lab, &config);
    let key = limiter.key("acme/web");
    let quota = limiter.key_of_tier("acme/quota", "quota");
    let rate = limiter.key_of_tier("acme/rate", "rate");
    let load = |name: &str, key: &str, connections| {
        let key = format!("X-Api-Key: {key}");
        let headers = [headers, &[&key]].concat();
        Load::start(&lab, name, &lab.url(GUARDED, "/"), connections, &headers)
    };
    let loads = [
        load("free", &key, CONNECTIONS),
        load("quota", &quota, LIMITED),
        load("rate", &rate, LIMITED),
    ];
    let progress = |limiter: &Limiter| {
        let admitted = || limiter.usage("acme/web").used;
        let before = admitted();
        eventually("clients go on", || admitted() > before + 200);
    };
    for round in 0..TAKEOVERS {
        progress(&limiter);
        if round % 2 == 0 {
            limiter.kill();
        } else {
            limiter.terminate();
        }
        limiter.run(&[]);
    }
    progress(&limiter);
    let refused = || limiter.usage("acme/quota").refused.daily_quota;
    eventually("the quota is used up", || refused() > 0);
    let before = refused();
    eventually("the quota stays used up", || refused() > before);
    for load in &loads {
        load.stop_sending();
    }
    for scope in ["acme/web", "acme/quota", "acme/rate"] {
        eventually("all is answered", || limiter.usage(scope).in_flight == 0);
    }
    let [free, with_quota, with_rate] = loads.map(Load::finish);
    let log = nginx.log();
    let served = |key: &str| Nginx::served_in(&log, key);
    let used = |scope: &str| limiter.usage(scope).used;

    assert_eq!((free.refused, free.socket_errors), (0, 0), "{free:?}");
    assert_eq!(limiter.usage("acme/web").refused.total(), 0);
    assert_eq!(
        (served(&key), used("acme/web")),
        (free.requests, free.requests)
    );

    let answered = |wrk: &Wrk| wrk.requests - wrk.refused;
    assert!(with_quota.refused > 0 && with_rate.refused > 0);
    assert_eq!((served(&quota), used("acme/quota")), (QUOTA, QUOTA));
    assert_eq!(answered(&with_quota), QUOTA, "{with_quota:?}");

    let times: Vec<f64> = log
        .iter()
        .filter(|access| access.api_key == rate)
        .map(|access| access.time)
        .collect();
    let (first, last) = (times[0], times[times.len() - 1]);
    let most = (last - first) * 1000.0 / APART_MS;
    // The times in nginx's log differ from the times of the limiter's decisions, because nginx logs
    // a cached time. The test therefore allows five more requests.
    let (served, most) = (times.len() as u64, most as u64 + 1 + 5);
    assert!(served <= most, "{served} in the time for {most}");
    assert_eq!((used("acme/rate"), answered(&with_rate)), (served, served));

    assert_eq!(limiter.count("/coverage/untracked_connections"), 0);
    assert_eq!(limiter.count("/coverage/untracked_bytes"), 0);
}

#[test]
fn takeover_of_tcx_links_with_persistent_connections() {
    takeovers("tcx", &[]);
}

#[test]
fn takeover_of_tcx_links_with_one_connection_per_request() {
    takeovers("tcx", &["Connection: close"]);
}

#[test]
fn takeover_of_clsact_filters() {
    takeovers("clsact", &[]);
    takeovers("clsact", &["Connection: close"]);
}

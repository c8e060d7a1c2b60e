// SPDX-License-Identifier: MIT OR Apache-2.0

//! The daily quota and the rate. Exactly the permitted number of requests is served, and a refusal
//! states when the client may send the next request.

use std::{thread, time::Duration};

use limiter_tests::{
    GUARDED, Net, Refused, Response, Rig, avoid_midnight, clock::Span, limiter::RefusalCounts,
    request, tools,
};

/// Each test starts at least this long before midnight UTC. It takes much less time, so all of its
/// requests are counted on one day.
const TIME_BEFORE_MIDNIGHT: Duration = Duration::from_secs(60);

/// Asserts that `response` has the properties of every 429, whichever limit caused it. `policy` is
/// the name of that limit in the response.
#[track_caller]
fn assert_is_refusal(response: &Response, policy: &str, after: Refused) {
    assert_eq!(response.status, 429, "{response:?}");
    assert_eq!(response.required("connection"), after.connection());
    assert_eq!(response.required("cache-control"), "no-store");
    assert_eq!(response.violated(), [policy]);
    let problem = response.problem();
    assert_eq!(problem["status"], 429, "{problem}");
    for member in ["type", "title"] {
        assert!(problem[member].is_string(), "no {member} in {problem}");
    }
    let violated: Vec<_> = response
        .items("ratelimit")
        .into_iter()
        .map(|item| item.name)
        .collect();
    assert!(violated.iter().any(|name| name == policy), "{response:?}");
}

#[test]
fn exactly_the_quota_is_admitted_then_429_until_midnight() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let cases = Net::ALL
        .into_iter()
        .flat_map(|net| Refused::ALL.map(|after| (net, after)));
    for (net, after) in cases {
        let rig = Rig::on(net, |config| {
            after.configure(config).tier("profile", "daily_quota = 5")
        });
        let key = rig.limiter.key("acme/web");
        let [v4, v6] = rig.lab.addresses();
        let admitted = [v4, v6, v4, v6, v4].map(|address| rig.get_from(address, &key).status);
        assert_eq!(admitted, [200; 5]);
        for address in [v4, v6] {
            let (response, span) = Span::around(|| rig.get_from(address, &key));
            assert_is_refusal(&response, "daily-quota", after);
            let retry_after = response.required("retry-after").parse().expect("seconds");
            assert!(
                span.leads_to_midnight(retry_after),
                "Retry-After: {retry_after}, {span:?}"
            );
            let items = response.items("ratelimit");
            let quota = items
                .iter()
                .find(|item| item.name == "daily-quota")
                .expect("the quota");
            assert_eq!(quota.number("r"), 0);
            assert!(
                span.leads_to_midnight(quota.number("t")),
                "{quota:?}, {span:?}"
            );
        }
        rig.assert_charged_as_served("acme/web", &key, 5);
        let usage = rig.limiter.usage("acme/web");
        assert_eq!((usage.daily_quota, usage.remaining), (Some(5), Some(0)));
        assert_eq!(
            usage.refused,
            RefusalCounts {
                daily_quota: 2,
                ..RefusalCounts::default()
            }
        );
        rig.assert_nothing_left("acme/web");
    }
}

#[test]
fn refusal_lists_the_policies_with_quotas_and_windows() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let rig = Rig::veth(|config| {
        config.tier(
            "profile",
            "daily_quota = 1\nrate = \"1/ms\"\nburst = 1\nconcurrency = 20",
        )
    });
    let key = rig.limiter.key("acme/web");
    rig.get(&key);
    let policies = rig.get(&key).items("ratelimit-policy");
    let policy = |name: &str| {
        policies
            .iter()
            .find(|item| item.name == name)
            .unwrap_or_else(|| panic!("no {name} in {policies:?}"))
    };
    let quota = policy("daily-quota");
    assert_eq!((quota.number("q"), quota.number("w")), (1, 86_400));
    let rate = policy("rate");
    assert_eq!((rate.number("q"), rate.number("w")), (1000, 1));
    let concurrency = policy("concurrency");
    assert_eq!(concurrency.number("q"), 20);
    assert_eq!(concurrency.get("qu"), Some("\"concurrent-requests\""));
}

#[test]
fn a_refused_head_gets_the_same_headers_and_no_body() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    for after in Refused::ALL {
        let rig = Rig::veth(|config| after.configure(config).tier("profile", "daily_quota = 1"));
        let key = rig.limiter.key("acme/web");
        rig.get(&key);
        let mut conn = rig.lab.connect(GUARDED);
        conn.send(format!("HEAD / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n\r\n").as_bytes());
        let response = conn.head_response();
        assert_eq!(response.status, 429);
        assert_eq!(
            response.required("content-type"),
            "application/problem+json"
        );
        response.required("retry-after");
        after.assert(&mut conn, &request("/", &key), 429);

        let (header, url) = (format!("X-Api-Key: {key}"), rig.lab.url(GUARDED, "/"));
        let curl = tools::curl(&rig.lab, &["-I", "-H", &header, &url]);
        assert_eq!(
            (curl.exit, curl.response.expect("a response").status),
            (0, 429)
        );
    }
}

#[test]
fn many_connections_at_once_get_exactly_the_quota() {
    const QUOTA: u64 = 400;
    const CLIENTS: usize = 8;
    const REQUESTS: usize = 100;
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let rig = Rig::veth(|config| {
        config.tier(
            "profile",
            &format!("daily_quota = {QUOTA}\nrate = \"1000000/ms\""),
        )
    });
    let key = rig.limiter.key("acme/web");
    let client = || {
        let mut conn = rig.lab.connect(GUARDED);
        let mut admitted = 0;
        for _ in 0..REQUESTS {
            match conn.get("/", &key).status {
                200 => admitted += 1,
                429 => conn = rig.lab.connect(GUARDED),
                other => panic!("status {other}"),
            }
        }
        admitted
    };
    let admitted: u64 = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("a client"))
            .sum()
    });
    assert_eq!(admitted, QUOTA);
    rig.assert_charged_as_served("acme/web", &key, QUOTA);
    let refused = rig.limiter.usage("acme/web").refused.daily_quota;
    assert_eq!(refused, (CLIENTS * REQUESTS) as u64 - QUOTA);
}

#[test]
fn exhausted_scope_does_not_affect_other_scopes() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let rig = Rig::veth(|config| config.tier("profile", "daily_quota = 1"));
    let [web, app] = ["acme/web", "acme/app"].map(|scope| rig.limiter.key(scope));
    let master = rig.limiter.key("acme");
    assert_eq!(rig.statuses(&web, 2), [200, 429]);
    assert_eq!(rig.get(&app).status, 200);
    assert_eq!(rig.get(&master).status, 200);
}

#[test]
fn override_and_its_end_apply_immediately_to_open_connections() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let rig = Rig::veth(|config| config.tier("profile", "daily_quota = 2"));
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.statuses(&key, 3), [200, 200, 429]);
    let set = [
        "limits",
        "set",
        "acme/web",
        "--daily-quota",
        "4",
        "--note",
        "syncs many profiles",
    ];
    rig.limiter.done(&set);
    let mut conn = rig.lab.connect(GUARDED);
    assert_eq!(
        [conn.get("/", &key).status, conn.get("/", &key).status],
        [200, 200]
    );
    assert_eq!(rig.limiter.usage("acme/web").daily_quota, Some(4));
    rig.limiter.done(&[
        "limits",
        "set",
        "acme/web",
        "--daily-quota",
        "unlimited",
        "--note",
        "x",
    ]);
    assert_eq!(rig.limiter.usage("acme/web").daily_quota, None);
    assert_eq!(
        [conn.get("/", &key).status, conn.get("/", &key).status],
        [200, 200]
    );
    rig.limiter
        .done(&["limits", "clear", "acme/web", "--note", "done"]);
    assert_eq!(conn.get("/", &key).status, 429);
    let usage = rig.limiter.usage("acme/web");
    assert_eq!(
        (usage.used, usage.daily_quota, usage.remaining),
        (6, Some(2), Some(0))
    );
}

#[test]
fn usage_reset_restores_the_quota() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let rig = Rig::veth(|config| config.tier("profile", "daily_quota = 2"));
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.statuses(&key, 3), [200, 200, 429]);
    rig.limiter
        .done(&["reset", "acme/web", "--note", "a bug of ours used it up"]);
    assert_eq!(rig.limiter.usage("acme/web").used, 0);
    assert_eq!(rig.statuses(&key, 3), [200, 200, 429]);
}

#[test]
fn request_over_the_rate_gets_429_and_charges_nothing() {
    let rig = Rig::veth(|config| config.tier("profile", "rate = \"1/min\"\nburst = 1"));
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.get(&key).status, 200);
    let response = rig.get(&key);
    assert_is_refusal(&response, "rate", Refused::KeptOpen);
    let after: u64 = response.required("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&after), "Retry-After: {after}");
    let usage = rig.limiter.usage("acme/web");
    assert_eq!((usage.used, usage.in_flight), (1, 0));
    assert_eq!(
        usage.refused,
        RefusalCounts {
            rate: 1,
            ..RefusalCounts::default()
        }
    );
    rig.assert_nothing_left("acme/web");
}

#[test]
fn lifted_or_raised_rate_applies_immediately() {
    let rig = Rig::veth(|config| config.tier("profile", "rate = \"1/min\"\nburst = 1"));
    let set = |scope: &str, rate: &str| {
        rig.limiter
            .done(&["limits", "set", scope, "--rate", rate, "--note", "test"]);
    };
    let lifted = rig.limiter.key("acme/lifted");
    assert_eq!(rig.statuses(&lifted, 2), [200, 429]);
    set("acme/lifted", "unlimited");
    assert_eq!(rig.statuses(&lifted, 3), [200, 200, 200]);

    // Under the new rate, the next request has to wait for at most a millisecond instead of the
    // rest of the minute.
    let raised = rig.limiter.key("acme/raised");
    assert_eq!(rig.statuses(&raised, 2), [200, 429]);
    set("acme/raised", "1/ms");
    assert!((0..20).any(|_| rig.get(&raised).status == 200));

    // When a rate is set for a scope whose rate was unlimited, earlier requests do not count
    // towards the rate. The first request is therefore admitted.
    set("acme/lifted", "1/min");
    assert_eq!(rig.statuses(&lifted, 2), [200, 429]);
}

#[test]
fn exactly_the_burst_is_admitted() {
    let rig = Rig::veth(|config| config.tier("profile", "rate = \"1/min\"\nburst = 4"));
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.statuses(&key, 6), [200, 200, 200, 200, 429, 429]);
}

#[test]
fn refused_request_does_not_delay_the_next_one() {
    let rig = Rig::veth(|config| config.tier("profile", "rate = \"2/s\"\nburst = 1"));
    let key = rig.limiter.key("acme/web");
    // This client sends without a pause. If refused requests counted towards the rate, all further
    // requests would be refused.
    let mut admitted = 0;
    limiter_tests::eventually("a second one is admitted", || {
        admitted += u64::from(rig.get(&key).status == 200);
        admitted == 2
    });
    rig.assert_charged_as_served("acme/web", &key, 2);
}

#[test]
fn the_rate_holds_over_all_connections_and_keys_of_a_scope() {
    let rig = Rig::veth(|config| config.tier("profile", "rate = \"1/min\"\nburst = 3"));
    let first = rig.limiter.key("acme/web");
    let second = rig.limiter.another_key("acme/web");
    let mut conn = rig.lab.connect(GUARDED);
    assert_eq!(conn.get("/", &first).status, 200);
    assert_eq!(conn.get("/", &second).status, 200);
    assert_eq!(rig.get(&second).status, 200);
    assert_eq!(conn.ask(&request("/", &first)).status, 429);
    assert_eq!(rig.get(&second).status, 429);
}

#[test]
fn admitted_requests_keep_the_interval_at_full_speed() {
    use limiter_tests::capture::{Capture, exchanges};

    const APART: u64 = 2_000_000;
    let rig = Rig::veth(|config| config.tier("profile", "rate = \"1/2ms\"\nburst = 1"));
    let key = rig.limiter.key("acme/web");
    let capture = Capture::start(&rig.lab, "rate", GUARDED);
    let summary = tools::wrk(&rig.lab, &rig.lab.url(GUARDED, "/"), &key, 8, 2);
    let exchanges = exchanges(&capture.finish(), GUARDED);
    let admitted: Vec<_> = exchanges
        .iter()
        .filter(|exchange| exchange.status == 200)
        .collect();
    assert!(admitted.len() > 100 && summary.refused > 100, "{summary:?}");
    assert_eq!(summary.socket_errors, 0, "{summary:?}");
    // The limiter decides about a request after the request arrives and before its response
    // departs. The time from the arrival of one request to the response to the next one is
    // therefore at least the time between the two decisions.
    for pair in admitted.windows(2) {
        let apart = pair[1].answered - pair[0].asked;
        assert!(apart >= APART, "two admitted within {apart} ns");
    }
    let first = admitted.first().expect("there are some").asked;
    let last = admitted.last().expect("there are some").answered;
    let most = (last - first) / APART + 1;
    assert!(
        admitted.len() as u64 <= most,
        "{} admitted, at most {most}",
        admitted.len()
    );
}

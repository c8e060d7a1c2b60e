// SPDX-License-Identifier: MIT OR Apache-2.0

//! The policies for requests without a key, with an unknown key or with a disabled key, in enforce
//! mode and in observe mode, and the policies for untracked connections.

use limiter_tests::{
    Config, Conn, GUARDED, Lab, Limiter, Net, Nginx, Refused, Rig, avoid_midnight, eventually,
    request,
};

const NO_KEY: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// Asserts that the request gets 401, and that the connection is in the state `after` then.
#[track_caller]
fn assert_unauthorized(conn: &mut Conn, request: &[u8], after: Refused) {
    let response = conn.ask(request);
    assert_eq!(response.status, 401, "{response:?}");
    assert_eq!(response.required("connection"), after.connection());
    // A 401 must contain a challenge (RFC 9110, section 15.5.2).
    response.required("www-authenticate");
    assert_eq!(response.problem()["status"], 401);
    after.assert(conn, request, 401);
}

/// Returns the number of requests that `calls` calls of [`assert_unauthorized`] send.
fn refusals(calls: u64, after: Refused) -> u64 {
    match after {
        Refused::KeptOpen => 2 * calls,
        Refused::Closed => calls,
    }
}

/// Returns the id of the only key of `scope`.
fn key_id(rig: &Rig, scope: &str) -> String {
    let keys = rig.limiter.json(&["key", "list", scope]);
    keys[0]["id"].as_str().expect("an id").to_owned()
}

#[test]
fn missing_and_unknown_keys_pass_by_default_and_are_counted() {
    for net in [Net::Veth, Net::Loopback] {
        let rig = Rig::on(net, |config| config);
        let mut conn = rig.lab.connect(GUARDED);
        for _ in 0..3 {
            assert_eq!(conn.ask(NO_KEY).status, 200);
            assert_eq!(conn.get("/", "nobody-knows-this").status, 200);
        }
        assert_eq!(rig.limiter.count("/totals/missing_key"), 3);
        assert_eq!(rig.limiter.count("/totals/unknown_key"), 3);
        assert_eq!(rig.limiter.count("/totals/admitted"), 0);
        assert_eq!(rig.nginx.log().len(), 6);
    }
}

#[test]
fn requests_without_a_key_are_refused_where_the_policy_says_so() {
    for (net, after) in [
        (Net::Veth, Refused::KeptOpen),
        (Net::Veth, Refused::Closed),
        (Net::Loopback, Refused::KeptOpen),
        (Net::Loopback, Refused::Closed),
    ] {
        let rig = Rig::on(net, |config| {
            after.configure(config).policy("missing_key = \"reject\"")
        });
        let key = rig.limiter.key("acme/web");
        for address in rig.lab.addresses() {
            assert_unauthorized(&mut rig.lab.connect_to(address, GUARDED), NO_KEY, after);
        }
        assert_eq!(rig.get(&key).status, 200);
        assert_eq!(rig.get("unknown").status, 200);
        assert_eq!(rig.limiter.count("/totals/missing_key"), refusals(2, after));
        assert_eq!(rig.nginx.log().len(), 2);
        rig.assert_nothing_left("acme/web");
    }
}

#[test]
fn a_preflight_passes_without_a_key_unless_the_policy_says_otherwise() {
    const PREFLIGHT: &[u8] = b"OPTIONS / HTTP/1.1\r\nHost: x\r\nOrigin: https://a\r\n\
        Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: x-api-key\r\n\r\n";
    for after in Refused::ALL {
        let configure = |config| after.configure(config).policy("missing_key = \"reject\"");
        let rig = Rig::veth(configure);
        let mut conn = rig.lab.connect(GUARDED);
        assert_eq!(conn.ask(PREFLIGHT).status, 200);
        assert_unauthorized(&mut conn, NO_KEY, after);
        assert_eq!(rig.limiter.count("/coverage/preflights"), 1);
        assert_eq!(rig.limiter.count("/totals/missing_key"), refusals(1, after));
        drop((conn, rig));

        let rig = Rig::veth(|config| configure(config).policy("preflight = \"as missing_key\""));
        assert_unauthorized(&mut rig.lab.connect(GUARDED), PREFLIGHT, after);
    }

    let rig = Rig::veth(|config| config);
    rig.lab.connect(GUARDED).ask(PREFLIGHT);
    assert_eq!(rig.limiter.count("/totals/missing_key"), 1);
    assert_eq!(rig.limiter.count("/coverage/preflights"), 0);
}

#[test]
fn unknown_keys_are_refused_where_the_policy_says_so() {
    for after in Refused::ALL {
        let rig = Rig::veth(|config| after.configure(config).policy("unknown_key = \"reject\""));
        let key = rig.limiter.key("acme/web");
        let unknown = request("/", "unknown");
        for address in rig.lab.addresses() {
            assert_unauthorized(&mut rig.lab.connect_to(address, GUARDED), &unknown, after);
        }
        assert_eq!(rig.get(&key).status, 200);
        assert_eq!(rig.lab.connect(GUARDED).ask(NO_KEY).status, 200);
        assert_eq!(rig.limiter.count("/totals/unknown_key"), refusals(2, after));
        assert_eq!(rig.nginx.log().len(), 2);
    }
}

#[test]
fn a_refused_head_gets_401_without_a_body() {
    for after in Refused::ALL {
        let rig = Rig::veth(|config| after.configure(config).policy("missing_key = \"reject\""));
        let mut conn = rig.lab.connect(GUARDED);
        conn.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(conn.head_response().status, 401);
        after.assert(&mut conn, NO_KEY, 401);
    }
}

#[test]
fn unknown_keys_get_limits_of_their_own_where_the_policy_names_a_tier() {
    avoid_midnight(std::time::Duration::from_secs(60));
    let rig = Rig::veth(|config| {
        config
            .policy("unknown_key = \"tier:guest\"")
            .tier("guest", "daily_quota = 2")
    });
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.statuses("guest-one", 4), [200, 200, 429, 429]);
    assert_eq!(rig.statuses("guest-two", 3), [200, 200, 429]);
    assert_eq!(rig.statuses(&key, 3), [200, 200, 200]);
    let refused = rig.get("guest-one");
    assert_eq!(refused.violated(), ["daily-quota"]);
    assert_eq!(rig.nginx.served("guest-one"), 2);
    assert_eq!(rig.limiter.count("/totals/unknown_key"), 8);
}

#[test]
fn a_disabled_key_is_refused_on_open_connections_too_and_enabled_again_it_works() {
    // A disabled key is refused under every policy for unknown keys.
    for (unknown, after) in [
        ("pass", Refused::KeptOpen),
        ("reject", Refused::KeptOpen),
        ("tier:profile", Refused::KeptOpen),
        ("pass", Refused::Closed),
    ] {
        let policy = format!("unknown_key = {unknown:?}");
        let rig = Rig::veth(|config| after.configure(config).policy(&policy));
        let key = rig.limiter.key("acme/web");
        let mut open = rig.lab.connect(GUARDED);
        assert_eq!(open.get("/", &key).status, 200);
        let id = key_id(&rig, "acme/web");
        rig.limiter.done(&["key", "disable", &id]);
        assert_unauthorized(&mut open, &request("/", &key), after);
        assert_unauthorized(&mut rig.lab.connect(GUARDED), &request("/", &key), after);
        rig.limiter.done(&["key", "enable", &id]);
        // A connection that went on serves the key again.
        match after {
            Refused::KeptOpen => assert_eq!(open.get("/", &key).status, 200, "{unknown}"),
            Refused::Closed => assert_eq!(rig.get(&key).status, 200, "{unknown}"),
        }
        rig.assert_charged_as_served("acme/web", &key, 2);
    }
}

#[test]
fn revoked_key_is_refused_and_other_keys_of_its_scope_are_not() {
    for (unknown, after) in [
        ("pass", Refused::KeptOpen),
        ("tier:profile", Refused::KeptOpen),
        ("pass", Refused::Closed),
    ] {
        let policy = format!("unknown_key = {unknown:?}");
        let rig = Rig::veth(|config| after.configure(config).policy(&policy));
        let key = rig.limiter.key("acme/web");
        let id = key_id(&rig, "acme/web");
        let other = rig.limiter.another_key("acme/web");
        let mut open = rig.lab.connect(GUARDED);
        assert_eq!(open.get("/", &key).status, 200);
        rig.limiter.done(&["key", "revoke", &id]);
        assert_unauthorized(&mut open, &request("/", &key), after);
        assert_unauthorized(&mut rig.lab.connect(GUARDED), &request("/", &key), after);
        assert_eq!(rig.get(&other).status, 200);
        assert_eq!(rig.nginx.served(&key), 1, "{unknown}");
    }
}

#[test]
fn observe_mode_counts_refusals_and_refuses_nothing() {
    avoid_midnight(std::time::Duration::from_secs(60));
    let rig = Rig::veth(|config| {
        config
            .policy("mode = \"observe\"")
            .policy("missing_key = \"reject\"")
            .policy("unknown_key = \"reject\"")
            .tier("profile", "daily_quota = 2")
            .tier("slow", "rate = \"1/min\"\nburst = 1")
            .tier("narrow", "concurrency = 1")
    });
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.statuses(&key, 5), [200; 5]);
    let usage = rig.limiter.usage("acme/web");
    assert_eq!(
        (usage.refused.total(), usage.would_refuse.daily_quota),
        (0, 3)
    );

    let slow = rig.limiter.key_of_tier("acme/slow", "slow");
    assert_eq!(rig.statuses(&slow, 3), [200; 3]);
    assert_eq!(rig.limiter.usage("acme/slow").would_refuse.rate, 2);

    let narrow = rig.limiter.key_of_tier("acme/narrow", "narrow");
    let held = limiter_tests::nginx::hold(&rig.lab, &rig.nginx, &narrow, 3);
    assert_eq!(rig.limiter.usage("acme/narrow").would_refuse.concurrency, 2);
    rig.nginx.gate().open();
    drop(held);
    eventually("nothing is in flight", || {
        rig.limiter.usage("acme/narrow").in_flight == 0
    });

    assert_eq!(rig.lab.connect(GUARDED).ask(NO_KEY).status, 200);
    assert_eq!(rig.get("unknown").status, 200);
}

#[test]
fn tier_mode_overrides_the_policy_mode_both_ways() {
    for (mode, tier_mode, expected) in [
        ("enforce", "observe", [429, 200]),
        ("observe", "enforce", [200, 429]),
    ] {
        let rig = Rig::veth(|config| {
            config
                .policy(&format!("mode = {mode:?}"))
                .tier("profile", "rate = \"1/min\"\nburst = 1")
                .tier(
                    "trial",
                    &format!("rate = \"1/min\"\nburst = 1\nmode = {tier_mode:?}"),
                )
        });
        let web = rig.limiter.key("acme/web");
        let trial = rig.limiter.key_of_tier("acme/trial", "trial");
        assert_eq!([rig.get(&web).status, rig.get(&trial).status], [200, 200]);
        assert_eq!(
            [rig.get(&web).status, rig.get(&trial).status],
            expected,
            "{mode}"
        );
    }
}

#[test]
fn connections_older_than_the_attach_can_be_refused() {
    let lab = Lab::veth();
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let mut old = lab.connect(GUARDED);
    assert_eq!(old.get("/", "any").status, 200);
    let config = Config::new(&lab).policy("untracked = \"reject\"");
    let limiter = Limiter::start(&lab, &config);
    old.send(&request("/", "any"));
    assert!(
        old.rest().map_or(true, |rest| rest.is_empty()),
        "no response on an old connection"
    );
    assert_eq!(lab.connect(GUARDED).get("/", "any").status, 200);
    assert_eq!(nginx.log().len(), 2);
    assert!(limiter.count("/coverage/untracked_refused") > 0);
}

#[test]
fn a_full_table_of_connections_refuses_or_passes_and_is_counted() {
    const FLOWS: usize = 64;
    for (policy, served) in [("reject", false), ("pass", true)] {
        let rig = Rig::veth(|config| {
            config.policy(&format!("table_full = {policy:?}")).section(
                "tables",
                &format!("flows = {FLOWS}\nscopes = 64\nkeys = 64\nunknown_keys = 64\n"),
            )
        });
        // A hash table of the kernel may have room for a few entries more than its size, so the
        // test opens connections until a connection finds the table full.
        let mut open = Vec::new();
        eventually("the table is full", || {
            let Ok(conn) = Conn::try_open(rig.lab.client(), (rig.lab.v4(), GUARDED).into()) else {
                return true;
            };
            // Each connection sends a request, because the programs replace connections without a
            // request when the table fills up.
            let mut conn = conn;
            let asked = conn.try_get("/", "any");
            assert!(served || asked.is_ok() || rig.limiter.count("/coverage/table_full") > 0);
            open.push(conn);
            assert!(
                open.len() <= 4 * FLOWS,
                "{} connections and no full table",
                open.len()
            );
            rig.limiter.count("/coverage/table_full") > 0
        });
        assert!(open.len() >= FLOWS, "full with {} connections", open.len());
        if served {
            let last = open.last_mut().expect("there are some");
            assert_eq!(last.get("/", "any").status, 200);
        }
        assert_eq!(open[0].get("/", "any").status, 200, "{policy}");
    }
}

#[test]
fn http_2_is_reset_by_default_and_passes_where_the_policy_says_so() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    // `reset` is the former name of `reject`, and is still accepted.
    for (policy, passes) in [
        ("", false),
        ("http2 = \"reset\"", false),
        ("http2 = \"pass\"", true),
    ] {
        let lab = Lab::veth();
        let (sender, received) = std::sync::mpsc::channel();
        let _server = limiter_tests::Server::start(lab.server(), GUARDED, move |mut conn| {
            if let Ok(bytes) = conn.take(preface.len()) {
                // The test may have ended by now, so an error is ignored.
                let _ = sender.send(bytes);
                let _ = conn.try_send(b"settings");
                let _ = conn.rest();
            }
        });
        let config = Config::new(&lab).policy(policy);
        let limiter = Limiter::start(&lab, &config);
        let mut conn = lab.connect(GUARDED);
        conn.send(preface);
        if passes {
            assert_eq!(conn.take(8).expect("an answer"), b"settings");
            assert_eq!(received.recv().expect("the server received it"), preface);
        } else {
            let error = conn.rest().expect_err("a reset");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            assert!(received.try_recv().is_err());
        }
        assert_eq!(limiter.count("/coverage/http2"), 1);
    }
}

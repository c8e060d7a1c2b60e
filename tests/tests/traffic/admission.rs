// SPDX-License-Identifier: MIT OR Apache-2.0

//! Traffic within its limits reaches the server unchanged, and every request is counted.

use std::sync::{Arc, Mutex};

use limiter_tests::{
    Config, GUARDED, Lab, Limiter, Net, Nginx, Rig, Server, UNGUARDED, eventually, request, tools,
};
use serde_json::json;

#[test]
fn a_request_with_a_key_is_served_and_counted_once_on_every_net() {
    for net in Net::ALL {
        let rig = Rig::on(net, |config| config);
        let key = rig.limiter.key("acme/web");
        for (number, address) in (1..).zip(rig.lab.addresses()) {
            let response = rig.get_from(address, &key);
            assert_eq!(
                (response.status, &response.body[..]),
                (200, &b"served\n"[..])
            );
            rig.assert_charged_as_served("acme/web", &key, number);
        }
        rig.assert_nothing_left("acme/web");
    }
}

#[test]
fn every_request_of_a_connection_is_counted_once() {
    const REQUESTS: u64 = 300;
    for net in Net::ALL {
        let rig = Rig::on(net, |config| config);
        let key = rig.limiter.key("acme/web");
        for address in rig.lab.addresses() {
            let mut conn = rig.lab.connect_to(address, GUARDED);
            for _ in 0..REQUESTS {
                assert_eq!(conn.get("/", &key).status, 200);
            }
        }
        rig.assert_charged_as_served("acme/web", &key, 2 * REQUESTS);
    }
}

#[test]
fn curl_reuses_its_connection_and_is_counted() {
    let rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    let (header, url) = (format!("X-Api-Key: {key}"), rig.lab.url(GUARDED, "/"));
    let curl = tools::curl(&rig.lab, &["-H", &header, &url, &url, &url]);
    assert_eq!(curl.exit, 0, "{curl:?}");
    rig.assert_charged_as_served("acme/web", &key, 3);
}

#[test]
fn python_requests_are_counted() {
    let script = r#"
import http.client, json, sys
host, key = sys.argv[1], sys.argv[2]
connection = http.client.HTTPConnection(host)
statuses = []
for number in range(20):
    body = b"x" * (number * 1000)
    connection.request("POST", "/", body, {"X-Api-Key": key})
    response = connection.getresponse()
    response.read()
    statuses.append(response.status)
print(json.dumps(statuses))
"#;
    let rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    let host = rig.lab.v4().to_string();
    let statuses = tools::python(&rig.lab, script, &[&host, &key]);
    assert_eq!(statuses, json!(vec![200; 20]));
    rig.assert_charged_as_served("acme/web", &key, 20);
}

#[test]
fn wrk_requests_at_full_speed_are_counted_exactly() {
    const CONNECTIONS: u32 = 16;
    let rig = Rig::veth(|config| {
        config.tier(
            "profile",
            "rate = \"1000000/ms\"\nconcurrency = \"unlimited\"",
        )
    });
    let key = rig.limiter.key("acme/web");
    let summary = tools::wrk(&rig.lab, &rig.lab.url(GUARDED, "/"), &key, CONNECTIONS, 2);
    assert_eq!(
        (summary.refused, summary.socket_errors),
        (0, 0),
        "{summary:?}"
    );
    rig.assert_nothing_left("acme/web");
    let (served, used) = (rig.nginx.served(&key), rig.limiter.usage("acme/web").used);
    // When wrk ends, it closes its connections, and the last request on each of them may still be
    // unanswered. The limiter has charged these requests, but nginx logs only those that it read
    // before the connection was closed.
    assert!(
        served >= summary.requests && used >= served && used - served <= u64::from(CONNECTIONS),
        "wrk received {} responses, nginx served {served}, {used} were charged",
        summary.requests
    );
}

#[test]
fn ports_that_are_not_guarded_are_untouched() {
    let rig = Rig::veth(|config| config.tier("profile", "daily_quota = 1"));
    let key = rig.limiter.key("acme/web");
    let unguarded = || rig.lab.connect(UNGUARDED).get("/", &key).status;
    assert_eq!([unguarded(), unguarded()], [200, 200]);
    assert_eq!(rig.limiter.usage("acme/web").used, 0);
    assert_eq!(rig.statuses(&key, 2), [200, 429]);
    assert_eq!([unguarded(), unguarded()], [200, 200]);
    assert_eq!(rig.limiter.usage("acme/web").used, 1);
}

#[test]
fn all_guarded_ports_and_interfaces_share_one_count() {
    let lab = Lab::veth();
    let rig = Rig::of(lab, |config| {
        config
            .interfaces(&["s0", "lo"])
            .ports(&[GUARDED, UNGUARDED])
            .tier("profile", "daily_quota = 6")
    });
    let key = rig.limiter.key("acme/web");
    let local = |port| {
        let to = (std::net::Ipv4Addr::LOCALHOST, port).into();
        limiter_tests::Conn::open(rig.lab.server(), to)
            .get("/", &key)
            .status
    };
    for port in [GUARDED, UNGUARDED] {
        assert_eq!(rig.lab.connect(port).get("/", &key).status, 200);
        assert_eq!(
            rig.lab.connect_to(rig.lab.v6(), port).get("/", &key).status,
            200
        );
        assert_eq!(local(port), 200);
    }
    rig.assert_charged_as_served("acme/web", &key, 6);
    assert_eq!(local(GUARDED), 429);
    assert_eq!(rig.get(&key).status, 429);
}

#[test]
fn keys_of_a_scope_share_its_count_and_scopes_count_apart() {
    let rig = Rig::veth(|config| config);
    let web = rig.limiter.key("acme/web");
    let web_too = rig.limiter.another_key("acme/web");
    let app = rig.limiter.key("acme/app");
    let master = rig.limiter.key("acme");
    for (key, times) in [(&web, 3), (&web_too, 4), (&app, 5), (&master, 6)] {
        assert!(rig.statuses(key, times).iter().all(|&status| status == 200));
    }
    let used = ["acme/web", "acme/app", "acme"].map(|scope| rig.limiter.usage(scope).used);
    assert_eq!(used, [7, 5, 6]);
}

#[test]
fn answers_arrive_as_they_were_sent() {
    for net in Net::ALL {
        let rig = Rig::on(net, |config| config);
        let key = rig.limiter.key("acme/web");
        for address in rig.lab.addresses() {
            let mut conn = rig.lab.connect_to(address, GUARDED);
            for _ in 0..3 {
                let response = conn.get(Nginx::FILE, &key);
                assert!(response.body == Nginx::file_content(), "{net:?} {address}");
            }
        }
    }
}

#[test]
fn requests_arrive_as_they_were_sent() {
    for net in Net::ALL {
        let lab = Lab::new(net);
        let received = Arc::new(Mutex::new(Vec::new()));
        let receiver = Arc::clone(&received);
        let _server = Server::start(lab.server(), GUARDED, move |mut conn| {
            while let Ok(head) = conn.head() {
                let Ok(body) = conn.body(&head) else { return };
                receiver
                    .lock()
                    .expect("what was received")
                    .push((head, body));
                if conn.try_answer().is_err() {
                    return;
                }
            }
        });
        let limiter = Limiter::start(&lab, &Config::new(&lab));
        let key = limiter.key("acme/web");
        let body = Nginx::file_content().repeat(10);
        for address in lab.addresses() {
            let mut conn = lab.connect_to(address, GUARDED);
            let head = format!(
                "POST /a?b=c HTTP/1.1\r\nHost: x\r\nX-API-KEY:\t {key} \r\nX-Odd:  a b\t\r\n\
                 Content-Length: {}\r\n\r\n",
                body.len()
            );
            assert_eq!(conn.ask(&[head.as_bytes(), &body].concat()).status, 200);
            let (head, got) = received
                .lock()
                .expect("what was received")
                .pop()
                .expect("a request");
            assert_eq!(head.line, "POST /a?b=c HTTP/1.1");
            let names: Vec<_> = head.headers.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["Host", "X-API-KEY", "X-Odd", "Content-Length"]);
            assert_eq!(head.get("x-api-key"), Some(key.as_str()));
            assert!(got == body, "{net:?} {address}: the body differs");
        }
        assert_eq!(limiter.usage("acme/web").used, 2);
    }
}

#[test]
fn connection_older_than_the_attach_passes_and_is_counted_as_older() {
    let lab = Lab::veth();
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let mut old = lab.connect(GUARDED);
    assert_eq!(old.get("/", "any").status, 200);
    let limiter = Limiter::start(&lab, &Config::new(&lab).tier("profile", "daily_quota = 1"));
    let key = limiter.key("acme/web");
    for _ in 0..3 {
        assert_eq!(old.get("/", &key).status, 200);
    }
    assert_eq!(limiter.usage("acme/web").used, 0);
    eventually("it is counted as untracked", || {
        limiter.count("/coverage/untracked_segments") >= 3
    });
    let mut new = lab.connect(GUARDED);
    assert_eq!(
        [new.get("/", &key).status, new.get("/", &key).status],
        [200, 429]
    );
    assert_eq!(nginx.served(&key), 4);
}

#[test]
fn status_adds_up_what_was_admitted_and_refused() {
    let rig = Rig::veth(|config| config.tier("profile", "daily_quota = 3"));
    let key = rig.limiter.key("acme/web");
    rig.statuses(&key, 5);
    let mut conn = rig.lab.connect(GUARDED);
    conn.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    conn.ask(&request("/", "not-a-key"));
    let status = rig.limiter.status();
    assert_eq!(status["totals"]["admitted"], 3, "{status}");
    assert_eq!(status["totals"]["refused"]["daily_quota"], 2, "{status}");
    assert_eq!(status["totals"]["missing_key"], 1, "{status}");
    assert_eq!(status["totals"]["unknown_key"], 1, "{status}");
    assert_eq!(status["totals"]["malformed"], 0, "{status}");
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! After a refusal the client has a complete response, and the connection either goes on or ends in
//! an orderly way, whatever the client does. Then no socket is left over on either side.

use std::thread;

use limiter_tests::{
    Conn, GUARDED, Lab, Namespace, Net, Nginx, Refused, Rig, eventually,
    netfilter::Rules,
    process, request, tools,
    wire::{self, DeviceKind, Wire},
};

/// Creates a rig and a key, uses up the quota of the key's scope, and returns the rig and the key.
fn exhausted(net: Net, on_limit: &str) -> (Rig, String) {
    let rig = Rig::on(net, |config| {
        config
            .tier("profile", "daily_quota = 1")
            .policy(&format!("on_limit = {on_limit:?}"))
    });
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.get(&key).status, 200);
    (rig, key)
}

/// Returns all networks, each with all states of a connection after a refusal.
fn everywhere() -> impl Iterator<Item = (Net, Refused)> {
    Net::ALL
        .into_iter()
        .flat_map(|net| Refused::ALL.map(|after| (net, after)))
}

/// Creates a key of a second scope, whose quota is not used up.
fn other(rig: &Rig) -> String {
    rig.limiter.key("beta")
}

#[track_caller]
fn assert_no_sockets(rig: &Rig) {
    rig.assert_no_sockets("acme/web");
}

fn post_head(key: &str, framing: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n{framing}\r\n\r\n")
}

/// Returns the number of bytes that the sockets of the namespace report in the field `name`
/// (`ss -i`), for the only connection with the guarded port.
#[track_caller]
fn bytes_of_socket(namespace: &Namespace, filter: &str, name: &str) -> usize {
    let mut ss = namespace.command("ss");
    let listing = process::succeed(ss.args(["-Htin", "state", "established", filter]));
    let value = listing
        .split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix(':'));
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {listing}"))
}

#[test]
fn other_tools_see_two_valid_connections_of_different_lengths() {
    for net in [Net::Veth, Net::VethNoOffload] {
        let (rig, key) = exhausted(net, "keepalive");
        let other = other(&rig);
        let (client, server) = (rig.lab.client(), rig.lab.server());
        let rules = [client, server].map(Rules::drop_invalid);
        let mut conn = rig.lab.connect(GUARDED);
        let body = vec![b'x'; 100_000];
        let head = post_head(&key, &format!("Content-Length: {}", body.len()));
        let upload = [head.as_bytes(), &body].concat();
        let (served, refused) = (request(Nginx::FILE, &other), request("/", &key));
        let mut sent = [0, 0];
        for _ in 0..5 {
            assert_eq!(conn.ask(&served).body, Nginx::file_content());
            assert_eq!(conn.ask(&refused).status, 429);
            assert_eq!(conn.ask(&upload).status, 429);
            sent[0] += served.len();
            sent[1] += refused.len() + upload.len();
        }
        assert_eq!(conn.ask(&served).status, 200);
        sent[0] += served.len();
        // The server's socket has received only the requests that were served.
        let [admitted, withheld] = sent;
        let received = bytes_of_socket(server, "( sport = :80 )", "bytes_received");
        assert_eq!(received, admitted, "{net:?}");
        // The socket counts the SYN as a byte.
        let acknowledged = bytes_of_socket(client, "( dport = :80 )", "bytes_acked");
        assert_eq!(acknowledged, admitted + withheld + 1, "{net:?}");
        drop(conn);
        assert_no_sockets(&rig);
        for rules in &rules {
            assert_eq!(rules.counted("invalid"), 0, "{net:?}");
            assert!(rules.counted("valid") > 0, "{net:?}");
        }
    }
}

#[test]
fn client_reads_the_whole_refusal_and_no_socket_remains() {
    for (net, after) in everywhere() {
        let (rig, key) = exhausted(net, after.on_limit());
        for address in rig.lab.addresses() {
            for _ in 0..20 {
                let mut conn = rig.lab.connect_to(address, GUARDED);
                let response = conn.get("/", &key);
                assert_eq!(
                    (response.status, response.violated()),
                    (429, vec!["daily-quota".into()])
                );
                if after == Refused::Closed {
                    conn.assert_closed();
                }
            }
        }
        assert_no_sockets(&rig);
        rig.assert_charged_as_served("acme/web", &key, 1);
        assert_eq!(rig.limiter.usage("acme/web").refused.daily_quota, 40);
    }
}

#[test]
fn connection_served_before_is_refused_too() {
    for (net, after) in everywhere() {
        let (rig, key) = exhausted(net, after.on_limit());
        let other = other(&rig);
        let mut conn = rig.lab.connect(GUARDED);
        assert_eq!(conn.get(Nginx::FILE, &other).body, Nginx::file_content());
        assert_eq!(conn.get("/", &key).status, 429, "{net:?}");
        after.assert(&mut conn, &request("/", &key), 429);
        drop(conn);
        assert_no_sockets(&rig);
    }
}

#[test]
fn earlier_answers_come_before_a_refusal_in_the_same_segment() {
    for after in Refused::ALL {
        let (rig, key) = exhausted(Net::Veth, after.on_limit());
        let other = other(&rig);
        for address in rig.lab.addresses() {
            let mut conn = rig.lab.connect_to(address, GUARDED);
            let file = request(Nginx::FILE, &other);
            conn.send(&[file.repeat(2), request("/", &key), file].concat());
            assert!(conn.response().body == Nginx::file_content());
            assert!(conn.response().body == Nginx::file_content());
            assert_eq!(conn.response().status, 429);
            match after {
                Refused::KeptOpen => assert!(conn.response().body == Nginx::file_content()),
                Refused::Closed => conn.assert_closed(),
            }
        }
        let served = match after {
            Refused::KeptOpen => 6,
            Refused::Closed => 4,
        };
        rig.assert_charged_as_served("beta", &other, served);
        rig.assert_charged_as_served("acme/web", &key, 1);
        assert_no_sockets(&rig);
    }
}

#[test]
fn refused_upload_is_answered_while_the_client_sends_all_of_it() {
    let body = Nginx::file_content().repeat(11);
    for (net, after) in everywhere() {
        let (rig, key) = exhausted(net, after.on_limit());
        for address in rig.lab.addresses() {
            let mut conn = rig.lab.connect_to(address, GUARDED);
            let head = post_head(&key, &format!("Content-Length: {}", body.len()));
            conn.send(head.as_bytes());
            conn.send(&body);
            assert_eq!(conn.response().status, 429, "{net:?} {address}");
            conn.assert_closed();
        }
        assert_no_sockets(&rig);
    }
}

#[test]
fn a_refused_chunked_upload_is_answered() {
    for after in Refused::ALL {
        let (rig, key) = exhausted(Net::Veth, after.on_limit());
        let mut conn = rig.lab.connect(GUARDED);
        conn.send(post_head(&key, "Transfer-Encoding: chunked").as_bytes());
        for _ in 0..100 {
            conn.send(format!("7530\r\n{}\r\n", "x".repeat(0x7530)).as_bytes());
        }
        conn.send(b"0\r\n\r\n");
        assert_eq!(conn.response().status, 429);
        conn.assert_closed();
        drop(conn);
        assert_no_sockets(&rig);
    }
}

#[test]
fn curl_reads_the_refusal_of_an_upload_with_and_without_expect() {
    for after in Refused::ALL {
        let (rig, key) = exhausted(Net::Veth, after.on_limit());
        let file = rig.lab.file("upload");
        std::fs::write(&file, Nginx::file_content().repeat(11)).expect("the upload");
        let (upload, header) = (format!("@{}", file.display()), format!("X-Api-Key: {key}"));
        let url = rig.lab.url(GUARDED, "/");
        for expect in ["Expect: 100-continue", "Expect:"] {
            let arguments = ["-H", &header, "-H", expect, "--data-binary", &upload, &url];
            let curl = tools::curl(&rig.lab, &arguments);
            assert_eq!(curl.exit, 0, "{expect}: {curl:?}");
            assert_eq!(curl.response.expect("a response").status, 429, "{expect}");
        }
        assert_no_sockets(&rig);
    }
}

#[test]
fn python_reads_the_refusal_of_an_upload_and_connects_again() {
    let script = r#"
import http.client, json, sys
host, key = sys.argv[1], sys.argv[2]
connection = http.client.HTTPConnection(host, timeout=30)
seen = []
for number in range(20):
    body = b"x" * 3_000_000 if number % 2 else None
    connection.request("POST" if body else "GET", "/", body, {"X-Api-Key": key})
    response = connection.getresponse()
    seen.append([response.status, len(response.read()) == int(response.headers["Content-Length"])])
print(json.dumps(seen))
"#;
    for after in Refused::ALL {
        let (rig, key) = exhausted(Net::Veth, after.on_limit());
        let host = rig.lab.v4().to_string();
        let seen = tools::python(&rig.lab, script, &[&host, &key]);
        assert_eq!(seen, serde_json::json!(vec![(429, true); 20]));
        assert_no_sockets(&rig);
    }
}

#[test]
fn wrk_sees_refusals_and_not_one_socket_error() {
    for (net, after) in everywhere() {
        let (rig, key) = exhausted(net, after.on_limit());
        let summary = tools::wrk(&rig.lab, &rig.lab.url(GUARDED, "/"), &key, 50, 2);
        assert!(summary.requests > 0);
        assert_eq!(summary.refused, summary.requests, "{summary:?}");
        assert_eq!(summary.socket_errors, 0, "{summary:?}");
        rig.assert_charged_as_served("acme/web", &key, 1);
        assert_no_sockets(&rig);
    }
}

#[test]
fn a_client_that_goes_on_sending_after_its_refusal_is_not_reset_and_not_served() {
    let (rig, key) = exhausted(Net::Veth, "close");
    let mut conn = rig.lab.connect(GUARDED);
    conn.send(&request("/", &key));
    eventually("the answer is there", || conn.has_bytes());
    for _ in 0..5 {
        conn.send_pieces([&request("/again", "anything")[..]]);
    }
    assert_eq!(conn.response().status, 429);
    conn.assert_closed();
    drop(conn);
    assert_no_sockets(&rig);
    assert!(rig.nginx.log().iter().all(|access| access.path != "/again"));
}

#[test]
fn client_that_sends_its_fin_with_the_request_reads_the_refusal() {
    for after in Refused::ALL {
        let (rig, key) = exhausted(Net::Veth, after.on_limit());
        for address in rig.lab.addresses() {
            let mut conn = rig.lab.connect_to(address, GUARDED);
            conn.send(&request("/", &key));
            conn.finish();
            assert_eq!(conn.response().status, 429);
            conn.assert_closed();
        }
        assert_no_sockets(&rig);
    }
}

#[test]
fn a_port_used_again_after_a_refusal_is_a_new_connection() {
    for after in Refused::ALL {
        let (rig, key) = exhausted(Net::Veth, after.on_limit());
        let other = other(&rig);
        // The client has only three ports, so its connections reuse the ports of connections that
        // were refused.
        rig.lab
            .client()
            .set("net/ipv4/ip_local_port_range", "40000 40002");
        rig.lab.client().set("net/ipv4/tcp_tw_reuse", "1");
        for _ in 0..30 {
            let mut conn = rig.lab.connect(GUARDED);
            assert_eq!(conn.get("/", &key).status, 429);
            match after {
                Refused::KeptOpen => conn.reset(),
                Refused::Closed => {
                    conn.assert_closed();
                    drop(conn);
                }
            }
            let mut conn = rig.lab.connect(GUARDED);
            assert_eq!(conn.get("/", &other).status, 200);
            conn.reset();
        }
        assert_no_sockets(&rig);
    }
}

#[test]
fn reset_resets_both_sides_without_an_answer() {
    for net in Net::ALL {
        let (rig, key) = exhausted(net, "reset");
        for address in rig.lab.addresses() {
            let mut conn = rig.lab.connect_to(address, GUARDED);
            conn.send(&request("/", &key));
            let error = conn.rest().expect_err("a reset");
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ConnectionReset,
                "{net:?} {address}"
            );
        }
        assert_no_sockets(&rig);
        rig.assert_charged_as_served("acme/web", &key, 1);
        assert_eq!(rig.limiter.usage("acme/web").refused.daily_quota, 2);
    }
}

#[test]
fn drop_delays_the_request_until_there_is_room() {
    let (rig, key) = exhausted(Net::Veth, "drop");
    let mut conn = rig.lab.connect(GUARDED);
    conn.send(&request("/", &key));
    eventually("the refusal is counted", || {
        rig.limiter.usage("acme/web").refused.daily_quota == 1
    });
    assert!(!conn.has_bytes());
    assert!(conn.unacknowledged() > 0);
    rig.limiter.set_quota("acme/web", 2);
    assert_eq!(conn.response().status, 200);
    rig.assert_charged_as_served("acme/web", &key, 2);
    assert_eq!(rig.limiter.usage("acme/web").refused.daily_quota, 1);
    drop(conn);
    assert_no_sockets(&rig);
}

#[test]
fn a_refused_connection_does_not_hold_up_others() {
    for after in Refused::ALL {
        let (rig, key) = exhausted(Net::Veth, after.on_limit());
        let other = other(&rig);
        let mut good = rig.lab.connect(GUARDED);
        let mut refused: Vec<Conn> = (0..10).map(|_| rig.lab.connect(GUARDED)).collect();
        for conn in &mut refused {
            conn.send(&request("/", &key));
            assert_eq!(good.get("/", &other).status, 200);
        }
        for conn in &mut refused {
            assert_eq!(conn.response().status, 429);
        }
        assert_eq!(good.get("/", &other).status, 200);
    }
}

#[test]
fn responses_and_refusals_arrive_complete_under_loss() {
    for after in Refused::ALL {
        assert_complete_under_loss(after);
    }
}

/// Asserts that mixed requests over a network with losses get the right responses.
fn assert_complete_under_loss(after: Refused) {
    const CLIENTS: usize = 6;
    const ROUNDS: usize = 8;
    const PERCENT: u64 = 5;
    let lab = Lab::new(Net::Apart);
    let _wire = Wire::join(
        &lab,
        DeviceKind::Tap,
        wire::lossy(PERCENT, 11),
        wire::lossy(PERCENT, 29),
    );
    let rig = Rig::of(lab, |config| {
        after.configure(config).tier("profile", "daily_quota = 1")
    });
    let (key, other) = (rig.limiter.key("acme/web"), other(&rig));
    assert_eq!(rig.get(&key).status, 200);
    let upload = vec![b'x'; 200_000];
    let head = post_head(&key, &format!("Content-Length: {}", upload.len()));
    let upload = [head.as_bytes(), &upload].concat();
    let client = |number: usize| {
        for round in 0..ROUNDS {
            let address = rig.lab.addresses()[(number + round) % 2];
            let mut conn = rig.lab.connect_to(address, GUARDED);
            if round % 3 == 0 {
                assert!(conn.get(Nginx::FILE, &other).body == Nginx::file_content());
            }
            let refused = if round % 4 == 1 {
                &upload
            } else {
                &request("/", &key)
            };
            let response = conn.ask(refused);
            assert_eq!(
                (response.status, response.violated()),
                (429, vec!["daily-quota".into()])
            );
            // An upload of this length is never followed by another request.
            if after == Refused::Closed || round % 4 == 1 {
                conn.assert_closed();
            }
        }
    };
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let client = &client;
            scope.spawn(move || client(number));
        }
    });
    rig.assert_charged_as_served("acme/web", &key, 1);
    let served = (0..ROUNDS).filter(|round| round % 3 == 0).count() * CLIENTS;
    rig.assert_charged_as_served("beta", &other, served as u64);
    assert_eq!(
        rig.limiter.usage("acme/web").refused.daily_quota,
        (CLIENTS * ROUNDS) as u64
    );
    assert_no_sockets(&rig);
}

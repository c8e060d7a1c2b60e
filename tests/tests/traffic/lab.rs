// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the lab without the limiter. All other tests rely on the properties that are tested
//! here.

use limiter_tests::{
    Conn, GUARDED, Lab, Net, Nginx, Server, UNGUARDED, capture,
    capture::Capture,
    frames, nginx, request, tools,
    wire::{self, DeviceKind, Wire},
};

#[test]
fn nginx_is_reached_over_every_net_and_both_families() {
    for net in Net::ALL {
        let lab = Lab::new(net);
        let nginx = Nginx::start(&lab, &[GUARDED, UNGUARDED]);
        for address in lab.addresses() {
            for port in [GUARDED, UNGUARDED] {
                let response = lab.connect_to(address, port).get("/", "k");
                assert_eq!(response.status, 200, "{net:?} {address} {port}");
                assert_eq!(response.body, b"served\n");
            }
        }
        assert_eq!(nginx.served("k"), 4, "{net:?}");
    }
}

#[test]
fn curl_wrk_and_python_reach_nginx() {
    let lab = Lab::veth();
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let url = lab.url(GUARDED, "/");
    let response = tools::curl_get(&lab, &url, "curl");
    assert_eq!(
        (response.status, &response.body[..]),
        (200, &b"served\n"[..])
    );
    assert_eq!(nginx.served("curl"), 1);

    let summary = tools::wrk(&lab, &url, "wrk", 4, 1);
    assert!(summary.requests > 0, "{summary:?}");
    assert_eq!(
        (summary.refused, summary.socket_errors),
        (0, 0),
        "{summary:?}"
    );

    let script = "import sys, json, urllib.request\n\
                  print(json.dumps(urllib.request.urlopen(sys.argv[1]).status))";
    assert_eq!(tools::python(&lab, script, &[&url]), 200);
}

#[test]
fn slow_requests_wait_at_the_gate() {
    let lab = Lab::loopback();
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let mut held = nginx::hold(&lab, &nginx, "k", 3);
    assert!(held.iter_mut().all(|conn| !conn.has_bytes()));
    nginx.gate().open();
    for mut conn in held {
        assert_eq!(conn.response().status, 200);
    }
    assert_eq!(nginx.served("k"), 3);
}

#[test]
fn pieces_are_sent_in_separate_segments() {
    let lab = Lab::veth();
    let _nginx = Nginx::start(&lab, &[GUARDED]);
    let capture = Capture::start(&lab, "pieces", GUARDED);
    let mut conn = lab.connect(GUARDED);
    let request = request("/", "k");
    conn.send_pieces(request.chunks(20));
    assert_eq!(conn.response().status, 200);
    let packets = capture.finish();
    let sizes: Vec<_> = packets
        .iter()
        .filter(|packet| packet.to.port() == GUARDED)
        .map(|packet| packet.data.len())
        .collect();
    let expected: Vec<_> = request.chunks(20).map(<[u8]>::len).collect();
    assert_eq!(sizes, expected);
}

#[test]
fn a_capture_pairs_requests_with_answers() {
    let lab = Lab::veth();
    let _nginx = Nginx::start(&lab, &[GUARDED]);
    let capture = Capture::start(&lab, "pairs", GUARDED);
    let mut conn = lab.connect(GUARDED);
    for path in ["/", "/none", "/file"] {
        conn.get(path, "k");
    }
    let exchanges = capture::exchanges(&capture.finish(), GUARDED);
    let statuses: Vec<_> = exchanges.iter().map(|exchange| exchange.status).collect();
    assert_eq!(statuses, [200, 204, 200]);
    assert!(
        exchanges
            .iter()
            .all(|exchange| exchange.asked < exchange.answered)
    );
}

#[test]
fn scripted_server_sends_the_given_responses() {
    let lab = Lab::veth();
    let _server = Server::answering(lab.server(), GUARDED, |number, line| {
        let body = format!("{number} {line}");
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    });
    for address in lab.addresses() {
        let mut conn = lab.connect_to(address, GUARDED);
        assert_eq!(conn.get("/a", "k").body, b"0 GET /a HTTP/1.1");
        assert_eq!(conn.get("/b", "k").body, b"1 GET /b HTTP/1.1");
    }
}

#[test]
fn a_killed_nginx_leaves_nothing_and_starts_again() {
    let lab = Lab::loopback();
    let mut nginx = Nginx::start(&lab, &[GUARDED]);
    nginx.kill();
    let refused = Conn::try_open(lab.client(), (lab.v4(), GUARDED).into());
    assert!(refused.is_err());
    nginx.start_again(&lab);
    assert_eq!(lab.connect(GUARDED).get("/", "k").status, 200);
    Nginx::wait_until_no_sockets(&lab, GUARDED);
}

#[test]
fn wire_carries_changed_packets() {
    type Change = fn(Vec<u8>) -> Vec<Vec<u8>>;
    let ways: [(DeviceKind, Change); 6] = [
        (DeviceKind::Tap, |packet| vec![packet]),
        (DeviceKind::Tap, frames::priority_tagged),
        (DeviceKind::Tap, |packet| {
            frames::with_v4_options(packet, 14)
        }),
        (DeviceKind::Tap, |packet| {
            frames::with_v6_options(packet, 14)
        }),
        (DeviceKind::Tap, |packet| frames::fragmented(packet, 14)),
        (DeviceKind::Tun, |packet| frames::fragmented(packet, 0)),
    ];
    for (number, (kind, way)) in ways.into_iter().enumerate() {
        let lab = Lab::new(Net::Apart);
        let _wire = Wire::join(&lab, kind, Box::new(way), wire::untouched());
        let nginx = Nginx::start(&lab, &[GUARDED]);
        for address in lab.addresses() {
            let response = lab.connect_to(address, GUARDED).get("/file", "k");
            assert_eq!(
                response.body,
                Nginx::file_content(),
                "way {number}, {address}"
            );
        }
        assert_eq!(nginx.served("k"), 2, "way {number}");
    }
}

#[test]
fn a_test_that_fails_leaves_nothing_behind() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let failing = std::thread::spawn(move || {
        let lab = Lab::veth();
        let nginx = Nginx::start(&lab, &[GUARDED]);
        let made = (
            lab.server().name().to_owned(),
            lab.directory().to_owned(),
            nginx.pid(),
        );
        sender.send(made).expect("the test waits");
        panic!("on purpose");
    });
    let (namespace, directory, pid) = receiver.recv().expect("what it made");
    assert!(failing.join().is_err());
    for path in [
        std::path::Path::new("/run/netns").join(namespace),
        std::path::Path::new("/proc").join(pid.to_string()),
        directory,
    ] {
        assert!(!path.exists(), "{} is left", path.display());
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Requests are found in a byte stream in which they are split, joined, retransmitted, out of
//! order, or preceded by bodies. Bytes of a body are never taken for a request.

use limiter_tests::{
    Config, Conn, GUARDED, Lab, Limiter, Net, Nginx, Refused, Rig, eventually, long, request,
    wire::{self, DeviceKind, PacketHandler, Wire},
};

/// Returns a POST request with the body `body` and a Content-Length.
fn post(key: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Returns a POST request with the body `body` in chunks of `size` bytes, and with a trailer
/// section after the last chunk.
fn post_chunked(key: &str, body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for chunk in body.chunks(size) {
        bytes.extend(format!("{:x};note=\"a b\"\r\n", chunk.len()).as_bytes());
        bytes.extend([chunk, b"\r\n"].concat());
    }
    bytes.extend(b"0\r\nX-Trailer: 1\r\n\r\n");
    bytes
}

/// Returns the statuses of the next `count` responses.
#[track_caller]
fn read_statuses(conn: &mut Conn, count: usize) -> Vec<u16> {
    (0..count).map(|_| conn.response().status).collect()
}

#[test]
fn a_request_split_at_any_byte_is_counted_once_and_when_over_the_quota_refused() {
    let rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    let request = request("/", &key);
    let splits = || 1..request.len();
    for (address, expected) in rig.lab.addresses().into_iter().zip(1..) {
        for at in splits() {
            let mut conn = rig.lab.connect_to(address, GUARDED);
            conn.send_pieces([&request[..at], &request[at..]]);
            assert_eq!(conn.response().status, 200, "split at {at}");
        }
        rig.assert_charged_as_served("acme/web", &key, expected * splits().len() as u64);
    }
    let used = rig.limiter.usage("acme/web").used;
    let quota = used.to_string();
    rig.limiter.done(&[
        "limits",
        "set",
        "acme/web",
        "--daily-quota",
        &quota,
        "--note",
        "full",
    ]);
    for at in splits() {
        let mut conn = rig.lab.connect(GUARDED);
        conn.send_pieces([&request[..at], &request[at..]]);
        assert_eq!(conn.response().status, 429, "split at {at}");
    }
    rig.assert_charged_as_served("acme/web", &key, used);
    rig.assert_nothing_left("acme/web");
}

#[test]
fn a_request_of_one_byte_a_segment_is_counted_once() {
    for net in [Net::Veth, Net::Loopback] {
        let rig = Rig::on(net, |config| config.tier("profile", "daily_quota = 1"));
        let key = rig.limiter.key("acme/web");
        let request = request("/", &key);
        for status in [200, 429] {
            let mut conn = rig.lab.connect(GUARDED);
            conn.send_pieces(request.chunks(1));
            assert_eq!(conn.response().status, status);
        }
        rig.assert_charged_as_served("acme/web", &key, 1);
    }
}

#[test]
fn requests_in_one_segment_are_each_counted() {
    const REQUESTS: usize = 12;
    for net in Net::ALL {
        let rig = Rig::on(net, |config| config);
        let key = rig.limiter.key("acme/web");
        let requests = request("/", &key).repeat(REQUESTS);
        for (address, expected) in rig.lab.addresses().into_iter().zip(1..) {
            let mut conn = rig.lab.connect_to(address, GUARDED);
            conn.send(&requests);
            assert_eq!(read_statuses(&mut conn, REQUESTS), [200; REQUESTS]);
            rig.assert_charged_as_served("acme/web", &key, expected * REQUESTS as u64);
        }
    }
}

#[test]
fn more_requests_in_one_segment_than_can_be_followed_at_once_are_all_answered() {
    const REQUESTS: usize = 200;
    let rig = Rig::on(Net::Loopback, |config| config);
    let key = rig.limiter.key("acme/web");
    let mut conn = rig.lab.connect(GUARDED);
    conn.send(&request("/", &key).repeat(REQUESTS));
    assert_eq!(read_statuses(&mut conn, REQUESTS), [200; REQUESTS]);
    rig.assert_charged_as_served("acme/web", &key, REQUESTS as u64);
}

#[test]
fn of_requests_in_one_segment_those_within_the_quota_are_served() {
    for net in Net::ALL {
        for after in Refused::ALL {
            let rig = Rig::on(net, |config| {
                after.configure(config).tier("profile", "daily_quota = 3")
            });
            let key = rig.limiter.key("acme/web");
            let mut conn = rig.lab.connect(GUARDED);
            conn.send(&request("/", &key).repeat(8));
            assert_eq!(read_statuses(&mut conn, 4), [200, 200, 200, 429], "{net:?}");
            match after {
                Refused::KeptOpen => assert_eq!(read_statuses(&mut conn, 4), [429; 4], "{net:?}"),
                Refused::Closed => conn.assert_closed(),
            }
            rig.assert_charged_as_served("acme/web", &key, 3);
            drop(conn);
            rig.assert_nothing_left("acme/web");
        }
    }
}

#[test]
fn requests_of_different_keys_in_one_segment_are_charged_to_their_own() {
    let rig = Rig::veth(|config| config);
    let [web, app] = ["acme/web", "acme/app"].map(|scope| rig.limiter.key(scope));
    let mut conn = rig.lab.connect(GUARDED);
    let requests = [&web, &app, &app].map(|key| request("/", key)).concat();
    conn.send(&requests);
    assert_eq!(read_statuses(&mut conn, 3), [200; 3]);
    rig.assert_charged_as_served("acme/web", &web, 1);
    rig.assert_charged_as_served("acme/app", &app, 2);
}

#[test]
fn requests_run_on_over_segment_boundaries_of_any_size() {
    const REQUESTS: usize = 10;
    let rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    let requests = request("/", &key).repeat(REQUESTS);
    let sizes = [7, 61, 83, 150, 331];
    for size in sizes {
        let mut conn = rig.lab.connect(GUARDED);
        conn.send_pieces(requests.chunks(size));
        assert_eq!(
            read_statuses(&mut conn, REQUESTS),
            [200; REQUESTS],
            "pieces of {size}"
        );
    }
    rig.assert_charged_as_served("acme/web", &key, (sizes.len() * REQUESTS) as u64);
}

#[test]
fn a_request_inside_a_body_is_not_one() {
    for net in Net::ALL {
        let rig = Rig::on(net, |config| config);
        let key = rig.limiter.key("acme/web");
        let inner = request("/inner", &key).repeat(3);
        let forms = [
            post(&key, &inner),
            post_chunked(&key, &inner, inner.len()),
            post_chunked(&key, &inner, 10),
        ];
        let mut expected = 0;
        for bytes in &forms {
            for size in [bytes.len(), 40, 13] {
                let mut conn = rig.lab.connect(GUARDED);
                conn.send_pieces(bytes.chunks(size));
                assert_eq!(conn.response().status, 200);
                assert_eq!(conn.get("/after", &key).status, 200);
                expected += 2;
            }
        }
        rig.assert_charged_as_served("acme/web", &key, expected);
        assert!(
            rig.nginx.log().iter().all(|access| access.path != "/inner"),
            "{net:?}"
        );
    }
}

#[test]
fn big_bodies_are_skipped_and_what_follows_them_is_counted() {
    let body = Nginx::file_content().repeat(11);
    assert!(body.len() > 3_000_000);
    for net in Net::ALL {
        let rig = Rig::on(net, |config| config.tier("profile", "daily_quota = 5"));
        let key = rig.limiter.key("acme/web");
        let mut conn = rig.lab.connect(GUARDED);
        for bytes in [post(&key, &body), post_chunked(&key, &body, 70_000)] {
            assert_eq!(conn.ask(&bytes).status, 200, "{net:?}");
            assert_eq!(conn.get("/", &key).status, 200, "{net:?}");
        }
        assert_eq!(conn.ask(&post(&key, b"")).status, 200, "{net:?}");
        assert_eq!(conn.get("/", &key).status, 429, "{net:?}");
        rig.assert_charged_as_served("acme/web", &key, 5);
    }
}

#[test]
fn refusal_behind_bodies_in_one_large_segment_stalls_no_client() {
    // The client writes all bytes of a case at once. The longer cases have more bytes than the
    // programs can keep of a segment that they cut (12 KiB or so).
    let nets: &[Net] = if long() { &Net::ALL } else { &[Net::Veth] };
    let cases = nets
        .iter()
        .flat_map(|net| Refused::ALL.map(|after| (*net, after)));
    for (net, after) in cases {
        let rig = Rig::on(net, |config| {
            after.configure(config).tier("over", "daily_quota = 1")
        });
        rig.limiter
            .done(&["scope", "add", "acme/over", "--tier", "over"]);
        let key = rig.limiter.key("acme/web");
        let over = rig.limiter.another_key("acme/over");
        assert_eq!(rig.get(&over).status, 200);
        let mut served = 0;
        let lengths: &[usize] = if long() {
            &[100, 12_000, 20_000, 45_000]
        } else {
            &[45_000]
        };
        for &length in lengths {
            let body = vec![b'b'; length];
            for upload in [
                post(&key, &body),
                post_chunked(&key, &body, length),
                post_chunked(&key, &body, 5000),
                post_chunked(&key, &body, 700),
                post_chunked(&key, &body, 90),
            ] {
                let mut conn = rig.lab.connect(GUARDED);
                let get = request("/", &key);
                let refused = request("/", &over);
                conn.send(&[&get[..], &upload, &get, &upload, &refused].concat());
                for number in 0..4 {
                    let what = format!("{net:?}, {length} bytes, answer {number}");
                    assert_eq!(conn.response().status, 200, "{what}");
                }
                assert_eq!(conn.response().status, 429, "{net:?}, {length} bytes");
                after.assert(&mut conn, &refused, 429);
                served += 4;
            }
        }
        rig.assert_charged_as_served("acme/web", &key, served);
        assert_eq!(
            rig.limiter.count("/coverage/conflict_dropped"),
            0,
            "{net:?}"
        );
    }
}

#[test]
fn long_header_blocks_are_read_to_the_end() {
    let rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    let mut conn = rig.lab.connect(GUARDED);
    let filler: String = (0..100)
        .map(|number| format!("X-Filler-{number}: {number:0140}\r\n"))
        .collect();
    let bytes =
        format!("GET / HTTP/1.1\r\nHost: x\r\n{filler}X-Api-Key: {key}\r\n\r\n").into_bytes();
    assert!((15_000..16_384).contains(&bytes.len()));
    assert_eq!(conn.ask(&bytes).status, 200);
    conn.send_pieces(bytes.chunks(1200));
    assert_eq!(conn.response().status, 200);
    rig.assert_charged_as_served("acme/web", &key, 2);
}

#[test]
fn header_blocks_beyond_the_bound_are_refused_as_malformed() {
    let rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    let long = format!("X-Filler: {}\r\n", "x".repeat(17_000));
    let many = "X-Filler: x\r\n".repeat(140);
    for filler in [long, many] {
        let mut conn = rig.lab.connect(GUARDED);
        let bytes = format!("GET / HTTP/1.1\r\nHost: x\r\n{filler}X-Api-Key: {key}\r\n\r\n");
        conn.send(bytes.as_bytes());
        assert_eq!(conn.response().status, 400);
        conn.assert_closed();
    }
    rig.assert_charged_as_served("acme/web", &key, 0);
    rig.assert_nothing_left("acme/web");
}

#[test]
fn http_1_0_and_unusual_valid_forms_are_counted() {
    let rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    let forms = [
        format!("GET / HTTP/1.0\r\nX-Api-Key: {key}\r\n\r\n"),
        format!("GET / HTTP/1.0\r\nConnection: keep-alive\r\nX-Api-Key: {key}\r\n\r\n"),
        format!("GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: {key}\r\n\r\n"),
        format!("DELETE / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n\r\n"),
        format!("\r\nGET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n\r\n"),
    ];
    for (form, expected) in forms.iter().zip(1..) {
        let mut conn = rig.lab.connect(GUARDED);
        assert_eq!(conn.ask(form.as_bytes()).status, 200, "{form:?}");
        rig.assert_charged_as_served("acme/web", &key, expected);
    }
}

/// Sends requests of several kinds over a cable on which the function `to_server` handles the
/// packets from the client. Asserts that every request is answered and charged once.
fn survives(to_server: PacketHandler) {
    const ROUNDS: u64 = 12;
    let lab = Lab::new(Net::Apart);
    let _wire = Wire::join(&lab, DeviceKind::Tap, to_server, wire::untouched());
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let limiter = Limiter::start(&lab, &Config::new(&lab));
    let key = limiter.key("acme/web");
    let body = Nginx::file_content();
    for _ in 0..ROUNDS {
        let mut conn = lab.connect(GUARDED);
        assert_eq!(conn.ask(&post(&key, &body)).status, 200);
        assert!(conn.get(Nginx::FILE, &key).body == body);
        conn.send(&request("/", &key).repeat(3));
        assert_eq!(read_statuses(&mut conn, 3), [200; 3]);
    }
    let (served, used) = (nginx.served(&key), limiter.usage("acme/web").used);
    assert_eq!(
        (served, used),
        (5 * ROUNDS, 5 * ROUNDS),
        "served and charged"
    );
    eventually("nothing is in flight", || {
        limiter.usage("acme/web").in_flight == 0
    });
}

#[test]
fn duplicated_packets_are_charged_once() {
    survives(Box::new(|packet| vec![packet.clone(), packet]));
}

#[test]
fn lost_packets_are_charged_once() {
    let mut number = 0;
    survives(Box::new(move |packet| {
        number += 1;
        if number % 7 == 0 {
            Vec::new()
        } else {
            vec![packet]
        }
    }));
}

#[test]
fn reordered_packets_are_charged_once() {
    /// A packet of more than this number of bytes carries a full segment of a long body. The cable
    /// delays some of these packets until the next packet has passed.
    const FULL: usize = 1400;
    let mut held: Option<Vec<u8>> = None;
    let mut number = 0;
    survives(Box::new(move |packet| {
        number += 1;
        if let Some(late) = held.take() {
            return vec![packet, late];
        }
        if packet.len() > FULL && number % 5 == 0 {
            held = Some(packet);
            return Vec::new();
        }
        vec![packet]
    }));
}

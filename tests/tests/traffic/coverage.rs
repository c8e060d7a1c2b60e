// SPDX-License-Identifier: MIT OR Apache-2.0

//! Every byte that clients send to a guarded port is counted in exactly one counter: as passed
//! after inspection, passed under a policy, dropped, or refused. The test compares the counters
//! with the number of bytes in a capture.

use limiter_tests::{
    Config, Conn, GUARDED, Lab, Limiter, Net, Nginx, Rig,
    capture::{Capture, Packet},
    eventually,
    packet::{ACK, FIN, PSH, SYN, URG, timestamp},
    raw::{Opening, RawHost},
    request,
};
use serde_json::Value;

/// The counters of bytes. Each byte is counted in exactly one of them.
const BYTES: [&str; 8] = [
    "inspected_bytes",
    "retransmitted_bytes",
    "tunnel_bytes",
    "malformed_bytes",
    "untracked_bytes",
    "table_full_bytes",
    "dropped_bytes",
    "refused_bytes",
];

/// Returns the number of TCP payload bytes that were sent to the guarded port, according to the
/// capture.
fn sent(packets: &[Packet]) -> u64 {
    let lengths = packets
        .iter()
        .filter(|packet| packet.to.port() == GUARDED)
        .map(|packet| packet.length);
    u64::try_from(lengths.sum::<usize>()).expect("a sum")
}

/// Returns the value of the counter `name` in `coverage`, which is a part of the output of `limiter
/// status`.
fn count(coverage: &Value, name: &str) -> u64 {
    coverage[name]
        .as_u64()
        .unwrap_or_else(|| panic!("no {name} in {coverage:#}"))
}

/// Asserts that each byte in the capture is counted exactly once, and returns the counters.
#[track_caller]
fn assert_all_counted(limiter: &Limiter, capture: Capture) -> Value {
    let sent = sent(&capture.finish());
    let coverage = limiter.status()["coverage"].clone();
    let counted: u64 = BYTES.iter().map(|name| count(&coverage, name)).sum();
    assert_eq!(counted, sent, "counted and sent: {coverage:#}");
    coverage
}

/// Asserts that the text output of `limiter status` contains all of `words`.
#[track_caller]
fn assert_status_has(limiter: &Limiter, words: &[&str]) {
    let status = limiter.done(&["status"]);
    for word in words {
        assert!(status.contains(word), "no {word:?} in\n{status}");
    }
}

/// Makes connections of all kinds, some of which end in a refusal or a reset.
fn traffic(lab: &Lab, key: &str, over: &str) {
    for address in lab.addresses() {
        let mut conn = lab.connect_to(address, GUARDED);
        let pipeline = request("/", key).repeat(7);
        conn.send(&pipeline);
        for _ in 0..7 {
            assert_eq!(conn.response().status, 200);
        }
        let body = vec![b'b'; 300_000];
        let head = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        conn.send(head.as_bytes());
        conn.send(&body);
        conn.response();
        let bytes = request("/", key);
        conn.send_pieces(bytes.chunks(3));
        assert_eq!(conn.response().status, 200);
        // The first of these two requests is admitted, and the second one is refused.
        let both = [request("/", key), request("/", over)].concat();
        conn.send(&both);
        assert_eq!(conn.response().status, 200);
        assert_eq!(conn.response().status, 429);

        let mut conn = lab.connect_to(address, GUARDED);
        conn.send(b"this is no HTTP at all\r\n\r\n");
        let _answer = conn.rest();
        let mut conn = lab.connect_to(address, GUARDED);
        conn.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let _answer = conn.rest();
        // This client continues to send after it has been refused.
        let mut conn = lab.connect_to(address, GUARDED);
        let upload = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nX-Api-Key: {over}\r\nContent-Length: 200000\r\n\r\n"
        );
        conn.send(upload.as_bytes());
        let _reset = conn.try_send(&vec![b'b'; 200_000]);
        assert_eq!(conn.response().status, 429);
    }
}

/// Sends segments that occur only with hostile clients or on bad networks.
fn odd_segments(lab: &Lab, key: &str) {
    let host = RawHost::new(lab);
    for opening in [
        Opening::with_timestamps(),
        Opening {
            timestamps: true,
            ..Opening::v6()
        },
    ] {
        let mut conn = host.begin(&opening);
        let data = conn.segment(0, b"early").with_flags(SYN);
        conn.send(&data);
        let mut conn = host.open(&opening);
        let bytes = request("/", key);
        let (first, second) = bytes.split_at(30);
        // The second part of the request is sent before the first part. The first part is then sent
        // in segments with one error each, and finally in a correct segment.
        conn.send_at(30, second);
        conn.sent = 0;
        let segment = conn.segment(0, first);
        conn.link.send(&conn.frame(&segment).bad_tcp_checksum());
        conn.send(&segment.clone().with_flags(ACK | PSH | URG));
        conn.send(&segment.clone().with_flags(0));
        conn.send(&segment.clone().with_options(timestamp(5, 0)));
        conn.link
            .send(&conn.frame(&segment).to_mac([2, 0, 0, 0, 9, 9]));
        let beyond = conn.server_sequence(0).wrapping_add(1 << 20);
        conn.send(&segment.clone().with_ack(beyond));
        conn.deliver(first);
        conn.send_at(0, first);
        conn.send_at(0, &bytes);
        conn.retry_until_acked(u32::try_from(bytes.len()).expect("a length"), |conn| {
            conn.send_at(30, second);
        });
        assert_eq!(conn.response().status, 200);
        // The server already has the bytes of this request. The client sends other bytes with the
        // same sequence numbers, and then a keep-alive probe.
        conn.send_at(0, &vec![b'x'; bytes.len()]);
        conn.send_at(conn.sent - 1, b"x");
        let fin = conn.segment(conn.sent, b"").with_flags(ACK | FIN);
        conn.send(&fin);
        conn.wait_for_end();
    }
}

#[test]
fn coverage_counters_sum_up_to_all_traffic() {
    for net in [Net::Veth, Net::VethNoOffload] {
        let lab = Lab::new(net);
        let nginx = Nginx::start(&lab, &[GUARDED]);
        let mut old = lab.connect(GUARDED);
        let config = Config::new(&lab)
            .policy("malformed = \"pass\"\nhttp2 = \"pass\"")
            .tier("none", "daily_quota = 0");
        let limiter = Limiter::start(&lab, &config);
        let key = limiter.key("acme/web");
        let over = limiter.key_of_tier("acme/over", "none");
        let capture = Capture::start(&lab, "coverage", GUARDED);

        let untracked = [request("/", &key), request("/", &over)].concat();
        old.send(&untracked);
        assert_eq!([old.response().status, old.response().status], [200, 200]);
        traffic(&lab, &key, &over);
        odd_segments(&lab, &key);
        drop(old);
        println!("{:?}", Nginx::sockets(&lab, GUARDED));
        let coverage = assert_all_counted(&limiter, capture);
        let untracked = u64::try_from(untracked.len()).expect("a length");
        assert_eq!(count(&coverage, "untracked_bytes"), untracked);
        assert_eq!(count(&coverage, "untracked_connections"), 1);
        assert_eq!(count(&coverage, "http2"), 2);
        assert_eq!(count(&coverage, "malformed_connections"), 2);
        for name in BYTES.iter().filter(|name| **name != "table_full_bytes") {
            assert!(count(&coverage, name) > 0, "{name}: {coverage:#}");
        }
        for name in [
            "out_of_order_dropped",
            "bad_checksum_dropped",
            "stale_dropped",
            "syn_data_dropped",
            "invalid_dropped",
            "trimmed",
            "tomb_packets",
        ] {
            assert!(count(&coverage, name) > 0, "{name}: {coverage:#}");
        }
        // nginx served one request with `key` on the connection that was opened before the limiter
        // started, and this request was not charged.
        let usage = limiter.usage("acme/web");
        assert_eq!(usage.used + 1, nginx.served(&key));
        assert_status_has(&limiter, &["untracked", "http2", "malformed"]);
    }
}

#[test]
fn connections_without_room_in_the_table_are_counted_separately() {
    const FLOWS: usize = 64;
    let rig = Rig::veth(|config| {
        config.policy("table_full = \"pass\"").section(
            "tables",
            &format!("flows = {FLOWS}\nscopes = 64\nkeys = 64\nunknown_keys = 64\n"),
        )
    });
    let key = rig.limiter.key("acme/web");
    let capture = Capture::start(&rig.lab, "full", GUARDED);
    let mut conns: Vec<Conn> = (0..FLOWS + 4).map(|_| rig.lab.connect(GUARDED)).collect();
    let request = request("/", &key);
    for conn in &mut conns {
        assert_eq!(conn.ask(&request).status, 200);
    }
    let coverage = assert_all_counted(&rig.limiter, capture);
    let full = count(&coverage, "table_full");
    assert!((4..=5).contains(&full), "{coverage:#}");
    let length = u64::try_from(request.len()).expect("a length");
    assert_eq!(count(&coverage, "table_full_bytes"), full * length);
    assert_eq!(count(&coverage, "untracked_bytes"), 0);
    drop(conns);
    eventually("the table has room again", || {
        let before = rig.limiter.count("/coverage/table_full");
        let status = rig.get(&key).status;
        status == 200 && rig.limiter.count("/coverage/table_full") == before
    });
}

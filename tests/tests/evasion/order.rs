// SPDX-License-Identifier: MIT OR Apache-2.0

//! Bytes that arrive late, early, twice, or with different content. The server serves exactly the
//! requests that were parsed and charged, and serves each of them once.

use limiter_tests::{
    Rig, long,
    packet::{ACK, FIN, PSH, SYN, Segment, URG},
    raw::{End, Opening, RawConn, RawHost},
    request,
};

/// The two requests of a case: one that must be served, and one that must not be served. They have
/// the same length.
struct RequestPair {
    ours: Vec<u8>,
    other: Vec<u8>,
}

impl RequestPair {
    /// Returns the offset of the empty line at the end of our request. The line with the key is the
    /// line before it.
    fn key_end(&self) -> usize {
        self.ours.len() - 2
    }
}

/// The name of a case, the number of our requests that are served, and the function that sends the
/// packets.
type Case = (&'static str, u64, fn(&mut RawConn, &RequestPair));

fn at(index: usize) -> u32 {
    u32::try_from(index).expect("a short request")
}

/// Runs every case on separate connections over both families. Asserts that the expected number of
/// requests with our key is served, and no request with the other key.
#[track_caller]
fn assert_served(cases: &[Case]) {
    let rig = Rig::veth(|config| config);
    let host = RawHost::new(&rig.lab);
    let [key, other_key] = ["acme/ours", "acme/other"].map(|scope| rig.limiter.key(scope));
    let pair = RequestPair {
        ours: request("/ours", &key),
        other: request("/evil", &other_key),
    };
    assert_eq!(pair.ours.len(), pair.other.len());
    let mut failed = Vec::new();
    let mut before = 0;
    for opening in [
        Opening::default(),
        Opening::v6(),
        Opening::with_timestamps(),
    ] {
        for (name, expected, drive) in cases {
            let mut conn = host.open(&opening);
            drive(&mut conn, &pair);
            let count = rig.charged_as_served("acme/ours", &key);
            if count - before != *expected {
                failed.push(format!("{name}: {} and not {expected}", count - before));
            }
            before = count;
            rig.assert_charged_as_served("acme/other", &other_key, 0);
            assert_eq!(rig.limiter.usage("acme/ours").refused.total(), 0, "{name}");
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn reordered_segments_are_served_once() {
    let cases: [Case; 7] = [
        ("the second half before the first", 1, |conn, pair| {
            let (first, second) = pair.ours.split_at(30);
            conn.send_at(30, second);
            conn.send_at(0, first);
            conn.send_at(30, second);
            assert_eq!(conn.response().status, 200);
        }),
        (
            "of three parts the last, the middle one, the first",
            1,
            |conn, pair| {
                let end = at(pair.ours.len());
                conn.retry_until_acked(end, |conn| {
                    for from in [50, 20, 0] {
                        let to = [50, 20, 0].into_iter().rfind(|&next| next > from);
                        let part = &pair.ours[from..to.unwrap_or(pair.ours.len())];
                        conn.send_at(at(from), part);
                    }
                });
                assert_eq!(conn.response().status, 200);
            },
        ),
        (
            "every byte by itself, the last one first",
            1,
            |conn, pair| {
                // In each iteration of the outer loop, the bytes are sent from the last one back to
                // the one that the server expects next.
                for next in 0..pair.ours.len() {
                    for index in (next..pair.ours.len()).rev() {
                        conn.send_at(at(index), &pair.ours[index..=index]);
                    }
                }
                assert_eq!(conn.response().status, 200);
            },
        ),
        ("the next request before this one", 2, |conn, pair| {
            let length = at(pair.ours.len());
            conn.send_at(length, &pair.ours);
            conn.send_at(0, &pair.ours);
            conn.retry_until_acked(2 * length, |conn| conn.send_at(length, &pair.ours));
            assert_eq!(conn.statuses(2), [200, 200]);
        }),
        ("another request ahead of this one", 2, |conn, pair| {
            let length = at(pair.ours.len());
            conn.send_at(length, &pair.other);
            conn.send_at(0, &pair.ours);
            assert_eq!(conn.response().status, 200);
            conn.retry_until_acked(2 * length, |conn| conn.send_at(length, &pair.ours));
            assert_eq!(conn.response().status, 200);
        }),
        (
            "the end of a body before its beginning, and what follows",
            2,
            |conn, pair| {
                let head = String::from_utf8_lossy(&pair.ours);
                let head = head.replace("\r\n\r\n", "\r\nContent-Length: 300\r\n\r\n");
                let post = head.replacen("GET", "POST", 1).into_bytes();
                let body = [b'x'; 300];
                conn.deliver(&post);
                let from = conn.sent;
                conn.send_at(from + 200, &[&body[200..], &pair.ours[..]].concat());
                conn.send_at(from + 100, &body[100..200]);
                conn.send_at(from, &body[..100]);
                conn.retry_until_acked(from + 300 + at(pair.ours.len()), |conn| {
                    conn.send_at(from, &body);
                    conn.send_at(from + 300, &pair.ours);
                });
                assert_eq!(conn.statuses(2), [200, 200]);
            },
        ),
        ("the end ahead of the request", 1, |conn, pair| {
            let length = at(pair.ours.len());
            let fin = conn.segment(length, b"").with_flags(ACK | FIN);
            conn.send(&fin);
            conn.send_at(0, &pair.ours);
            assert_eq!(conn.response().status, 200);
            assert_eq!(conn.end(), None);
            conn.finish();
            assert_eq!(conn.wait_for_end(), End::Fin);
        }),
    ];
    assert_served(&cases);
}

#[test]
fn repeated_bytes_are_served_once() {
    let cases: [Case; 8] = [
        ("the same five times before its answer", 1, |conn, pair| {
            let segment = conn.segment(0, &pair.ours);
            for _ in 0..5 {
                conn.send(&segment);
            }
            conn.sent = at(pair.ours.len());
            assert_eq!(conn.response().status, 200);
        }),
        (
            "the same after its answer, and the next one",
            2,
            |conn, pair| {
                conn.send_next(&pair.ours);
                assert_eq!(conn.response().status, 200);
                for _ in 0..3 {
                    conn.send_at(0, &pair.ours);
                }
                conn.send_next(&pair.ours);
                assert_eq!(conn.response().status, 200);
            },
        ),
        ("again with the next one behind it", 2, |conn, pair| {
            conn.send_next(&pair.ours);
            conn.send_at(0, &pair.ours.repeat(2));
            assert_eq!(conn.statuses(2), [200, 200]);
        }),
        ("a part, then all of it", 1, |conn, pair| {
            conn.send_next(&pair.ours[..40]);
            conn.retry_until_acked(at(pair.ours.len()), |conn| conn.send_at(0, &pair.ours));
            assert_eq!(conn.response().status, 200);
        }),
        (
            "a part, then all that follows and some of the part",
            1,
            |conn, pair| {
                conn.send_next(&pair.ours[..40]);
                conn.retry_until_acked(at(pair.ours.len()), |conn| {
                    conn.send_at(20, &pair.ours[20..]);
                });
                assert_eq!(conn.response().status, 200);
            },
        ),
        ("parts that overlap, behind an answer", 2, |conn, pair| {
            // After a response, the server delays its acknowledgements, so the parts may overlap
            // bytes that it has not acknowledged yet.
            conn.send_next(&pair.ours);
            assert_eq!(conn.response().status, 200);
            let from = conn.sent;
            conn.send_at(from, &pair.ours[..40]);
            conn.retry_until_acked(from + at(pair.ours.len()), |conn| {
                conn.send_at(from + 20, &pair.ours[20..]);
                conn.send_at(from + 10, &pair.ours[10..70]);
            });
            assert_eq!(conn.response().status, 200);
        }),
        ("probes with a byte of what was sent", 2, |conn, pair| {
            conn.send_at(u32::MAX, b"?");
            conn.deliver(&pair.ours[..40]);
            conn.send_at(39, b"?");
            conn.send_at(39, &pair.ours[39..40]);
            conn.deliver(&pair.ours[40..]);
            assert_eq!(conn.response().status, 200);
            conn.send_at(conn.sent - 1, b"?");
            conn.send_at(conn.sent - 1, b"\n");
            conn.send_next(&pair.ours);
            assert_eq!(conn.response().status, 200);
        }),
        (
            "one byte, then more from the beginning each time",
            1,
            |conn, pair| {
                for end in (1..=pair.ours.len()).step_by(if long() { 1 } else { 13 }) {
                    conn.retry_until_acked(at(end), |conn| conn.send_at(0, &pair.ours[..end]));
                }
                conn.send_at(0, &pair.ours);
                assert_eq!(conn.response().status, 200);
            },
        ),
    ];
    assert_served(&cases);
}

#[test]
fn other_content_for_sent_bytes_is_not_served() {
    let cases: [Case; 8] = [
        (
            "another request in place of one that was served",
            1,
            |conn, pair| {
                conn.send_next(&pair.ours);
                assert_eq!(conn.response().status, 200);
                conn.send_at(0, &pair.other);
                conn.drain();
            },
        ),
        ("the same at once", 1, |conn, pair| {
            conn.send_next(&pair.ours);
            conn.send_at(0, &pair.other);
            assert_eq!(conn.response().status, 200);
        }),
        ("another, and one of ours behind it", 2, |conn, pair| {
            conn.send_next(&pair.ours);
            let both = [&pair.other[..], &pair.ours].concat();
            conn.retry_until_acked(at(both.len()), |conn| conn.send_at(0, &both));
            assert_eq!(conn.statuses(2), [200, 200]);
        }),
        ("another key for a head that goes on", 1, |conn, pair| {
            let end = pair.key_end();
            conn.send_next(&pair.ours[..end]);
            conn.retry_until_acked(at(pair.ours.len()), |conn| conn.send_at(0, &pair.other));
            assert_eq!(conn.response().status, 200);
        }),
        ("the same behind an answer", 2, |conn, pair| {
            conn.send_next(&pair.ours);
            assert_eq!(conn.response().status, 200);
            let (from, end) = (conn.sent, pair.key_end());
            conn.send_next(&pair.ours[..end]);
            conn.retry_until_acked(from + at(pair.ours.len()), |conn| {
                conn.send_at(from, &pair.other);
            });
            assert_eq!(conn.response().status, 200);
        }),
        (
            "the end of a head ahead with another key, then ours",
            1,
            |conn, pair| {
                conn.send_at(20, &pair.other[20..]);
                conn.send_at(0, &pair.ours[..40]);
                conn.retry_until_acked(at(pair.ours.len()), |conn| {
                    conn.send_at(0, &pair.ours[..40]);
                    conn.send_at(40, &pair.ours[40..]);
                });
                assert_eq!(conn.response().status, 200);
            },
        ),
        ("a gap filled with another's bytes", 1, |conn, pair| {
            conn.send_at(0, &pair.ours[..20]);
            conn.send_at(70, &pair.other[70..]);
            conn.retry_until_acked(70, |conn| conn.send_at(20, &pair.ours[20..70]));
            conn.retry_until_acked(at(pair.ours.len()), |conn| {
                conn.send_at(70, &pair.ours[70..]);
            });
            assert_eq!(conn.response().status, 200);
        }),
        ("another request for a body", 2, |conn, pair| {
            let head = String::from_utf8_lossy(&pair.ours).into_owned();
            let length = pair.ours.len();
            let head = head.replace("\r\n\r\n", &format!("\r\nContent-Length: {length}\r\n\r\n"));
            // Only the first `GET` is replaced, because the random key may also contain these
            // letters.
            conn.deliver(head.replacen("GET", "POST", 1).as_bytes());
            let from = conn.sent;
            conn.send_at(from + 10, &pair.other[10..]);
            conn.send_at(from, &pair.other);
            conn.retry_until_acked(from + at(length), |conn| {
                conn.send_at(from, &pair.other);
            });
            conn.send_at(from, &pair.ours);
            conn.deliver(&pair.ours);
            assert_eq!(conn.statuses(2), [200, 200]);
        }),
    ];
    assert_served(&cases);
}

#[test]
fn unusual_flags_bypass_nothing() {
    let cases: [Case; 7] = [
        ("a request with the end of the stream", 1, |conn, pair| {
            let last = conn.segment(0, &pair.ours).with_flags(ACK | PSH | FIN);
            conn.sent = at(pair.ours.len()) + 1;
            conn.send(&last);
            assert_eq!(conn.response().status, 200);
            assert_eq!(conn.wait_for_end(), End::Fin);
        }),
        ("a request behind the end of the stream", 1, |conn, pair| {
            let last = conn.segment(0, &pair.ours).with_flags(ACK | PSH | FIN);
            conn.sent = at(pair.ours.len()) + 1;
            conn.send(&last);
            conn.send_at(at(pair.ours.len()), &pair.other);
            conn.send_at(at(pair.ours.len()) + 1, &pair.other);
            assert_eq!(conn.response().status, 200);
            assert_eq!(conn.wait_for_end(), End::Fin);
            conn.send_at(at(pair.ours.len()) + 1, &pair.other);
            conn.drain();
        }),
        (
            "the end again without the request, and with another",
            1,
            |conn, pair| {
                let last = conn.segment(0, &pair.ours).with_flags(ACK | PSH | FIN);
                let other = conn.segment(0, &pair.other).with_flags(ACK | PSH | FIN);
                conn.sent = at(pair.ours.len()) + 1;
                conn.send(&last);
                conn.send(&other);
                conn.send(&last);
                assert_eq!(conn.response().status, 200);
            },
        ),
        (
            "a byte that is urgent, and would be taken out",
            1,
            |conn, pair| {
                // A receiver that takes the urgent first byte out of the stream would find our
                // request in the remaining bytes.
                let with = [b"P", &pair.ours[..]].concat();
                let urgent = Segment {
                    urgent: 1,
                    ..conn.segment(0, &with).with_flags(ACK | PSH | URG)
                };
                conn.send(&urgent);
                conn.drain();
                assert_eq!(conn.acked, 0);
                conn.deliver(&pair.ours);
                assert_eq!(conn.response().status, 200);
            },
        ),
        (
            "SYN in the middle, with data and without",
            2,
            |conn, pair| {
                conn.send_next(&pair.ours);
                assert_eq!(conn.response().status, 200);
                for payload in [&pair.other[..], b""] {
                    for flags in [SYN, SYN | ACK] {
                        let syn = conn.segment(conn.sent, payload).with_flags(flags);
                        conn.send(&syn);
                    }
                }
                conn.send_next(&pair.ours);
                assert_eq!(conn.response().status, 200);
            },
        ),
        ("a reset of another place", 2, |conn, pair| {
            conn.send_next(&pair.ours);
            assert_eq!(conn.response().status, 200);
            for place in [1, 100, 1 << 20, u32::MAX] {
                let reset = conn
                    .segment(conn.sent.wrapping_add(place), b"")
                    .with_flags(4 | ACK);
                conn.send(&reset);
            }
            conn.send_next(&pair.ours);
            assert_eq!(conn.response().status, 200);
        }),
        (
            "no PSH, and reserved bits, and congestion bits",
            3,
            |conn, pair| {
                for flags in [ACK, ACK | 0x40, ACK | PSH | 0x80] {
                    let segment = conn.segment(conn.sent, &pair.ours).with_flags(flags);
                    conn.send(&segment);
                    conn.sent += at(pair.ours.len());
                    assert_eq!(conn.response().status, 200);
                }
            },
        ),
    ];
    assert_served(&cases);
}

#[test]
fn sequence_numbers_may_wrap_anywhere_in_a_request() {
    let rig = Rig::veth(|config| config);
    let host = RawHost::new(&rig.lab);
    let key = rig.limiter.key("acme/web");
    let request = request("/", &key);
    let step = if long() { 1 } else { 7 };
    let mut expected = 0;
    for before in (0..=request.len()).step_by(step) {
        for (half, v6) in [(0, false), (1 << 31, true)] {
            let mut conn = host.open(&Opening {
                start: u32::wrapping_sub(half, at(before)),
                v6,
                ..Opening::default()
            });
            conn.send_next(&request[..20]);
            conn.retry_until_acked(at(request.len()), |conn| conn.send_at(0, &request));
            conn.send_next(&request.repeat(2));
            assert_eq!(conn.statuses(3), [200; 3], "wraps after {before}");
            expected += 3;
        }
    }
    rig.assert_charged_as_served("acme/web", &key, expected);
}

#[test]
fn data_with_the_handshake_waits_for_its_end() {
    let rig = Rig::veth(|config| config);
    // This value enables TCP Fast Open for every listener, without a cookie (ip-sysctl.rst).
    rig.lab.server().set("net/ipv4/tcp_fastopen", "1538");
    let host = RawHost::new(&rig.lab);
    let [key, other] = ["acme/ours", "acme/other"].map(|scope| rig.limiter.key(scope));
    for opening in [Opening::default(), Opening::v6()] {
        // In the first case, the client sends data in the SYN. The data does not reach the server,
        // but the SYN does.
        let mut conn = host.begin(&opening);
        let mut syn = conn.syn();
        syn.options.extend([34, 2, 1, 1]);
        syn.payload = request("/syn", &other);
        conn.send(&syn);
        conn.shake_hands();
        assert_eq!(conn.acked, 0, "the data in the SYN was taken");
        conn.send_next(&request("/", &key));
        assert_eq!(conn.response().status, 200);
        // In the second case, the last segment of the handshake contains data, and the client then
        // retransmits the segment.
        let mut conn = host.begin(&opening);
        conn.await_syn_ack();
        conn.send_next(&request("/", &key));
        conn.send_at(0, &request("/", &key));
        assert_eq!(conn.response().status, 200);
    }
    rig.assert_charged_as_served("acme/other", &other, 0);
    rig.assert_charged_as_served("acme/ours", &key, 4);
}

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
    let said = RequestPair {
        ours: request("/ours", &key),
        other: request("/evil", &other_key),
    };
    assert_eq!(said.ours.len(), said.other.len());
    let mut failed = Vec::new();
    let mut before = 0;
    for opening in [
        Opening::default(),
        Opening::v6(),
        Opening::with_timestamps(),
    ] {
        for (name, expected, drive) in cases {
            let mut conn = host.open(&opening);
            drive(&mut conn, &said);
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
fn disorder_is_put_in_order() {
    let cases: [Case; 7] = [
        ("the second half before the first", 1, |conn, said| {
            let (first, second) = said.ours.split_at(30);
            conn.say_at(30, second);
            conn.say_at(0, first);
            conn.say_at(30, second);
            assert_eq!(conn.response().status, 200);
        }),
        (
            "of three parts the last, the middle one, the first",
            1,
            |conn, said| {
                let end = at(said.ours.len());
                conn.insist(end, |conn| {
                    for from in [50, 20, 0] {
                        let to = [50, 20, 0].into_iter().rfind(|&next| next > from);
                        let part = &said.ours[from..to.unwrap_or(said.ours.len())];
                        conn.say_at(at(from), part);
                    }
                });
                assert_eq!(conn.response().status, 200);
            },
        ),
        (
            "every byte by itself, the last one first",
            1,
            |conn, said| {
                // In each iteration of the outer loop, the bytes are sent from the last one back to
                // the one that the server expects next.
                for next in 0..said.ours.len() {
                    for index in (next..said.ours.len()).rev() {
                        conn.say_at(at(index), &said.ours[index..=index]);
                    }
                }
                assert_eq!(conn.response().status, 200);
            },
        ),
        ("the next request before this one", 2, |conn, said| {
            let length = at(said.ours.len());
            conn.say_at(length, &said.ours);
            conn.say_at(0, &said.ours);
            conn.insist(2 * length, |conn| conn.say_at(length, &said.ours));
            assert_eq!(conn.statuses(2), [200, 200]);
        }),
        ("another request ahead of this one", 2, |conn, said| {
            let length = at(said.ours.len());
            conn.say_at(length, &said.other);
            conn.say_at(0, &said.ours);
            assert_eq!(conn.response().status, 200);
            conn.insist(2 * length, |conn| conn.say_at(length, &said.ours));
            assert_eq!(conn.response().status, 200);
        }),
        (
            "the end of a body before its beginning, and what follows",
            2,
            |conn, said| {
                let head = String::from_utf8_lossy(&said.ours);
                let head = head.replace("\r\n\r\n", "\r\nContent-Length: 300\r\n\r\n");
                let post = head.replacen("GET", "POST", 1).into_bytes();
                let body = [b'x'; 300];
                conn.bring(&post);
                let from = conn.said;
                conn.say_at(from + 200, &[&body[200..], &said.ours[..]].concat());
                conn.say_at(from + 100, &body[100..200]);
                conn.say_at(from, &body[..100]);
                conn.insist(from + 300 + at(said.ours.len()), |conn| {
                    conn.say_at(from, &body);
                    conn.say_at(from + 300, &said.ours);
                });
                assert_eq!(conn.statuses(2), [200, 200]);
            },
        ),
        ("the end ahead of the request", 1, |conn, said| {
            let length = at(said.ours.len());
            let fin = conn.segment(length, b"").with_flags(ACK | FIN);
            conn.send(&fin);
            conn.say_at(0, &said.ours);
            assert_eq!(conn.response().status, 200);
            assert_eq!(conn.end(), None);
            conn.finish();
            assert_eq!(conn.wait_for_end(), End::Fin);
        }),
    ];
    assert_served(&cases);
}

#[test]
fn what_is_said_twice_is_served_once() {
    let cases: [Case; 8] = [
        ("the same five times before its answer", 1, |conn, said| {
            let segment = conn.segment(0, &said.ours);
            for _ in 0..5 {
                conn.send(&segment);
            }
            conn.said = at(said.ours.len());
            assert_eq!(conn.response().status, 200);
        }),
        (
            "the same after its answer, and the next one",
            2,
            |conn, said| {
                conn.say(&said.ours);
                assert_eq!(conn.response().status, 200);
                for _ in 0..3 {
                    conn.say_at(0, &said.ours);
                }
                conn.say(&said.ours);
                assert_eq!(conn.response().status, 200);
            },
        ),
        ("again with the next one behind it", 2, |conn, said| {
            conn.say(&said.ours);
            conn.say_at(0, &said.ours.repeat(2));
            assert_eq!(conn.statuses(2), [200, 200]);
        }),
        ("a part, then all of it", 1, |conn, said| {
            conn.say(&said.ours[..40]);
            conn.insist(at(said.ours.len()), |conn| conn.say_at(0, &said.ours));
            assert_eq!(conn.response().status, 200);
        }),
        (
            "a part, then all that follows and some of the part",
            1,
            |conn, said| {
                conn.say(&said.ours[..40]);
                conn.insist(at(said.ours.len()), |conn| {
                    conn.say_at(20, &said.ours[20..]);
                });
                assert_eq!(conn.response().status, 200);
            },
        ),
        ("parts that overlap, behind an answer", 2, |conn, said| {
            // After a response, the server delays its acknowledgements, so the parts may overlap
            // bytes that it has not acknowledged yet.
            conn.say(&said.ours);
            assert_eq!(conn.response().status, 200);
            let from = conn.said;
            conn.say_at(from, &said.ours[..40]);
            conn.insist(from + at(said.ours.len()), |conn| {
                conn.say_at(from + 20, &said.ours[20..]);
                conn.say_at(from + 10, &said.ours[10..70]);
            });
            assert_eq!(conn.response().status, 200);
        }),
        ("probes with a byte of what was said", 2, |conn, said| {
            conn.say_at(u32::MAX, b"?");
            conn.bring(&said.ours[..40]);
            conn.say_at(39, b"?");
            conn.say_at(39, &said.ours[39..40]);
            conn.bring(&said.ours[40..]);
            assert_eq!(conn.response().status, 200);
            conn.say_at(conn.said - 1, b"?");
            conn.say_at(conn.said - 1, b"\n");
            conn.say(&said.ours);
            assert_eq!(conn.response().status, 200);
        }),
        (
            "one byte, then more from the beginning each time",
            1,
            |conn, said| {
                for end in (1..=said.ours.len()).step_by(if long() { 1 } else { 13 }) {
                    conn.insist(at(end), |conn| conn.say_at(0, &said.ours[..end]));
                }
                conn.say_at(0, &said.ours);
                assert_eq!(conn.response().status, 200);
            },
        ),
    ];
    assert_served(&cases);
}

#[test]
fn other_content_for_what_was_said_is_not_served() {
    let cases: [Case; 8] = [
        (
            "another request in place of one that was served",
            1,
            |conn, said| {
                conn.say(&said.ours);
                assert_eq!(conn.response().status, 200);
                conn.say_at(0, &said.other);
                conn.drain();
            },
        ),
        ("the same at once", 1, |conn, said| {
            conn.say(&said.ours);
            conn.say_at(0, &said.other);
            assert_eq!(conn.response().status, 200);
        }),
        ("another, and one of ours behind it", 2, |conn, said| {
            conn.say(&said.ours);
            let both = [&said.other[..], &said.ours].concat();
            conn.insist(at(both.len()), |conn| conn.say_at(0, &both));
            assert_eq!(conn.statuses(2), [200, 200]);
        }),
        ("another key for a head that goes on", 1, |conn, said| {
            let end = said.key_end();
            conn.say(&said.ours[..end]);
            conn.insist(at(said.ours.len()), |conn| conn.say_at(0, &said.other));
            assert_eq!(conn.response().status, 200);
        }),
        ("the same behind an answer", 2, |conn, said| {
            conn.say(&said.ours);
            assert_eq!(conn.response().status, 200);
            let (from, end) = (conn.said, said.key_end());
            conn.say(&said.ours[..end]);
            conn.insist(from + at(said.ours.len()), |conn| {
                conn.say_at(from, &said.other);
            });
            assert_eq!(conn.response().status, 200);
        }),
        (
            "the end of a head ahead with another key, then ours",
            1,
            |conn, said| {
                conn.say_at(20, &said.other[20..]);
                conn.say_at(0, &said.ours[..40]);
                conn.insist(at(said.ours.len()), |conn| {
                    conn.say_at(0, &said.ours[..40]);
                    conn.say_at(40, &said.ours[40..]);
                });
                assert_eq!(conn.response().status, 200);
            },
        ),
        ("a gap filled with another's bytes", 1, |conn, said| {
            conn.say_at(0, &said.ours[..20]);
            conn.say_at(70, &said.other[70..]);
            conn.insist(70, |conn| conn.say_at(20, &said.ours[20..70]));
            conn.insist(at(said.ours.len()), |conn| {
                conn.say_at(70, &said.ours[70..]);
            });
            assert_eq!(conn.response().status, 200);
        }),
        ("another request for a body", 2, |conn, said| {
            let head = String::from_utf8_lossy(&said.ours).into_owned();
            let length = said.ours.len();
            let head = head.replace("\r\n\r\n", &format!("\r\nContent-Length: {length}\r\n\r\n"));
            // Only the first `GET` is replaced, because the random key may also contain these
            // letters.
            conn.bring(head.replacen("GET", "POST", 1).as_bytes());
            let from = conn.said;
            conn.say_at(from + 10, &said.other[10..]);
            conn.say_at(from, &said.other);
            conn.insist(from + at(length), |conn| {
                conn.say_at(from, &said.other);
            });
            conn.say_at(from, &said.ours);
            conn.bring(&said.ours);
            assert_eq!(conn.statuses(2), [200, 200]);
        }),
    ];
    assert_served(&cases);
}

#[test]
fn odd_flags_open_no_way() {
    let cases: [Case; 7] = [
        ("a request with the end of the stream", 1, |conn, said| {
            let last = conn.segment(0, &said.ours).with_flags(ACK | PSH | FIN);
            conn.said = at(said.ours.len()) + 1;
            conn.send(&last);
            assert_eq!(conn.response().status, 200);
            assert_eq!(conn.wait_for_end(), End::Fin);
        }),
        ("a request behind the end of the stream", 1, |conn, said| {
            let last = conn.segment(0, &said.ours).with_flags(ACK | PSH | FIN);
            conn.said = at(said.ours.len()) + 1;
            conn.send(&last);
            conn.say_at(at(said.ours.len()), &said.other);
            conn.say_at(at(said.ours.len()) + 1, &said.other);
            assert_eq!(conn.response().status, 200);
            assert_eq!(conn.wait_for_end(), End::Fin);
            conn.say_at(at(said.ours.len()) + 1, &said.other);
            conn.drain();
        }),
        (
            "the end again without the request, and with another",
            1,
            |conn, said| {
                let last = conn.segment(0, &said.ours).with_flags(ACK | PSH | FIN);
                let other = conn.segment(0, &said.other).with_flags(ACK | PSH | FIN);
                conn.said = at(said.ours.len()) + 1;
                conn.send(&last);
                conn.send(&other);
                conn.send(&last);
                assert_eq!(conn.response().status, 200);
            },
        ),
        (
            "a byte that is urgent, and would be taken out",
            1,
            |conn, said| {
                // A receiver that takes the urgent first byte out of the stream would find our
                // request in the remaining bytes.
                let with = [b"P", &said.ours[..]].concat();
                let urgent = Segment {
                    urgent: 1,
                    ..conn.segment(0, &with).with_flags(ACK | PSH | URG)
                };
                conn.send(&urgent);
                conn.drain();
                assert_eq!(conn.acked, 0);
                conn.bring(&said.ours);
                assert_eq!(conn.response().status, 200);
            },
        ),
        (
            "SYN in the middle, with data and without",
            2,
            |conn, said| {
                conn.say(&said.ours);
                assert_eq!(conn.response().status, 200);
                for payload in [&said.other[..], b""] {
                    for flags in [SYN, SYN | ACK] {
                        let syn = conn.segment(conn.said, payload).with_flags(flags);
                        conn.send(&syn);
                    }
                }
                conn.say(&said.ours);
                assert_eq!(conn.response().status, 200);
            },
        ),
        ("a reset of another place", 2, |conn, said| {
            conn.say(&said.ours);
            assert_eq!(conn.response().status, 200);
            for place in [1, 100, 1 << 20, u32::MAX] {
                let reset = conn
                    .segment(conn.said.wrapping_add(place), b"")
                    .with_flags(4 | ACK);
                conn.send(&reset);
            }
            conn.say(&said.ours);
            assert_eq!(conn.response().status, 200);
        }),
        (
            "no PSH, and reserved bits, and congestion bits",
            3,
            |conn, said| {
                for flags in [ACK, ACK | 0x40, ACK | PSH | 0x80] {
                    let segment = conn.segment(conn.said, &said.ours).with_flags(flags);
                    conn.send(&segment);
                    conn.said += at(said.ours.len());
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
            conn.say(&request[..20]);
            conn.insist(at(request.len()), |conn| conn.say_at(0, &request));
            conn.say(&request.repeat(2));
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
        conn.say(&request("/", &key));
        assert_eq!(conn.response().status, 200);
        // In the second case, the last segment of the handshake contains data, and the client then
        // retransmits the segment.
        let mut conn = host.begin(&opening);
        conn.await_syn_ack();
        conn.say(&request("/", &key));
        conn.say_at(0, &request("/", &key));
        assert_eq!(conn.response().status, 200);
    }
    rig.assert_charged_as_served("acme/other", &other, 0);
    rig.assert_charged_as_served("acme/ours", &key, 4);
}

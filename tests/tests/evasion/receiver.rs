// SPDX-License-Identifier: MIT OR Apache-2.0

//! A segment that the receiver drops must not change the state that the programs keep for its
//! connection. Each case sends an invalid segment with one request, and then a valid segment with a
//! different request. The first request must be neither served nor charged, and the second one must
//! be served and charged once.

use std::{net::IpAddr, time::Instant};

use limiter_tests::{
    Nginx, Rig,
    clock::{RETRY, TIMEOUT},
    packet::{ACK, FIN, PSH, RST, SYN, Segment, Shape, URG, timestamp},
    raw::{Frame, Opening, RawConn, RawHost},
    request,
};

/// An invalid segment with data, and the parameters with which its connection is opened.
struct InvalidSegment {
    name: &'static str,
    opening: Opening,
    spoil: fn(&mut RawConn, Segment) -> Frame,
}

impl InvalidSegment {
    fn new(name: &'static str, spoil: fn(&mut RawConn, Segment) -> Frame) -> Self {
        Self {
            name,
            opening: Opening::default(),
            spoil,
        }
    }

    fn v6(self) -> Self {
        let opening = Opening {
            v6: true,
            ..self.opening
        };
        Self { opening, ..self }
    }

    fn stamped(self) -> Self {
        let opening = Opening {
            timestamps: true,
            ..self.opening
        };
        Self { opening, ..self }
    }
}

/// An age of a timestamp in ticks at which PAWS rejects a segment (RFC 7323, section 5). Linux
/// accepts an age of at most one tick.
const OLD: u32 = 5;

/// Returns an arbitrary MD5 signature option (RFC 2385) after two NOPs.
fn md5() -> Vec<u8> {
    [&[1, 1, 19, 18][..], &[0x5a; 16]].concat()
}

/// Returns packets that are invalid regardless of the segments in them.
fn packets() -> Vec<InvalidSegment> {
    vec![
        InvalidSegment::new("a bad TCP checksum", |conn, segment| {
            conn.frame(&segment).bad_tcp_checksum()
        }),
        InvalidSegment::new("a bad IP checksum", |conn, segment| {
            conn.frame(&segment).bad_ip_checksum()
        }),
        InvalidSegment::new("another link address", |conn, segment| {
            conn.frame(&segment).to_mac([2, 0, 0, 0, 0x99, 9])
        }),
        InvalidSegment::new("no hops left", |conn, segment| conn.frame(&segment).hops(0)),
        InvalidSegment::new("version 6 in a packet of IPv4", |conn, segment| {
            conn.frame(&segment).version(6)
        }),
        InvalidSegment::new("version 0", |conn, segment| conn.frame(&segment).version(0)),
        InvalidSegment::new("a length of 0", |conn, segment| {
            conn.frame(&segment).length(0)
        }),
        InvalidSegment::new("a length beyond the frame", |conn, segment| {
            let frame = conn.frame(&segment);
            let length = u16::try_from(frame.bytes().len()).expect("a short frame");
            frame.length(length)
        }),
        InvalidSegment::new("a length of the headers less one", |conn, segment| {
            conn.frame(&segment).length(39)
        }),
        InvalidSegment::new("an MD5 signature", |conn, segment| {
            conn.frame(&segment.with_options(md5()))
        }),
        InvalidSegment::new("a TCP header of four words", |conn, segment| {
            conn.frame(&segment).data_offset(4)
        }),
        InvalidSegment::new("a bad TCP checksum, IPv6", |conn, segment| {
            conn.frame(&segment).bad_tcp_checksum()
        })
        .v6(),
        InvalidSegment::new("another link address, IPv6", |conn, segment| {
            conn.frame(&segment).to_mac([2, 0, 0, 0, 0x99, 9])
        })
        .v6(),
        InvalidSegment::new("no hops left, IPv6", |conn, segment| {
            conn.frame(&segment).hops(0)
        })
        .v6(),
        InvalidSegment::new("version 4 in a packet of IPv6", |conn, segment| {
            conn.frame(&segment).version(4)
        })
        .v6(),
        InvalidSegment::new("a length of 0, IPv6", |conn, segment| {
            conn.frame(&segment).length(0)
        })
        .v6(),
        InvalidSegment::new("an MD5 signature, IPv6", |conn, segment| {
            conn.frame(&segment.with_options(md5()))
        })
        .v6(),
    ]
}

/// Returns invalid segments with data.
fn segments() -> Vec<InvalidSegment> {
    vec![
        InvalidSegment::new("an acknowledgement of too much", |conn, segment| {
            let ack = conn.server_sequence(conn.received + 1);
            conn.frame(&segment.with_ack(ack))
        }),
        InvalidSegment::new(
            "an acknowledgement of what is before all",
            |conn, segment| {
                let ack = conn.server_sequence(0).wrapping_sub(1);
                conn.frame(&segment.with_ack(ack))
            },
        ),
        InvalidSegment::new(
            "an acknowledgement half the numbers away",
            |conn, segment| {
                let ack = conn.server_sequence(1 << 31);
                conn.frame(&segment.with_ack(ack))
            },
        ),
        InvalidSegment::new("no ACK", |conn, segment| {
            conn.frame(&segment.with_flags(PSH))
        }),
        InvalidSegment::new("SYN", |conn, segment| {
            conn.frame(&segment.with_flags(SYN | ACK | PSH))
        }),
        InvalidSegment::new("URG", |conn, segment| {
            let urgent = Segment {
                urgent: 3,
                ..segment.with_flags(ACK | PSH | URG)
            };
            conn.frame(&urgent)
        }),
        InvalidSegment::new("an old timestamp", |conn, segment| {
            let (tick, echo) = conn.timestamps();
            conn.frame(&segment.with_options(timestamp(tick - OLD, echo)))
        })
        .stamped(),
        InvalidSegment::new("an old timestamp before its padding", |conn, segment| {
            let (tick, echo) = conn.timestamps();
            let mut options = timestamp(tick - OLD, echo);
            options.rotate_left(2);
            conn.frame(&segment.with_options(options))
        })
        .stamped(),
        InvalidSegment::new("a good timestamp and an old one", |conn, segment| {
            let (tick, echo) = conn.timestamps();
            let options = [timestamp(tick, echo), timestamp(tick - OLD, echo)].concat();
            conn.frame(&segment.with_options(options))
        })
        .stamped(),
        InvalidSegment::new("an old timestamp, IPv6", |conn, segment| {
            let (tick, echo) = conn.timestamps();
            conn.frame(&segment.with_options(timestamp(tick - OLD, echo)))
        })
        .v6()
        .stamped(),
        InvalidSegment::new(
            "an acknowledgement of what is before all, IPv6",
            |conn, segment| {
                let ack = conn.server_sequence(0).wrapping_sub(1);
                conn.frame(&segment.with_ack(ack))
            },
        )
        .v6(),
    ]
}

/// Runs every case twice: on a new connection immediately after the handshake, and after a request
/// has been served on the connection.
#[track_caller]
fn assert_dropped(cases: impl Iterator<Item = InvalidSegment>) {
    let rig = Rig::veth(|config| config);
    let host = RawHost::new(&rig.lab);
    let [bad, good] = ["acme/bad", "acme/good"].map(|scope| rig.limiter.key(scope));
    let mut failed = Vec::new();
    for case in cases {
        for before in [0, 1] {
            let (charged, used) = (
                rig.limiter.usage("acme/bad").used,
                rig.limiter.usage("acme/good").used,
            );
            let mut conn = host.open(&case.opening);
            for _ in 0..before {
                conn.send_next(&request("/before", &good));
                assert_eq!(conn.response().status, 200);
            }
            let segment = conn.segment(conn.sent, &request("/bad", &bad));
            let frame = (case.spoil)(&mut conn, segment);
            conn.link.send(&frame);
            let charged = rig.limiter.usage("acme/bad").used - charged;
            conn.send_next(&request("/good", &good));
            let answered = conn.wait_until(Instant::now() + TIMEOUT, RawConn::has_unread);
            let used = rig.limiter.usage("acme/good").used - used;
            if charged != 0 || !answered || used != before + 1 {
                failed.push(format!(
                    "{} after {before}: the bad one charged {charged} times, the good ones {used}, \
                     answered: {answered}",
                    case.name
                ));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(rig.nginx.served(&bad), 0);
    assert_eq!(rig.nginx.served(&good), rig.limiter.usage("acme/good").used);
}

#[test]
fn ipv4_request_that_the_receiver_drops_is_not_charged() {
    let cases = packets().into_iter().chain(segments());
    assert_dropped(cases.filter(|case| !case.opening.v6));
}

#[test]
fn reset_and_fin_that_the_receiver_drops_change_nothing() {
    let rig = Rig::veth(|config| config);
    let host = RawHost::new(&rig.lab);
    let key = rig.limiter.key("acme/web");
    let mut failed = Vec::new();
    for case in packets() {
        for flags in [RST, RST | ACK, FIN | ACK] {
            let mut conn = host.open(&case.opening);
            conn.send_next(&request(Nginx::SLOW, &key));
            rig.nginx.gate().wait_for(1);
            conn.drain();
            let segment = conn.segment(conn.sent, b"").with_flags(flags);
            let frame = (case.spoil)(&mut conn, segment);
            conn.link.send(&frame);
            let in_flight = rig.limiter.usage("acme/web").in_flight;
            rig.nginx.gate().release(1);
            let answered = conn.wait_until(Instant::now() + TIMEOUT, RawConn::has_unread);
            let goes_on = answered && {
                assert_eq!(conn.response().status, 200);
                conn.send_next(&request("/", &key));
                conn.wait_until(Instant::now() + TIMEOUT, RawConn::has_unread)
            };
            if (in_flight, answered, goes_on) != (1, true, true) {
                failed.push(format!(
                    "{}, flags {flags:#x}: in flight {in_flight}, answered {answered}, goes on {goes_on}",
                    case.name
                ));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// PAWS compares the timestamp of a segment with the timestamp of the last segment that arrived in
/// order. Linux accepts a timestamp that is older by one tick (`TCP_PAWS_WINDOW`).
#[test]
fn timestamps_are_judged_old_as_by_the_receiver() {
    let rig = Rig::veth(|config| config);
    let host = RawHost::new(&rig.lab);
    let [bad, good] = ["acme/bad", "acme/good"].map(|scope| rig.limiter.key(scope));
    let mut expected = 0;
    let middle = 1 << 31;
    for first_timestamp in [1000, u32::MAX - 2, middle - 3] {
        let opening = Opening {
            first_timestamp,
            ..Opening::with_timestamps()
        };
        // Each value is an age in ticks relative to the last timestamp. An age must be less than
        // half of the number space.
        for old in [2, 3, 1000, middle - 1] {
            let mut conn = host.open(&opening);
            let (last, echo) = conn.timestamps();
            let options = timestamp(last.wrapping_sub(old), echo);
            let segment = conn
                .segment(0, &request("/bad", &bad))
                .with_options(options);
            conn.send(&segment);
            conn.send_next(&request("/good", &good));
            assert_eq!(conn.response().status, 200, "{old} ticks old");
            expected += 1;
        }
        // Linux accepts a timestamp that is one tick old, and a segment without a timestamp. The
        // programs are allowed to drop both.
        let mut conn = host.open(&opening);
        for change in [Some(u32::MAX), None] {
            let (last, echo) = conn.timestamps();
            let options = change.map(|change| timestamp(last.wrapping_add(change), echo));
            let segment = conn
                .segment(conn.sent, &request("/good", &good))
                .with_options(options.unwrap_or_default());
            conn.send(&segment);
            if !conn.wait_until(Instant::now() + 4 * RETRY, RawConn::has_unread) {
                let right = conn.segment(conn.sent, &request("/good", &good));
                conn.send(&right);
            }
            conn.sent += u32::try_from(segment.payload.len()).expect("a short request");
            assert_eq!(conn.response().status, 200, "{change:?} ticks on");
            expected += 1;
        }
        // This timestamp is so far ahead that a later segment with the next normal timestamp counts
        // as old.
        let (last, echo) = conn.timestamps();
        let options = timestamp(last.wrapping_add(middle - 1), echo);
        let segment = conn
            .segment(conn.sent, &request("/good", &good))
            .with_options(options);
        conn.send(&segment);
        conn.sent += u32::try_from(segment.payload.len()).expect("a short request");
        assert_eq!(conn.response().status, 200, "from far ahead");
        expected += 1;
        conn.send_next(&request("/bad", &bad));
        conn.drain();
    }
    rig.assert_charged_as_served("acme/bad", &bad, 0);
    rig.assert_charged_as_served("acme/good", &good, expected);
}

/// RFC 5961, section 5.2: an acknowledgement number may be older than the last one, but by at most
/// the largest window that the client has announced.
#[test]
fn acknowledgements_are_judged_old_as_by_the_receiver() {
    let rig = Rig::veth(|config| config);
    let host = RawHost::new(&rig.lab);
    let [bad, good] = ["acme/bad", "acme/good"].map(|scope| rig.limiter.key(scope));
    let opening = Opening {
        window: 20_000,
        scale: None,
        ..Opening::default()
    };
    let window = u32::from(opening.window);
    for (old, taken) in [(window, true), (window + 1, false), (100_000, false)] {
        let mut conn = host.open(&opening);
        conn.send_next(&request(Nginx::FILE, &good));
        assert!(conn.response().body == Nginx::file_content());
        conn.drain();
        let ack = conn.server_sequence(conn.received).wrapping_sub(old);
        let key = if taken { &good } else { &bad };
        let segment = conn
            .segment(conn.sent, &request("/late", key))
            .with_ack(ack);
        conn.send(&segment);
        if taken {
            conn.sent += u32::try_from(segment.payload.len()).expect("a short request");
        } else {
            conn.send_next(&request("/good", &good));
        }
        assert_eq!(conn.response().status, 200, "{old} bytes late");
    }
    rig.assert_charged_as_served("acme/bad", &bad, 0);
    rig.assert_charged_as_served("acme/good", &good, 6);
}

#[test]
fn window_of_a_dropped_segment_is_ignored() {
    let rig = Rig::veth(|config| config);
    let host = RawHost::new(&rig.lab);
    let [bad, good] = ["acme/bad", "acme/good"].map(|scope| rig.limiter.key(scope));
    let mut conn = host.open(&Opening {
        window: 2000,
        scale: None,
        ..Opening::default()
    });
    conn.send_next(&request(Nginx::FILE, &good));
    assert!(conn.response().body == Nginx::file_content());
    conn.drain();
    let wide = conn.segment(conn.sent, b"").with_window(u16::MAX);
    let frame = conn.frame(&wide).bad_tcp_checksum();
    conn.link.send(&frame);
    let ack = conn.server_sequence(conn.received - 3000);
    let late = conn.segment(conn.sent, &request("/", &bad)).with_ack(ack);
    conn.send(&late);
    conn.send_next(&request("/", &good));
    assert_eq!(conn.response().status, 200);
    rig.assert_charged_as_served("acme/bad", &bad, 0);
    rig.assert_charged_as_served("acme/good", &good, 2);
}

/// No kernel accepts IPv4-mapped addresses in the header of an IPv6 packet, but a client can send
/// such a packet. The programs must not take it for a packet of the IPv4 connection.
#[test]
fn ipv4_mapped_addresses_in_ipv6_are_another_connection() {
    let rig = Rig::veth(|config| config);
    let host = RawHost::new(&rig.lab);
    let [bad, good] = ["acme/bad", "acme/good"].map(|scope| rig.limiter.key(scope));
    let mut conn = host.connect();
    let ends = conn.ends;
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(address) => IpAddr::V6(address.to_ipv6_mapped()),
        IpAddr::V6(_) => address,
    };
    conn.ends.client = mapped(ends.client);
    conn.ends.server = mapped(ends.server);
    let segment = conn.segment(0, &request("/", &bad));
    conn.link.send(&conn.frame_in(&Shape::v6(), &segment));
    conn.ends = ends;
    conn.send_at(0, &request("/", &good));
    assert_eq!(conn.response().status, 200);
    rig.assert_charged_as_served("acme/bad", &bad, 0);
    rig.assert_charged_as_served("acme/good", &good, 1);
}

#[test]
fn ipv6_request_that_the_receiver_drops_is_not_charged() {
    let cases = packets().into_iter().chain(segments());
    assert_dropped(cases.filter(|case| case.opening.v6));
}

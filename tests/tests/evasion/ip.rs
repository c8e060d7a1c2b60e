// SPDX-License-Identifier: MIT OR Apache-2.0

//! The headers around a segment: tags, options, extension headers and fragments. Every segment that
//! the kernel delivers is inspected, and its requests are charged once.

use std::time::{Duration, Instant};

use limiter_tests::{
    Rig,
    clock::TIMEOUT,
    frames,
    packet::{Extension, Fragment, Segment, Shape},
    raw::{Frame, Opening, RawConn, RawHost},
    request,
};

/// A priority tag without a VLAN (IEEE 802.1Q).
const PRIORITY: (u16, u16) = (0x8100, 0x2000);
/// The same tag as the outer of two tags (IEEE 802.1ad).
const OUTER: (u16, u16) = (0x88a8, 0x2000);

/// The expected fate of a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The request is served and charged.
    Served,
    /// The request is neither served nor charged, and afterwards the client can send the same bytes
    /// in a normal segment.
    Dropped,
    /// The kernel drops the segment after the program has seen it. The request is charged, and no
    /// request with different content passes in its place.
    Lost,
    /// The request is either served or dropped. The configuration of the kernel decides which.
    Either,
}
use Fate::{Dropped, Either, Lost, Served};

type Wrap = fn(&RawConn, &Segment) -> Vec<Frame>;
type Case = (&'static str, Fate, Wrap);

/// The time that the test waits for a response that may not arrive.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Returns the time at which the test stops waiting for a response. If `is_sure`, the response must
/// arrive, and the test waits much longer than for a response that may not arrive.
fn deadline(is_sure: bool) -> Instant {
    Instant::now() + if is_sure { TIMEOUT } else { AT_ONCE }
}

/// For each case, sends a request in the frames that the case makes of it, once in one segment and
/// once in two, and asserts the fate of the request. Each time, a normal request follows on the
/// same connection.
#[track_caller]
fn assert_fates(v6: bool, cases: &[Case]) {
    let rig = Rig::veth(|config| config);
    let host = RawHost::new(&rig.lab);
    let [key, usual] = ["acme/odd", "acme/usual"].map(|scope| rig.limiter.key(scope));
    let odd = request("/odd", &key);
    let opening = Opening {
        v6,
        ..Opening::default()
    };
    let counts = || (rig.nginx.served(&key), rig.limiter.usage("acme/odd").used);
    let mut failed = Vec::new();
    for (name, fate, wrap) in cases {
        for parts in [1, 2] {
            let before = counts();
            let mut conn = host.open(&opening);
            for part in odd.chunks(odd.len().div_ceil(parts)) {
                let segment = conn.segment(conn.sent, part);
                conn.sent += u32::try_from(part.len()).expect("a short request");
                for frame in wrap(&conn, &segment) {
                    conn.link.send(&frame);
                }
            }
            let is_sure = matches!(fate, Served);
            if conn.wait_until(deadline(is_sure), RawConn::has_unread) {
                assert_eq!(conn.response().status, 200, "{name}");
            }
            conn.sent = conn.acked;
            conn.send_next(&request("/usual", &usual));
            // If the first segment was charged and then lost, the normal request, which has
            // different content, must not pass in its place.
            let is_sure = !matches!(fate, Lost) || counts().1 == before.1;
            let goes_on = conn.wait_until(deadline(is_sure), RawConn::has_unread);
            let after = counts();
            let (served, charged) = (after.0 - before.0, after.1 - before.1);
            let right = match fate {
                Served => (served, charged, goes_on) == (1, 1, true),
                Dropped => (served, charged, goes_on) == (0, 0, true),
                Lost => served == 0 && (charged == 0) == goes_on,
                Either => served == charged && goes_on,
            };
            if !right {
                failed.push(format!(
                    "{name} in {parts}: served {served}, charged {charged}, goes on {goes_on}"
                ));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    rig.charged_as_served("acme/usual", &usual);
}

fn one(frame: Frame) -> Vec<Frame> {
    vec![frame]
}

/// Returns the frames of a segment with these IPv4 options.
fn v4_options(conn: &RawConn, segment: &Segment, options: &[u8]) -> Vec<Frame> {
    one(conn.frame_in(&Shape::v4_with(options.to_vec()), segment))
}

fn v6_extensions(conn: &RawConn, segment: &Segment, extensions: Vec<Extension>) -> Vec<Frame> {
    one(conn.frame_in(&Shape::v6_with(extensions), segment))
}

/// Returns a routing header of type `kind` without further destinations.
fn routing(kind: u8) -> Extension {
    Extension {
        kind: 43,
        bytes: vec![0, 0, kind, 0, 0, 0, 0, 0],
    }
}

/// Returns an extension header of 488 bytes with two unknown options, which a receiver may skip
/// (RFC 8200, section 4.2).
fn long_option(kind: u8) -> Extension {
    let mut extension = Extension::options(kind, 61);
    for (at, len) in [(2, 240), (244, 242)] {
        extension.bytes[at] = 0x1e;
        extension.bytes[at + 1] = len;
    }
    extension
}

#[test]
fn tags_hide_nothing() {
    let cases: [Case; 10] = [
        ("no tag", Served, |conn, segment| one(conn.frame(segment))),
        ("a tag", Served, |conn, segment| {
            one(conn.frame(segment).tagged(&[PRIORITY]))
        }),
        ("an outer tag alone", Served, |conn, segment| {
            one(conn.frame(segment).tagged(&[OUTER]))
        }),
        ("two tags", Either, |conn, segment| {
            one(conn.frame(segment).tagged(&[PRIORITY; 2]))
        }),
        ("an outer and an inner tag", Either, |conn, segment| {
            one(conn.frame(segment).tagged(&[OUTER, PRIORITY]))
        }),
        ("three tags", Either, |conn, segment| {
            one(conn.frame(segment).tagged(&[PRIORITY; 3]))
        }),
        ("four tags", Either, |conn, segment| {
            one(conn.frame(segment).tagged(&[PRIORITY; 4]))
        }),
        ("five tags, outer ones", Either, |conn, segment| {
            one(conn.frame(segment).tagged(&[OUTER; 5]))
        }),
        ("eight tags", Either, |conn, segment| {
            one(conn.frame(segment).tagged(&[PRIORITY; 8]))
        }),
        ("an EtherType of a length", Dropped, |conn, segment| {
            one(conn.frame(segment).ethertype(400))
        }),
    ];
    assert_fates(false, &cases);
    assert_fates(true, &cases);
}

#[test]
fn options_of_ipv4_hide_nothing() {
    let cases: [Case; 8] = [
        ("no operation", Served, |conn, segment| {
            v4_options(conn, segment, &[1, 1, 1, 0])
        }),
        ("as long as can be", Served, |conn, segment| {
            v4_options(conn, segment, &[1; 40])
        }),
        ("the end, and what is behind it", Served, |conn, segment| {
            v4_options(conn, segment, &[0, 131, 7, 4, 192, 0, 2, 9])
        }),
        ("record route", Served, |conn, segment| {
            v4_options(conn, segment, &[7, 7, 4, 0, 0, 0, 0, 0])
        }),
        ("timestamps", Served, |conn, segment| {
            v4_options(conn, segment, &[68, 8, 5, 0, 0, 0, 0, 0])
        }),
        ("router alert", Served, |conn, segment| {
            v4_options(conn, segment, &[148, 4, 0, 0])
        }),
        ("an unknown one", Served, |conn, segment| {
            v4_options(conn, segment, &[30, 4, 0, 0])
        }),
        ("bytes behind the packet", Served, |conn, segment| {
            one(conn.frame(segment).trailed(&segment.payload.repeat(2)))
        }),
    ];
    assert_fates(false, &cases);
}

#[test]
fn extensions_of_ipv6_hide_nothing() {
    let cases: [Case; 13] = [
        ("hop by hop", Served, |conn, segment| {
            v6_extensions(conn, segment, vec![Extension::options(0, 1)])
        }),
        ("for the destination", Served, |conn, segment| {
            v6_extensions(conn, segment, vec![Extension::options(60, 1)])
        }),
        ("long ones", Served, |conn, segment| {
            let long = [long_option(0), long_option(60)];
            v6_extensions(conn, segment, long.to_vec())
        }),
        // Linux permits at most seven bytes of padding (`ip6_parse_tlv`).
        ("much padding", Lost, |conn, segment| {
            v6_extensions(conn, segment, vec![Extension::options(60, 60)])
        }),
        ("several for the destination", Served, |conn, segment| {
            v6_extensions(conn, segment, vec![Extension::options(60, 1); 5])
        }),
        ("eight", Served, |conn, segment| {
            v6_extensions(conn, segment, vec![Extension::options(60, 1); 8])
        }),
        // The program does not parse this many headers, although the kernel does.
        ("nine", Dropped, |conn, segment| {
            v6_extensions(conn, segment, vec![Extension::options(60, 1); 9])
        }),
        ("twenty", Dropped, |conn, segment| {
            v6_extensions(conn, segment, vec![Extension::options(60, 1); 20])
        }),
        ("a route at its end", Served, |conn, segment| {
            v6_extensions(conn, segment, vec![routing(0)])
        }),
        (
            "a route of an unknown kind at its end",
            Served,
            |conn, segment| v6_extensions(conn, segment, vec![routing(77)]),
        ),
        ("a fragment that is all", Served, |conn, segment| {
            v6_extensions(conn, segment, vec![atomic()])
        }),
        (
            "a fragment that is all, in another",
            Lost,
            |conn, segment| {
                let all = vec![Extension::options(60, 1), atomic(), atomic()];
                v6_extensions(conn, segment, all)
            },
        ),
        ("bytes behind the packet", Served, |conn, segment| {
            one(conn.frame(segment).trailed(&segment.payload.repeat(2)))
        }),
    ];
    assert_fates(true, &cases);
}

/// Returns an atomic fragment header (RFC 6946).
fn atomic() -> Extension {
    Extension::fragment(Fragment {
        offset: 0,
        more: false,
    })
}

#[test]
fn fragments_pass_nothing() {
    let cases: [Case; 6] = [
        ("two", Dropped, |conn, segment| {
            conn.frame(segment).changed(frames::fragmented)
        }),
        ("two, the last one first", Dropped, |conn, segment| {
            let mut parts = conn.frame(segment).changed(frames::fragmented);
            parts.reverse();
            parts
        }),
        ("two, and the first one again", Dropped, |conn, segment| {
            let parts = conn.frame(segment).changed(frames::fragmented);
            [&parts[..], &parts[..1]].concat()
        }),
        ("two with a tag", Dropped, |conn, segment| {
            let parts = conn.frame(segment).changed(frames::fragmented);
            let tag = |part: Frame| part.tagged(&[PRIORITY]);
            parts.into_iter().map(tag).collect()
        }),
        ("of eight bytes each", Dropped, |conn, segment| {
            conn.frame(segment)
                .changed(|frame, link| frames::in_fragments(frame, link, 8))
        }),
        (
            "of eight bytes each, the first one last",
            Dropped,
            |conn, segment| {
                let mut parts = conn
                    .frame(segment)
                    .changed(|frame, link| frames::in_fragments(frame, link, 8));
                parts.rotate_left(1);
                parts
            },
        ),
    ];
    assert_fates(false, &cases);
    assert_fates(true, &cases);
}

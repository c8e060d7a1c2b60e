//! What may be around a segment: tags, options, extension headers, fragments.
//! Whatever the kernel delivers is inspected, and charged once.

use std::time::{Duration, Instant};

use limiter_tests::{
    Rig, frames,
    packet::{Extension, Fragment, Segment, Shape},
    raw::{Frame, Host, Opening, RawConn},
    request,
};

/// A tag without a VLAN (IEEE 802.1Q), of some priority.
const PRIORITY: (u16, u16) = (0x8100, 0x2000);
/// The same as the outer of two (IEEE 802.1ad).
const OUTER: (u16, u16) = (0x88a8, 0x2000);

/// What becomes of a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is served, and charged.
    Served,
    /// Neither; afterwards the same bytes may be sent as usual.
    Dropped,
    /// The kernel drops it behind the program: it is charged, and nothing else
    /// passes in its place.
    Lost,
    /// Served or dropped: it depends on what the kernel is built with.
    Either,
}
use Fate::{Dropped, Either, Lost, Served};

type Wrap = fn(&RawConn, &Segment) -> Vec<Frame>;
type Case = (&'static str, Fate, Wrap);

/// How long an answer may take of which it is not sure that it comes.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Sends a request in every wrapping, whole and in two segments, and expects
/// its fate; then a usual one.
#[track_caller]
fn assert_fates(v6: bool, cases: &[Case]) {
    let rig = Rig::veth(|config| config);
    let host = Host::new(&rig.lab);
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
                let segment = conn.segment(conn.said, part);
                conn.said += u32::try_from(part.len()).expect("a short request");
                for frame in wrap(&conn, &segment) {
                    conn.link.send(&frame);
                }
            }
            if conn.look_for(Instant::now() + AT_ONCE, RawConn::has_heard) {
                assert_eq!(conn.response().status, 200, "{name}");
            }
            conn.said = conn.acked;
            conn.say(&request("/usual", &usual));
            let goes_on = conn.look_for(Instant::now() + AT_ONCE, RawConn::has_heard);
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

/// In a shape of IPv4 with these options.
fn v4_options(conn: &RawConn, segment: &Segment, options: &[u8]) -> Vec<Frame> {
    one(conn.frame_in(&Shape::v4_with(options.to_vec()), segment))
}

fn v6_extensions(conn: &RawConn, segment: &Segment, extensions: Vec<Extension>) -> Vec<Frame> {
    one(conn.frame_in(&Shape::v6_with(extensions), segment))
}

/// A routing header of `kind` that leads nowhere any more.
fn routing(kind: u8) -> Extension {
    Extension {
        kind: 43,
        bytes: vec![0, 0, kind, 0, 0, 0, 0, 0],
    }
}

/// Options that nobody knows and that may be skipped, of 488 bytes.
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
        // Linux allows seven bytes of padding (`ip6_parse_tlv`).
        ("much padding", Lost, |conn, segment| {
            v6_extensions(conn, segment, vec![Extension::options(60, 60)])
        }),
        ("several for the destination", Served, |conn, segment| {
            v6_extensions(conn, segment, vec![Extension::options(60, 1); 5])
        }),
        ("eight", Served, |conn, segment| {
            v6_extensions(conn, segment, vec![Extension::options(60, 1); 8])
        }),
        // More than the program follows; the kernel would.
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

/// RFC 6946.
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

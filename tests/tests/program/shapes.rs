// SPDX-License-Identifier: MIT OR Apache-2.0

//! The programs recognize a segment in every combination of headers.

use limiter_common::abi::counter;
use limiter_tests::program::{Ends, Extension, Fragment, Hook, Shape, Talk, no_limits};

use crate::{
    support::{SCOPE, assert_counters, get, limited},
    table::{DESTINATION, HOP_BY_HOP, Row, check, request, request_of},
};

/// Returns all shapes in which the programs recognize segments.
pub fn shapes() -> Vec<(&'static str, Shape)> {
    let options = |kind, units| Extension::options(kind, units);
    let timestamp = vec![68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let whole = Fragment {
        offset: 0,
        more: false,
    };
    vec![
        ("IPv4", Shape::v4()),
        ("IPv6", Shape::v6()),
        ("IPv4 with one tag", Shape::v4().tagged(1)),
        ("IPv4 with two tags", Shape::v4().tagged(2)),
        ("IPv6 with two tags", Shape::v6().tagged(2)),
        ("IPv4 with no-ops", Shape::v4_with(vec![1; 4])),
        ("IPv4 with a timestamp", Shape::v4_with(timestamp)),
        ("IPv4 with all its options", Shape::v4_with(vec![1; 40])),
        (
            "IPv6 with hop-by-hop options",
            Shape::v6_with(vec![options(HOP_BY_HOP, 1)]),
        ),
        (
            "IPv6 with destination options",
            Shape::v6_with(vec![options(DESTINATION, 32)]),
        ),
        (
            "IPv6 with authentication",
            Shape::v6_with(vec![Extension::authentication()]),
        ),
        (
            "IPv6 with eight extensions",
            Shape::v6_with(vec![options(DESTINATION, 1); 8]),
        ),
        (
            "IPv6, whole in a fragment header",
            Shape::v6_with(vec![Extension::fragment(whole)]),
        ),
        (
            "IPv6 with tags and options",
            Shape::v6_with(vec![options(HOP_BY_HOP, 2)]).tagged(1),
        ),
        ("IPv4 without a link header", Shape::v4().bare()),
        ("IPv6 without a link header", Shape::v6().bare()),
        ("IPv4 with options, bare", Shape::v4_with(vec![1; 8]).bare()),
        (
            "IPv6 with options, bare",
            Shape::v6_with(vec![options(DESTINATION, 1)]).bare(),
        ),
    ]
}

#[test]
fn a_request_is_found_in_every_shape() {
    for (what, shape) in shapes() {
        let mut programs = limited(no_limits());
        let mut talk = Talk::open(&mut programs, shape);
        talk.asks(&mut programs, get("/"));
        assert_eq!(programs.state(SCOPE).admitted, 1, "{what}");
        assert!(
            programs.flow(&talk.key()).is_some(),
            "{what}: the flow's key"
        );
        assert_counters(&programs, &[(counter::ADMITTED, 1)]);
    }
}

#[test]
fn too_many_or_too_long_extension_headers_are_dropped() {
    let options = |kind, units| Extension::options(kind, units);
    let shape = |extensions| request(&Shape::v6_with(extensions));
    let far = shape(vec![options(HOP_BY_HOP, 200), options(DESTINATION, 100)]);
    let many = shape(vec![options(DESTINATION, 1); 9]);
    check(vec![
        Row::new("2400 bytes", Hook::Ingress, far).dropped(counter::UNREADABLE_DROPPED),
        Row::new("nine", Hook::Ingress, many).dropped(counter::UNREADABLE_DROPPED),
    ]);
}

#[test]
fn first_fragments_are_dropped_and_others_pass() {
    let part = |offset, more| Extension::fragment(Fragment { offset, more });
    let v6 = |part| request(&Shape::v6_with(vec![part]));
    let v4 = |offset, more| request(&Shape::v4_fragment(offset, more));
    let options = |kind| Extension::options(kind, 1);
    let amid = Shape::v6_with(vec![
        options(HOP_BY_HOP),
        part(0, true),
        options(DESTINATION),
    ]);
    let elsewhere = Ends {
        server_port: 8080,
        ..Ends::v4()
    };
    let first =
        |what, hook, packet| Row::new(what, hook, packet).dropped(counter::FRAGMENT_DROPPED);
    let shape = Shape::v4_fragment(0, true);
    check(vec![
        first("first, IPv4", Hook::Ingress, v4(0, true)),
        first("first, IPv6", Hook::Ingress, v6(part(0, true))),
        first("first, amid options", Hook::Ingress, request(&amid)),
        first(
            "first, with a tag",
            Hook::Ingress,
            request(&shape.clone().tagged(1)),
        ),
        first(
            "first, bare",
            Hook::IngressBare,
            request(&shape.clone().bare()),
        ),
        Row::new("second, IPv4", Hook::Ingress, v4(3, true)),
        Row::new("last, IPv4", Hook::Ingress, v4(100, false)),
        Row::new("last, IPv6", Hook::Ingress, v6(part(100, false))),
        Row::new(
            "first of another port",
            Hook::Ingress,
            request_of(&shape, elsewhere),
        ),
    ]);
}

#[test]
fn atomic_fragment_is_treated_as_a_whole_packet() {
    let bytes = u64::try_from(get("/").len()).expect("a length");
    let whole = Extension::fragment(Fragment {
        offset: 0,
        more: false,
    });
    let packet = request(&Shape::v6_with(vec![whole]));
    check(vec![
        Row::new("atomic (RFC 6946)", Hook::Ingress, packet).counts(&[
            (counter::UNTRACKED_SEGMENTS, 1),
            (counter::UNTRACKED_CONNECTIONS, 1),
            (counter::UNTRACKED_BYTES, bytes),
        ]),
    ]);
}

#[test]
fn a_first_fragment_with_half_a_tcp_header_is_dropped() {
    // The second fragment would contain the other half, and no ports (RFC 1858). It would pass, so
    // the first fragment must not.
    let ends = Ends::v4();
    let ports = (ends.client_port, ends.server_port);
    let segment = Talk::new(Shape::v4()).client(get("/").as_bytes());
    let segment = segment.bytes(ends.client, ends.server, ports);
    for len in [8, 16] {
        let shape = Shape::v4_fragment(0, true);
        let packet = shape.around(ends.client, ends.server, 6, true, &segment[..len]);
        check(vec![
            Row::new("tiny", Hook::Ingress, packet).dropped(counter::FRAGMENT_DROPPED),
        ]);
    }
}

#[test]
fn a_first_fragment_without_ports_is_unreadable() {
    let ends = Ends::v4();
    let part = Extension::fragment(Fragment {
        offset: 0,
        more: true,
    });
    let v6 = Ends::v6();
    let around = |shape: Shape, ends: &Ends, len| {
        shape.around(ends.client, ends.server, 6, true, &[0; 3][..len])
    };
    for len in [0, 3] {
        check(vec![
            Row::new(
                "IPv4",
                Hook::Ingress,
                around(Shape::v4_fragment(0, true), &ends, len),
            )
            .dropped(counter::UNREADABLE_DROPPED),
            Row::new(
                "IPv6",
                Hook::Ingress,
                around(Shape::v6_with(vec![part.clone()]), &v6, len),
            )
            .dropped(counter::UNREADABLE_DROPPED),
        ]);
    }
}

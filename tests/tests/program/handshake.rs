// SPDX-License-Identifier: MIT OR Apache-2.0

//! The handshakes at the beginning of connections.

use limiter_common::abi::{NO_SCOPE, counter, phase, policy};
use limiter_tests::program::{ACK, RST, SYN, Shape, Talk, Verdict};

use crate::{
    shapes::shapes,
    support::{SCOPE, another, assert_counters, get, limited, ok, opened},
};

#[test]
fn a_syn_ack_opens_a_flow_in_every_shape() {
    for (what, shape) in shapes() {
        let mut programs = limited(limiter_tests::program::no_limits());
        let mut talk = Talk::new(shape);
        talk.timestamps = true;
        let (syn, syn_ack) = (talk.syn(), talk.syn_ack());
        assert_eq!(
            talk.run(&mut programs, true, &syn).verdict,
            Verdict::Pass,
            "{what}"
        );
        let ran = talk.run(&mut programs, false, &syn_ack);
        assert_eq!(ran.verdict, Verdict::Pass, "{what}");
        assert_eq!(
            ran.packet,
            talk.shape.wrap(&talk.ends, false, &syn_ack),
            "{what}"
        );
        assert_eq!(programs.counter(counter::FLOWS_OPENED), 1, "{what}");
        let flow = programs.flow(&talk.key()).expect(what);
        assert_eq!(flow.phase, phase::HANDSHAKE, "{what}");
        assert_eq!(
            (flow.next.0, flow.server_ack.0),
            (talk.client_start, talk.client_start)
        );
        assert_eq!(flow.server_next.0, talk.server_start, "{what}");
        assert_eq!(flow.server_window, u32::from(syn_ack.window), "{what}");
        assert_ne!(flow.server_tsval, 0, "{what}: the timestamp");
        assert_eq!(flow.counted, [NO_SCOPE; 4], "{what}");
    }
}

#[test]
fn the_clients_acknowledgement_completes_the_handshake() {
    let (programs, talk) = opened();
    assert_eq!(
        programs.flow(&talk.key()).expect("a flow").phase,
        phase::HTTP
    );
}

#[test]
fn a_request_may_complete_the_handshake() {
    let mut programs = limited(limiter_tests::program::no_limits());
    let mut talk = Talk::new(Shape::v4());
    talk.begin(&mut programs);
    talk.asks(&mut programs, get("/"));
    assert_counters(&programs, &[(counter::ADMITTED, 1)]);
}

#[test]
fn a_wrong_acknowledgement_does_not_complete_the_handshake() {
    let mut programs = limited(limiter_tests::program::no_limits());
    let mut talk = Talk::new(Shape::v4());
    talk.begin(&mut programs);
    for wrong in [talk.server_start - 1, talk.server_start + 1] {
        let request = talk.client(get("/").as_bytes()).with_ack(wrong);
        assert_eq!(
            talk.run(&mut programs, true, &request).verdict,
            Verdict::Drop
        );
    }
    assert_counters(&programs, &[(counter::INVALID_DROPPED, 2)]);
    // The acknowledgement could belong to an older connection, so the programs send the client a
    // reset, as the server would. They send nothing to the server.
    let old = talk.client(b"").with_flags(ACK).with_ack(4711);
    let ran = talk.run(&mut programs, true, &old);
    assert_eq!(ran.verdict, Verdict::Redirect);
    let reset = ran.decoded();
    assert_eq!((reset.flags & RST, reset.seq), (RST, 4711));
    assert_eq!((reset.from, reset.to), (talk.ends.server, talk.ends.client));
    let flow = programs.flow(&talk.key()).expect("a flow");
    assert_eq!(flow.phase, phase::HANDSHAKE);
}

#[test]
fn multipath_tcp_option_is_removed_from_a_syn() {
    // MP_CAPABLE (RFC 8684, section 3.1) comes after other options, at even and odd offsets. In the
    // last case, another option of Multipath TCP precedes it.
    let capable = [30, 4, 1, 1];
    for (before, after) in [
        (vec![2, 4, 5, 180], vec![1, 1, 4, 2]),
        (vec![1, 2, 4, 5, 180], vec![3, 3, 7]),
        (vec![30, 12, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8], vec![]),
    ] {
        let mut programs = limited(limiter_tests::program::no_limits());
        for (shape, complete) in [(Shape::v4(), false), (Shape::v6(), true)] {
            let mut talk = Talk::new(shape);
            let options = [&before[..], &capable, &after].concat();
            let syn = talk.syn().with_options(options.clone());
            let frame = talk.shape.wrap(&talk.ends, true, &syn);
            let extras = limiter_tests::program::Extras {
                checksum_complete: complete,
                ..limiter_tests::program::Extras::default()
            };
            let ran = programs.run_with(limiter_tests::program::Hook::Ingress, &frame, extras);
            assert_eq!(ran.verdict, Verdict::Pass);
            // The decoder checks the checksum.
            ran.decoded();
            let mut padded = options;
            let mut at = 0;
            while at < padded.len() {
                let (kind, size) = (padded[at], padded.get(at + 1).copied().unwrap_or(1));
                let size = if kind == 1 { 1 } else { usize::from(size) };
                if kind == 30 {
                    padded[at..at + size].fill(1);
                }
                at += size;
            }
            let tcp = frame.len() - padded.len();
            assert_eq!(ran.packet[tcp..], padded);
            assert_eq!(ran.packet.len(), frame.len());
        }
        assert_eq!(programs.counter(counter::MULTIPATH_DECLINED), 2);
    }
}

#[test]
fn the_data_of_a_syn_is_cut_off() {
    let mut programs = limited(limiter_tests::program::no_limits());
    let mut talk = Talk::new(Shape::v4());
    let mut syn = talk.syn();
    syn.payload = get("/").into_bytes();
    let ran = talk.run(&mut programs, true, &syn);
    assert_eq!(ran.verdict, Verdict::Pass);
    let passed = ran.decoded();
    assert_eq!((passed.flags, passed.seq), (SYN, syn.seq));
    assert_eq!(passed.payload, b"");
    assert_counters(&programs, &[(counter::SYN_DATA_DROPPED, 1)]);
}

#[test]
fn retransmitted_syn_ack_changes_nothing() {
    let mut programs = limited(limiter_tests::program::no_limits());
    let mut talk = Talk::new(Shape::v4());
    for (to_server, segment) in [
        (true, talk.syn()),
        (false, talk.syn_ack()),
        (false, talk.syn_ack()),
    ] {
        assert_eq!(
            talk.run(&mut programs, to_server, &segment).verdict,
            Verdict::Pass
        );
    }
    assert_eq!(programs.counter(counter::FLOWS_OPENED), 1);
    assert_eq!(programs.counter(counter::FLOWS_CLOSED), 0);
}

#[test]
fn new_connection_on_the_same_ports_replaces_the_old_one() {
    let (mut programs, mut old) = opened();
    old.asks(&mut programs, get("/"));
    old.answers(&mut programs, ok("hello"));
    old.asks(&mut programs, get("/"));
    assert_eq!(
        (
            programs.state(SCOPE).in_flight,
            programs.state(SCOPE).connections
        ),
        (1, 1)
    );
    let mut new = Talk::new(Shape::v4());
    (new.client_start, new.server_start) = (0x7000_0000, 0x3000_0000);
    let mut new = new.opened(&mut programs);
    let state = programs.state(SCOPE);
    assert_eq!(
        (state.in_flight, state.connections),
        (0, 0),
        "what the old connection held"
    );
    new.asks(&mut programs, get("/"));
    assert_eq!(programs.state(SCOPE).admitted, 3);
    assert_eq!(programs.counter(counter::FLOWS_CLOSED), 1);
}

#[test]
fn connection_without_room_is_reset() {
    let mut programs = limited(limiter_tests::program::no_limits());
    let mut port = 41_000;
    while programs.flows().len() < 8 {
        another(&mut programs, port);
        port += 1;
    }
    let mut talk = Talk::new(Shape::v4());
    talk.ends.client_port = port;
    let (syn, syn_ack) = (talk.syn(), talk.syn_ack());
    talk.run(&mut programs, true, &syn);
    let ran = talk.run(&mut programs, false, &syn_ack);
    assert_eq!(ran.verdict, Verdict::Pass);
    // A client in the state SYN-SENT accepts a reset only if the reset acknowledges its SYN.
    let to_client = ran.decoded();
    assert_eq!(to_client.flags, RST | ACK);
    assert_eq!(to_client.ack, talk.client_start);
    assert_eq!(to_client.from, talk.ends.server);
    let to_server = ran.answer();
    assert_eq!(to_server.flags & RST, RST);
    assert_eq!(to_server.seq, talk.client_start);
    assert_eq!(to_server.from, talk.ends.client);
    assert_eq!(
        (to_server.macs, to_client.macs.map(|(from, to)| (to, from))),
        (to_client.macs.map(|(from, to)| (to, from)), to_server.macs)
    );
    assert_eq!(programs.counter(counter::TABLE_FULL), 1);
    assert_eq!(programs.counter(counter::RESETS_SENT), 2);

    programs.configure(|config| config.table_full = policy::PASS);
    let ran = talk.run(&mut programs, false, &syn_ack);
    assert_eq!(ran.verdict, Verdict::Pass);
    assert_eq!(ran.decoded().flags, SYN | ACK);
    assert_eq!(programs.counter(counter::TABLE_FULL), 2);
    talk.asks(&mut programs, get("/"));
    let len = u64::try_from(get("/").len()).expect("a length");
    assert_eq!(programs.counter(counter::TABLE_FULL_BYTES), len);
    assert_eq!(programs.counter(counter::UNTRACKED_SEGMENTS), 0);
}

#[test]
fn timestamps_are_found_at_every_position() {
    let value = 0x0102_0304_u32.to_be_bytes();
    let echo = [0, 0, 0, 9];
    let option = [&[8, 10][..], &value, &echo].concat();
    let mss = [2, 4, 5, 180];
    for (what, options, seen) in [
        ("as everybody", [&[1, 1][..], &option].concat(), 0x0102_0304),
        (
            "behind the segment size",
            [&mss[..], &option, &[1, 1]].concat(),
            0x0102_0304,
        ),
        (
            "behind permissions",
            [&mss[..], &[4, 2], &option, &[1, 3, 3, 7]].concat(),
            0x0102_0304,
        ),
        ("first", [&option[..], &[1, 0]].concat(), 0x0102_0304),
        (
            "behind 28 no-ops",
            [&[1; 28][..], &option, &[0, 0]].concat(),
            0x0102_0304,
        ),
        (
            "behind the end of the options",
            [&[0, 0][..], &option].concat(),
            0,
        ),
        (
            "behind an option of no length",
            [&[254, 0][..], &option].concat(),
            0,
        ),
        (
            "of another length",
            [&[1, 1, 8, 6][..], &value, &echo].concat(),
            0,
        ),
        ("not whole", vec![1, 8, 10, 1], 0),
        (
            "an odd option's length is beyond the end",
            vec![254, 40, 8, 10],
            0,
        ),
    ] {
        let mut programs = limited(limiter_tests::program::no_limits());
        let mut talk = Talk::new(Shape::v4());
        let syn_ack = talk.syn_ack().with_options(options);
        talk.run(&mut programs, false, &syn_ack);
        let flow = programs.flow(&talk.key()).expect(what);
        assert_eq!(flow.server_tsval, seen, "{what}");
    }
}

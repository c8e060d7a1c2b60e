// SPDX-License-Identifier: MIT OR Apache-2.0

//! Connections that went on after a refusal and cannot go on any longer: bodies whose end cannot be
//! found, flows that were removed, and packets of other connections with the same addresses.

use limiter_common::{
    abi::{MAX_WITHHELD, counter},
    flow::Idle,
};
use limiter_tests::{
    eventually,
    program::{ACK, FIN, Hook, PSH, Programs, RST, Segment, Shape, Talk, Verdict},
};

use super::{Kept, SPENT, spent};
use crate::{
    shapes::shapes,
    support::{OTHER_INTERFACE, get, ok, run_elsewhere},
};

/// The head of a refused request whose body is chunked.
fn chunked() -> String {
    format!("PUT / HTTP/1.1\r\nX-Api-Key: {SPENT}\r\nTransfer-Encoding: chunked\r\n\r\n")
}

#[test]
fn malformed_body_closes_the_connection_and_its_request_is_refused_once() {
    // The body is in the segment of the head.
    let mut kept = Kept::opened();
    let segment = kept.client_at(0, chunked() + "zz\r\n");
    let ran = kept.run(&segment);
    assert_eq!(ran.decoded().flags, ACK | FIN, "the server");
    assert_eq!(ran.answer().flags, ACK | PSH | FIN, "the client");
    assert!(ran.answer().text().starts_with("HTTP/1.1 429 "));
    assert_eq!(kept.programs.counter(counter::REFUSED_DAILY_QUOTA), 1);
    assert_eq!(kept.programs.counter(counter::MALFORMED), 0);
    assert_eq!(kept.programs.counter(counter::KEPT), 0);
    drop(kept);
    // The body comes later, when the response has been sent.
    let mut kept = Kept::opened();
    let response = kept.refused(chunked());
    let segment = kept.client_at(kept.next(), "zz\r\n");
    let ran = kept.run(&segment);
    assert_eq!(ran.decoded().flags, ACK | FIN, "the server");
    let end = ran.answer();
    assert_eq!((end.flags, end.seq), (ACK | PSH | FIN, response.seq));
    assert_eq!(end.text(), response.text());
    assert_eq!(kept.programs.counter(counter::REFUSED_DAILY_QUOTA), 1);
    assert_eq!(kept.programs.counter(counter::MALFORMED), 0);
}

#[test]
fn long_chunk_is_closed_with_the_response_whatever_was_scanned_before() {
    let mut kept = Kept::opened();
    let big = format!("{:x}\r\n", 2 * MAX_WITHHELD);
    let response = kept.refused(chunked() + &big);
    // The request that is scanned last is a HEAD request of another connection, which ends it.
    let mut other = Talk::new(Shape::v4());
    other.ends.client_port += 1;
    let mut other = other.opened(&mut kept.programs);
    let head = format!("HEAD / HTTP/1.1\r\nX-Api-Key: {SPENT}\r\nConnection: close\r\n\r\n");
    let segment = other.client(head.as_bytes());
    other.run(&mut kept.programs, true, &segment);
    let chunk = "c".repeat(1400);
    let end = kept.sends_until_closed(&chunk);
    assert_eq!(end.answer().flags, ACK | PSH | FIN);
    assert_eq!(end.answer().text(), response.text());
}

/// Returns a connection on which a request was refused and one was served, and whose flow the sweep
/// has removed.
fn removed(shape: Shape) -> Kept {
    let mut kept = Kept::new(shape, false);
    kept.refused(spent());
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    // The clock of the sweep has the resolution of a tick.
    eventually("the flow is removed", || {
        kept.programs.sweep([0; Idle::COUNT]);
        kept.programs.flows().is_empty()
    });
    kept
}

/// Returns the numbers that the client and the server expect next from the other side.
fn expected(kept: &Kept) -> (u32, u32) {
    let to_client = kept.talk.server_start.wrapping_add(kept.talk.answered);
    let to_server = kept.talk.client_start.wrapping_add(kept.talk.asked);
    (to_client.wrapping_add(kept.injected), to_server)
}

#[test]
fn any_packet_after_a_removed_flow_resets_both_sides() {
    for (what, shape) in shapes().into_iter().filter(|(_, shape)| shape.is_usual()) {
        // The client sends a request.
        let mut kept = removed(shape.clone());
        let (to_client, to_server) = expected(&kept);
        let segment = kept.client_at(kept.next(), get("/"));
        let ran = kept.run(&segment);
        let (server, client) = (ran.decoded(), ran.answer());
        assert_eq!((server.flags, server.seq), (RST | ACK, to_server), "{what}");
        assert_eq!((client.flags, client.seq), (RST | ACK, to_client), "{what}");
        drop(kept);
        // The client resets the connection.
        let mut kept = removed(shape.clone());
        let (_, to_server) = expected(&kept);
        let segment = kept.client_at(kept.next(), "").with_flags(RST);
        let ran = kept.run(&segment);
        assert_eq!(ran.verdict, Verdict::Pass, "{what}");
        assert_eq!(ran.decoded().seq, to_server, "{what}");
        drop(kept);
        // The server closes the connection.
        let mut kept = removed(shape);
        let (to_client, to_server) = expected(&kept);
        let fin = kept.server_at(kept.talk.answered, "").with_flags(FIN | ACK);
        let ran = kept.talk.run(&mut kept.programs, false, &fin);
        let (client, server) = (ran.decoded(), ran.answer());
        assert_eq!((client.flags, client.seq), (RST | ACK, to_client), "{what}");
        assert_eq!((server.flags, server.seq), (RST | ACK, to_server), "{what}");
    }
}

/// Runs a segment on another interface, and returns whether it passes unchanged.
#[track_caller]
fn passes_elsewhere(programs: &mut Programs, talk: &Talk, to_server: bool, of: &Segment) -> bool {
    let packet = talk.shape.wrap(&talk.ends, to_server, of);
    let ran = run_elsewhere(programs, talk, to_server, of);
    ran.verdict == Verdict::Pass && ran.packet == packet && ran.sent.is_empty()
}

#[test]
fn packets_of_a_connection_on_another_link_are_not_answered_or_translated() {
    let mut kept = Kept::opened();
    kept.refused(spent());
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    // The numbers are half of the range away, before and after those of the connection.
    for distance in [1 << 30, 3 << 30, 1 << 31] {
        let mut foreign = Talk::new(Shape::v4());
        foreign.ends = kept.talk.ends;
        foreign.client_start = kept.talk.client_start.wrapping_sub(distance);
        foreign.server_start = kept.talk.server_start.wrapping_sub(distance);
        let ack = foreign.client(b"").with_flags(ACK);
        assert!(
            passes_elsewhere(&mut kept.programs, &foreign, true, &ack),
            "{distance}"
        );
        let response = foreign.server(ok("two").as_bytes());
        assert!(
            passes_elsewhere(&mut kept.programs, &foreign, false, &response),
            "{distance}"
        );
        let request = foreign.client(get("/").as_bytes());
        let packet = foreign.shape.wrap(&foreign.ends, true, &request);
        let ran = kept
            .programs
            .run_with(Hook::Ingress, &packet, OTHER_INTERFACE);
        // It belongs to no connection that is known, so the server of that connection is reset.
        let reset = ran.decoded();
        assert_eq!(reset.flags & RST, RST, "{distance}");
        assert_eq!(reset.seq, request.seq, "{distance}");
    }
    kept.admitted(get("/"));
    kept.answers(ok("two"));
    assert_eq!(kept.programs.counter(counter::KEPT), 1);
    assert_eq!(kept.programs.counter(counter::ADMITTED), 2);
    assert_eq!(kept.programs.counter(counter::UNTRACKED_REFUSED), 3);
}

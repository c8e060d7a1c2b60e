// SPDX-License-Identifier: MIT OR Apache-2.0

//! After a refusal that closes the connection, the client and the server get the packets that they
//! need to end it. No other packet from either side reaches the other side.

use limiter_common::abi::{Limits, counter, policy, reason};
use limiter_tests::program::{
    ACK, FIN, PSH, Programs, RST, RunResult, Shape, Talk, Verdict, no_limits,
};

use crate::support::{SCOPE, assert_counters, boot_ns, get, limited, ok};

/// A connection whose first request was refused.
struct RefusedConnection {
    programs: Programs,
    talk: Talk,
    /// The lengths of the request and of the response in bytes.
    request: u32,
    response: u32,
}

/// Returns a connection whose request was refused with a response, and whose server has
/// acknowledged the FIN that the programs sent to it.
fn refused_connection() -> RefusedConnection {
    let mut conn = refused_connection_by(policy::ON_LIMIT_CLOSE);
    let ran = conn.server(0, 1, ACK, "");
    assert_eq!(ran.verdict, Verdict::Drop, "the client gets no packet");
    conn
}

fn refused_connection_by(on_limit: u32) -> RefusedConnection {
    let mut programs = limited(Limits {
        daily_quota: 0,
        ..no_limits()
    });
    programs.configure(|config| config.on_limit = on_limit);
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let segment = talk.client(get("/").as_bytes());
    let ran = talk.run(&mut programs, true, &segment);
    let response = u32::try_from(ran.answer().payload.len()).expect("a length");
    let request = u32::try_from(segment.payload.len()).expect("a length");
    RefusedConnection {
        programs,
        talk,
        request,
        response,
    }
}

impl RefusedConnection {
    /// Runs a segment from the client. Its payload begins at position `at` in the client's bytes,
    /// and it acknowledges `acked` bytes.
    #[track_caller]
    fn client(&mut self, at: u32, acked: u32, flags: u8, payload: &str) -> RunResult {
        let ack = self.talk.server_start + acked;
        let segment = self
            .talk
            .client_at(at, payload.as_bytes())
            .with_ack(ack)
            .with_flags(flags);
        self.talk.run(&mut self.programs, true, &segment)
    }

    /// Runs a segment from the server. Its payload begins at position `at` in the server's bytes,
    /// and it acknowledges `acked` bytes.
    #[track_caller]
    fn server(&mut self, at: u32, acked: u32, flags: u8, payload: &str) -> RunResult {
        let segment = self
            .talk
            .server_at(at, payload.as_bytes())
            .with_flags(flags);
        let segment = segment.with_ack(self.talk.client_start + acked);
        self.talk.run(&mut self.programs, false, &segment)
    }

    /// Asserts that the client gets an acknowledgement of `at` bytes and that the programs send no
    /// other packet.
    #[track_caller]
    fn acknowledges_client(&self, ran: &RunResult, at: u32) {
        assert_eq!(ran.verdict, Verdict::Redirect);
        let answer = ran.decoded();
        assert_eq!(
            (answer.from, answer.to),
            (self.talk.ends.server, self.talk.ends.client)
        );
        assert_eq!((answer.flags, answer.text()), (ACK, String::new()));
        assert_eq!(answer.ack, self.talk.client_start + at);
        assert_eq!(
            answer.seq,
            self.talk.server_start + self.response + 1,
            "behind our FIN"
        );
    }
}

#[test]
fn retransmitted_syn_is_dropped_and_a_new_one_passes() {
    let mut conn = refused_connection();
    let syn = conn.talk.syn();
    let ran = conn.talk.run(&mut conn.programs, true, &syn);
    assert_eq!((ran.verdict, ran.sent.len()), (Verdict::Drop, 0));
    let count = conn.programs.counter(counter::AFTER_END_DROPPED);
    assert_eq!(count, 1);
    let mut another = Talk::open(&mut conn.programs, Shape::v4());
    let segment = another.client(get("/").as_bytes());
    let ran = another.run(&mut conn.programs, true, &segment);
    // The new connection is followed, and its request is refused like the first one.
    ran.answer();
}

#[test]
fn reused_port_connects_with_any_new_sequence_number() {
    // A SYN opens a new connection if its sequence number differs from that of the old SYN, even if
    // the number is just before it.
    for back in [1, 2, 1 << 10, 1 << 19, (1 << 20) - 1, 1 << 20, 1 << 31] {
        let mut conn = refused_connection();
        let mut talk = conn.talk.clone();
        talk.client_start = talk.client_start.wrapping_sub(back);
        talk.server_start = talk.server_start.wrapping_add(4711);
        let mut talk = talk.opened(&mut conn.programs);
        let segment = talk.client(get("/").as_bytes());
        talk.run(&mut conn.programs, true, &segment).answer();
    }
}

#[test]
fn same_sequence_number_is_a_new_connection_after_some_time() {
    // A new connection may begin with the same sequence number if enough time has passed since the
    // old one. The programs measure this time by the client's timestamps or by the host's clock.
    for by_clients in [true, false] {
        let mut programs = limited(Limits {
            daily_quota: 0,
            ..no_limits()
        });
        let mut talk = Talk::new(Shape::v4());
        talk.timestamps = by_clients;
        let old_syn = talk.syn();
        let mut talk = talk.opened(&mut programs);
        let request = talk.client(get("/").as_bytes());
        talk.run(&mut programs, true, &request).answer();
        assert_eq!(
            talk.run(&mut programs, true, &old_syn).verdict,
            Verdict::Drop,
            "the same SYN, duplicated on its way"
        );
        let mut syn = old_syn;
        if by_clients {
            syn = talk.syn();
        } else {
            let mut tomb = programs.tomb(&talk.key()).expect("a tomb");
            tomb.ended_ns = 0;
            programs.set_tomb(&talk.key(), tomb);
            // If the machine has been up for about a minute or less, the time 0 is not long enough
            // ago for the last check.
            if boot_ns() < 61_000_000_000 {
                continue;
            }
        }
        assert_eq!(talk.run(&mut programs, true, &syn).verdict, Verdict::Pass);
    }
}

#[test]
fn client_acknowledgement_of_the_response_is_dropped() {
    let mut conn = refused_connection();
    let (request, response) = (conn.request, conn.response);
    for acked in [response, response + 1] {
        assert_eq!(conn.client(request, acked, ACK, "").verdict, Verdict::Drop);
    }
    assert_counters(
        &conn.programs,
        &[
            (counter::REFUSED_DAILY_QUOTA, 1),
            (counter::RESPONSES_SENT, 1),
            (counter::TOMB_PACKETS, 3),
        ],
    );
}

#[test]
fn client_fin_and_data_are_acknowledged() {
    let mut conn = refused_connection();
    let (request, all) = (conn.request, conn.response + 1);
    let ran = conn.client(request, all, ACK | PSH, "more");
    conn.acknowledges_client(&ran, request + 4);
    let ran = conn.client(request + 4, all, ACK | FIN, "");
    conn.acknowledges_client(&ran, request + 5);
    // The acknowledgement was lost, so the client retransmits the FIN.
    let ran = conn.client(request + 4, all, ACK | FIN, "");
    conn.acknowledges_client(&ran, request + 5);
    // This is the last acknowledgement of the connection.
    assert_eq!(
        conn.client(request + 5, all, ACK, "").verdict,
        Verdict::Drop
    );
}

#[test]
fn response_is_retransmitted_until_acknowledged() {
    let mut conn = refused_connection();
    for _ in 0..2 {
        let ran = conn.client(0, 0, ACK | PSH, &get("/"));
        assert_eq!(ran.verdict, Verdict::Redirect);
        let again = ran.decoded();
        assert_eq!(again.seq, conn.talk.server_start);
        assert_eq!(again.ack, conn.talk.client_start + conn.request);
        assert_eq!(again.flags, ACK | PSH | FIN);
        assert!(
            again.text().starts_with("HTTP/1.1 429 "),
            "{}",
            again.text()
        );
    }
    let refused = [
        (counter::REFUSED_DAILY_QUOTA, 1),
        (counter::RESPONSES_SENT, 1),
        (counter::RESPONSES_RESENT, 2),
        (counter::TOMB_PACKETS, 3),
    ];
    assert_counters(&conn.programs, &refused);
    assert_eq!(
        conn.programs.state(SCOPE).refused,
        [0, 0, 0, 1],
        "one refusal"
    );
}

#[test]
fn client_with_a_closed_window_gets_the_response_when_it_opens() {
    let mut programs = limited(Limits {
        daily_quota: 0,
        ..no_limits()
    });
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let full = talk.client(get("/").as_bytes()).with_window(0);
    talk.run(&mut programs, true, &full);
    let end = u32::try_from(get("/").len()).expect("a length");
    // A segment with a closed window has no effect. A segment that opens the window makes the
    // programs send the response again.
    let none = talk.client_at(end, b"").with_flags(ACK).with_window(0);
    assert_eq!(talk.run(&mut programs, true, &none).verdict, Verdict::Drop);
    let some = talk.client_at(end, b"").with_flags(ACK);
    let ran = talk.run(&mut programs, true, &some);
    assert_eq!(ran.verdict, Verdict::Redirect);
    assert!(ran.decoded().text().starts_with("HTTP/1.1 429 "));
}

#[test]
fn client_reset_is_dropped() {
    let mut conn = refused_connection();
    let request = conn.request;
    assert_eq!(conn.client(request, 0, RST, "").verdict, Verdict::Drop);
    assert_eq!(
        conn.client(request, 0, RST | ACK, "").verdict,
        Verdict::Drop
    );
}

#[test]
fn server_gets_fins_until_it_acknowledges_one() {
    // The programs turn each further segment from the client into another FIN for the server. They
    // do not wait for a segment from the server, because the server may never send one.
    let mut conn = refused_connection_by(policy::ON_LIMIT_CLOSE);
    let (request, all) = (conn.request, conn.response + 1);
    for _ in 0..2 {
        let ran = conn.client(request, all, ACK, "");
        assert_eq!(ran.verdict, Verdict::Pass);
        let again = ran.decoded();
        assert_eq!(
            (again.flags, again.seq),
            (FIN | ACK, conn.talk.client_start)
        );
        assert_eq!(ran.sent, [] as [Vec<u8>; 0]);
    }
    conn.server(0, 1, ACK, "");
    assert_eq!(conn.client(request, all, ACK, "").verdict, Verdict::Drop);
}

#[test]
fn client_data_is_acknowledged_and_repeats_the_server_fin() {
    let mut conn = refused_connection_by(policy::ON_LIMIT_CLOSE);
    let (request, all) = (conn.request, conn.response + 1);
    let ran = conn.client(request, all, ACK | PSH, "more");
    assert_eq!(
        (ran.verdict, ran.decoded().flags),
        (Verdict::Pass, FIN | ACK)
    );
    let to_client = ran.answer();
    assert_eq!((to_client.flags, to_client.text()), (ACK, String::new()));
    assert_eq!(to_client.ack, conn.talk.client_start + request + 4);
}

#[test]
fn server_acknowledgement_is_dropped() {
    let mut conn = refused_connection();
    // The server acknowledges the FIN.
    assert_eq!(conn.server(0, 1, ACK, "").verdict, Verdict::Drop);
}

#[test]
fn server_fin_is_acknowledged_for_the_client() {
    let mut conn = refused_connection();
    for _ in 0..2 {
        let ran = conn.server(0, 1, ACK | FIN, "");
        assert_eq!(ran.verdict, Verdict::Redirect);
        let answer = ran.decoded();
        assert_eq!(
            (answer.from, answer.to),
            (conn.talk.ends.client, conn.talk.ends.server)
        );
        assert_eq!((answer.flags, answer.text()), (ACK, String::new()));
        assert_eq!(
            answer.seq,
            conn.talk.client_start + 1,
            "after the FIN that it received"
        );
        assert_eq!(answer.ack, conn.talk.server_start + 1);
    }
}

#[test]
fn server_that_missed_the_fin_gets_it_again() {
    let mut conn = refused_connection();
    let ran = conn.server(0, 0, ACK | PSH, "HTTP/1.1 408 Request Timeout\r\n\r\n");
    assert_eq!(ran.verdict, Verdict::Redirect);
    let answer = ran.decoded();
    assert_eq!(
        (answer.flags, answer.seq),
        (FIN | ACK, conn.talk.client_start)
    );
    assert_eq!(
        answer.ack,
        conn.talk.server_start + 32,
        "the bytes of the server are acknowledged"
    );
}

#[test]
fn server_segments_never_reach_the_client() {
    let mut conn = refused_connection();
    for (flags, payload) in [(ACK | PSH, "junk"), (RST, ""), (RST | ACK, "")] {
        let ran = conn.server(0, 1, flags, payload);
        assert_ne!(ran.verdict, Verdict::Pass, "flags {flags:#x}");
        if ran.verdict == Verdict::Redirect {
            assert_eq!(ran.decoded().to, conn.talk.ends.server);
        }
    }
}

#[test]
fn resets_are_answered_with_resets() {
    let mut conn = refused_connection_by(policy::ON_LIMIT_RESET);
    let ran = conn.client(0, 0, ACK | PSH, &get("/"));
    assert_eq!(
        (ran.verdict, ran.decoded().flags & RST),
        (Verdict::Redirect, RST)
    );
    assert_eq!(
        ran.decoded().seq,
        conn.talk.server_start,
        "exactly what it expects"
    );
    let ran = conn.server(0, 0, ACK | PSH, "HTTP/1.1 408 Request Timeout\r\n\r\n");
    assert_eq!(
        (ran.verdict, ran.decoded().flags & RST),
        (Verdict::Redirect, RST)
    );
    assert_eq!(
        ran.decoded().seq,
        conn.talk.client_start,
        "exactly what it expects"
    );
    assert_eq!(
        conn.client(conn.request, 0, RST | ACK, "").verdict,
        Verdict::Drop
    );
}

#[test]
fn a_new_connection_of_the_same_ports_is_not_the_refused_one() {
    let mut conn = refused_connection();
    conn.programs.limit(SCOPE, no_limits());
    let mut new = Talk::new(Shape::v4());
    (new.client_start, new.server_start) = (0x7000_0000, 0x3000_0000);
    let mut new = new.opened(&mut conn.programs);
    assert_eq!(conn.programs.tomb(&new.key()), None);
    new.asks(&mut conn.programs, get("/"));
    new.answers(&mut conn.programs, ok("hello"));
    assert_eq!(conn.programs.state(SCOPE).admitted, 1);
}

#[test]
fn new_syn_passes_a_tomb() {
    let mut conn = refused_connection();
    let mut new = Talk::new(Shape::v4());
    new.client_start = 0x7000_0000;
    let syn = new.syn();
    assert_eq!(
        new.run(&mut conn.programs, true, &syn).verdict,
        Verdict::Pass
    );
}

#[test]
fn rest_of_a_refused_body_is_acknowledged_and_dropped() {
    let mut conn = refused_connection();
    let all = conn.response + 1;
    let mut at = conn.request;
    for _ in 0..5 {
        let ran = conn.client(at, all, ACK | PSH, &"b".repeat(1000));
        at += 1000;
        conn.acknowledges_client(&ran, at);
    }
}

#[test]
fn implausible_client_segments_are_not_acknowledged() {
    let mut conn = refused_connection();
    let (request, all) = (conn.request, conn.response + 1);
    let far = request + (2 << 20);
    let ran = conn.client(far, all, ACK | PSH, "far ahead");
    conn.acknowledges_client(&ran, request);
    assert_eq!(
        conn.programs
            .tomb(&conn.talk.key())
            .expect("a tomb")
            .text
            .reason,
        reason::DAILY_QUOTA
    );
}

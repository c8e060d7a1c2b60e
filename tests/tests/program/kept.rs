// SPDX-License-Identifier: MIT OR Apache-2.0

//! Refusals after which the connection goes on: what the client and the server get, and how the
//! packets of both are translated afterwards.

use limiter_common::abi::{Limits, MAX_WITHHELD, MAX_WITHHELD_BODY, counter, policy, reason};
use limiter_tests::program::{
    ACK, DecodedSegment, FIN, PSH, Programs, RST, RunResult, Segment, Shape, Talk, Verdict,
    no_limits, timestamp,
};

use crate::{
    shapes::shapes,
    support::{KEY, SCOPE, assert_counters, get, get_as, limited, ok},
};

/// The key of a scope that may send nothing.
const SPENT: &str = "key-spent";
const SPENT_SCOPE: u32 = 2;

/// Returns the programs with `SCOPE`, which has no limits, and a scope that may send nothing.
fn programs() -> Programs {
    let mut programs = limited(no_limits());
    let nothing = Limits {
        daily_quota: 0,
        ..no_limits()
    };
    programs.scope(SPENT_SCOPE, SPENT, nothing);
    programs.configure(|config| config.on_limit = policy::ON_LIMIT_KEEPALIVE);
    programs
}

/// A request that is refused.
pub fn spent() -> String {
    get_as(SPENT, "/")
}

fn len(text: impl AsRef<[u8]>) -> u32 {
    u32::try_from(text.as_ref().len()).expect("a short text")
}

/// A connection whose two sides count bytes differently.
pub struct Kept {
    pub programs: Programs,
    pub talk: Talk,
    /// The number of bytes of the client that have been withheld from the server.
    pub withheld: u32,
    /// The number of bytes that were sent to the client in the server's name.
    pub injected: u32,
}

impl Kept {
    pub fn new(shape: Shape, timestamps: bool) -> Self {
        let mut programs = programs();
        let mut talk = Talk::new(shape);
        talk.timestamps = timestamps;
        let talk = talk.opened(&mut programs);
        Self {
            programs,
            talk,
            withheld: 0,
            injected: 0,
        }
    }

    pub fn opened() -> Self {
        Self::new(Shape::v4(), false)
    }

    /// Makes a segment of the client from its own view. `at` is the position of the payload.
    fn client_at(&mut self, at: u32, payload: impl AsRef<[u8]>) -> Segment {
        let answered = self.talk.answered.wrapping_add(self.injected);
        let segment = self.talk.client_at(at, payload.as_ref());
        segment.with_ack(self.talk.server_start.wrapping_add(answered))
    }

    /// Returns the position of the client's next byte.
    fn next(&self) -> u32 {
        self.talk.asked.wrapping_add(self.withheld)
    }

    /// Runs a segment of the client.
    #[track_caller]
    fn run(&mut self, segment: &Segment) -> RunResult {
        self.talk.run(&mut self.programs, true, segment)
    }

    /// Asserts that a segment of the client passes and that the server sees it at its own position.
    #[track_caller]
    fn passes(&mut self, segment: &Segment) -> DecodedSegment {
        let ran = self.run(segment);
        assert_eq!(ran.verdict, Verdict::Pass, "{:?}", self.programs.counters());
        assert_eq!(ran.sent, [] as [Vec<u8>; 0]);
        let seen = ran.decoded();
        assert_eq!(seen.seq, segment.seq.wrapping_sub(self.withheld));
        assert_eq!(seen.payload, segment.payload);
        assert_eq!(seen.flags, segment.flags);
        seen
    }

    /// Sends an admitted request, and asserts that the server gets it.
    #[track_caller]
    pub fn admitted(&mut self, request: impl AsRef<[u8]>) {
        let segment = self.client_at(self.next(), &request);
        let seen = self.passes(&segment);
        assert_eq!(
            seen.ack,
            self.talk.server_start.wrapping_add(self.talk.answered)
        );
        self.talk.asked += len(request);
    }

    /// Sends a request that is refused, and returns the response.
    #[track_caller]
    pub fn refused(&mut self, request: impl AsRef<[u8]>) -> DecodedSegment {
        let segment = self.client_at(self.next(), &request);
        let answer = self.answered(&segment);
        assert!(answer.text().starts_with("HTTP/1.1 4"), "{}", answer.text());
        self.withheld += len(request);
        self.injected += len(&answer.payload);
        answer
    }

    /// Runs a segment of the client, and returns the segment with which the programs answer. If the
    /// server gets a segment, it must be a pure acknowledgement.
    #[track_caller]
    fn answered(&mut self, segment: &Segment) -> DecodedSegment {
        let (server, client) = (self.talk.server_start, self.talk.client_start);
        let ran = self.run(segment);
        if let Some(answer) = only_answer(&ran) {
            return answer;
        }
        let to_server = ran.decoded();
        assert_eq!(
            (to_server.flags, to_server.payload.len(), ran.mark),
            (ACK, 0, 0)
        );
        assert_eq!(to_server.seq, client.wrapping_add(self.talk.asked));
        assert_eq!(to_server.ack, server.wrapping_add(self.talk.answered));
        ran.answer()
    }

    /// Runs the client's first request, and returns the segment with which the programs answer. The
    /// server gets nothing if the connection goes on, because it has nothing to hear of.
    #[track_caller]
    fn first_answer(&mut self, segment: &Segment) -> DecodedSegment {
        let ran = self.run(segment);
        if let Some(answer) = only_answer(&ran) {
            return answer;
        }
        assert_eq!(ran.decoded().flags, ACK | FIN);
        ran.answer()
    }

    /// Makes a segment of the server from its own view, which acknowledges everything.
    fn server_at(&mut self, at: u32, payload: impl AsRef<[u8]>) -> Segment {
        self.talk.server_acked = self.talk.asked;
        self.talk.server_at(at, payload.as_ref())
    }

    /// Runs a segment of the server, and asserts that the client gets it at the client's position.
    #[track_caller]
    fn reaches_client(&mut self, segment: &Segment) -> DecodedSegment {
        let ran = self.talk.run(&mut self.programs, false, segment);
        assert_eq!(ran.verdict, Verdict::Pass, "{:?}", self.programs.counters());
        assert_eq!(ran.sent, [] as [Vec<u8>; 0]);
        let seen = ran.decoded();
        assert_eq!(seen.payload, segment.payload);
        seen
    }

    /// Sends a response of the server to the client.
    #[track_caller]
    pub fn answers(&mut self, response: impl AsRef<[u8]>) {
        let segment = self.server_at(self.talk.answered, &response);
        let seen = self.reaches_client(&segment);
        assert_eq!(seen.seq, segment.seq.wrapping_add(self.injected));
        assert_eq!(seen.ack, segment.ack.wrapping_add(self.withheld));
        self.talk.answered = self.talk.answered.wrapping_add(len(response));
    }

    /// Returns the position of `seq` in the client's bytes, as the client counts them.
    fn client_position(&self, seq: u32) -> u32 {
        seq.wrapping_sub(self.talk.client_start)
    }

    /// Returns the position of `seq` in the server's bytes, as the client counts them.
    fn server_position(&self, seq: u32) -> u32 {
        seq.wrapping_sub(self.talk.server_start)
    }
}

/// Returns the answer to the client if the server gets nothing. A response is sent as a copy of the
/// packet, and an acknowledgement is the packet itself.
#[track_caller]
fn only_answer(ran: &RunResult) -> Option<DecodedSegment> {
    match ran.verdict {
        Verdict::Pass => None,
        Verdict::Redirect => {
            assert_eq!(ran.sent, [] as [Vec<u8>; 0]);
            assert_eq!(ran.decoded().payload, b"");
            Some(ran.decoded())
        }
        Verdict::Drop => Some(ran.answer()),
    }
}

#[test]
fn a_refused_request_is_answered_and_the_connection_goes_on_in_every_shape() {
    for (what, shape) in shapes().into_iter().filter(|(_, shape)| shape.is_usual()) {
        for timestamps in [false, true] {
            let mut kept = Kept::new(shape.clone(), timestamps);
            kept.admitted(get("/1"));
            kept.answers(ok("one"));
            let (next, before) = (kept.next(), kept.talk.answered);
            let answer = kept.refused(spent());
            assert_eq!(kept.server_position(answer.seq), before, "{what}");
            assert_eq!(
                kept.client_position(answer.ack),
                next + len(spent()),
                "{what}"
            );
            assert_eq!(answer.flags, ACK | PSH, "{what}");
            assert!(answer.text().starts_with("HTTP/1.1 429 "), "{what}");
            assert!(
                answer.text().contains("\r\nConnection: keep-alive\r\n"),
                "{what}"
            );
            let options = if timestamps { 12 } else { 0 };
            assert_eq!(answer.options.len(), options, "{what}");
            kept.admitted(get("/2"));
            kept.answers(ok("two"));
            kept.refused(spent());
            kept.refused(spent());
            kept.admitted(get("/3"));
            kept.answers(ok("three"));
            let state = kept.programs.state(SCOPE);
            assert_eq!((state.admitted, state.in_flight), (3, 0), "{what}");
            assert_eq!(
                kept.programs.state(SPENT_SCOPE).refused,
                [0, 0, 0, 3],
                "{what}"
            );
            assert_counters(
                &kept.programs,
                &[
                    (counter::ADMITTED, 3),
                    (counter::REFUSED_DAILY_QUOTA, 3),
                    (counter::RESPONSES_SENT, 3),
                    (counter::KEPT, 3),
                ],
            );
        }
    }
}

#[test]
fn the_server_hears_of_a_refused_request_only_what_it_has_to() {
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    // The refused request carries the acknowledgement of the response, which is passed on.
    let segment = kept.client_at(kept.next(), spent());
    assert_eq!(kept.run(&segment).verdict, Verdict::Pass);
    kept.withheld += len(spent());
    let text = limiter_tests::program::text(reason::DAILY_QUOTA);
    kept.injected += text.len;
    // The next one acknowledges only our response.
    let segment = kept.client_at(kept.next(), spent());
    let ran = kept.run(&segment);
    assert!(only_answer(&ran).is_some());
}

#[test]
fn a_first_request_that_is_refused_completes_the_handshake() {
    let mut programs = programs();
    let mut talk = Talk::new(Shape::v4());
    for (to_server, segment) in [(true, talk.syn()), (false, talk.syn_ack())] {
        talk.run(&mut programs, to_server, &segment);
    }
    let mut kept = Kept {
        programs,
        talk,
        withheld: 0,
        injected: 0,
    };
    let segment = kept.client_at(0, spent());
    let ran = kept.run(&segment);
    assert_eq!(ran.verdict, Verdict::Pass);
    let to_server = ran.decoded();
    assert_eq!((to_server.flags, to_server.payload.len()), (ACK, 0));
    assert_eq!(
        (to_server.seq, to_server.ack),
        (kept.talk.client_start, kept.talk.server_start)
    );
}

#[test]
fn a_retransmitted_request_is_answered_again_until_its_response_has_arrived() {
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    let segment = kept.client_at(kept.next(), spent());
    let first = kept.answered(&segment);
    for _ in 0..3 {
        let again = kept.answered(&segment);
        assert_eq!(again.text(), first.text());
        assert_eq!((again.seq, again.ack), (first.seq, first.ack));
    }
    kept.withheld += len(spent());
    kept.injected += len(&first.payload);
    // The client sends more with the part that it sends again. Only the part is acknowledged.
    let more = kept.client_at(kept.next() - len(spent()), spent() + &get("/2"));
    let more = more.with_ack(first.seq);
    let again = kept.answered(&more);
    assert_eq!((again.seq, again.ack), (first.seq, first.ack));
    assert_eq!(again.text(), first.text());
    // The response has arrived, and the request comes once more, late.
    let acknowledged = kept.client_at(kept.next(), b"").with_flags(ACK);
    kept.passes(&acknowledged);
    let late = kept.answered(&segment);
    assert_eq!((late.seq, late.ack), (acknowledged.ack, first.ack));
    assert_eq!(late.payload, b"");
    kept.admitted(get("/2"));
    assert_eq!(kept.programs.state(SPENT_SCOPE).refused, [0, 0, 0, 1]);
}

#[test]
fn nothing_acknowledges_a_refused_request_before_its_response_has_arrived() {
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    let request_at = kept.next();
    let answer = kept.refused(spent());
    // The response is lost. The server probes, or announces a window.
    let probe = kept.server_at(kept.talk.answered, b"").with_flags(ACK);
    let seen = kept.reaches_client(&probe);
    assert_eq!(kept.client_position(seen.ack), request_at);
    assert_eq!(seen.seq, answer.seq.wrapping_add(len(&answer.payload)));
    let fin = kept
        .server_at(kept.talk.answered, b"")
        .with_flags(ACK | FIN);
    let seen = kept.reaches_client(&fin);
    assert_eq!(kept.client_position(seen.ack), request_at);
    // The response arrives.
    let acknowledged = kept.client_at(kept.next(), b"").with_flags(ACK);
    kept.passes(&acknowledged);
    let seen = kept.reaches_client(&probe);
    assert_eq!(kept.client_position(seen.ack), kept.next());
}

#[test]
fn bytes_from_before_a_refusal_are_translated_as_they_were() {
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    kept.refused(spent());
    kept.admitted(get("/"));
    kept.answers(ok("two"));
    let before = kept.injected;
    kept.refused(spent());
    // The server sends its second response again, because the acknowledgement was lost.
    let again = kept.server_at(kept.talk.answered - len(ok("two")), ok("two"));
    let seen = kept.reaches_client(&again);
    assert_eq!(seen.seq, again.seq.wrapping_add(before));
    // It also adds new bytes, which have another place.
    let at = kept.talk.answered - 3;
    let both = kept.server_at(at, b"twoHTTP/1.1 408 Request Timeout\r\n\r\n");
    let ran = kept.talk.run(&mut kept.programs, false, &both);
    assert_eq!(ran.verdict, Verdict::Drop);
    // A packet of the client from before the refusal is late.
    let old = kept.client_at(0, get("/"));
    let answer = kept.answered(&old);
    assert_eq!(kept.client_position(answer.ack), kept.next());
    let old = kept.client_at(0, b"").with_flags(ACK);
    assert_eq!(kept.run(&old).verdict, Verdict::Drop);
    // A keep-alive probe begins one byte before the client's next byte.
    let probe = kept.client_at(kept.next() - 1, b"").with_flags(ACK);
    kept.passes(&probe);
}

/// Returns a SACK option with these blocks, after two NOPs.
fn sack(blocks: &[(u32, u32)]) -> Vec<u8> {
    let mut option = vec![
        1,
        1,
        5,
        u8::try_from(2 + 8 * blocks.len()).expect("a length"),
    ];
    for (left, right) in blocks {
        option.extend(left.to_be_bytes());
        option.extend(right.to_be_bytes());
    }
    option
}

#[test]
fn blocks_of_selective_acknowledgements_are_translated() {
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    let answer = kept.refused(spent());
    let (withheld, injected) = (kept.withheld, kept.injected);
    kept.admitted(get("/2"));
    let next = answer.seq.wrapping_add(len(&answer.payload));
    for blocks in [
        vec![(10, 20)],
        vec![(10, 20), (30, 50), (70, 99)],
        vec![(10, 20), (30, 50), (70, 99), (100, 101)],
    ] {
        let at = |base: u32| -> Vec<(u32, u32)> {
            let edge = |edge: u32| base.wrapping_add(edge);
            blocks
                .iter()
                .map(|(left, right)| (edge(*left), edge(*right)))
                .collect()
        };
        let segment = kept.client_at(kept.next(), b"").with_flags(ACK);
        let segment = segment.with_options(sack(&at(next)));
        let seen = kept.passes(&segment);
        assert_eq!(seen.options, sack(&at(next.wrapping_sub(injected))));
        let base = kept.talk.client_start.wrapping_add(kept.talk.asked);
        let segment = kept.server_at(kept.talk.answered, b"").with_flags(ACK);
        let segment = segment.with_options(sack(&at(base)));
        let seen = kept.reaches_client(&segment);
        assert_eq!(seen.options, sack(&at(base.wrapping_add(withheld))));
    }
    // The blocks follow other options.
    let stamp = timestamp(5, 6);
    let option = [stamp.clone(), sack(&[(next, next.wrapping_add(9))])].concat();
    let segment = kept.client_at(kept.next(), b"").with_flags(ACK);
    let seen = kept.passes(&segment.with_options(option));
    let at = next.wrapping_sub(injected);
    assert_eq!(
        seen.options,
        [stamp, sack(&[(at, at.wrapping_add(9))])].concat()
    );
}

#[test]
fn bodies_are_withheld_up_to_a_bound() {
    let head = |length: u32| {
        format!("PUT / HTTP/1.1\r\nX-Api-Key: {SPENT}\r\nContent-Length: {length}\r\n\r\n")
    };
    for cut in [0, 1, 10, 300] {
        let mut kept = Kept::opened();
        kept.admitted(get("/1"));
        kept.answers(ok("one"));
        let body = "b".repeat(300);
        let first = kept.client_at(kept.next(), head(300) + &body[..cut]);
        let answer = kept.answered(&first);
        assert!(answer.text().starts_with("HTTP/1.1 429 "));
        assert!(answer.text().contains("keep-alive"));
        kept.withheld += len(&first.payload);
        kept.injected += len(&answer.payload);
        assert_eq!(kept.client_position(answer.ack), kept.next());
        for part in body.as_bytes()[cut..].chunks(100) {
            let segment = kept.client_at(kept.next(), part);
            let answer = kept.answered(&segment);
            assert_eq!(answer.payload, b"", "the client has the response");
            kept.withheld += len(part);
            assert_eq!(kept.client_position(answer.ack), kept.next());
        }
        kept.admitted(get("/2"));
        kept.answers(ok("two"));
        assert_counters(
            &kept.programs,
            &[
                (counter::ADMITTED, 2),
                (counter::REFUSED_DAILY_QUOTA, 1),
                (counter::RESPONSES_SENT, 1),
                (counter::KEPT, 1),
            ],
        );
    }
    for (length, keeps) in [(MAX_WITHHELD_BODY, true), (MAX_WITHHELD_BODY + 1, false)] {
        let mut kept = Kept::opened();
        let segment = kept.client_at(0, head(length));
        let answer = kept.first_answer(&segment);
        assert_eq!(answer.flags & FIN == 0, keeps, "{length}");
        assert_eq!(answer.text().contains("Connection: keep-alive"), keeps);
        assert_eq!(answer.text().contains("Connection:      close"), !keeps);
    }
}

#[test]
fn chunks_are_withheld_wherever_they_are_cut() {
    let head =
        format!("PUT / HTTP/1.1\r\nX-Api-Key: {SPENT}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let request = head.clone() + "5\r\nhello\r\n1;a=b\r\n!\r\n0\r\nA: b\r\n\r\n";
    for cut in head.len()..=request.len() {
        let mut kept = Kept::opened();
        let answer = kept.refused(&request[..cut]);
        assert_eq!(kept.client_position(answer.ack), len(&request[..cut]));
        if cut < request.len() {
            let rest = &request[cut..];
            let segment = kept.client_at(kept.next(), rest);
            let answer = kept.answered(&segment);
            assert_eq!(answer.payload, b"", "cut at {cut}");
            kept.withheld += len(rest);
            assert_eq!(
                kept.client_position(answer.ack),
                kept.next(),
                "cut at {cut}"
            );
        }
        kept.admitted(get("/2"));
        kept.answers(ok("two"));
    }
}

#[test]
fn chunks_beyond_the_bound_close_the_connection() {
    let mut kept = Kept::opened();
    let head =
        format!("PUT / HTTP/1.1\r\nX-Api-Key: {SPENT}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let response = kept.refused(head);
    let chunk = format!("400\r\n{}\r\n", "c".repeat(1024));
    let end = loop {
        let segment = kept.client_at(kept.next(), &chunk);
        let ran = kept.run(&segment);
        if ran.verdict == Verdict::Pass {
            break ran;
        }
        assert!(only_answer(&ran).is_some());
        kept.withheld += len(&chunk);
        assert!(kept.withheld <= MAX_WITHHELD + len(&chunk));
    };
    assert!(kept.withheld > MAX_WITHHELD_BODY);
    let to_server = end.decoded();
    assert_eq!(to_server.flags, ACK | FIN);
    assert_eq!(
        (to_server.seq, to_server.ack),
        (kept.talk.client_start, kept.talk.server_start)
    );
    // The client gets the end of the stream after the response that it has.
    let to_client = end.answer();
    assert_eq!(to_client.seq, response.seq);
    assert_eq!(to_client.flags, ACK | PSH | FIN);
    assert_eq!(to_client.text(), response.text());
}

#[test]
fn a_pipeline_is_answered_in_its_order() {
    let mut kept = Kept::opened();
    let (first, second, third) = (get("/1"), spent(), get("/3"));
    let all = [first.clone(), second.clone(), third.clone()].concat();
    // The first request passes alone.
    let segment = kept.client_at(0, &all);
    let ran = kept.run(&segment);
    assert_eq!(ran.verdict, Verdict::Pass);
    assert_eq!(ran.decoded().payload, first.as_bytes());
    kept.talk.asked += len(&first);
    // The second one has to wait for the response to the first.
    let rest = kept.client_at(kept.next(), second.clone() + &third);
    assert_eq!(kept.run(&rest).verdict, Verdict::Drop);
    kept.answers(ok("one"));
    let rest = kept.client_at(kept.next(), second.clone() + &third);
    let answer = kept.answered(&rest);
    assert_eq!(kept.client_position(answer.ack), len(&first) + len(&second));
    kept.withheld += len(&second);
    kept.injected += len(&answer.payload);
    kept.admitted(third);
    kept.answers(ok("three"));
}

#[test]
fn a_request_that_ends_the_connection_is_answered_and_closed() {
    let head = "GET / HTTP/1.1\r\nX-Api-Key: key-spent\r\n";
    let old = "GET / HTTP/1.0\r\nX-Api-Key: key-spent\r\n";
    for (request, keeps) in [
        (format!("{head}Connection: close\r\n\r\n"), false),
        (
            format!("{head}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"),
            false,
        ),
        (format!("{old}\r\n"), false),
        (format!("{old}Connection: keep-alive\r\n\r\n"), true),
        (format!("{head}Connection: keep-alive\r\n\r\n"), true),
    ] {
        let mut kept = Kept::opened();
        let segment = kept.client_at(0, &request);
        let answer = kept.first_answer(&segment);
        assert_eq!(answer.flags & FIN == 0, keeps, "{request}");
    }
    // The client closes its side after the request.
    let mut kept = Kept::opened();
    let segment = kept.client_at(0, spent()).with_flags(ACK | PSH | FIN);
    assert_eq!(kept.first_answer(&segment).flags, ACK | PSH | FIN);
    drop(kept);
    // The server already has a part of the head.
    let mut kept = Kept::opened();
    let (one, two) = (spent()[..20].to_owned(), spent()[20..].to_owned());
    kept.admitted(one);
    kept.talk.server_acked = kept.talk.asked;
    let segment = kept.client_at(kept.next(), two);
    assert_eq!(kept.run(&segment).answer().flags, ACK | PSH | FIN);
    assert_counters(
        &kept.programs,
        &[
            (counter::REFUSED_DAILY_QUOTA, 1),
            (counter::RESPONSES_SENT, 1),
            (counter::RESETS_SENT, 1),
            (counter::SPLIT_CLOSED, 1),
        ],
    );
}

#[test]
fn what_the_server_sends_without_a_request_never_reaches_the_client() {
    let timeout = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
    for asks in [false, true] {
        let mut kept = Kept::opened();
        kept.admitted(get("/1"));
        kept.answers(ok("one"));
        let acked = kept.talk.asked;
        kept.refused(spent());
        if asks {
            // The client's next request is on its way when the server gives up waiting.
            kept.admitted(get("/2"));
        }
        let server_start = kept.talk.server_start;
        let segment = kept.server_at(kept.talk.answered, timeout);
        let segment = segment.with_ack(kept.talk.client_start.wrapping_add(acked));
        let ran = kept.talk.run(&mut kept.programs, false, &segment);
        assert_eq!(ran.verdict, Verdict::Pass);
        let to_client = ran.decoded();
        assert_eq!((to_client.flags, to_client.payload.len()), (RST | ACK, 0));
        let at = kept.talk.answered + kept.injected;
        assert_eq!(to_client.seq, server_start.wrapping_add(at));
        let to_server = ran.answer();
        assert_eq!(to_server.flags & RST, RST);
        assert_eq!(to_server.seq, segment.ack);
        assert!(kept.programs.flow(&kept.talk.key()).is_none());
        assert_eq!(kept.programs.state(SCOPE).in_flight, 0);
        drop(kept);
    }
    // A response to the request is no such thing.
    let mut kept = Kept::opened();
    kept.refused(spent());
    kept.admitted(get("/2"));
    kept.answers(timeout);
}

#[test]
fn both_sides_may_close_a_connection_that_went_on() {
    for client_first in [true, false] {
        let mut kept = Kept::opened();
        kept.admitted(get("/1"));
        kept.answers(ok("one"));
        kept.refused(spent());
        let from_client = kept.client_at(kept.next(), b"").with_flags(FIN | ACK);
        let from_server = kept
            .server_at(kept.talk.answered, b"")
            .with_flags(FIN | ACK);
        if client_first {
            kept.passes(&from_client);
            let acked = from_server.with_ack(kept.talk.client_start + kept.talk.asked + 1);
            let seen = kept.reaches_client(&acked);
            assert_eq!(seen.ack, from_client.seq.wrapping_add(1));
            let seq = kept.client_at(kept.next() + 1, b"");
            let last = seq.clone().with_ack(seq.ack + 1).with_flags(ACK);
            kept.passes(&last);
        } else {
            kept.reaches_client(&from_server);
            let both = from_client.clone().with_ack(from_client.ack + 1);
            kept.passes(&both);
            let last = kept.server_at(kept.talk.answered + 1, b"").with_flags(ACK);
            let last = last.with_ack(kept.talk.client_start + kept.talk.asked + 1);
            kept.reaches_client(&last);
        }
        // Later packets cannot be translated, and neither side gets any.
        assert!(kept.programs.flow(&kept.talk.key()).is_none());
        assert!(kept.programs.tomb(&kept.talk.key()).is_some());
    }
}

#[test]
fn resets_are_translated() {
    let mut kept = Kept::opened();
    kept.admitted(get("/1"));
    kept.answers(ok("one"));
    kept.refused(spent());
    let reset = kept
        .server_at(kept.talk.answered, b"")
        .with_flags(RST | ACK);
    let ran = kept.talk.run(&mut kept.programs, false, &reset);
    assert_eq!(ran.verdict, Verdict::Pass);
    let seen = ran.decoded();
    assert_eq!(seen.flags & RST, RST);
    assert_eq!(seen.seq, reset.seq.wrapping_add(kept.injected));
    drop(kept);

    let mut kept = Kept::opened();
    kept.admitted(get("/1"));
    kept.answers(ok("one"));
    kept.refused(spent());
    let reset = kept.client_at(kept.next(), b"").with_flags(RST | ACK);
    let ran = kept.run(&reset);
    assert_eq!(ran.verdict, Verdict::Pass);
    let seen = ran.decoded();
    assert_eq!(seen.flags & RST, RST);
    assert_eq!(seen.seq, reset.seq.wrapping_sub(kept.withheld));
    drop(kept);

    // A later refusal that closes the connection ends both sides at their own positions.
    let mut kept = Kept::opened();
    kept.refused(spent());
    kept.admitted(get("/1"));
    kept.answers(ok("one"));
    let close = spent().replace("Host: a", "Connection: close");
    let segment = kept.client_at(kept.next(), close);
    let ran = kept.run(&segment);
    let (to_server, to_client) = (ran.decoded(), ran.answer());
    assert_eq!(to_server.flags, FIN | ACK);
    assert_eq!(kept.client_position(to_server.seq), kept.talk.asked);
    assert_eq!(kept.server_position(to_server.ack), kept.talk.answered);
    assert_eq!(to_client.flags, FIN | ACK | PSH);
    let at = kept.talk.answered + kept.injected;
    assert_eq!(kept.server_position(to_client.seq), at);
}

#[test]
fn a_head_request_gets_no_body_and_a_missing_key_a_401() {
    let mut kept = Kept::opened();
    let answer = kept.refused(spent().replace("GET", "HEAD"));
    assert!(answer.text().ends_with("\r\n\r\n"));
    kept.programs.configure(|config| {
        config.on_limit = policy::ON_LIMIT_KEEPALIVE;
        config.missing_key = policy::REJECT;
    });
    let answer = kept.refused("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer.text().starts_with("HTTP/1.1 401 "));
    kept.admitted(get("/"));
    // The end of a malformed request is unknown.
    kept.answers(ok("one"));
    let segment = kept.client_at(kept.next(), "GET / HTTP/1.1\r\nno field\r\n\r\n");
    assert_eq!(kept.run(&segment).answer().flags & FIN, FIN);
}

/// The distance in bytes between two segments of a long stream. It is smaller than a window.
const JUMP: u32 = 900_000_000;

#[test]
fn long_streams_after_a_refusal_are_translated() {
    let mut programs = programs();
    let mut talk = Talk::new(Shape::v4());
    let syn = talk.syn();
    // The server's window is the largest possible one (RFC 7323, section 2.3).
    let syn_ack = talk.syn_ack().with_options(vec![1, 3, 3, 14]);
    let ack = talk.client(b"").with_flags(ACK);
    for (to_server, segment) in [(true, syn), (false, syn_ack), (true, ack)] {
        let ran = talk.run(&mut programs, to_server, &segment);
        assert_eq!(ran.verdict, Verdict::Pass);
    }
    talk.acknowledged(&mut programs);
    let mut kept = Kept {
        programs,
        talk,
        withheld: 0,
        injected: 0,
    };
    kept.refused(spent());
    let upload = get("/").replace("GET", "PUT");
    let length = "\r\nContent-Length: 20000000000\r\n\r\n";
    kept.admitted(upload.replace("\r\n\r\n", length));
    kept.answers(b"");
    // The sequence numbers repeat after the fourth segment.
    for _ in 0..6 {
        kept.talk.asked = kept.talk.asked.wrapping_add(JUMP);
        let segment = kept.client_at(kept.next(), "body");
        kept.passes(&segment);
        kept.answers(b"");
    }
    drop(kept);

    let mut kept = Kept::opened();
    kept.refused(spent());
    kept.admitted(get("/"));
    kept.answers("HTTP/1.1 200 OK\r\nContent-Length: 20000000000\r\n\r\n");
    for _ in 0..6 {
        kept.talk.answered = kept.talk.answered.wrapping_add(JUMP);
        kept.answers("body");
        let acknowledged = kept.client_at(kept.next(), b"").with_flags(ACK);
        let seen = kept.passes(&acknowledged);
        let answered = kept.talk.server_start.wrapping_add(kept.talk.answered);
        assert_eq!(seen.ack, answered);
    }
}

#[test]
fn a_syn_ack_that_comes_again_belongs_to_the_connection() {
    let mut programs = programs();
    let mut talk = Talk::new(Shape::v4());
    let (syn, syn_ack) = (talk.syn(), talk.syn_ack());
    for (to_server, segment) in [(true, &syn), (false, &syn_ack)] {
        talk.run(&mut programs, to_server, segment);
    }
    let mut kept = Kept {
        programs,
        talk,
        withheld: 0,
        injected: 0,
    };
    // The server does not take the acknowledgement that is passed on (TCP_DEFER_ACCEPT).
    kept.refused(spent());
    let ran = kept.talk.run(&mut kept.programs, false, &syn_ack);
    assert_eq!(ran.verdict, Verdict::Pass);
    assert_eq!(ran.decoded().seq, syn_ack.seq);
    kept.admitted(get("/1"));
    kept.answers(ok("one"));
    assert_counters(
        &kept.programs,
        &[
            (counter::ADMITTED, 1),
            (counter::REFUSED_DAILY_QUOTA, 1),
            (counter::RESPONSES_SENT, 1),
            (counter::KEPT, 1),
        ],
    );
}

#[test]
fn http2_is_recognised_after_requests_that_the_server_has_not_seen() {
    let mut kept = Kept::opened();
    kept.programs.configure(|config| {
        config.on_limit = policy::ON_LIMIT_KEEPALIVE;
        config.malformed = policy::PASS;
    });
    kept.refused(spent());
    let segment = kept.client_at(kept.next(), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let ran = kept.run(&segment);
    assert_eq!(ran.decoded().flags & RST, RST);
    assert_eq!(kept.programs.counter(counter::HTTP2), 1);
    drop(kept);
    // Once the server has seen a request, the preface is only malformed.
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    kept.refused(spent());
    let segment = kept.client_at(kept.next(), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(kept.run(&segment).answer().flags & FIN, FIN);
    assert_eq!(kept.programs.counter(counter::HTTP2), 0);
}

#[test]
fn a_client_without_room_gets_the_response_when_it_has_room() {
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    let segment = kept.client_at(kept.next(), spent());
    let response = kept.answered(&segment);
    // The client had no room, and has taken only the acknowledgement.
    let again = segment.clone().with_window(0);
    assert_eq!(kept.run(&again).verdict, Verdict::Drop);
    kept.withheld += len(spent());
    for (window, answers) in [(0, false), (100, true)] {
        let update = kept.client_at(kept.next(), b"").with_flags(ACK);
        let ran = kept.run(&update.with_window(window));
        assert_eq!(ran.verdict == Verdict::Drop, answers, "{window}");
        if answers {
            assert_eq!(ran.answer().text(), response.text());
        }
    }
    // The number of repetitions is limited if the client never acknowledges the whole response.
    let update = kept.client_at(kept.next(), b"").with_flags(ACK);
    let answers = (0..20).filter(|_| kept.run(&update).verdict == Verdict::Drop);
    assert!(answers.count() < 10);
}

#[test]
fn the_window_of_an_answer_is_that_of_the_server() {
    let mut programs = programs();
    let mut talk = Talk::new(Shape::v4());
    let syn = talk.syn();
    // The window of a SYN-ACK is not scaled (RFC 7323, section 2.2).
    let syn_ack = talk.syn_ack().with_options(vec![1, 3, 3, 7]);
    for (to_server, segment) in [(true, syn), (false, syn_ack)] {
        talk.run(&mut programs, to_server, &segment);
    }
    let mut kept = Kept {
        programs,
        talk,
        withheld: 0,
        injected: 0,
    };
    let answer = kept.refused(spent());
    assert_eq!(answer.window, kept.talk.window >> 7);
    let flow = kept.programs.flow(&kept.talk.key()).expect("a flow");
    let beyond = flow.window_end.since(flow.next);
    assert_eq!(
        beyond,
        i32::from(kept.talk.window),
        "what the server offered"
    );
}

#[test]
fn a_fin_of_the_server_waits_for_the_bytes_before_it() {
    let mut kept = Kept::opened();
    kept.refused(spent());
    kept.admitted(get("/"));
    let response = ok("late");
    let fin = kept.server_at(len(&response), b"").with_flags(FIN | ACK);
    let ran = kept.talk.run(&mut kept.programs, false, &fin);
    assert_eq!(ran.verdict, Verdict::Drop);
    kept.answers(&response);
    kept.reaches_client(&fin);
    assert_eq!(kept.programs.state(SCOPE).in_flight, 0);
    drop(kept);
    // A FIN that the server sends together with its last bytes from before a refusal comes after
    // the response to that refusal.
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    kept.refused(spent());
    let both = kept.server_at(0, ok("one")).with_flags(FIN | ACK | PSH);
    let ran = kept.talk.run(&mut kept.programs, false, &both);
    assert_eq!(ran.verdict, Verdict::Drop);
}

#[test]
fn an_error_for_an_incomplete_head_reaches_the_client() {
    let mut kept = Kept::opened();
    kept.refused(spent());
    kept.admitted("GET / HTTP/1.1\r\nX-Lo");
    let error = "HTTP/1.1 431 Too Large\r\nContent-Length: 0\r\n\r\n";
    // The rest of the head is on its way when the server answers.
    let acked = kept.talk.client_start + kept.talk.asked;
    kept.admitted(format!("ng: 1\r\nX-Api-Key: {KEY}\r\n\r\n"));
    let segment = kept.server_at(0, error).with_ack(acked);
    kept.reaches_client(&segment);
    drop(kept);
    let mut kept = Kept::opened();
    kept.refused(spent());
    kept.admitted("GET / HTTP/1.1\r\nX-Lo");
    kept.answers(error);
    drop(kept);
    // The server gives up waiting before it sees the beginning of the head.
    let mut kept = Kept::opened();
    kept.refused(spent());
    let acked = kept.talk.client_start + kept.talk.asked;
    kept.admitted("GET / HTTP/1.1\r\nX-Lo");
    let timeout = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
    let segment = kept.server_at(0, timeout).with_ack(acked);
    let ran = kept.talk.run(&mut kept.programs, false, &segment);
    assert_eq!(ran.decoded().flags & RST, RST);
}

#[test]
fn a_client_that_has_lost_its_state_resets_the_connection() {
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    let request_at = kept.next();
    kept.refused(spent());
    // The client answers a packet whose acknowledgement does not include the request yet.
    let reset = kept.client_at(request_at, b"").with_flags(RST);
    let ran = kept.run(&reset);
    assert_eq!(ran.decoded().flags & RST, RST);
    assert_eq!(kept.client_position(ran.decoded().seq), kept.talk.asked);
    assert!(kept.programs.flow(&kept.talk.key()).is_none());
}

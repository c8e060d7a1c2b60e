// SPDX-License-Identifier: MIT OR Apache-2.0

//! Refusals after which the connection goes on: what the client and the server get, and how the
//! packets of both are translated afterwards.

mod answers;
mod ends;
mod translation;

use limiter_common::abi::{Limits, MAX_WITHHELD, policy};
use limiter_tests::program::{
    ACK, DecodedSegment, FIN, Programs, RunResult, Segment, Shape, Talk, Verdict, no_limits,
};

use crate::support::{get_as, limited};

/// The key of a scope that may send nothing.
const SPENT: &str = "key-spent";
const SPENT_SCOPE: u32 = 2;

/// Returns the programs with `support::SCOPE`, which has no limits, and a scope that may send
/// nothing.
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

    /// Sends `part` of the body of a refused request again and again, until the programs close the
    /// connection.
    #[track_caller]
    fn sends_until_closed(&mut self, part: &str) -> RunResult {
        loop {
            let segment = self.client_at(self.next(), part);
            let ran = self.run(&segment);
            if ran.verdict == Verdict::Pass {
                return ran;
            }
            assert!(only_answer(&ran).is_some());
            self.withheld += len(part);
            assert!(self.withheld <= MAX_WITHHELD + len(part));
        }
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

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Bytes that were sent in one packet and are retransmitted in smaller packets, because the path
//! after the programs has a smaller MTU.

use limiter_common::abi::counter;
use limiter_tests::program::{ACK, Extras, Hook, Programs, Shape, Talk, Verdict, no_limits};

use crate::{
    replays::sends,
    support::{KEY, SCOPE, get_as, limited},
};

/// The payload sizes in bytes of full packets: at an MTU of 1,500 bytes, and at a smaller MTU.
const LONG: usize = 1440;
const SHORT: usize = 1360;
/// The size in bytes of the pieces into which the programs divide a long packet. They keep a
/// fingerprint of each piece, and a piece fits the MTU of nearly every network path.
const CARRIED: usize = 500;

/// Returns a request whose head is `len` bytes long.
pub fn long_head(key: &str, len: usize) -> String {
    let head = get_as(key, "/").replace("\r\n\r\n", "\r\nX-Filler: ");
    let filler = "f".repeat(len - head.len() - 4);
    format!("{head}{filler}\r\n\r\n")
}

/// Opens a connection with or without timestamps.
fn connection(programs: &mut Programs, shape: Shape, timestamps: bool) -> Talk {
    let mut talk = Talk::new(shape);
    talk.timestamps = timestamps;
    talk.opened(programs)
}

/// Splits a request at `cuts`, and returns each part with its offset in the request.
fn parts<'a>(request: &'a str, cuts: &[usize]) -> Vec<(usize, &'a str)> {
    let ends = cuts.iter().copied().chain([request.len()]);
    let starts = [0].into_iter().chain(cuts.iter().copied());
    let parts = starts.zip(ends);
    parts.map(|(from, to)| (from, &request[from..to])).collect()
}

/// Sends a part, and returns whether all of it passed. If not, the part must have been dropped, or
/// only its first bytes must have passed.
#[track_caller]
fn send_passes(programs: &mut Programs, talk: &mut Talk, (at, part): (usize, &str)) -> bool {
    let at = u32::try_from(at).expect("a short way");
    let segment = talk.client_at(at, part.as_bytes());
    let ran = talk.run(programs, true, &segment);
    if ran.verdict != Verdict::Pass {
        return false;
    }
    let passed = ran.decoded().text();
    assert!(!passed.is_empty() && part.starts_with(&*passed), "{passed}");
    passed.len() == part.len()
}

/// Sends all parts again and again, as TCP does, until all of them pass in the same iteration, and
/// returns the number of iterations.
#[track_caller]
fn rounds(programs: &mut Programs, talk: &mut Talk, parts: &[(usize, &str)]) -> usize {
    for round in 1..10 {
        let mut passed = 0;
        for part in parts {
            passed += usize::from(send_passes(programs, talk, *part));
        }
        if passed == parts.len() {
            return round;
        }
    }
    panic!("the parts do not pass: {:?}", programs.counters());
}

#[test]
fn retransmission_in_smaller_packets_passes_and_is_charged_once() {
    let request = long_head(KEY, LONG);
    for shape in [Shape::v4(), Shape::v6()] {
        // The request is split at many offsets, and its parts are sent in either order.
        for cut in [SHORT, SHORT + 1, 1183, 1000, 502, 3, 1, LONG - 1] {
            for backwards in [false, true] {
                let mut programs = limited(no_limits());
                let mut talk = connection(&mut programs, shape.clone(), false);
                talk.asks(&mut programs, &request);
                let mut parts = parts(&request, &[cut]);
                if backwards {
                    parts.reverse();
                }
                let needed = rounds(&mut programs, &mut talk, &parts);
                assert!(needed <= 2, "{needed} rounds, cut at {cut}");
                assert_eq!(programs.counter(counter::ADMITTED), 1);
                assert_eq!(programs.counter(counter::CONFLICT_DROPPED), 0);
                // The request then also passes if it is split at other offsets, and if it is sent
                // as a whole.
                let again = self::parts(&request, &[cut / 2 + 1, LONG - 2]);
                rounds(&mut programs, &mut talk, &again);
                assert_eq!(sends(&mut programs, &mut talk, 0, &request), Verdict::Pass);
                let state = programs.state(SCOPE);
                assert_eq!((state.admitted, state.in_flight), (1, 1));
            }
        }
    }
}

#[test]
fn first_part_passes_up_to_the_size_that_most_links_carry() {
    // The client sends one segment at a time. Each time, at least a part of the segment must pass.
    let request = long_head(KEY, LONG);
    for (shape, timestamps) in [
        (Shape::v4(), false),
        (Shape::v4(), true),
        (Shape::v6(), true),
    ] {
        let mut programs = limited(no_limits());
        let mut talk = connection(&mut programs, shape, timestamps);
        talk.asks(&mut programs, &request);
        for len in [600, 500] {
            let segment = talk.client_at(0, &request.as_bytes()[..len]);
            let ran = talk.run(&mut programs, true, &segment);
            assert_eq!(ran.verdict, Verdict::Pass);
            assert_eq!(ran.decoded().text(), &request[..CARRIED]);
        }
        talk.server_acked = u32::try_from(CARRIED).expect("a short way");
        let ack = talk.server(b"").with_flags(ACK);
        talk.run(&mut programs, false, &ack);
        let rest = [
            (CARRIED, &request[CARRIED..SHORT]),
            (SHORT, &request[SHORT..]),
        ];
        assert_eq!(rounds(&mut programs, &mut talk, &rest), 2);
        assert_eq!(programs.state(SCOPE).admitted, 1);
    }
}

#[test]
fn other_request_in_place_of_a_first_part_never_passes() {
    // The server may not have received the first request, and the timestamps of the second one are
    // newer. The programs keep only a hash of all bytes of a short request. Of a long request, they
    // keep fingerprints of its parts too.
    let (short, long) = (get_as(KEY, "/a/longer/one"), long_head(KEY, LONG));
    let other = get_as("key-two", "/");
    for timestamps in [false, true] {
        for pieces in [vec![&*short], vec![&*long], vec![&long[..20], &long[20..]]] {
            let mut programs = limited(no_limits());
            let mut talk = connection(&mut programs, Shape::v4(), timestamps);
            for piece in &pieces {
                talk.asks(&mut programs, piece);
            }
            talk.set_ticks(5000);
            for beginning in [other.as_str(), &other[..42], &other[..other.len() - 2]] {
                let segment = talk.client_at(0, beginning.as_bytes());
                let ran = talk.run(&mut programs, true, &segment);
                if ran.verdict == Verdict::Pass {
                    let passed = ran.decoded().text();
                    assert!(pieces[0].starts_with(&passed), "{passed} for {pieces:?}");
                }
            }
        }
    }
}

#[test]
fn other_bytes_in_smaller_packets_never_form_another_request() {
    let request = long_head(KEY, LONG);
    // Both requests are split at the same offset, within the key. The first part of one and the
    // second part of the other would form a valid request.
    let other = long_head("key-two", LONG);
    let mid = request.find(KEY).expect("a key") + 3;
    let whole = [(0, request.as_str())];
    let [mine, others] = [&request, &other].map(|request| parts(request, &[mid]));
    let last = others[1];
    // Any part that has passed may have reached the server. Each retransmitted part must therefore
    // have the same content as before.
    for timestamps in [false, true] {
        let mut programs = limited(no_limits());
        let mut talk = connection(&mut programs, Shape::v4(), timestamps);
        talk.asks(&mut programs, &request);
        for (at, part) in [last, (0, other.as_str()), last] {
            assert_eq!(sends(&mut programs, &mut talk, at, part), Verdict::Drop);
        }
        // The original parts still pass.
        rounds(&mut programs, &mut talk, &mine);
        rounds(&mut programs, &mut talk, &whole);
        for (at, part) in [last, (0, other.as_str()), (mid + 1, &last.1[1..])] {
            assert_eq!(sends(&mut programs, &mut talk, at, part), Verdict::Drop);
        }
        assert_eq!(programs.state(SCOPE).admitted, 1);
    }
}

#[test]
fn head_and_body_in_smaller_packets_pass() {
    for timestamps in [false, true] {
        let head = long_head(KEY, 1300).replace("GET /", "PUT /").replacen(
            "X-Filler: fffffffff",
            "Content-Length: 140\r\nX: ",
            1,
        );
        let request = head.clone() + &"b".repeat(140);
        let mut programs = limited(no_limits());
        let mut talk = connection(&mut programs, Shape::v4(), timestamps);
        talk.asks(&mut programs, &request);
        for cut in [head.len() - 1, head.len(), head.len() + 1, 1200] {
            rounds(&mut programs, &mut talk, &parts(&request, &[cut]));
        }
        talk.acknowledged(&mut programs);
        talk.asks(&mut programs, get_as(KEY, "/"));
        assert_eq!(programs.state(SCOPE).admitted, 2);
    }
}

/// Sends the client's bytes from its first byte on, in one packet that was merged from packets with
/// payloads of `size` bytes, or that will be segmented into such packets.
#[track_caller]
fn sends_merged(programs: &mut Programs, talk: &mut Talk, payload: &str, size: usize) -> Verdict {
    let segment = talk.client_at(0, payload.as_bytes());
    let frame = talk.shape.wrap(&talk.ends, true, &segment);
    let gso_size = u32::try_from(size).expect("a size");
    let extras = Extras {
        gso_size,
        ..Extras::default()
    };
    programs.run_with(Hook::Ingress, &frame, extras).verdict
}

#[test]
fn packets_may_be_retransmitted_as_more_or_fewer_packets() {
    let request = long_head(KEY, 2 * LONG + 100);
    let other = request.replacen("ff", "fg", 1);
    for timestamps in [false, true] {
        let mut programs = limited(no_limits());
        let mut talk = connection(&mut programs, Shape::v4(), timestamps);
        let first = sends_merged(&mut programs, &mut talk, &request, LONG);
        assert_eq!(first, Verdict::Pass);
        talk.asked = u32::try_from(request.len()).expect("a short way");
        let cuts: Vec<usize> = (SHORT..request.len()).step_by(SHORT).collect();
        for size in [SHORT, 1000, LONG] {
            let verdict = sends_merged(&mut programs, &mut talk, &request, size);
            assert_eq!(verdict, Verdict::Pass, "packets of {size}");
            let verdict = sends_merged(&mut programs, &mut talk, &other, size);
            assert_eq!(verdict, Verdict::Drop, "packets of {size}");
        }
        // If the parts are sent one by one, those that the programs have already seen pass. A part
        // that also contains new bytes is cut before the first new byte.
        rounds(&mut programs, &mut talk, &parts(&request, &cuts));
        assert_eq!(programs.counter(counter::CONFLICT_DROPPED), 3);
        assert_eq!(programs.state(SCOPE).admitted, 1);
    }
}

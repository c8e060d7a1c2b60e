// SPDX-License-Identifier: MIT OR Apache-2.0

//! Long uploads, in which sequence numbers repeat and in which the client sends more unacknowledged
//! data than the programs can record.

use limiter_common::abi::{RECORDS, counter};
use limiter_tests::program::{ACK, Extras, Hook, Programs, SYN, Shape, Talk, Verdict, no_limits};

use crate::{
    replays::sends,
    support::{SCOPE, get, limited, opened},
};

/// The window scale of the server. It is the largest possible one (RFC 7323, section 2.3).
const SHIFT: u8 = 14;
/// The distance in bytes between the starts of two segments of a body. It is smaller than the
/// window.
const JUMP: u32 = 900_000_000;

/// Returns a connection whose server announces a window larger than [`JUMP`].
fn wide(programs: &mut Programs) -> Talk {
    let mut talk = Talk::new(Shape::v4());
    let syn = talk.syn();
    let syn_ack = talk.syn_ack().with_options(vec![1, 3, 3, SHIFT]);
    let ack = talk.client(b"").with_flags(ACK);
    assert!(syn_ack.flags & SYN != 0);
    for (to_server, segment) in [(true, syn), (false, syn_ack), (true, ack)] {
        assert_eq!(
            talk.run(programs, to_server, &segment).verdict,
            Verdict::Pass
        );
    }
    // The window in a SYN-ACK is not scaled. In this segment, the server announces the large
    // window.
    talk.acknowledged(programs);
    talk
}

/// Runs a segment in which the server acknowledges all bytes before position `at` in the client's
/// bytes.
fn send_server_ack(programs: &mut Programs, talk: &mut Talk, at: u32) {
    talk.asked = at;
    talk.acknowledged(programs);
}

/// Runs a segment from the client. The segment must pass.
#[track_caller]
fn assert_passes(programs: &mut Programs, talk: &mut Talk, at: u32, payload: &str) {
    let segment = talk.client_at(at, payload.as_bytes());
    let verdict = talk.run(programs, true, &segment).verdict;
    assert_eq!(verdict, Verdict::Pass, "at {at}: {:?}", programs.counters());
}

/// Returns the programs, and a client in the middle of an upload of many gigabytes.
fn uploading() -> (Programs, Talk) {
    let head = get("/").replace("GET", "PUT").replace(
        "\r\n\r\n",
        &format!("\r\nContent-Length: {}\r\n\r\n", 20_000_000_000_u64),
    );
    let mut programs = limited(no_limits());
    let mut talk = wide(&mut programs);
    talk.asks(&mut programs, &head);
    talk.acknowledged(&mut programs);
    (programs, talk)
}

#[test]
fn lost_bytes_of_a_large_upload_pass_again() {
    let (mut programs, mut talk) = uploading();
    let body = "b".repeat(1000);
    let mut at = talk.asked;
    for _ in 0..20 {
        at = at.wrapping_add(JUMP);
        assert_passes(&mut programs, &mut talk, at, &body);
        assert_passes(&mut programs, &mut talk, at, &body);
        send_server_ack(&mut programs, &mut talk, at.wrapping_add(1000));
    }
    assert_eq!(programs.counter(counter::CONFLICT_DROPPED), 0);
    assert_eq!(programs.counter(counter::RETRANSMITTED), 20);
}

#[test]
fn body_with_the_sequence_numbers_of_its_head_passes() {
    // After 4 GiB, the sequence numbers of the head repeat.
    let (mut programs, mut talk) = uploading();
    for at in [900_000_000, 1_800_000_000, 2_700_000_000, 3_600_000_000] {
        assert_passes(&mut programs, &mut talk, at, "b");
        send_server_ack(&mut programs, &mut talk, at + 1);
    }
    let body = "b".repeat(1000);
    for _ in 0..2 {
        // The segment begins one byte before the repeated sequence numbers of the head, and covers
        // all of them.
        assert_passes(&mut programs, &mut talk, 0_u32.wrapping_sub(1), &body);
    }
    assert_eq!(programs.counter(counter::CONFLICT_DROPPED), 0);
}

#[test]
fn distant_chunks_are_compared_correctly() {
    let mut programs = limited(no_limits());
    let mut talk = wide(&mut programs);
    let size = JUMP - 12;
    let head = get("/").replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n");
    talk.asks(&mut programs, head + &format!("{size:08x}\r\n"));
    let mut at = talk.asked;
    let line = format!("\r\n{size:08x}\r\n");
    let other = line.replacen('3', "2", 1);
    for _ in 0..12 {
        // Each chunk is acknowledged only when the next chunk begins.
        at = at.wrapping_add(size);
        assert_passes(&mut programs, &mut talk, at.wrapping_sub(1), "c");
        assert_passes(&mut programs, &mut talk, at, &line);
        let conflicts = programs.counter(counter::CONFLICT_DROPPED);
        assert_passes(&mut programs, &mut talk, at, &line);
        let segment = talk.client_at(at, other.as_bytes());
        let verdict = talk.run(&mut programs, true, &segment).verdict;
        assert_eq!(verdict, Verdict::Drop);
        assert_eq!(programs.counter(counter::CONFLICT_DROPPED), conflicts + 1);
        send_server_ack(&mut programs, &mut talk, at);
        at = at.wrapping_add(12);
    }
    assert_eq!(programs.state(SCOPE).admitted, 1);
}

/// Returns the head of a chunked upload, and a chunk of `size` bytes.
fn chunked(size: usize) -> (String, String) {
    let head = get("/").replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n");
    (head, format!("{size:x}\r\n{}\r\n", "c".repeat(size)))
}

#[test]
fn chunks_beyond_the_bound_wait_for_an_acknowledgement() {
    let (mut programs, mut talk) = opened();
    let (head, chunk) = chunked(400);
    talk.asks(&mut programs, &head);
    let mut ends = vec![0, head.len()];
    // The client sends chunks until no more unacknowledged chunks can pass.
    while talk.ask(&mut programs, &chunk).verdict == Verdict::Pass {
        ends.push(usize::try_from(talk.asked).expect("a length"));
        assert!(ends.len() < 2 * RECORDS, "it would go on for ever");
    }
    assert!(ends.len() > RECORDS * 8 / 10, "{} chunks", ends.len());
    assert_eq!(programs.counter(counter::UNACKNOWLEDGED_DROPPED), 1);
    // A retransmission of one of these chunks passes. Different bytes in its place do not pass.
    for _ in 0..2 {
        for (&from, &to) in ends.iter().zip(&ends[1..]) {
            let same = if from == 0 { &head } else { &chunk };
            assert_eq!(from + same.len(), to);
            assert_eq!(sends(&mut programs, &mut talk, from, same), Verdict::Pass);
            let other = same.replace("190\r", "18f\r").replace("GET", "PUT");
            assert_eq!(sends(&mut programs, &mut talk, from, &other), Verdict::Drop);
        }
    }
    assert_eq!(talk.ask(&mut programs, &chunk).verdict, Verdict::Drop);
    // The server acknowledges the head and two chunks. Three more chunks can then pass.
    let last = talk.asked;
    send_server_ack(
        &mut programs,
        &mut talk,
        u32::try_from(ends[3]).expect("a length"),
    );
    talk.asked = last;
    for verdict in [Verdict::Pass, Verdict::Pass, Verdict::Pass, Verdict::Drop] {
        assert_eq!(talk.ask(&mut programs, &chunk).verdict, verdict);
    }
    // Once everything is acknowledged, the upload continues.
    talk.acknowledged(&mut programs);
    for _ in 0..RECORDS / 2 {
        assert_eq!(talk.ask(&mut programs, &chunk).verdict, Verdict::Pass);
    }
    assert_eq!(programs.counter(counter::RESETS_SENT), 0);
    assert_eq!(programs.state(SCOPE).admitted, 1);
}

#[test]
fn an_upload_goes_on_after_a_wait_at_any_byte() {
    let (mut programs, mut talk) = opened();
    let (head, _) = chunked(1);
    talk.asks(&mut programs, head);
    let (mut waits, mut tries) = (0, 0);
    // The client writes the size of a chunk with the first bytes of its data, then the other data,
    // and then the line end. The server acknowledges only when a segment has to wait.
    for part in [
        format!("c00\r\n{}", "c".repeat(100)),
        "c".repeat(2972),
        "\r\n".to_owned(),
    ]
    .iter()
    .cycle()
    .take(6 * RECORDS)
    {
        let end = talk.asked + u32::try_from(part.len()).expect("a length");
        while talk.asked != end {
            let rest = &part[part.len() - (end - talk.asked) as usize..];
            tries += 1;
            assert!(tries < 12 * RECORDS, "it would go on for ever");
            if talk.ask(&mut programs, rest).verdict == Verdict::Drop {
                waits += 1;
                talk.acknowledged(&mut programs);
            }
        }
    }
    assert_eq!(programs.counter(counter::MALFORMED), 0);
    assert!(waits > 1, "{waits} waits");
    talk.asks(&mut programs, "0\r\n\r\n");
    talk.asks(&mut programs, get("/2"));
    assert_eq!(programs.state(SCOPE).admitted, 2);
}

#[test]
fn single_byte_segments_need_not_wait() {
    let (mut programs, mut talk) = opened();
    let request = get(&format!("/{}", "a".repeat(400)));
    for byte in request.as_bytes() {
        talk.asks(&mut programs, [*byte]);
    }
    // The client retransmits the bytes, first in larger pieces and then in one segment.
    let (begin, end) = request.split_at(RECORDS / 4);
    assert_eq!(sends(&mut programs, &mut talk, 0, begin), Verdict::Pass);
    let other = request
        .replacen("aaa\r", "aab\r", 1)
        .replacen("aaa ", "aab ", 1);
    assert_eq!(sends(&mut programs, &mut talk, 0, &other), Verdict::Drop);
    assert_eq!(sends(&mut programs, &mut talk, 0, &request), Verdict::Pass);
    let verdict = sends(&mut programs, &mut talk, begin.len(), end);
    assert_eq!(verdict, Verdict::Pass);
    assert_eq!(programs.state(SCOPE).admitted, 1);
}

#[test]
fn merged_segment_passes_up_to_the_bound() {
    const SIZE: usize = 1000;
    let (mut programs, mut talk) = opened();
    let (head, chunk) = chunked(90);
    let all = head + &chunk.repeat(33);
    let mut rounds = 0;
    let mut at = 0;
    // The client sends chunk after chunk, in segments that were merged from packets of `SIZE`
    // bytes. The server acknowledges nothing, so at some point no further segment passes.
    loop {
        let segment = talk.client_at(talk.asked, &all.as_bytes()[at..]);
        let frame = talk.shape.wrap(&talk.ends, true, &segment);
        let gso_size = u32::try_from(SIZE).expect("a size");
        let extras = Extras {
            gso_size,
            ..Extras::default()
        };
        let ran = programs.run_with(Hook::Ingress, &frame, extras);
        if ran.verdict == Verdict::Drop {
            break;
        }
        let passed = ran.decoded().payload.len();
        talk.asked += u32::try_from(passed).expect("a length");
        at += passed;
        if at == all.len() {
            at = all.find("\r\n\r\n").expect("a head") + 4;
        }
        rounds += 1;
        assert!(rounds < 100, "it would go on for ever");
    }
    assert!(
        talk.asked as usize > RECORDS * 500,
        "{} bytes passed",
        talk.asked
    );
    assert_eq!(programs.counter(counter::UNACKNOWLEDGED_DROPPED), 1);
    talk.acknowledged(&mut programs);
    let verdict = talk.ask(&mut programs, &chunk).verdict;
    assert_eq!(verdict, Verdict::Pass);
}

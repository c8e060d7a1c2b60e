// SPDX-License-Identifier: MIT OR Apache-2.0

//! Retransmitted bytes of which the server may already have received a part, because the bytes were
//! sent in chunks or in a segment that was merged from several packets.

use limiter_common::abi::{RECORDS, counter};
use limiter_tests::program::{Extras, Hook, Programs, Talk, Verdict};

use crate::{
    replays::{post, sends},
    support::{KEY, SCOPE, assert_counters, get, opened},
};

#[test]
fn retransmitted_chunk_with_another_size_is_dropped() {
    let (mut programs, mut talk) = opened();
    let head = get("/").replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n");
    talk.asks(&mut programs, &head);
    let chunk = "10\r\n0123456789abcdef\r\n";
    talk.asks(&mut programs, chunk);
    let smaller = "01\r\n0123456789abcdef\r\n";
    assert_eq!(
        sends(&mut programs, &mut talk, head.len(), smaller),
        Verdict::Drop
    );
    assert_eq!(
        sends(&mut programs, &mut talk, head.len(), chunk),
        Verdict::Pass
    );
    assert_counters(
        &programs,
        &[
            (counter::ADMITTED, 1),
            (counter::CONFLICT_DROPPED, 1),
            (counter::RETRANSMITTED, 1),
        ],
    );
}

/// The payload size in bytes of the individual packets that are merged into a segment (GRO) or into
/// which a segment will be segmented (GSO).
const SIZE: usize = 1000;

/// Sends the client's next bytes as one packet that was merged from several.
#[track_caller]
fn sends_merged(programs: &mut Programs, talk: &mut Talk, payload: &str) {
    let segment = talk.client(payload.as_bytes());
    let frame = talk.shape.wrap(&talk.ends, true, &segment);
    let gso_size = u32::try_from(SIZE).expect("a size");
    let ran = programs.run_with(
        Hook::Ingress,
        &frame,
        Extras {
            gso_size,
            ..Extras::default()
        },
    );
    assert_eq!(ran.verdict, Verdict::Pass);
    talk.asked += u32::try_from(payload.len()).expect("a length");
}

#[test]
fn body_packet_of_a_merged_segment_passes_again() {
    // A gateway has merged several packets, and on the path after the gateway, one of them is lost.
    // The client does not know of the merging, and retransmits only the lost packet.
    let (mut programs, mut talk) = opened();
    let request = post(KEY, 3000);
    sends_merged(&mut programs, &mut talk, &request);
    let head = request.find("\r\n\r\n").expect("a head") + 4;
    assert!(head < SIZE);
    for at in [SIZE, 2 * SIZE] {
        let verdict = sends(&mut programs, &mut talk, at, &request[at..at + SIZE]);
        assert_eq!(verdict, Verdict::Pass, "from {at}");
    }
}

#[test]
fn first_packet_of_a_merged_segment_passes_again() {
    let (mut programs, mut talk) = opened();
    let request = post(KEY, 3000);
    sends_merged(&mut programs, &mut talk, &request);
    let verdict = sends(&mut programs, &mut talk, 0, &request[..SIZE]);
    assert_eq!(verdict, Verdict::Pass);
    let other = request.replace("3000", "2999");
    let verdict = sends(&mut programs, &mut talk, 0, &other[..SIZE]);
    assert_eq!(verdict, Verdict::Drop);
}

#[test]
fn retransmitted_merged_request_must_match_to_the_byte() {
    // The server may have received only the first packet of the merged request. It could combine
    // that packet with the second packet of a different request, so the different request must not
    // pass.
    let (mut programs, mut talk) = opened();
    sends_merged(&mut programs, &mut talk, &get("/aaaa"));
    assert_eq!(
        sends(&mut programs, &mut talk, 0, &get("/bbbb")),
        Verdict::Drop
    );
    assert_eq!(
        sends(&mut programs, &mut talk, 0, &get("/aaaa")),
        Verdict::Pass
    );
}

/// Returns the head of a chunked upload, and `chunks` chunks of `size` bytes each.
fn chunked(size: usize, chunks: usize) -> (String, Vec<String>) {
    let head = get("/").replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("{size:x}\r\n{}\r\n", "c".repeat(size));
    (head, vec![chunk; chunks])
}

#[test]
fn whole_chunked_upload_passes_again_after_loss() {
    let (mut programs, mut talk) = opened();
    let (head, chunks) = chunked(900, RECORDS * 3 / 4);
    talk.asks(&mut programs, &head);
    for chunk in &chunks {
        talk.asks(&mut programs, chunk);
    }
    assert_eq!(sends(&mut programs, &mut talk, 0, &head), Verdict::Pass);
    for (number, chunk) in chunks.iter().enumerate() {
        let at = head.len() + number * chunk.len();
        let verdict = sends(&mut programs, &mut talk, at, chunk);
        assert_eq!(verdict, Verdict::Pass, "chunk {number}");
        if number % 10 == 0 {
            let other = chunk.replacen("384", "383", 1);
            let verdict = sends(&mut programs, &mut talk, at, &other);
            assert_eq!(verdict, Verdict::Drop, "chunk {number}");
        }
    }
    assert_eq!(programs.state(SCOPE).admitted, 1);
}

#[test]
fn packets_of_a_merged_upload_in_chunks_pass_again_one_by_one() {
    let (mut programs, mut talk) = opened();
    // At this size, the boundary between two packets is within the size line of a chunk.
    let (head, chunks) = chunked(SIZE - 3 - 83, 2);
    let all = head + &chunks.concat();
    sends_merged(&mut programs, &mut talk, &all);
    for at in (0..all.len()).step_by(SIZE) {
        let packet = &all[at..all.len().min(at + SIZE)];
        let verdict = sends(&mut programs, &mut talk, at, packet);
        assert_eq!(verdict, Verdict::Pass, "from {at} on");
    }
    let other = all.replacen(&format!("{:x}\r\n", SIZE - 86), "ff\r\n0", 1);
    assert_eq!(other.len(), all.len());
    let verdict = sends(&mut programs, &mut talk, 0, &other[..SIZE]);
    assert_eq!(verdict, Verdict::Drop);
}

#[test]
fn packets_of_a_merged_head_pass_again_one_by_one() {
    let (mut programs, mut talk) = opened();
    let line = format!("X-Line: {}\r\n", "v".repeat(190));
    let request = get("/").replace("\r\n\r\n", "\r\n") + &line.repeat(16) + "\r\n";
    assert!(request.len() > 3 * SIZE && request.len() < 3700);
    sends_merged(&mut programs, &mut talk, &request);
    for at in (0..request.len()).step_by(SIZE) {
        let packet = &request[at..request.len().min(at + SIZE)];
        assert_eq!(sends(&mut programs, &mut talk, at, packet), Verdict::Pass);
        let other = packet.replacen('v', "w", 1);
        assert_eq!(sends(&mut programs, &mut talk, at, &other), Verdict::Drop);
    }
    assert_eq!(programs.state(SCOPE).admitted, 1);
}

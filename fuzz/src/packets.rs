// SPDX-License-Identifier: MIT OR Apache-2.0

//! Packets for the kernel programs, which the kernel runs with `BPF_PROG_TEST_RUN`.
//!
//! The kernel reports no coverage. The fuzzer therefore observes the counters and the verdicts of
//! the programs instead.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use limiter_common::abi::counter;
use limiter_tests::{
    GUARDED,
    packet::{DecodedSegment, checksum},
    program::{Hook, Programs, RunResult, Verdict, no_limits},
};

/// The length of a record's head in bytes. The head consists of a byte of flags and the length of
/// the frame in two bytes, with the low byte first.
const HEAD_LEN: usize = 3;

/// The flag of a frame that leaves the server.
const EGRESS: u8 = 1;
/// The flag of a frame without an Ethernet header.
const BARE: u8 = 2;
/// The flag of a frame whose checksums are corrected before it is sent. Without this correction,
/// nearly all random changes of an input would lead to wrong checksums, and the programs would drop
/// the packet.
const CORRECT_CHECKSUMS: u8 = 4;

/// The length of a TCP header without options, in bytes.
const TCP_HEADER_LEN: usize = 20;

/// The maximum length of a frame in bytes, without its first 14 bytes. `BPF_PROG_TEST_RUN` accepts
/// only frames of less than a page (bpf_prog_test_run_skb in net/bpf/test_run.c).
const MAX_FRAME_LEN: usize = 2048;

/// The maximum number of frames that are sent for an input. Each frame takes a few microseconds.
const MAX_FRAMES: usize = 32;

/// The scope of the key [`KEY`]. The scope may have one request in flight at a time.
const SCOPE: u32 = 1;
/// The key of [`SCOPE`] in the packets of the corpus.
pub const KEY: &str = "alpha";

/// The number of features. A feature is a byte that the fuzzer watches.
const FEATURES: usize = VERDICTS + 4 * MAX_FRAMES;

/// The index of the first feature for verdicts. The features at lower indices are those of the
/// counters, and the features from this index on are those of the frames: four for each frame, one
/// for each possible verdict.
const VERDICTS: usize = counter::COUNT as usize;

/// The features. libFuzzer treats each byte like the execution counter of a piece of code
/// (FuzzerExtraCounters.cpp).
// Nothing in this crate reads the array. Without the attribute `used`, the compiler could remove
// it.
#[used]
#[unsafe(link_section = "__libfuzzer_extra_counters")]
static FEATURE_COUNTS: [AtomicU8; FEATURES] = [const { AtomicU8::new(0) }; FEATURES];

/// A frame, with flags that determine how it is sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    flags: u8,
    frame: Vec<u8>,
}

impl Record {
    /// Returns a record of a frame whose checksums are corrected before it is sent.
    pub fn new(to_server: bool, ethernet: bool, frame: Vec<u8>) -> Self {
        let egress = if to_server { 0 } else { EGRESS };
        let bare = if ethernet { 0 } else { BARE };
        Self {
            flags: egress | bare | CORRECT_CHECKSUMS,
            frame,
        }
    }

    /// Appends the record to an input.
    ///
    /// # Panics
    /// Panics if the frame has more than 65,535 bytes.
    pub fn write(&self, input: &mut Vec<u8>) {
        let len = u16::try_from(self.frame.len()).expect("a frame is not longer than an IP packet");
        input.push(self.flags);
        input.extend(len.to_le_bytes());
        input.extend(&self.frame);
    }

    /// Removes the first record from an input and returns it. If the input ends early, the frame of
    /// its last record is shorter than the length in the head.
    fn read(input: &mut &[u8]) -> Option<Self> {
        let (head, rest) = input.split_first_chunk::<HEAD_LEN>()?;
        let [flags, low, high] = *head;
        let len = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (frame, rest) = rest.split_at(len);
        *input = rest;
        Some(Self {
            flags,
            frame: frame.to_vec(),
        })
    }

    fn ethernet(&self) -> bool {
        self.flags & BARE == 0
    }

    fn hook(&self) -> Hook {
        Hook::of(self.flags & EGRESS == 0, self.ethernet())
    }

    /// Returns the frame as it is sent.
    fn frame(&self) -> Vec<u8> {
        let mut frame = self.frame.clone();
        if self.flags & CORRECT_CHECKSUMS != 0 {
            correct_checksums(&mut frame, self.ethernet());
        }
        frame
    }
}

/// Corrects the IPv4 and TCP checksums if the frame contains a TCP segment. Bytes after the
/// segment, as Ethernet needs them to reach its minimum length, are in no checksum.
fn correct_checksums(frame: &mut [u8], ethernet: bool) {
    let Some(decoded) = DecodedSegment::read(frame, ethernet) else {
        return;
    };
    let link = if ethernet { 14 + 4 * decoded.tags } else { 0 };
    let len = TCP_HEADER_LEN + decoded.options.len() + decoded.payload.len();
    let Some((header, segment)) = frame
        .get_mut(link..)
        .and_then(|ip| ip.get_mut(..decoded.ip_header + len))
        .and_then(|ip| ip.split_at_mut_checked(decoded.ip_header))
    else {
        return;
    };
    if decoded.from.is_ipv4() {
        put_checksum(header, 10, &[]);
    }
    let pseudo = checksum::pseudo_header(decoded.from, decoded.to, segment.len());
    put_checksum(segment, 16, &pseudo);
}

/// Computes the checksum of `before` and `bytes`, and writes it into `bytes` at the offset `at`.
fn put_checksum(bytes: &mut [u8], at: usize, before: &[u8]) {
    let Some(place) = bytes.get_mut(at..at + 2) else {
        return;
    };
    place.fill(0);
    let sum = !checksum::sum(&[before, bytes]);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Runs the programs on the frames of an input, one after the other. At first, the maps contain
/// only [`SCOPE`] and its key.
///
/// # Panics
/// Panics without root. Also panics if a receiver would not accept a packet that the programs have
/// sent or changed, or if the programs have not passed a packet unchanged although it is readable
/// and does not contain the number of the guarded port.
pub fn check(input: &[u8]) {
    let mut programs = Programs::fresh();
    let mut limits = no_limits();
    limits.concurrency = 1;
    programs.scope(SCOPE, KEY, limits);
    let mut unreadable_before = 0;
    let mut rest = input;
    for number in 0..MAX_FRAMES {
        let Some(record) = Record::read(&mut rest) else {
            break;
        };
        let frame = record.frame();
        if is_accepted(&frame) {
            let result = programs.run(record.hook(), &frame);
            assert_sound(&record, &frame, &result);
            // A packet is unreadable if it has more extension headers than the programs read. The
            // programs drop it, because they cannot know its port.
            let unreadable = programs.counter(counter::UNREADABLE_DROPPED);
            if unreadable == unreadable_before && !contains_guarded_port(&frame) {
                assert_untouched(&frame, &result);
            }
            unreadable_before = unreadable;
            note(VERDICTS + 4 * number + result.verdict as usize, 1);
        }
    }
    for index in 0..counter::COUNT {
        note(index as usize, programs.counter(index));
    }
}

/// Returns whether `BPF_PROG_TEST_RUN` accepts a frame. `BPF_PROG_TEST_RUN` always treats the first
/// 14 bytes as an Ethernet header. If the EtherType in this header is that of IPv4 or IPv6,
/// `BPF_PROG_TEST_RUN` requires a whole IP header after the Ethernet header.
fn is_accepted(frame: &[u8]) -> bool {
    let Some((ethernet, rest)) = frame.split_first_chunk::<14>() else {
        return false;
    };
    let least = match ethernet[12..] {
        [0x08, 0x00] => 20,
        [0x86, 0xdd] => 40,
        _ => 0,
    };
    (least..=MAX_FRAME_LEN).contains(&rest.len())
}

/// Stores the count of a feature for the fuzzer.
fn note(feature: usize, count: u64) {
    let count = u8::try_from(count).unwrap_or(u8::MAX);
    FEATURE_COUNTS[feature].store(count, Relaxed);
}

/// Asserts that a receiver would accept all packets that the programs have sent, and all that they
/// have changed and that it would have accepted unchanged.
fn assert_sound(record: &Record, frame: &[u8], result: &RunResult) {
    for sent in &result.sent {
        let sent = DecodedSegment::of(sent, record.ethernet());
        assert!(sent.ports.0 == GUARDED || sent.ports.1 == GUARDED);
    }
    // The programs update checksums instead of computing them, so that a wrong checksum stays
    // wrong.
    let is_changed = result.packet != frame;
    let was_sound = DecodedSegment::verified(frame, record.ethernet()).is_ok();
    if is_changed && was_sound && result.verdict != Verdict::Drop {
        result.decoded();
    }
}

/// Returns whether a frame contains the number of the guarded port at any offset.
fn contains_guarded_port(frame: &[u8]) -> bool {
    let port = GUARDED.to_be_bytes();
    frame.windows(port.len()).any(|bytes| bytes == port)
}

fn assert_untouched(frame: &[u8], result: &RunResult) {
    assert!(
        result.verdict == Verdict::Pass && result.packet == frame && result.sent.is_empty(),
        "the programs have touched a packet of another port: {result:02x?}"
    );
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! A segment that the server would not accept has no effect. Only a valid segment that follows it
//! is charged.

use limiter_common::abi::counter;
use limiter_tests::program::{
    ACK, Extras, Hook, Programs, Shape, Talk, Verdict, mend_ip_checksum, no_limits, timestamp,
};

use crate::support::{KEY, SCOPE, assert_counters, get, get_as, limited};

/// A function that makes a valid frame invalid for every receiver.
type Spoil = fn(&mut Vec<u8>);

/// The offsets of the headers in a frame of [`Shape::v4`] and [`Shape::v6`].
const IP: usize = 14;
const TCP_OVER_V4: usize = 34;
const TCP_OVER_V6: usize = 54;

/// Returns the programs, and a connection with timestamps.
fn open(shape: &Shape) -> (Programs, Talk) {
    let mut programs = limited(no_limits());
    let mut talk = Talk::new(shape.clone());
    talk.timestamps = true;
    let talk = talk.opened(&mut programs);
    (programs, talk)
}

/// Asserts that an invalid frame is dropped and counted under `counter`, and that it has no other
/// effect. A valid request that follows it passes and is handled as usual, whether it has the same
/// content as the invalid frame or another key.
#[track_caller]
fn assert_dropped(what: &str, shape: &Shape, counter: u32, spoil: Spoil) {
    for real in [get("/a"), get_as("unknown", "/a")] {
        let (mut programs, mut talk) = open(shape);
        let good = talk.client(get("/a").as_bytes());
        let mut frame = talk.shape.wrap(&talk.ends, true, &good);
        spoil(&mut frame);
        let ran = programs.run(Hook::Ingress, &frame);
        assert_eq!(ran.verdict, Verdict::Drop, "{what}");
        assert_counters(&programs, &[(counter, 1)]);
        talk.asks(&mut programs, &real);
        let (charged, with) = if real.contains(KEY) {
            (1, (counter::ADMITTED, 1))
        } else {
            (0, (counter::UNKNOWN_KEY, 1))
        };
        assert_counters(&programs, &[(counter, 1), with]);
        assert_eq!(programs.state(SCOPE).admitted, charged, "{what}");
    }
}

#[test]
fn wrong_checksum_is_dropped() {
    let flip = |frame: &mut Vec<u8>| *frame.last_mut().expect("a byte") ^= 1;
    let counter = counter::BAD_CHECKSUM_DROPPED;
    for shape in [Shape::v4(), Shape::v6(), Shape::v4().tagged(1)] {
        assert_dropped("a byte of the payload", &shape, counter, flip);
    }
    assert_dropped("of TCP over IPv4", &Shape::v4(), counter, |frame| {
        frame[TCP_OVER_V4 + 16] ^= 1;
    });
    assert_dropped("of TCP over IPv6", &Shape::v6(), counter, |frame| {
        frame[TCP_OVER_V6 + 17] ^= 1;
    });
    assert_dropped("of IPv4", &Shape::v4(), counter, |frame| {
        frame[IP + 10] ^= 1;
    });
    let options = Shape::v4_with(vec![1, 1, 1, 0]);
    assert_dropped("of IPv4, with options", &options, counter, |frame| {
        frame[IP + 20] ^= 1;
    });
}

#[test]
fn partial_checksum_without_offload_is_dropped() {
    assert_dropped("", &Shape::v4(), counter::BAD_CHECKSUM_DROPPED, |frame| {
        let len = u32::try_from(frame.len() - TCP_OVER_V4).expect("a length");
        let ends = frame[IP + 12..IP + 20]
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let mut sum: u32 = ends.sum::<u32>() + 6 + len;
        sum = (sum >> 16) + (sum & 0xffff);
        let sum = u16::try_from((sum >> 16) + (sum & 0xffff)).expect("it is folded");
        frame[TCP_OVER_V4 + 16..TCP_OVER_V4 + 18].copy_from_slice(&sum.to_be_bytes());
    });
}

#[test]
fn checksum_complete_of_the_device_is_verified() {
    let complete = Extras {
        checksum_complete: true,
        ..Extras::default()
    };
    let behind = vec![limiter_tests::program::Extension::options(60, 2)];
    for shape in [
        Shape::v4(),
        Shape::v6(),
        Shape::v4_with(vec![1, 1, 1, 0]),
        Shape::v6_with(behind),
    ] {
        let (mut programs, talk) = open(&shape);
        let good = talk.clone().client(get("/a").as_bytes());
        let frame = talk.shape.wrap(&talk.ends, true, &good);
        let mut bad = frame.clone();
        *bad.last_mut().expect("a byte") ^= 1;
        let ran = programs.run_with(Hook::Ingress, &bad, complete);
        assert_eq!(ran.verdict, Verdict::Drop, "{shape:?}");
        assert_counters(&programs, &[(counter::BAD_CHECKSUM_DROPPED, 1)]);
        let ran = programs.run_with(Hook::Ingress, &frame, complete);
        assert_eq!(ran.verdict, Verdict::Pass, "{shape:?}");
        assert_eq!(programs.state(SCOPE).admitted, 1, "{shape:?}");
    }
}

#[test]
fn wrong_ip_version_or_expired_ttl_is_dropped() {
    let invalid = counter::INVALID_DROPPED;
    assert_dropped("TTL 0", &Shape::v4(), invalid, |frame| {
        frame[IP + 8] = 0;
        mend_ip_checksum(frame);
    });
    assert_dropped("hop limit 0", &Shape::v6(), invalid, |frame| {
        frame[IP + 7] = 0;
    });
    // A packet with the wrong IP version passes unchanged, because every receiver checks the
    // version first and drops such a packet.
    for shape in [Shape::v4(), Shape::v6()] {
        let (mut programs, mut talk) = open(&shape);
        let request = talk.client(get("/a").as_bytes());
        let mut frame = talk.shape.wrap(&talk.ends, true, &request);
        frame[IP] ^= 0x10;
        if shape == Shape::v4() {
            mend_ip_checksum(&mut frame);
        }
        assert_eq!(programs.run(Hook::Ingress, &frame).verdict, Verdict::Pass);
        assert_counters(&programs, &[]);
        talk.asks(&mut programs, get("/a"));
        assert_eq!(programs.state(SCOPE).admitted, 1);
    }
}

#[test]
fn frame_to_another_mac_address_is_dropped() {
    // In a test run, as for a real device, the kernel compares the destination link address with
    // the address of the device.
    assert_dropped("", &Shape::v4(), counter::INVALID_DROPPED, |frame| {
        frame[..6].copy_from_slice(&[0xff; 6]);
    });
}

/// Does the same as [`assert_dropped`] for a segment whose TCP header `reword` has changed.
#[track_caller]
fn assert_changed_segment_dropped(
    what: &str,
    counter: u32,
    reword: fn(&Talk, limiter_tests::program::Segment) -> limiter_tests::program::Segment,
) {
    let (mut programs, mut talk) = open(&Shape::v4());
    let segment = talk.client(get("/a").as_bytes());
    let segment = reword(&talk, segment);
    let ran = talk.run(&mut programs, true, &segment);
    assert_eq!(ran.verdict, Verdict::Drop, "{what}");
    assert_counters(&programs, &[(counter, 1)]);
    talk.asks(&mut programs, get_as("unknown", "/a"));
    assert_counters(&programs, &[(counter, 1), (counter::UNKNOWN_KEY, 1)]);
}

#[test]
fn older_or_missing_timestamp_is_dropped() {
    assert_changed_segment_dropped("older", counter::STALE_DROPPED, |_, segment| {
        segment.with_options(timestamp(1, 0))
    });
    assert_changed_segment_dropped("none", counter::INVALID_DROPPED, |_, segment| {
        segment.with_options(Vec::new())
    });
}

#[test]
fn timestamp_of_an_acknowledgement_advances_the_latest_one() {
    let (mut programs, mut talk) = open(&Shape::v4());
    let ahead = talk
        .client(b"")
        .with_flags(ACK)
        .with_options(timestamp(1900, 0));
    assert_eq!(talk.run(&mut programs, true, &ahead).verdict, Verdict::Pass);
    let request = talk.client(get("/a").as_bytes());
    assert_eq!(
        talk.run(&mut programs, true, &request).verdict,
        Verdict::Drop
    );
    assert_counters(&programs, &[(counter::STALE_DROPPED, 1)]);
}

#[test]
fn timestamp_of_an_invalid_segment_is_ignored() {
    let (mut programs, mut talk) = open(&Shape::v4());
    let ahead = talk
        .client(b"")
        .with_flags(ACK)
        .with_options(timestamp(1 << 30, 0));
    let mut frame = talk.shape.wrap(&talk.ends, true, &ahead);
    *frame.last_mut().expect("a byte") ^= 1;
    assert_eq!(programs.run(Hook::Ingress, &frame).verdict, Verdict::Drop);
    assert_counters(&programs, &[(counter::BAD_CHECKSUM_DROPPED, 1)]);
    talk.asks(&mut programs, get("/a"));
    assert_eq!(programs.state(SCOPE).admitted, 1);
}

#[test]
fn timestamp_comparison_wraps_around() {
    let mut programs = limited(no_limits());
    let mut talk = Talk::new(Shape::v4());
    talk.timestamps = true;
    talk.set_ticks(u32::MAX - 4);
    let mut talk = talk.opened(&mut programs);
    for _ in 0..8 {
        talk.asks(&mut programs, get("/a"));
        talk.answers(&mut programs, crate::support::ok(""));
    }
    assert_eq!(programs.state(SCOPE).admitted, 8);
}

#[test]
fn unnegotiated_tcp_signature_is_dropped() {
    // The option of RFC 2385 has kind 19 and 18 bytes.
    assert_changed_segment_dropped("MD5", counter::INVALID_DROPPED, |_, segment| {
        let mut options = segment.options.clone();
        options.extend([1, 1, 19, 18]);
        options.extend([7; 16]);
        segment.with_options(options)
    });
    // The option of RFC 5925 has kind 29.
    assert_changed_segment_dropped("AO", counter::INVALID_DROPPED, |_, segment| {
        let mut options = segment.options.clone();
        options.extend([29, 16]);
        options.extend([7; 14]);
        segment.with_options(options)
    });
}

#[test]
fn data_beyond_the_window_is_dropped() {
    let (mut programs, mut talk) = open(&Shape::v4());
    let small = talk.server(b"").with_window(10);
    talk.run(&mut programs, false, &small);
    // The request still passes, because the server has announced a larger window before, and must
    // accept bytes within that window.
    talk.asks(&mut programs, get("/a"));
    let mut talk = Talk::new(Shape::v4());
    talk.window = 20;
    talk.ends.client_port = 41_000;
    let mut talk = talk.opened(&mut programs);
    let request = get("/a");
    assert_eq!(talk.ask(&mut programs, &request).verdict, Verdict::Drop);
    assert_eq!(programs.counter(counter::OUT_OF_WINDOW_DROPPED), 1);
    assert_eq!(
        talk.ask(&mut programs, &request[..20]).verdict,
        Verdict::Pass
    );
    // Beyond the window, only a single byte passes, because a client probes a closed window with
    // one byte.
    assert_eq!(
        talk.ask(&mut programs, &request[20..22]).verdict,
        Verdict::Drop
    );
    assert_eq!(
        talk.ask(&mut programs, &request[20..21]).verdict,
        Verdict::Pass
    );
    assert_eq!(
        talk.ask(&mut programs, &request[21..22]).verdict,
        Verdict::Drop
    );
    talk.window = 100;
    talk.server_acked = 20;
    let open = talk.server(b"");
    talk.run(&mut programs, false, &open);
    assert_eq!(
        talk.ask(&mut programs, &request[21..]).verdict,
        Verdict::Pass
    );
    assert_eq!(programs.state(SCOPE).admitted, 2);
}

#[test]
fn windows_use_the_scale_of_the_server() {
    for (options, len, verdict) in [
        (vec![2, 4, 5, 180, 3, 3, 2, 0], 200, Verdict::Pass),
        (vec![2, 4, 5, 180, 3, 3, 1, 0], 200, Verdict::Drop),
        (vec![2, 4, 5, 180], 60, Verdict::Drop),
    ] {
        let mut programs = limited(no_limits());
        let mut talk = Talk::new(Shape::v4());
        talk.window = 50;
        let syn_ack = talk.syn_ack().with_options(options.clone());
        let syn = talk.syn();
        talk.run(&mut programs, true, &syn);
        talk.run(&mut programs, false, &syn_ack);
        let ack = talk.client(b"").with_flags(ACK);
        talk.run(&mut programs, true, &ack);
        let window = talk.server(b"");
        talk.run(&mut programs, false, &window);
        let path = "p".repeat(len - get("/").len());
        let ran = talk.ask(&mut programs, get(&format!("/{path}")));
        assert_eq!(ran.verdict, verdict, "{options:?}");
    }
}

#[test]
fn very_old_acknowledgement_is_dropped() {
    let (mut programs, mut talk) = open(&Shape::v4());
    talk.client_window = 100;
    talk.asks(&mut programs, get("/"));
    // The responses are longer than the largest window that the client has announced, which was
    // 60,000 bytes in the handshake. An acknowledgement of the first byte is therefore too old.
    for _ in 0..50 {
        talk.answers(&mut programs, vec![b'x'; 1400]);
    }
    let now = talk.client(b"").with_flags(ACK);
    talk.run(&mut programs, true, &now);
    let old = talk.server_start;
    let request = talk.client(get("/a").as_bytes()).with_ack(old);
    assert_eq!(
        talk.run(&mut programs, true, &request).verdict,
        Verdict::Drop
    );
    assert_eq!(programs.counter(counter::INVALID_DROPPED), 1);
    let recent = talk.server_start.wrapping_add(talk.answered - 1400);
    let request = talk.client(get("/a").as_bytes()).with_ack(recent);
    assert_eq!(
        talk.run(&mut programs, true, &request).verdict,
        Verdict::Pass
    );
}

#[test]
fn invalid_fin_ends_nothing() {
    let (mut programs, mut talk) = open(&Shape::v4());
    let fin = talk
        .client(b"")
        .with_flags(ACK | limiter_tests::program::FIN);
    let mut frame = talk.shape.wrap(&talk.ends, true, &fin);
    frame[TCP_OVER_V4 + 16] ^= 1;
    assert_eq!(programs.run(Hook::Ingress, &frame).verdict, Verdict::Drop);
    talk.asks(&mut programs, get("/a"));
    assert_eq!(programs.state(SCOPE).admitted, 1);
}

#[test]
fn invalid_segment_does_not_complete_a_handshake() {
    let mut programs = limited(no_limits());
    let mut talk = Talk::new(Shape::v4());
    let (syn, syn_ack) = (talk.syn(), talk.syn_ack());
    talk.run(&mut programs, true, &syn);
    talk.run(&mut programs, false, &syn_ack);
    let ack = talk.client(b"").with_flags(ACK);
    let mut frame = talk.shape.wrap(&talk.ends, true, &ack);
    frame[TCP_OVER_V4 + 16] ^= 1;
    assert_eq!(programs.run(Hook::Ingress, &frame).verdict, Verdict::Drop);
    let flow = programs.flow(&talk.key()).expect("a flow");
    assert_eq!(flow.phase, limiter_common::abi::phase::HANDSHAKE);
}

#[test]
fn body_bytes_beyond_the_window_are_not_counted_as_sent() {
    let (mut programs, mut talk) = open(&Shape::v4());
    let head = get("/a").replace("\r\n\r\n", "\r\nContent-Length: 4294967396\r\n\r\n");
    talk.asks(&mut programs, &head);
    // The positions of these bytes are a quarter of the sequence number space apart. If the
    // programs counted the bytes as sent, the position of the next byte would wrap around to the
    // start of the body.
    for quarter in 1..=3u32 {
        let at = talk.asked.wrapping_add(quarter << 30);
        let byte = talk.client_at(at, b"b");
        talk.run(&mut programs, true, &byte);
        let next = programs.flow(&talk.key()).expect("a flow").next;
        assert_eq!(next.0, talk.client_start.wrapping_add(talk.asked));
    }
    // Only the first segment counts as beyond the window. The other two are at least half of the
    // sequence number space ahead, which is the same as before the first byte of the connection, so
    // they count as invalid.
    assert_eq!(programs.counter(counter::OUT_OF_WINDOW_DROPPED), 1);
    assert_eq!(programs.counter(counter::INVALID_DROPPED), 2);
    // All of these bytes belong to the body, including the request in them.
    talk.asks(&mut programs, get("/hidden").repeat(3));
    assert_eq!(programs.state(SCOPE).admitted, 1);
}

#[test]
fn acknowledgement_before_the_first_byte_is_dropped() {
    let (mut programs, mut talk) = open(&Shape::v4());
    let before = talk.server_start.wrapping_sub(1);
    let request = talk.client(get("/a").as_bytes()).with_ack(before);
    assert_eq!(
        talk.run(&mut programs, true, &request).verdict,
        Verdict::Drop
    );
    assert_counters(&programs, &[(counter::INVALID_DROPPED, 1)]);
    talk.asks(&mut programs, get("/a"));
}

#[test]
fn zero_ip_length_is_not_replaced_by_the_frame_length() {
    let unreadable = counter::UNREADABLE_DROPPED;
    assert_dropped("IPv4", &Shape::v4(), unreadable, |frame| {
        frame[IP + 2..IP + 4].fill(0);
        mend_ip_checksum(frame);
    });
    assert_dropped("IPv6", &Shape::v6(), unreadable, |frame| {
        frame[IP + 4..IP + 6].fill(0);
    });
}

#[test]
fn ipv4_mapped_addresses_in_ipv6_are_dropped() {
    assert_dropped("", &Shape::v6(), counter::UNREADABLE_DROPPED, |frame| {
        frame[IP + 8..IP + 20].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    });
}

#[test]
fn many_vlan_tags_hide_no_request() {
    for tags in [3, 4, 5, 20, 300] {
        for shape in [Shape::v4(), Shape::v6()] {
            let (mut programs, mut talk) = open(&shape);
            let request = talk.client(get("/a").as_bytes());
            let frame = shape.clone().tagged(tags).wrap(&talk.ends, true, &request);
            let ran = programs.run(Hook::Ingress, &frame);
            assert_eq!(ran.verdict, Verdict::Drop, "{tags} tags");
            assert_counters(&programs, &[(counter::UNREADABLE_DROPPED, 1)]);
            // A packet with the same number of tags passes if it is not for a guarded port.
            let mut ends = talk.ends;
            ends.server_port = 8080;
            let other = shape.clone().tagged(tags).wrap(&ends, true, &request);
            assert_eq!(programs.run(Hook::Ingress, &other).verdict, Verdict::Pass);
            talk.asks(&mut programs, get("/a"));
        }
    }
}

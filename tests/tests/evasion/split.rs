// SPDX-License-Identifier: MIT OR Apache-2.0

//! Requests that are split and joined in every way, and pipelines in which any one of the requests
//! is refused.

use limiter_tests::{
    GUARDED, Net, Refused, Rig, long,
    raw::{Opening, RawHost},
    request,
};

fn at(index: usize) -> u32 {
    u32::try_from(index).expect("a short request")
}

/// Returns three byte sequences: a request without a body, a request with a Content-Length, and a
/// chunked request. The last two are followed by another request. Each sequence has a name, the
/// number of its requests, and its bytes.
fn forms(key: &str) -> [(&'static str, u64, Vec<u8>); 3] {
    let head =
        |line: &str| format!("POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n{line}\r\n\r\n");
    let chunks = "3;a=b\r\nabc\r\n0\r\nX-A: b\r\n\r\n";
    let text = String::from_utf8(request("/", key)).expect("text");
    let length = head("Content-Length: 7") + "0\r\n\r\nab" + &text;
    let chunked = head("Transfer-Encoding: chunked") + chunks + &text;
    [
        ("a head alone", 1, text.into_bytes()),
        ("with a length", 2, length.into_bytes()),
        ("chunked", 2, chunked.into_bytes()),
    ]
}

#[test]
fn a_request_cut_at_every_byte_is_counted_once_on_a_connection_that_goes_on() {
    let rig = Rig::veth(|config| config);
    let host = RawHost::new(&rig.lab);
    let key = rig.limiter.key("acme/web");
    let mut expected = 0;
    for opening in [Opening::default(), Opening::v6()] {
        for (name, requests, bytes) in forms(&key) {
            // The bytes are sent in two parts if `middle` is 0, and otherwise in three parts with
            // `middle` bytes in the second one.
            for middle in [0, 1, 3] {
                let mut conn = host.open(&opening);
                for cut in 1..bytes.len() - middle {
                    let (first, rest) = bytes.split_at(cut);
                    for part in [first, &rest[..middle], &rest[middle..]] {
                        if !part.is_empty() {
                            conn.send_next(part);
                        }
                    }
                    expected += requests;
                    for _ in 0..requests {
                        assert_eq!(conn.response().status, 200, "{name}, cut at {cut}");
                    }
                }
            }
            rig.assert_charged_as_served("acme/web", &key, expected);
        }
    }
}

#[test]
fn a_request_of_one_byte_a_segment_is_counted_once_whatever_is_in_it() {
    let rig = Rig::veth(|config| config);
    let host = RawHost::new(&rig.lab);
    let key = rig.limiter.key("acme/web");
    let mut expected = 0;
    for opening in [Opening::default(), Opening::v6()] {
        let mut conn = host.open(&opening);
        for (name, requests, bytes) in forms(&key) {
            for byte in bytes.chunks(1) {
                conn.send_next(byte);
            }
            expected += requests;
            for _ in 0..requests {
                assert_eq!(conn.response().status, 200, "{name}");
            }
        }
    }
    rig.assert_charged_as_served("acme/web", &key, expected);
}

#[test]
fn parts_of_a_request_may_arrive_late() {
    let rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    let bytes = request("/", &key);
    // The cuts are in the method, the version, a field name, the key, the CRLF after the key, and
    // the last CRLF.
    let cuts = [
        2,
        13,
        40,
        bytes.len() - 10,
        bytes.len() - 3,
        bytes.len() - 1,
    ];
    let pause = std::time::Duration::from_millis(if long() { 2000 } else { 100 });
    let mut conn = rig.lab.connect(GUARDED);
    let mut from = 0;
    for cut in cuts {
        conn.send(&bytes[from..cut]);
        // The test waits for a fixed time, because it can only assert that no response has arrived
        // until then.
        std::thread::sleep(pause);
        assert!(
            !conn.has_bytes(),
            "a response before the end of the request"
        );
        from = cut;
    }
    conn.send(&bytes[from..]);
    assert_eq!(conn.response().status, 200);
    rig.assert_charged_as_served("acme/web", &key, 1);
}

#[test]
fn fifty_pipelined_requests_are_counted_with_any_segment_boundaries() {
    const REQUESTS: usize = 50;
    let rig = Rig::veth(|config| config);
    let host = RawHost::new(&rig.lab);
    let key = rig.limiter.key("acme/web");
    let bytes = request("/", &key).repeat(REQUESTS);
    let mut expected = 0;
    for opening in [Opening::default(), Opening::v6()] {
        for size in [1400, 1399, 700, 101, 53] {
            let mut conn = host.open(&opening);
            // The programs drop requests for which the connection has no free slot, and the client
            // retransmits them.
            let mut sent = 0;
            conn.retry_until_acked(at(bytes.len()), |conn| {
                let from = usize::try_from(conn.acked).expect("few");
                for part in bytes[from..].chunks(size) {
                    conn.send_at(at(from + sent), part);
                    sent += part.len();
                }
                sent = 0;
            });
            assert_eq!(
                conn.statuses(REQUESTS),
                [200; REQUESTS],
                "segments of {size}"
            );
            expected += REQUESTS as u64;
            rig.assert_charged_as_served("acme/web", &key, expected);
        }
    }
}

#[test]
fn refusal_in_a_pipeline_passes_only_the_requests_before_it() {
    assert_pipeline(Refused::Closed);
}

#[test]
fn refusal_in_a_pipeline_that_goes_on_passes_all_other_requests() {
    assert_pipeline(Refused::KeptOpen);
}

/// Asserts that one refused request among others in a pipeline is answered in its place, and that
/// those after it are served if the connection goes on.
#[track_caller]
fn assert_pipeline(after: Refused) {
    const REQUESTS: usize = 50;
    for net in Net::ALL {
        let rig = Rig::on(net, |config| {
            after.configure(config).tier("spent", "daily_quota = 1")
        });
        let good = rig.limiter.key("acme/web");
        let spent = rig.limiter.key_of_tier("acme/spent", "spent");
        assert_eq!(rig.get(&spent).status, 200);
        let mut expected = 0;
        for address in rig.lab.addresses() {
            for place in [0, 1, 25, REQUESTS - 2, REQUESTS - 1] {
                let bytes: Vec<u8> = (0..REQUESTS)
                    .flat_map(|number| request("/", if number == place { &spent } else { &good }))
                    .collect();
                let mut conn = rig.lab.connect_to(address, GUARDED);
                conn.send(&bytes);
                for number in 0..place {
                    assert_eq!(conn.response().status, 200, "{number} of {place}");
                }
                assert_eq!(conn.response().status, 429, "{net:?} {place}");
                expected += place;
                match after {
                    Refused::Closed => conn.assert_closed(),
                    Refused::KeptOpen => {
                        for number in place + 1..REQUESTS {
                            assert_eq!(conn.response().status, 200, "{number} after {place}");
                            expected += 1;
                        }
                    }
                }
                rig.assert_charged_as_served("acme/web", &good, expected as u64);
            }
        }
        rig.assert_charged_as_served("acme/spent", &spent, 1);
        rig.assert_nothing_left("acme/web");
    }
}

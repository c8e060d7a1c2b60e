// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests that the scanner finds the ends of chunked bodies, and refuses framing that servers read
//! differently.

use crate::drive::{Direction, Event, keys, requests, requests_by_byte, rules};

/// Returns whether the scanner finds the request that follows a body of `chunks`, with its key.
fn found_behind(chunks: &str) -> bool {
    let bytes = format!(
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}\
         GET / HTTP/1.1\r\nX-Api-Key: k\r\n\r\n"
    );
    let seen = requests(bytes.as_bytes());
    assert_eq!(requests_by_byte(bytes.as_bytes()), seen, "{chunks:?}");
    for cut in 1..bytes.len() {
        let mut direction = Direction::requests(rules());
        assert_eq!(
            direction.cut(bytes.as_bytes(), &[cut]),
            seen,
            "{chunks:?} cut at {cut}"
        );
    }
    match seen[..] {
        [_, Event::Head { to, .. }] => {
            assert_eq!(to, bytes.len() as u64);
            assert_eq!(keys(&seen)[1], crate::drive::key(1, "k"));
            true
        }
        [_, Event::Malformed] => false,
        // No other result is possible, because the body is complete in each of these tests.
        _ => panic!("{chunks:?}: {seen:?}"),
    }
}

macro_rules! chunks {
    ($($name:ident: $chunks:expr => $found:expr;)*) => {$(
        #[test]
        fn $name() {
            assert_eq!(found_behind($chunks.as_ref()), $found);
        }
    )*};
}

chunks! {
    no_chunk_is_fine: "0\r\n\r\n" => true;
    chunks_are_skipped: "5\r\nhello\r\n1\r\n,\r\n6\r\n world\r\n0\r\n\r\n" => true;
    sizes_in_either_case_are_fine: format!("1a\r\n{0}\r\n1A\r\n{0}\r\n0\r\n\r\n", "x".repeat(26)) => true;
    zeros_before_a_size_are_fine: "0000000000000005\r\nhello\r\n000\r\n\r\n" => true;
    a_request_in_a_chunk_is_none: "19\r\nGET / HTTP/1.1\r\nA: b\r\n\r\n.\r\n0\r\n\r\n" => true;
    extensions_are_ignored: "5;a=b;c=\"d e\"\r\nhello\r\n0;x\r\n\r\n" => true;
    an_extension_of_246_bytes_is_fine: format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(246)) => true;
    a_longer_extension_is_refused: format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(254)) => false;
    trailers_are_skipped: "0\r\nA: b\r\nC: d\r\n\r\n" => true;
    framing_in_trailers_does_not_matter: "0\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\n\r\n" => true;
    // uvicorn with httptools merges trailers with the fields of the head, where an application
    // would find the key.
    a_key_in_trailers_is_refused: "0\r\nX-Api-Key: t\r\n\r\n" => false;
    an_empty_key_in_trailers_is_refused: "0\r\nX-Api-Key:\r\n\r\n" => false;
    a_key_of_another_source_in_trailers_is_refused: "0\r\nA: b\r\nApi_Token: t\r\n\r\n" => false;
    a_respelled_key_in_trailers_is_refused: "0\r\nx.api_key: t\r\n\r\n" => false;
    a_long_key_in_trailers_is_refused: format!("0\r\nX-Api-Key: {}\r\n\r\n", "t".repeat(600)) => false;
    credentials_in_trailers_are_refused: "0\r\nAuthorization: Bearer t\r\n\r\n" => false;
    credentials_of_another_scheme_in_trailers_are_refused: "0\r\nauthorization: Digest t\r\n\r\n" => false;
    a_name_like_a_keys_in_trailers_is_fine: "0\r\nX-Api-Keys: t\r\nAuthorization-Info: t\r\n\r\n" => true;
    a_trailer_that_is_no_field_is_refused: "0\r\nrubbish\r\n\r\n" => false;
    a_folded_trailer_is_refused: "0\r\nA: b\r\n c\r\n\r\n" => false;
    a_lone_line_feed_in_trailers_is_refused: "0\r\nA: b\n\r\n" => false;
    a_lone_line_feed_for_no_trailers_is_refused: "0\r\n\n" => false;
    a_hundred_and_28_trailers_are_fine: format!("0\r\n{}\r\n", "A: b\r\n".repeat(128)) => true;
    a_hundred_and_29_trailers_are_refused: format!("0\r\n{}\r\n", "A: b\r\n".repeat(129)) => false;
    an_empty_size_is_refused: "\r\nhello\r\n0\r\n\r\n" => false;
    an_empty_size_for_the_last_is_refused: "\r\n\r\n" => false;
    an_extension_without_the_last_size_is_refused: ";a\r\n\r\n" => false;
    an_extension_without_a_size_is_refused: ";a\r\n0\r\n\r\n" => false;
    a_size_that_is_no_number_is_refused: "5g\r\nhello\r\n0\r\n\r\n" => false;
    a_size_in_c_is_refused: "0x5\r\nhello\r\n0\r\n\r\n" => false;
    a_negative_size_is_refused: "-5\r\nhello\r\n0\r\n\r\n" => false;
    a_size_with_plus_is_refused: "+5\r\nhello\r\n0\r\n\r\n" => false;
    a_space_before_a_size_is_refused: " 5\r\nhello\r\n0\r\n\r\n" => false;
    a_space_behind_a_size_is_refused: "5 \r\nhello\r\n0\r\n\r\n" => false;
    a_tab_behind_a_size_is_refused: "5\t;a\r\nhello\r\n0\r\n\r\n" => false;
    a_size_of_2_to_64_is_refused: "10000000000000000\r\nhello\r\n0\r\n\r\n" => false;
    a_size_just_below_2_to_64_is_refused: "ffffffffffffffff\r\nhello\r\n0\r\n\r\n" => false;
    a_size_of_17_digits_is_refused: "00000000000000005\r\nhello\r\n0\r\n\r\n" => false;
    a_lone_line_feed_behind_a_size_is_refused: "5\nhello\r\n0\r\n\r\n" => false;
    a_lone_line_feed_in_an_extension_is_refused: "5;a\nhello\r\n0\r\n\r\n" => false;
    a_bare_cr_behind_a_size_is_refused: "5\rhello\r\n0\r\n\r\n" => false;
    a_nul_in_an_extension_is_refused: "5;\0\r\nhello\r\n0\r\n\r\n" => false;
    a_lone_line_feed_behind_data_is_refused: "5\r\nhello\n0\r\n\r\n" => false;
    more_data_than_the_size_is_refused: "4\r\nhello\r\n0\r\n\r\n" => false;
    less_data_than_the_size_is_refused: "6\r\nhello\r\n0\r\n\r\n" => false;
}

#[test]
fn chunks_of_every_length_around_a_window_are_skipped() {
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let next = "GET / HTTP/1.1\r\n\r\n";
    for size in (1..30).chain(3990..4110).chain([4600, 8192, 60_000]) {
        let bytes = format!("{head}{size:x}\r\n{}\r\n0\r\n\r\n{next}", "x".repeat(size));
        let seen = requests(bytes.as_bytes());
        assert_eq!(keys(&seen), [None, None], "{size}");
    }
}

#[test]
fn many_chunks_in_a_segment_are_skipped() {
    for (size, count) in [(1, 10_000), (20, 2500), (500, 120), (600, 100), (1000, 60)] {
        let chunk = format!("{size:x}\r\n{}\r\n", "x".repeat(size));
        let bytes = format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            chunk.repeat(count)
        );
        let mut direction = Direction::requests(rules());
        // All bytes fit into one segment, which is no longer than an IP packet.
        assert!(direction.segment(bytes.as_bytes()));
        assert_eq!(keys(&direction.seen), [None, None], "{size}");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Inputs that a client might use to evade the limits, each with the result that it must have. The
//! result must be the same if the input arrives in one segment, in segments of one byte, or in two
//! segments that are cut at any position.

use crate::drive::{Direction, Event, base64, key, keys, requests, requests_by_byte, rules};

/// The result that an input must have.
enum Expect<'a> {
    /// The input is malformed before the first head is complete.
    Refused,
    /// The input is malformed after this many heads are complete.
    RefusedAfter(usize),
    /// There are this many requests, and the last one has this key.
    Requests(usize, &'a str),
    /// There are this many requests, and the last one has no key.
    Keyless(usize),
    /// There is no event yet.
    Waits,
    /// The input is the HTTP/2 preface.
    Http2,
}
use Expect::{Http2, Keyless, Refused, RefusedAfter, Requests, Waits};

fn check(name: &str, input: &[u8], expect: &Expect<'_>) {
    let whole = requests(input);
    let heads = whole
        .iter()
        .filter(|seen| matches!(seen, Event::Head { .. }))
        .count();
    let ended = whole.last().copied();
    let last_key = whole.iter().rev().find_map(|seen| match seen {
        Event::Head { key, .. } => Some(*key),
        _ => None,
    });
    let malformed = ended == Some(Event::Malformed);
    let right = match *expect {
        Refused => malformed && heads == 0,
        RefusedAfter(count) => malformed && heads == count,
        Requests(count, name) => {
            let last = last_key.flatten().map(|(_, digest)| digest);
            !malformed && heads == count && last == key(1, name).map(|(_, digest)| digest)
        }
        Keyless(count) => !malformed && heads == count && last_key == Some(None),
        Waits => whole.is_empty(),
        Http2 => whole == [Event::Http2],
    };
    assert!(right, "{name}: {whole:?}");
    assert_eq!(
        requests_by_byte(input),
        whole,
        "{name}: a segment for each byte"
    );
    if input.len() < 2000 {
        for cut in 1..input.len() {
            let mut direction = Direction::requests(rules());
            assert_eq!(direction.cut(input, &[cut]), whole, "{name}: cut at {cut}");
        }
    }
}

macro_rules! hostile {
    ($($name:ident: $input:expr => $expect:expr;)*) => {$(
        #[test]
        fn $name() {
            let input = $input;
            let bytes: &[u8] = input.as_ref();
            check(stringify!($name), bytes, &$expect);
        }
    )*};
}

/// Returns a request with the field lines `fields`.
fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

hostile! {
    // Start lines.
    a_plain_request_is_found: get("X-Api-Key: k\r\n") => Requests(1, "k");
    a_line_feed_alone_ends_a_line: "GET / HTTP/1.1\nX-Api-Key: k\n\n" => Requests(1, "k");
    line_ends_may_be_mixed: "GET / HTTP/1.1\r\nX-Api-Key: k\n\r\n" => Requests(1, "k");
    empty_lines_before_a_request_are_skipped: "\r\n\n\r\nGET / HTTP/1.1\r\nX-Api-Key: k\r\n\r\n" => Requests(1, "k");
    a_target_in_absolute_form_is_fine: "GET http://a/b?c HTTP/1.1\r\nX-Api-Key: k\r\n\r\n" => Requests(1, "k");
    a_target_in_asterisk_form_is_fine: "OPTIONS * HTTP/1.1\r\nX-Api-Key: k\r\n\r\n" => Requests(1, "k");
    http_1_0_is_fine: "GET / HTTP/1.0\r\nX-Api-Key: k\r\n\r\n" => Requests(1, "k");
    the_shortest_request_is_found: "A * HTTP/1.1\n\n" => Keyless(1);
    http_0_9_is_refused: "GET /\r\n\r\n" => Refused;
    http_0_9_with_a_version_for_target_is_refused: "GET HTTP/1.1\r\nX-Api-Key: k\r\n\r\n" => Refused;
    http_0_9_with_a_long_method_is_refused: "GETTTTTTTTTTTTTTTTT HTTP/1.1\r\n\r\n" => Refused;
    a_method_longer_than_any_is_refused: format!("{} / HTTP/1.1\r\n\r\n", "G".repeat(24)) => Refused;
    http_1_2_is_refused: "GET / HTTP/1.2\r\n\r\n" => Refused;
    http_2_0_in_a_request_is_refused: "GET / HTTP/2.0\r\n\r\n" => Refused;
    a_version_in_lower_case_is_refused: "GET / http/1.1\r\n\r\n" => Refused;
    a_space_behind_the_version_is_refused: "GET / HTTP/1.1 \r\n\r\n" => Refused;
    a_space_before_the_method_is_refused: " GET / HTTP/1.1\r\n\r\n" => Refused;
    a_tab_before_the_version_is_refused: "GET /\tHTTP/1.1\r\n\r\n" => Refused;
    a_tab_in_the_target_is_refused: "GET\t/ x HTTP/1.1\r\n\r\n" => Refused;
    a_nul_in_the_target_is_refused: "GET /\0 HTTP/1.1\r\n\r\n" => Refused;
    letters_beyond_ascii_in_the_target_are_fine: "GET /\u{e4}\u{6771} HTTP/1.1\r\nX-Api-Key: k\r\n\r\n" => Requests(1, "k");
    tls_is_refused: b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" => Refused;
    a_bare_cr_in_the_start_line_is_refused: "GET / HTTP/1.1\rX: y\r\n\r\n" => Refused;
    the_http2_preface_is_recognized: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" => Http2;
    // h11 reads the first line as an HTTP/1.x request, and would serve the next request, which
    // would be charged to no scope.
    half_the_http2_preface_is_no_preface: "PRI * HTTP/2.0\r\n\r\nGET / HTTP/1.1\r\nX-Api-Key: k\r\n\r\n" => Refused;
    half_the_http2_preface_before_a_long_line_is_no_preface: format!("PRI * HTTP/2.0\r\n\r\nHEAD /{} HTTP/1.1\r\n\r\n", "x".repeat(300)) => Refused;
    a_field_in_the_http2_preface_is_refused: "PRI * HTTP/2.0\r\nX-Api-Key: k\r\n\r\n" => Refused;
    a_field_at_the_end_of_the_http2_preface_is_refused: "PRI * HTTP/2.0\r\n\r\nSM\r\nX-Api-Key: k\r\n\r\n" => Refused;
    an_empty_line_in_the_http2_preface_is_refused: "PRI * HTTP/2.0\r\n\r\n\r\nSM\r\n\r\n" => Refused;
    another_end_of_the_http2_preface_is_refused: "PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n" => Refused;
    the_http2_preface_waits_for_its_end: "PRI * HTTP/2.0\r\n\r\nSM\r\n" => Waits;
    the_http2_preface_behind_an_empty_line_is_refused: "\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" => Refused;
    the_http2_preface_behind_a_request_is_refused: "GET / HTTP/1.1\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" => RefusedAfter(1);
    half_a_request_waits: "GET / HTTP/1.1\r\nX-Api-Key: k\r\n\r" => Waits;
    nothing_but_a_cr_waits: "\r" => Waits;

    // Names.
    a_name_in_upper_case_is_found: get("X-API-KEY: k\r\n") => Requests(1, "k");
    a_name_in_mixed_case_is_found: get("x-aPI-kEy: k\r\n") => Requests(1, "k");
    an_underscore_for_a_dash_is_found: get("X_Api_Key: k\r\n") => Requests(1, "k");
    // lighttpd turns each of the bytes in place of a dash here into an underscore when it passes a
    // request to CGI, where the application then finds the key. PHP does the same with dots.
    a_dot_for_a_dash_is_found: get("X.Api.Key: k\r\n") => Requests(1, "k");
    any_other_byte_for_a_dash_is_found: get("x!API~kEY: k\r\n") => Requests(1, "k");
    a_dot_for_an_underscore_is_found: get("Api.Token: k\r\n") => Requests(1, "k");
    a_letter_for_a_dash_makes_another_name: get("XxApi-Key: k\r\nX-Api9Key: l\r\n") => Keyless(1);
    a_dash_for_a_letter_makes_another_name: get("X-Ap--Key: k\r\n") => Keyless(1);
    a_key_with_dots_beside_another_is_refused: get("X.Api.Key: k\r\nAuthorization: Bearer l\r\n") => Refused;
    two_keys_with_dashes_and_dots_are_refused: get("X.Api.Key: k\r\nX-Api-Key: l\r\n") => Refused;
    the_same_key_with_dashes_and_dots_is_one: get("X.Api.Key: k\r\nX-Api-Key: k\r\n") => Requests(1, "k");
    a_length_with_a_dot_is_refused: get("Content.Length: 5\r\n") => Refused;
    a_coding_with_a_plus_is_refused: get("transfer+Encoding: chunked\r\n") => Refused;
    one_underscore_for_a_dash_is_found: get("x-api_key: k\r\n") => Requests(1, "k");
    a_name_configured_with_an_underscore_is_found_with_a_dash: get("API-TOKEN: k\r\n") => Requests(1, "k");
    a_longer_name_is_another: get("X-Api-Keys: k\r\n") => Keyless(1);
    a_shorter_name_is_another: get("X-Api-Ke: k\r\n") => Keyless(1);
    a_name_that_differs_by_0x20_is_another: get("X\rApi\rKey: k\r\n".replace('\r', "M").as_str()) => Keyless(1);
    a_space_before_the_colon_is_refused: get("X-Api-Key : k\r\n") => Refused;
    a_tab_before_the_colon_is_refused: get("X-Api-Key\t: k\r\n") => Refused;
    a_space_before_the_colon_of_any_field_is_refused: get("Other : k\r\n") => Refused;
    a_space_in_a_name_is_refused: get("X Api Key: k\r\n") => Refused;
    an_empty_name_is_refused: get(": k\r\n") => Refused;
    a_line_without_a_colon_is_refused: get("X-Api-Key\r\n") => Refused;
    a_long_line_without_a_colon_is_refused: get(&format!("{}\r\n", "x".repeat(500))) => Refused;
    a_name_beyond_ascii_is_refused: get("X-\u{e4}: k\r\n") => Refused;
    a_delete_in_a_name_is_refused: get("X-\x7f: k\r\n") => Refused;
    a_long_name_is_fine: get(&format!("{}: y\r\nX-Api-Key: k\r\n", "x".repeat(500))) => Requests(1, "k");
    a_name_of_40_bytes_is_fine: get(&format!("{}: y\r\nX-Api-Key: k\r\n", "x".repeat(40))) => Requests(1, "k");
    a_space_in_a_long_name_is_refused: get(&format!("{} y: z\r\n", "x".repeat(300))) => Refused;
    a_folded_line_is_refused: get("X-Other: a\r\n X-Api-Key: k\r\n") => Refused;
    a_line_folded_with_a_tab_is_refused: get("X-Other: a\r\n\tb\r\n") => Refused;
    a_folded_key_is_refused: get("X-Api-Key:\r\n k\r\n") => Refused;
    a_space_behind_the_start_line_is_refused: "GET / HTTP/1.1\r\n X-Api-Key: k\r\n\r\n" => Refused;

    // Line ends and controls in fields.
    a_nul_in_a_value_is_refused: get("X: a\0b\r\n") => Refused;
    a_bell_in_a_value_is_refused: get("X: a\x07b\r\n") => Refused;
    a_separator_of_python_in_a_value_is_refused: get("X: a\x1cX-Api-Key: k\r\n") => Refused;
    a_bare_cr_in_a_value_is_refused: get("X: a\rX-Api-Key: k\r\n") => Refused;
    a_bare_cr_in_a_key_is_refused: get("X-Api-Key: a\rb\r\n") => Refused;
    two_crs_are_refused: get("X: a\r\r\n") => Refused;
    a_bare_cr_for_the_empty_line_is_refused: "GET / HTTP/1.1\r\nX: y\r\n\rGET / HTTP/1.1\r\n" => Refused;
    a_tab_in_a_value_is_fine: get("X: a\tb\r\nX-Api-Key: k\r\n") => Requests(1, "k");
    letters_beyond_ascii_in_a_value_are_fine: get("X: \u{e4}\u{6771}\u{ff}\r\nX-Api-Key: k\r\n") => Requests(1, "k");

    // Keys.
    space_around_a_key_is_cut: get("X-Api-Key: \t  k \t \r\n") => Requests(1, "k");
    no_space_before_a_key_is_fine: get("X-Api-Key:k\r\n") => Requests(1, "k");
    an_empty_key_is_none: get("X-Api-Key:\r\n") => Keyless(1);
    a_blank_key_is_none: get("X-Api-Key: \t \r\n") => Keyless(1);
    an_empty_key_beside_a_key_is_none: get("X-Api-Key:\r\nX-Api-Key: k\r\n") => Requests(1, "k");
    the_same_key_twice_is_one: get("X-Api-Key: k\r\nx-api-key:k\r\n") => Requests(1, "k");
    two_keys_are_refused: get("X-Api-Key: k\r\nX-Api-Key: l\r\n") => Refused;
    two_keys_in_both_spellings_are_refused: get("X-Api-Key: k\r\nX_Api_Key: l\r\n") => Refused;
    two_keys_that_differ_in_case_are_refused: get("X-Api-Key: k\r\nX-Api-Key: K\r\n") => Refused;
    // nginx drops a field with an underscore in its name. The application behind nginx would use
    // the other key, whose scope would not be charged.
    a_key_in_the_other_spelling_beside_another_is_refused: get("X_Api_Key: k\r\nAuthorization: Bearer l\r\n") => Refused;
    a_key_in_the_other_spelling_behind_another_is_refused: get("Authorization: Basic YTpi\r\nX-Api_Key: k\r\n") => Refused;
    a_key_with_a_dash_for_its_underscore_beside_another_is_refused: get("Api-Token: k\r\nAuthorization: Bearer l\r\n") => Refused;
    a_key_with_its_underscore_may_stand_beside_another: get("X-Api-Key: k\r\napi_TOKEN: l\r\n") => Requests(1, "k");
    a_key_in_the_other_spelling_alone_is_one: get("X_Api_Key: k\r\n") => Requests(1, "k");
    both_spellings_of_one_key_are_one: get("X_Api_Key: k\r\nX-Api-Key: k\r\n") => Requests(1, "k");
    a_colon_in_a_key_belongs_to_it: get("X-Api-Key: a:b\r\n") => Requests(1, "a:b");
    a_space_in_a_key_is_refused: get("X-Api-Key: a b\r\n") => Refused;
    a_tab_in_a_key_is_refused: get("X-Api-Key: a\tb\r\n") => Refused;
    a_no_break_space_behind_a_key_is_refused: b"GET / HTTP/1.1\r\nX-Api-Key: k\xa0\r\n\r\n" => Refused;
    a_next_line_behind_a_key_is_refused: b"GET / HTTP/1.1\r\nX-Api-Key: k\x85\r\n\r\n" => Refused;
    a_delete_in_a_key_is_refused: get("X-Api-Key: abcdefghi\x7f\r\n") => Refused;
    a_key_beyond_ascii_is_refused: get("X-Api-Key: k\u{e4}\r\n") => Refused;
    a_key_in_the_body_is_none: "POST / HTTP/1.1\r\nContent-Length: 14\r\n\r\nX-Api-Key: k\r\n" => Keyless(1);
    a_key_in_the_target_is_none: "GET /?X-Api-Key:k HTTP/1.1\r\n\r\n" => Keyless(1);

    // Authorization.
    bearer_is_found: get("Authorization: Bearer k\r\n") => Requests(1, "k");
    bearer_in_any_case_is_found: get("AUTHORIZATION: bEARER k\r\n") => Requests(1, "k");
    bearer_with_more_spaces_is_found: get("Authorization:   Bearer \t  k  \r\n") => Requests(1, "k");
    bearer_with_a_tab_is_found: get("Authorization: Bearer\tk\r\n") => Requests(1, "k");
    // An application that splits at Unicode blanks would find the key, and no scope would be
    // charged.
    bearer_with_a_no_break_space_is_refused: b"GET / HTTP/1.1\r\nAuthorization: Bearer\xa0k\r\n\r\n" => Refused;
    bearer_with_a_no_break_space_in_utf_8_is_refused: get("Authorization: Bearer\u{a0}k\r\n") => Refused;
    bearer_with_an_ideographic_space_is_refused: get("Authorization: Bearer\u{3000}k\r\n") => Refused;
    bearer_behind_a_next_line_is_refused: b"GET / HTTP/1.1\r\nAuthorization: \x85Bearer k\r\n\r\n" => Refused;
    bearer_with_a_no_break_space_and_much_space_is_refused: get(&format!("Authorization: Bearer\u{a0}{}k\r\n", " ".repeat(300))) => Refused;
    basic_with_a_no_break_space_is_refused: b"GET / HTTP/1.1\r\nAuthorization: Basic\xa0YTpi\r\n\r\n" => Refused;
    another_scheme_may_name_people_beyond_ascii: get("Authorization: Digest username=\"J\u{e4}s\u{f8}n\"\r\nX-Api-Key: k\r\n") => Requests(1, "k");
    a_short_scheme_may_be_followed_by_anything: b"GET / HTTP/1.1\r\nAuthorization: x\r\nX: \xa0\xa0\xa0\xa0\xa0\r\nX-Api-Key: k\r\n\r\n" => Requests(1, "k");
    bearer_without_a_token_is_none: get("Authorization: Bearer \r\n") => Keyless(1);
    bearer_with_two_tokens_is_refused: get("Authorization: Bearer k l\r\n") => Refused;
    bearer_twice_the_same_is_one: get("Authorization: Bearer k\r\nAuthorization: bearer  k\r\n") => Requests(1, "k");
    two_bearers_are_refused: get("Authorization: Bearer k\r\nAuthorization: Bearer l\r\n") => Refused;
    bearer_and_basic_are_refused: get("Authorization: Bearer k\r\nAuthorization: Basic YTpi\r\n") => Refused;
    basic_and_bearer_are_refused: get("Authorization: Basic YTpi\r\nAuthorization: Bearer k\r\n") => Refused;
    bearer_and_another_scheme_are_refused: get("Authorization: Bearer k\r\nAuthorization: Token k\r\n") => Refused;
    another_scheme_and_bearer_are_refused: get("Authorization: Token k\r\nAuthorization: Bearer k\r\n") => Refused;
    another_scheme_is_no_key: get("Authorization: Token k\r\n") => Keyless(1);
    a_scheme_that_begins_as_bearer_is_another: get("Authorization: Bearers k\r\n") => Keyless(1);
    a_long_signature_is_no_key: get(&format!("Authorization: AWS4-HMAC-SHA256 {}\r\n", "x".repeat(400))) => Keyless(1);
    a_long_signature_and_bearer_are_refused: get(&format!("Authorization: AWS4 {}\r\nAuthorization: Bearer k\r\n", "x".repeat(400))) => Refused;
    a_long_bearer_is_found: get(&format!("Authorization: Bearer {}\r\n", "x".repeat(400))) => Requests(1, &"x".repeat(400));
    a_bearer_is_not_hidden_where_a_line_becomes_long: get(&format!("Authorization:{}Bearer k{}\r\n", " ".repeat(232), " ".repeat(90))) => Requests(1, "k");
    a_bearer_cut_by_the_carry_is_refused: get(&format!("Authorization:{}Bearer k\r\n", " ".repeat(240))) => Refused;
    a_bearer_that_begins_where_a_line_becomes_long_is_refused: get(&format!("Authorization:{}Bearer k\r\n", " ".repeat(241))) => Refused;
    a_bearer_behind_much_space_is_refused: get(&format!("Authorization: {}Bearer k\r\n", " ".repeat(400))) => Refused;
    basic_is_found: get("Authorization: Basic YWxhZGRpbjpvcGVuc2VzYW1l\r\n") => Requests(1, "YWxhZGRpbjpvcGVuc2VzYW1l");
    basic_with_one_pad_is_found: get("Authorization: basic YTpiYWM=\r\n") => Requests(1, "YTpiYWM=");
    basic_with_two_pads_is_found: get("Authorization: BASIC YTpiYQ==\r\n") => Requests(1, "YTpiYQ==");
    basic_with_other_bits_behind_one_pad_is_refused: get("Authorization: Basic YTpiYWN=\r\n") => Refused;
    basic_with_other_bits_behind_two_pads_is_refused: get("Authorization: Basic YTpiYR==\r\n") => Refused;
    basic_without_its_pads_is_refused: get("Authorization: Basic YTpiYQ\r\n") => Refused;
    basic_in_the_alphabet_of_urls_is_refused: get("Authorization: Basic YTpi_-pi\r\n") => Refused;
    basic_with_a_space_is_refused: get("Authorization: Basic YTpi YWM=\r\n") => Refused;
    basic_with_a_stray_byte_is_refused: get("Authorization: Basic YTpi*TpiYWMK\r\n") => Refused;
    basic_with_three_pads_is_refused: get("Authorization: Basic Y===\r\n") => Refused;
    basic_without_credentials_is_none: get("Authorization: Basic \r\n") => Keyless(1);
    basic_with_digits_behind_its_pads_is_refused: get("Authorization: Basic YTpiYQ==YTpi\r\n") => Refused;
    basic_with_a_pad_in_the_middle_is_refused: get("Authorization: Basic YTpiYWM=YTpi\r\n") => Refused;
    basic_with_pads_twice_is_refused: get("Authorization: Basic YTpiYTpiYQ==YQ==\r\n") => Refused;
    basic_with_a_pad_before_the_last_is_refused: get("Authorization: Basic YTpiYW=A\r\n") => Refused;
    basic_that_ends_in_a_word_of_pads_is_refused: get("Authorization: Basic YTpiYTpi====\r\n") => Refused;
    basic_of_a_whole_word_with_pads_is_found: get("Authorization: Basic YTpiYTpiYQ==  \r\n") => Requests(1, "YTpiYTpiYQ==");
    long_basic_is_found: get(&format!("Authorization: Basic {}\r\n", "YTpi".repeat(90))) => Requests(1, &"YTpi".repeat(90));
    long_basic_with_other_bits_behind_its_pads_is_refused: get(&format!("Authorization: Basic {}YR==\r\n", "YTpi".repeat(90))) => Refused;
    long_basic_with_a_pad_in_the_middle_is_refused: get(&format!("Authorization: Basic {}YWM={0}\r\n", "YTpi".repeat(50))) => Refused;
    long_basic_without_its_pads_is_refused: get(&format!("Authorization: Basic {}YQ\r\n", "YTpi".repeat(90))) => Refused;
    long_basic_in_the_alphabet_of_urls_is_refused: get(&format!("Authorization: Basic {}Y-pi\r\n", "YTpi".repeat(90))) => Refused;
    two_basics_are_refused: get("Authorization: Basic YTpi\r\nAuthorization: Basic YTpj\r\n") => Refused;
    a_user_name_with_a_space_is_refused: get(&format!("Authorization: Basic {}\r\n", base64(b"a b:c"))) => Refused;
    a_user_name_with_a_space_behind_it_is_refused: get(&format!("Authorization: Basic {}\r\n", base64(b"abcdefg :c"))) => Refused;
    a_user_name_with_a_nul_is_refused: get(&format!("Authorization: Basic {}\r\n", base64(b"a\0:c"))) => Refused;
    a_user_name_with_a_no_break_space_is_refused: get(&format!("Authorization: Basic {}\r\n", base64(b"a\xa0:c"))) => Refused;
    a_password_may_have_any_bytes: get(&format!("Authorization: Basic {}\r\n", base64(b"a:\0 \xff:\n"))) => Requests(1, &base64(b"a:\0 \xff:\n"));

    // Values that are too long to be a key.
    a_long_key_is_found: get(&format!("X-Api-Key: {}\r\n", "x".repeat(700))) => Requests(1, &"x".repeat(700));
    a_long_key_beside_a_key_is_refused: get(&format!("X-Api-Key: k\r\nX-Api-Key: {}\r\n", "k".repeat(700))) => Refused;
    a_key_beside_a_long_key_is_refused: get(&format!("X-Api-Key: {}\r\nX_Api_Key: k\r\n", "k".repeat(700))) => Refused;
    two_long_keys_are_refused: get(&format!("X-Api-Key: {0}\r\nX-Api-Key: {0}k\r\n", "k".repeat(700))) => Refused;
    a_long_key_twice_the_same_is_one: get(&format!("X-Api-Key: {0}\r\nX-Api-Key: {0}\r\n", "k".repeat(700))) => Requests(1, &"k".repeat(700));
    a_respelled_long_key_beside_another_is_refused: get(&format!("X.Api-Key: {}\r\nAuthorization: Bearer k\r\n", "k".repeat(700))) => Refused;
    a_space_in_a_long_key_is_refused: get(&format!("X-Api-Key: {0} {0}\r\n", "k".repeat(300))) => Refused;
    a_tab_in_a_long_key_is_refused: get(&format!("X-Api-Key: {0}\t{0}\r\n", "k".repeat(300))) => Refused;
    a_nul_in_a_long_key_is_refused: get(&format!("X-Api-Key: {0}\0{0}\r\n", "k".repeat(300))) => Refused;
    a_bare_cr_in_a_long_key_is_refused: get(&format!("X-Api-Key: {0}\r{0}\r\n", "k".repeat(300))) => Refused;
    two_crs_behind_a_long_key_are_refused: get(&format!("X-Api-Key: {}\r\r\n", "k".repeat(300))) => Refused;
    a_delete_in_a_long_key_is_refused: get(&format!("X-Api-Key: {0}\x7f{0}\r\n", "k".repeat(300))) => Refused;
    a_long_key_beyond_ascii_is_refused: get(&format!("X-Api-Key: {0}\u{e4}{0}\r\n", "k".repeat(300))) => Refused;
    a_no_break_space_behind_a_long_key_is_refused: get(&format!("X-Api-Key: {}\u{a0}\r\n", "k".repeat(300))) => Refused;
    a_folded_long_key_is_refused: get(&format!("X-Api-Key: {0}\r\n {0}\r\n", "k".repeat(300))) => Refused;
    a_line_feed_alone_ends_a_long_key: format!("GET / HTTP/1.1\nX-Api-Key: {}\n\n", "k".repeat(300)) => Requests(1, &"k".repeat(300));
    space_around_a_long_key_is_cut: get(&format!("X-Api-Key: \t {}{}\t\r\n", "k".repeat(300), " ".repeat(300))) => Requests(1, &"k".repeat(300));
    much_space_behind_a_key_is_cut: get(&format!("X-Api-Key: k{}\r\n", " \t".repeat(300))) => Requests(1, "k");
    a_key_behind_much_space_is_refused: get(&format!("X-Api-Key:{}k\r\n", " ".repeat(300))) => Refused;
    much_space_and_no_key_is_refused: get(&format!("X-Api-Key:{}\r\n", " ".repeat(300))) => Refused;
    a_long_value_of_another_field_is_fine: get(&format!("X-Api-Keys: {0} {0}\r\nX-Api-Key: k\r\n", "k".repeat(300))) => Requests(1, "k");
    a_long_length_is_refused: get(&format!("Content-Length: {}\r\n", "0".repeat(300))) => Refused;
    a_long_coding_is_refused: get(&format!("Transfer-Encoding: {}chunked\r\n", " ".repeat(300))) => Refused;
    a_body_behind_a_long_key_is_one: format!("POST / HTTP/1.1\r\nX-Api-Key: {}\r\nContent-Length: 2\r\n\r\nabGET / HTTP/1.1\r\nX-Api-Key: k\r\n\r\n", "k".repeat(300)) => Requests(2, "k");

    // Content-Length.
    two_lengths_are_refused: get("Content-Length: 1\r\nContent-Length: 2\r\n") => Refused;
    the_same_length_twice_is_refused: get("Content-Length: 1\r\nContent-Length: 1\r\n") => Refused;
    a_list_of_lengths_is_refused: get("Content-Length: 5, 5\r\n") => Refused;
    a_length_with_plus_is_refused: get("Content-Length: +5\r\n") => Refused;
    a_negative_length_is_refused: get("Content-Length: -5\r\n") => Refused;
    a_length_with_a_space_inside_is_refused: get("Content-Length: 5 5\r\n") => Refused;
    a_length_in_hex_is_refused: get("Content-Length: 0x5\r\n") => Refused;
    a_length_in_letters_is_refused: get("Content-Length: a\r\n") => Refused;
    an_empty_length_is_refused: get("Content-Length:\r\n") => Refused;
    a_huge_length_is_refused: get("Content-Length: 18446744073709551617\r\n") => Refused;
    a_length_beyond_2_to_62_is_refused: get("Content-Length: 4611686018427387905\r\n") => Refused;
    a_length_of_2_to_62_is_fine: get("X-Api-Key: k\r\nContent-Length: 4611686018427387904\r\n") => Requests(1, "k");
    a_length_with_an_underscore_is_refused: get("Content_Length: 5\r\n") => Refused;
    a_length_with_space_around_it_is_fine: "POST / HTTP/1.1\r\ncontent-length: \t 2 \r\n\r\nabGET / HTTP/1.1\r\nX-Api-Key: k\r\n\r\n" => Requests(2, "k");
    zeros_before_a_length_are_fine: "POST / HTTP/1.1\r\nContent-Length: 0002\r\n\r\nabGET / HTTP/1.1\r\nX-Api-Key: k\r\n\r\n" => Requests(2, "k");
    a_length_of_zero_is_fine: "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\nX-Api-Key: k\r\n\r\n" => Requests(2, "k");
    a_length_and_chunks_are_refused: get("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") => Refused;
    chunks_and_a_length_are_refused: get("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n") => Refused;
    chunks_and_a_length_of_zero_are_refused: get("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n") => Refused;
    a_body_of_connect_is_refused: "CONNECT a:1 HTTP/1.1\r\nContent-Length: 5\r\n\r\n" => Refused;
    chunks_of_connect_are_refused: "CONNECT a:1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" => Refused;
    connect_goes_on_as_http: "CONNECT a:1 HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nX-Api-Key: k\r\n\r\n" => Requests(2, "k");

    // Transfer-Encoding.
    xchunked_is_refused: get("Transfer-Encoding: xchunked\r\n") => Refused;
    chunked_then_gzip_is_refused: get("Transfer-Encoding: chunked, gzip\r\n") => Refused;
    gzip_then_chunked_is_refused: get("Transfer-Encoding: gzip, chunked\r\n") => Refused;
    gzip_is_refused: get("Transfer-Encoding: gzip\r\n") => Refused;
    identity_is_refused: get("Transfer-Encoding: identity\r\n") => Refused;
    an_empty_coding_is_refused: get("Transfer-Encoding:\r\n") => Refused;
    chunked_in_quotes_is_refused: get("Transfer-Encoding: \"chunked\"\r\n") => Refused;
    chunked_with_a_comma_is_refused: get("Transfer-Encoding: chunked,\r\n") => Refused;
    chunked_twice_is_refused: get("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n") => Refused;
    chunked_with_an_underscore_is_refused: get("Transfer_Encoding: chunked\r\n") => Refused;
    chunked_in_http_1_0_is_refused: "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" => Refused;
    chunked_with_a_vertical_tab_is_refused: get("Transfer-Encoding: \x0bchunked\r\n") => Refused;
    chunked_in_any_case_is_fine: "POST / HTTP/1.1\r\nTRANSFER-encoding:  ChunkeD \r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nX-Api-Key: k\r\n\r\n" => Requests(2, "k");

    // Several requests.
    a_request_in_a_body_is_none: "POST / HTTP/1.1\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nX-Api-Key: k\r\n\r\n" => Requests(2, "k");
    each_request_has_its_own_key: "GET / HTTP/1.1\r\nX-Api-Key: k\r\n\r\nGET / HTTP/1.1\r\n\r\n" => Keyless(2);
    fifty_requests_are_fifty: get("X-Api-Key: k\r\n").repeat(50) => Requests(50, "k");
    rubbish_behind_a_request_is_refused: "GET / HTTP/1.1\r\n\r\nrubbish\r\n\r\n" => RefusedAfter(1);
    lengths_are_not_kept_for_the_next_request: "POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nxPOST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nxGET / HTTP/1.1\r\nX-Api-Key: k\r\n\r\n" => Requests(3, "k");
}

#[test]
fn sources_count_in_their_order_whatever_the_order_of_fields() {
    let (header, token) = ("X-Api-Key: h\r\n", "Api_Token: t\r\n");
    let bearer = "Authorization: Bearer b\r\n";
    for fields in [
        [header, token, bearer],
        [token, bearer, header],
        [bearer, header, token],
    ] {
        assert_eq!(
            keys(&requests(get(&fields.concat()).as_bytes())),
            [key(1, "h")]
        );
    }
    assert_eq!(
        keys(&requests(get(&[token, bearer].concat()).as_bytes())),
        [key(2, "b")]
    );
    assert_eq!(keys(&requests(get(token).as_bytes())), [key(4, "t")]);
    let basic = "Authorization: Basic YTpi\r\n";
    assert_eq!(
        keys(&requests(get(&[token, basic].concat()).as_bytes())),
        [key(3, "YTpi")]
    );
}

#[test]
fn a_malformed_direction_stays_malformed() {
    let mut direction = Direction::requests(rules());
    direction.segment(b"rubbish\r\n");
    direction.segment(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(direction.seen, [Event::Malformed, Event::Malformed]);
}

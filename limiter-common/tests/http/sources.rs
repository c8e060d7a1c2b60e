// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests the sources of keys that can be configured.

use limiter_common::{
    abi::MAX_KEY,
    http::{Rules, RulesError, Source, is_basic, is_key},
};
use proptest::prelude::*;

use crate::drive::{Direction, Event, SECRET, base64, key, keys};

fn rules(sources: &[Source<'_>]) -> Result<Rules, RulesError> {
    Rules::request(sources, SECRET, 16_384, 128)
}

#[test]
fn sources_that_cannot_be_used_are_refused() {
    use Source::{Basic, BasicUser, Bearer, Header};
    let long = "x".repeat(33);
    for (sources, error) in [
        (&[Header("")][..], RulesError::NotAName(0)),
        (&[Bearer, Header("x api key")], RulesError::NotAName(1)),
        (&[Header("x:")], RulesError::NotAName(0)),
        (&[Header("\u{e4}")], RulesError::NotAName(0)),
        (&[Header(&long)], RulesError::NameTooLong(0)),
        (&[Header("AUTHORIZATION")], RulesError::Authorization(0)),
        (
            &[Bearer, Basic, Header("authorization")],
            RulesError::Authorization(2),
        ),
        (&[Header("Content-Length")], RulesError::Framing(0)),
        (&[Header("transfer_encoding")], RulesError::Framing(0)),
        (&[Header("a"), Header("A")], RulesError::Repeated(1)),
        (
            &[Header("a-b"), Bearer, Header("a_B")],
            RulesError::Repeated(2),
        ),
        (&[Bearer, Bearer], RulesError::Repeated(1)),
        (&[Basic, Basic], RulesError::Repeated(1)),
        (&[BasicUser, Basic, BasicUser], RulesError::Repeated(2)),
        (&[Header("content.length")], RulesError::Framing(0)),
        (&[Header("a-b"), Header("a!B")], RulesError::Repeated(1)),
        (
            &[
                Header("a"),
                Header("b"),
                Header("c"),
                Header("d"),
                Header("e"),
            ],
            RulesError::TooMany(4),
        ),
    ] {
        assert_eq!(rules(sources), Err(error), "{sources:?}");
    }
}

#[test]
fn the_maximum_number_of_sources_is_found() {
    let long = "Name-of-32-bytes-and-not-one-mor";
    let sources = [
        Source::Header("a"),
        Source::Header(long),
        Source::Bearer,
        Source::Header("A-b"),
        Source::Basic,
        Source::Header("-x"),
        Source::BasicUser,
    ];
    let rules = rules(&sources).unwrap();
    for (field, rank) in [
        ("A: k", 1),
        ("name-OF-32-bytes_and-not-one-mor: k", 2),
        ("Authorization: Bearer k", 3),
        ("a-B: k", 4),
        ("-X: k", 6),
        ("_x: k", 6),
    ] {
        let mut direction = Direction::requests(rules);
        direction.segment(format!("GET / HTTP/1.1\r\n{field}\r\n\r\n").as_bytes());
        assert_eq!(keys(&direction.seen), [key(rank, "k")], "{field}");
    }
    let mut direction = Direction::requests(rules);
    direction.segment(b"GET / HTTP/1.1\r\nAuthorization: Basic YTpi\r\n\r\n");
    assert_eq!(keys(&direction.seen), [key(5, "YTpi")]);
}

#[test]
fn a_name_that_begins_with_another_byte_is_found_in_every_spelling() {
    // Some of these names belong to the same entry of the index, because their first bytes have the
    // same lowest five bits.
    let sources = ["a!b", "b!b", "k!b", "-xy"].map(Source::Header);
    let mut orders = vec![sources.to_vec(), sources.iter().rev().copied().collect()];
    orders.push(["-xy", "+yz", "a!b"].map(Source::Header).to_vec());
    orders.push(["_yz", "n-b", "~xy"].map(Source::Header).to_vec());
    for sources in orders {
        let rules = rules(&sources).unwrap();
        for byte in (b'!'..=b'~').filter(|byte| !byte.is_ascii_alphanumeric() && *byte != b':') {
            for (rank, source) in (1..).zip(&sources) {
                let Source::Header(name) = source else {
                    unreachable!("headers only");
                };
                let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "\0");
                let name = name.replace('\0', char::from(byte).encode_utf8(&mut [0; 4]));
                let mut direction = Direction::requests(rules);
                direction.segment(format!("GET / HTTP/1.1\r\n{name}: k\r\n\r\n").as_bytes());
                assert_eq!(
                    keys(&direction.seen),
                    [key(rank, "k")],
                    "{name} of {sources:?}"
                );
            }
        }
    }
}

#[test]
fn a_user_name_is_found_with_and_without_the_credentials_as_a_key() {
    let field = |text: &str| {
        format!(
            "GET / HTTP/1.1\r\nAuthorization: Basic {}\r\n\r\n",
            base64(text.as_bytes())
        )
    };
    let seen = |sources: &[Source<'_>], request: &str| {
        let mut direction = Direction::requests(rules(sources).unwrap());
        direction.segment(request.as_bytes());
        keys(&direction.seen)
    };
    let (basic, user) = (Source::Basic, Source::BasicUser);
    let value = base64(b"name:secret");
    assert_eq!(seen(&[user], &field("name:secret")), [key(1, "name")]);
    assert_eq!(
        seen(&[user, basic], &field("name:secret")),
        [key(1, "name")]
    );
    assert_eq!(
        seen(&[basic, user], &field("name:secret")),
        [key(1, &value)]
    );
    assert_eq!(seen(&[user], &field(":secret")), [None]);
    assert_eq!(seen(&[user, basic], &field(":s")), [key(2, &base64(b":s"))]);
    // If there is no colon, applications that split at the first colon use the whole text.
    assert_eq!(seen(&[user], &field("name")), [key(1, "name")]);
    assert_eq!(seen(&[user], &field("name:a:b")), [key(1, "name")]);
    // A user name with two passwords is one key, and another user name is another key.
    let twice = |one: &str, other: &str| {
        let (one, other) = (base64(one.as_bytes()), base64(other.as_bytes()));
        format!(
            "GET / HTTP/1.1\r\nAuthorization: Basic {one}\r\nAuthorization: Basic {other}\r\n\r\n"
        )
    };
    assert_eq!(seen(&[user], &twice("name:a", "name:b")), [key(1, "name")]);
    for (sources, request) in [
        (&[user][..], twice("name:a", "nama:a")),
        (&[user, basic], twice("name:a", "name:b")),
        (&[user], twice(":a", "name:a")),
    ] {
        let mut direction = Direction::requests(rules(sources).unwrap());
        direction.segment(request.as_bytes());
        assert_eq!(direction.seen, [Event::Malformed], "{sources:?} {request}");
    }
}

#[test]
fn a_name_that_differs_in_one_byte_is_another() {
    const NAME: &str = "name-of-32-bytes-and-not-one-mor";
    let rules = rules(&[Source::Header(NAME)]).unwrap();
    for at in 0..NAME.len() {
        for other in ["q", "7", "~"] {
            if other == "~" && NAME.as_bytes()[at] == b'-' {
                continue;
            }
            let mut name = NAME.to_owned();
            name.replace_range(at..=at, other);
            let mut direction = Direction::requests(rules);
            direction.segment(format!("GET / HTTP/1.1\r\n{name}: k\r\n\r\n").as_bytes());
            assert_eq!(keys(&direction.seen), [None], "{name}");
        }
    }
}

#[test]
fn names_of_one_length_and_first_letter_are_distinguished() {
    let sources = ["x-key-a", "x-key-b", "X-Key-C", "xxkey-d"].map(Source::Header);
    for (rank, name) in (1..).zip(["x-key-a", "x-key-b", "x-key-c", "xxkey-d"]) {
        let mut direction = Direction::requests(rules(&sources).unwrap());
        direction.segment(format!("GET / HTTP/1.1\r\n{name}: k\r\nx-key-e: l\r\n\r\n").as_bytes());
        assert_eq!(keys(&direction.seen), [key(rank, "k")], "{name}");
    }
}

#[test]
fn credentials_that_are_no_source_are_no_key() {
    let long = "x".repeat(400);
    for (sources, value) in [
        (&[Source::Bearer][..], "Basic !"),
        (&[Source::Basic], "Bearer a b"),
        (&[], "Bearer k"),
        (&[Source::Basic], &format!("Bearer {long}")),
        (&[Source::Bearer], &format!("Basic {long}")),
        (&[], &format!("Bearer {long}")),
    ] {
        let mut direction = Direction::requests(rules(sources).unwrap());
        direction.segment(format!("GET / HTTP/1.1\r\nAuthorization: {value}\r\n\r\n").as_bytes());
        assert_eq!(keys(&direction.seen), [None], "{sources:?} {value}");
    }
}

proptest! {
    #[test]
    fn values_that_can_be_keys_are_found(value in "[ -~]{1,140}") {
        let mut direction = Direction::requests(crate::drive::rules());
        let request = format!("GET / HTTP/1.1\r\nX-Api-Key: {value}\r\n\r\n");
        direction.segment(request.as_bytes());
        let found = matches!(direction.seen[..], [Event::Head { key: Some(_), .. }]);
        // Blanks around a value do not belong to it.
        let trimmed = value.trim().as_bytes();
        // A value that is too long for a key is an unknown key. Therefore a key is found in this
        // case too.
        let kept = &trimmed[..trimmed.len().min(MAX_KEY)];
        prop_assert_eq!(found, is_key(kept) && !trimmed.contains(&b' '));
    }

    #[test]
    fn credentials_that_can_be_keys_are_found(value in "([A-Za-z0-9+/]{4}){0,4}[A-Za-z0-9+/=]{0,4}") {
        let mut direction = Direction::requests(rules(&[Source::Basic]).unwrap());
        let request = format!("GET / HTTP/1.1\r\nAuthorization: Basic {value}\r\n\r\n");
        direction.segment(request.as_bytes());
        let found = matches!(direction.seen[..], [Event::Head { key: Some(_), .. }]);
        prop_assert_eq!(found, is_basic(value.as_bytes()));
    }
}

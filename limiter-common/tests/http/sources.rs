//! Which sources can be configured.

use limiter_common::http::{Rules, RulesError, Source, is_basic, is_key};
use proptest::prelude::*;

use crate::drive::{Direction, SECRET, key, keys};

fn rules(sources: &[Source<'_>]) -> Result<Rules, RulesError> {
    Rules::request(sources, SECRET, 16_384, 128)
}

#[test]
fn sources_that_cannot_be_looked_for_are_refused() {
    use Source::{Basic, Bearer, Header};
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
fn as_many_sources_as_there_can_be_are_found() {
    let long = "Name-of-32-bytes-and-not-one-mor";
    let sources = [
        Source::Header("a"),
        Source::Header(long),
        Source::Bearer,
        Source::Header("A-b"),
        Source::Basic,
        Source::Header("-x"),
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
fn a_name_that_differs_in_one_byte_is_another() {
    const NAME: &str = "name-of-32-bytes-and-not-one-mor";
    let rules = rules(&[Source::Header(NAME)]).unwrap();
    for at in 0..NAME.len() {
        for other in ["q", "7", "~"] {
            let mut name = NAME.to_owned();
            name.replace_range(at..=at, other);
            let mut direction = Direction::requests(rules);
            direction.segment(format!("GET / HTTP/1.1\r\n{name}: k\r\n\r\n").as_bytes());
            assert_eq!(keys(&direction.seen), [None], "{name}");
        }
    }
}

#[test]
fn names_of_one_length_and_first_letter_are_told_apart() {
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
    fn what_can_be_a_key_is_found(value in "[ -~]{1,140}") {
        let mut direction = Direction::requests(crate::drive::rules());
        let request = format!("GET / HTTP/1.1\r\nX-Api-Key: {value}\r\n\r\n");
        direction.segment(request.as_bytes());
        let found = matches!(direction.seen[..], [crate::drive::Seen::Head { key: Some(_), .. }]);
        // A value's blanks around it are no part of it.
        let trimmed = value.trim();
        prop_assert_eq!(found, is_key(trimmed.as_bytes()));
    }

    #[test]
    fn what_can_be_a_key_of_basic_is_found(value in "([A-Za-z0-9+/]{4}){0,4}[A-Za-z0-9+/=]{0,4}") {
        let mut direction = Direction::requests(crate::drive::rules());
        let request = format!("GET / HTTP/1.1\r\nAuthorization: Basic {value}\r\n\r\n");
        direction.segment(request.as_bytes());
        let found = matches!(direction.seen[..], [crate::drive::Seen::Head { key: Some(_), .. }]);
        prop_assert_eq!(found, is_basic(value.as_bytes()));
    }
}

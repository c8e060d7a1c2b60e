// SPDX-License-Identifier: MIT OR Apache-2.0

//! Generates byte streams that a client might send to find a difference between two parsers. The
//! requests consist of parts. Most of the parts are correct, and parsers may disagree on the
//! others.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

#[path = "wild/parts.rs"]
mod parts;

use parts::*;

const CONTENT: [&str; 6] = [
    "hello",
    "",
    "GET /in HTTP/1.1\r\nHost: h\r\nX-Api-Key: gamma\r\n\r\n",
    "0\r\n\r\n",
    "0\r\n\r\nGET /in HTTP/1.1\r\nHost: h\r\nX-Api-Key: gamma\r\n\r\n",
    "\r\n\r\n",
];

impl Part {
    /// Generates an odd part in one case out of `times`, and a plain part in the other cases.
    fn odd_once_in(self, times: u32) -> impl Strategy<Value = Vec<u8>> {
        let plain: Vec<Vec<u8>> = self
            .plain
            .iter()
            .map(|text| text.as_bytes().to_vec())
            .collect();
        let odd: Vec<Vec<u8>> = self.odd.iter().map(|bytes| bytes.to_vec()).collect();
        prop_oneof![times - 1 => select(plain), 1 => select(odd)]
    }
}

/// Concatenates the parts.
fn joined(parts: impl Strategy<Value = Vec<Vec<u8>>>) -> impl Strategy<Value = Vec<u8>> {
    parts.prop_map(|parts| parts.concat())
}

/// Generates a field that may hold a key.
fn key_field() -> impl Strategy<Value = Vec<u8>> {
    let header = (
        NAME.odd_once_in(30),
        BEFORE_VALUE.odd_once_in(30),
        VALUE.odd_once_in(40),
        AFTER_VALUE.odd_once_in(30),
    );
    let authorization = || {
        select(vec![
            "Authorization",
            "Authorization",
            "authorization",
            "Authorization ",
        ])
        .prop_map(|name| name.as_bytes().to_vec())
    };
    let bearer = (
        authorization(),
        BEFORE_VALUE.odd_once_in(30),
        SCHEME.odd_once_in(12),
        VALUE.odd_once_in(40),
        AFTER_VALUE.odd_once_in(30),
    );
    let basic = (
        authorization(),
        BEFORE_VALUE.odd_once_in(30),
        BASIC.odd_once_in(12),
        AFTER_VALUE.odd_once_in(30),
    );
    prop_oneof![
        6 => header.prop_map(|(name, before, value, after)| [name, before, value, after].concat()),
        2 => bearer.prop_map(|(name, before, scheme, value, after)| {
            [name, before, scheme, value, after].concat()
        }),
        1 => basic.prop_map(|(name, before, value, after)| [name, before, b"Basic ".to_vec(), value, after].concat()),
    ]
}

/// Generates a field whose length is close to the size of the carry, to the size of a window, or to
/// the maximum size of a head.
fn long_field() -> impl Strategy<Value = Vec<u8>> {
    let name = select(vec![
        "X: ",
        "X-Api-Key: ",
        "Authorization: Bearer ",
        "Authorization: Token ",
        "Content-Length: ",
    ]);
    let length = prop_oneof![3 => 100usize..280, 1 => 3900usize..4300, 1 => 16_000usize..16_500];
    (
        name,
        select(vec![b' ', b'0', b'y']),
        length,
        VALUE.odd_once_in(40),
    )
        .prop_map(|(name, filler, length, value)| {
            [name.as_bytes(), &vec![filler; length], &value].concat()
        })
}

fn field() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![30 => FIELD.odd_once_in(16), 1 => long_field()]
}

/// Generates a body, and the fields that state its length.
fn framed() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<u8>)> {
    let content = || select(CONTENT.to_vec()).prop_map(|text| text.as_bytes().to_vec());
    let none = Just((Vec::new(), Vec::new())).boxed();
    let length = (
        LENGTH_NAME.odd_once_in(24),
        content(),
        AFTER_VALUE.odd_once_in(50),
    )
        .prop_map(|(name, content, after)| {
            let number = content.len().to_string().into_bytes();
            (vec![[name, number, after].concat()], content)
        })
        .boxed();
    let odd_length = (LENGTH_NAME.odd_once_in(24), content(), 0usize..24)
        .prop_map(|(name, content, form)| {
            let number = odd_number(content.len(), form);
            (vec![[name, number].concat()], content)
        })
        .boxed();
    let chunks = || {
        let data = vec(CHUNK.odd_once_in(20), 0..4).prop_map(|chunks| chunks.concat());
        (
            data,
            LAST_CHUNK.odd_once_in(24),
            TRAILER.odd_once_in(20),
            LAST_BLANK.odd_once_in(32),
        )
            .prop_map(|(data, last, trailer, blank)| [data, last, trailer, blank].concat())
    };
    let encoding = || {
        (ENCODING_NAME.odd_once_in(24), CODING.odd_once_in(16))
            .prop_map(|(name, coding)| [name, coding].concat())
    };
    let chunked = (encoding(), chunks())
        .prop_map(|(field, body)| (vec![field], body))
        .boxed();
    let both = (encoding(), chunks(), 0usize..30, any::<bool>())
        .prop_map(|(field, body, length, first)| {
            let mut fields = vec![field, format!("Content-Length: {length}").into_bytes()];
            if first {
                fields.reverse();
            }
            (fields, body)
        })
        .boxed();
    prop_oneof![6 => none, 5 => length, 2 => odd_length, 6 => chunked, 1 => both]
}

/// Returns a wrong or unusual spelling of `length`. `form` selects the spelling. Some spellings are
/// not numbers, and parsers read others as different numbers.
fn odd_number(length: usize, form: usize) -> Vec<u8> {
    let beyond = (1u128 << 64) + length as u128;
    match form {
        0 => format!("{length}\r\nContent-Length: {length}"),
        1 => format!("{length}\r\nContent-Length: 0"),
        2 => format!("0\r\nContent-Length: {length}"),
        3 => format!("{length}, {length}"),
        4 => format!("{length},{length}"),
        5 => format!("{length}, 0"),
        6 => format!("+{length}"),
        7 => format!("-{length}"),
        8 => format!("0{length}"),
        9 => format!("0x{length:x}"),
        10 => format!("{length}.0"),
        11 => format!("{length};"),
        12 => format!("{length} 0"),
        13 => format!("{length}_0"),
        14 => format!("\x0b{length}"),
        15 => format!("{length}\0"),
        16 => format!("{length}\r\n 0"),
        17 => format!("\"{length}\""),
        18 => format!("{beyond}"),
        19 => format!("{}", length + 1),
        20 => format!("{}", length.saturating_sub(1)),
        21 => format!("{length}e0"),
        22 => "0".repeat(300),
        _ => String::new(),
    }
    .into_bytes()
}

/// Generates a request, or bytes that resemble one.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let fields = (
        vec(field(), 0..3),
        vec(key_field(), 0..3),
        prop::bool::weighted(0.8),
    );
    (
        BEFORE.odd_once_in(40),
        START.odd_once_in(20),
        fields,
        framed(),
        any::<[Index; 4]>(),
        vec(LINE_END.odd_once_in(100), 10),
        BLANK.odd_once_in(60),
    )
        .prop_map(
            |(before, start, (plain, keys, host), (framing, body), places, ends, blank)| {
                let mut lines = plain;
                if host {
                    lines.insert(0, b"Host: h".to_vec());
                }
                for (line, place) in keys.into_iter().chain(framing).zip(places) {
                    lines.insert(place.index(lines.len() + 1), line);
                }
                lines.insert(0, start);
                let head: Vec<u8> = lines
                    .into_iter()
                    .zip(ends)
                    .flat_map(|(line, end)| [line, end].concat())
                    .collect();
                [before, head, blank, body].concat()
            },
        )
}

/// Bytes whose debug output shows printable bytes as text.
#[derive(Clone, PartialEq, Eq)]
pub struct Stream(pub Vec<u8>);

impl std::fmt::Debug for Stream {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "b\"{}\"", self.0.escape_ascii())
    }
}

/// Generates streams of requests. Some streams are also changed in random places, and some are cut
/// short.
pub fn stream() -> impl Strategy<Value = Stream> {
    let change = prop_oneof![
        3 => select(b"\r\n\t\0 :;,_-=A0fx\x0b\x1c\x7f\x85\xa0\xff".to_vec()).prop_map(|byte| vec![byte]),
        1 => Just(Vec::new()),
        1 => select(vec!["\r\n", "\r\n\r\n", "\r\n ", "HTTP/1.1", "X-Api-Key: beta\r\n"])
            .prop_map(|text| text.as_bytes().to_vec()),
    ];
    let changes = prop_oneof![
        5 => Just(Vec::new()),
        1 => vec((any::<Index>(), 0usize..3, change), 1..3),
    ];
    let broken = prop_oneof![9 => Just(None), 1 => any::<Index>().prop_map(Some)];
    (joined(vec(request(), 1..4)), changes, broken).prop_map(|(mut bytes, changes, broken)| {
        for (at, removed, change) in changes {
            let at = at.index(bytes.len() + 1);
            let end = (at + removed).min(bytes.len());
            bytes.splice(at..end, change);
        }
        if let Some(at) = broken {
            bytes.truncate(at.index(bytes.len() + 1));
        }
        Stream(bytes)
    })
}

/// The factor by which a long run multiplies the number of cases.
const LONG: u32 = 20;

/// Returns the number in the environment variable `name`, if it is set.
fn given(name: &str) -> Option<u32> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|error| panic!("{name} is no number: {error}")))
}

/// Returns a runner for `cases` cases. The cases are the same in each run unless `LIMITER_SEED`
/// sets another seed. `LIMITER_LONG` multiplies the number of cases by [`LONG`], and
/// `LIMITER_CASES` sets the number.
pub fn runner(cases: u32) -> TestRunner {
    let long = std::env::var_os("LIMITER_LONG").is_some();
    let seed = given("LIMITER_SEED").unwrap_or(0);
    // The harness shows this line if the test fails.
    println!("LIMITER_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: given("LIMITER_CASES").unwrap_or(if long { cases * LONG } else { cases }),
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

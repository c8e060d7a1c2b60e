// SPDX-License-Identifier: MIT OR Apache-2.0

//! Generates requests whose events are known, and mutations of them.

use limiter_common::http::{BODY_CHUNKED, BODY_EMPTY, BODY_LENGTH, METHOD_HEAD, METHOD_OTHER};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use limiter_common::siphash::siphash128;

use crate::{
    agreement::folded,
    drive::{Event, Keys, SECRET, base64},
};

/// The part of a request after its head.
#[derive(Clone, Debug)]
pub enum Body {
    Empty,
    Length(Vec<u8>),
    Chunked(Vec<(Vec<u8>, &'static str)>, &'static str),
}

/// A request whose events are known.
#[derive(Clone, Debug)]
pub struct Request {
    pub before: &'static str,
    pub method: &'static str,
    pub target: String,
    pub fields: Vec<(String, String)>,
    /// The keys, each with the rank of its source. All ranks are different. The key for `Basic` is
    /// the text before it is encoded in base64.
    pub keys: Vec<(u32, String)>,
    pub key_position: Index,
    pub line_end: &'static str,
    pub body: Body,
}

impl Request {
    /// Appends the bytes of the request to `bytes`, and the expected events to `seen`.
    pub fn write(&self, bytes: &mut Vec<u8>, seen: &mut Vec<Event>) {
        let from = bytes.len() as u64;
        let end = self.line_end;
        bytes.extend_from_slice(self.before.as_bytes());
        bytes.extend(format!("{} {} HTTP/1.1{end}", self.method, self.target).bytes());
        let mut fields: Vec<String> = self
            .fields
            .iter()
            .map(|(name, value)| format!("{name}:{value}{end}"))
            .collect();
        for (rank, value) in &self.keys {
            let line = match rank {
                1 => format!("X-API-Key: {value}{end}"),
                2 => format!("authorization:Bearer  {value} {end}"),
                3 => format!("Authorization: basic {}{end}", base64(value.as_bytes())),
                _ => format!("api_token:\t{value}\t{end}"),
            };
            fields.insert(self.key_position.index(fields.len() + 1), line);
        }
        let mut keys: Keys = Default::default();
        let mut note = |rank: usize, value: &str| {
            keys[rank] = (!value.is_empty()).then(|| siphash128(SECRET, value.as_bytes()));
        };
        for (rank, value) in &self.keys {
            if *rank == 3 {
                note(2, &base64(value.as_bytes()));
                note(4, value.split_once(':').map_or(value, |(user, _)| user));
            } else {
                note(*rank as usize - 1, value);
            }
        }
        let (body, length) = match &self.body {
            Body::Empty => (BODY_EMPTY, 0),
            Body::Length(content) => {
                fields.push(format!("Content-Length: {}{end}", content.len()));
                (
                    if content.is_empty() {
                        BODY_EMPTY
                    } else {
                        BODY_LENGTH
                    },
                    content.len(),
                )
            }
            Body::Chunked(..) => {
                fields.push(format!("Transfer-Encoding: Chunked{end}"));
                (BODY_CHUNKED, 0)
            }
        };
        bytes.extend(fields.concat().bytes());
        bytes.extend(end.bytes());
        seen.push(Event::Head {
            from,
            to: bytes.len() as u64,
            method: if self.method == "HEAD" {
                METHOD_HEAD
            } else {
                METHOD_OTHER
            },
            status: 0,
            key: (1..)
                .zip(keys)
                .find_map(|(rank, key)| key.map(|key| (rank, key))),
            keys,
            body,
            length: length as u64,
        });
        match &self.body {
            Body::Empty => {}
            Body::Length(content) => bytes.extend_from_slice(content),
            Body::Chunked(chunks, trailers) => {
                for (content, extension) in chunks {
                    bytes.extend(format!("{:x}{extension}\r\n", content.len()).bytes());
                    bytes.extend_from_slice(content);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend(format!("0\r\n{trailers}\r\n").bytes());
            }
        }
    }
}

/// Returns the bytes of several consecutive requests, and the expected events.
pub fn write(requests: &[Request]) -> (Vec<u8>, Vec<Event>) {
    let (mut bytes, mut seen) = (Vec::new(), Vec::new());
    for request in requests {
        request.write(&mut bytes, &mut seen);
    }
    (bytes, seen)
}

/// Generates the content of a body or a chunk. The length of the content is close to the size of a
/// word, of the carry, or of a window.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![4 => 0usize..40, 2 => 200usize..600, 1 => 3900usize..9000];
    (length, any::<u8>()).prop_map(|(length, first)| {
        let text = b"\r\n\r\nGET / HTTP/1.1\r\nX-Api-Key: body\r\n\r\n0\r\n\r\n";
        text.iter()
            .copied()
            .cycle()
            .skip(first as usize)
            .take(length)
            .collect()
    })
}

fn chunks() -> impl Strategy<Value = Body> {
    let extension = select(vec!["", ";a", ";a=\"b c\"", "; name=value"]);
    let chunk = (
        content().prop_filter("the last chunk", |chunk| !chunk.is_empty()),
        extension,
    );
    let trailers = select(vec![
        "",
        "A: b\r\n",
        "X-Api-Keys: trailer\r\nContent-Length: 7\r\n",
    ]);
    (vec(chunk, 0..5), trailers).prop_map(|(chunks, trailers)| Body::Chunked(chunks, trailers))
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[ \t]{0,2}[!-~][ -~\t]{0,60}",
        1 => "[ -~]{230,300}",
        1 => "[ -~\u{a0}-\u{2ff}]{0,90}",
    ]
}

/// Generates a field that does not matter.
fn field() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![
        4 => "[A-Za-z0-9-]{1,20}",
        1 => "[!#$%&'*+.^_`|~a-z]{1,50}",
        1 => select(vec!["X-Api-Keyx", "x-api-ke", "authorizatio", "content-lengths", "Api", "Host"])
            .prop_map(str::to_owned),
    ];
    let matters = [
        "x-api-key",
        "api-token",
        "authorization",
        "content-length",
        "transfer-encoding",
    ];
    let name = name.prop_filter("a field that matters", move |name| {
        !matters.contains(&folded(name).as_str())
    });
    (name, value())
}

/// Generates a key, or a value that is too long for a key. It may contain a colon.
fn key() -> impl Strategy<Value = String> {
    let short = prop_oneof!["[!-~]{1,40}", "[!-~]{120,128}", "[a-z]{0,9}:[a-z]{1,9}"];
    let long = prop_oneof![3 => 129usize..280, 1 => 300usize..600, 1 => 4000usize..4200];
    let long = (long, "[!-~]{8,24}")
        .prop_map(|(length, part)| part.chars().cycle().take(length).collect::<String>());
    prop_oneof![6 => short, 1 => long]
}

/// Generates a request that every server understands.
pub fn request() -> impl Strategy<Value = Request> {
    let body =
        prop_oneof![3 => Just(Body::Empty), 2 => content().prop_map(Body::Length), 2 => chunks()];
    let keys = vec((1u32..5, key()), 0..4).prop_map(|keys| {
        let mut distinct: Vec<(u32, String)> = Vec::new();
        for (rank, key) in keys {
            // `Bearer` and `Basic` are in the same field, so a request has only one of them.
            let field = |rank| if rank == 3 { 2 } else { rank };
            if !distinct
                .iter()
                .any(|(other, _)| field(*other) == field(rank))
            {
                distinct.push((rank, key));
            }
        }
        distinct
    });
    let target =
        prop_oneof![6 => "/[!-~]{0,40}", 1 => "/[a-z?&=]{200,700}", 1 => "http://a/[a-z]{0,9}"];
    (
        select(vec!["", "", "", "\r\n", "\n\r\n"]),
        select(vec!["GET", "HEAD", "POST", "PROPPATCH", "VERSION-CONTROL"]),
        target,
        vec(field(), 0..9),
        keys,
        any::<Index>(),
        select(vec!["\r\n", "\r\n", "\n"]),
        body,
    )
        .prop_map(
            |(before, method, target, fields, keys, key_position, line_end, body)| Request {
                before,
                method,
                target,
                fields,
                keys,
                key_position,
                line_end,
                body,
            },
        )
}

/// Generates requests, and changes them in one or several places.
pub fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let bytes = select(b"\r\n\t\0 :;,_-=A0fx\x0b\x1c\x7f\x85\xa0\xff".to_vec());
    let pieces = select(vec![
        "\r\n",
        "\n",
        "\r\n\r\n",
        "X-Api-Key: other\r\n",
        "Content-Length: 3\r\n",
        "\r\n ",
        " : ",
        "Transfer-Encoding: chunked\r\n",
        "Authorization: Bearer o\r\n",
        "Authorization: Basic YTpi\r\n",
        "X.Api-Key: other\r\n",
        "====",
        "HTTP/1.0",
        "HEAD ",
        "0\r\n\r\n",
    ]);
    let change = prop_oneof![
        4 => bytes.prop_map(|byte| vec![byte]),
        2 => pieces.prop_map(|piece| piece.as_bytes().to_vec()),
        1 => Just(Vec::new()),
    ];
    let changes = vec((any::<Index>(), 0usize..4, change), 1..4);
    (vec(request(), 1..3), changes).prop_map(|(requests, changes)| {
        let (mut bytes, _) = write(&requests);
        for (at, removed, change) in changes {
            let at = at.index(bytes.len());
            let end = (at + removed).min(bytes.len());
            bytes.splice(at..end, change);
        }
        bytes
    })
}

/// Returns the offsets at which to cut `len` bytes, in ascending order. Each element of `cuts` adds
/// a range of consecutive offsets.
pub fn cuts(len: usize, cuts: &[(Index, usize)]) -> Vec<usize> {
    let mut all = Vec::new();
    for (at, steps) in cuts {
        let at = at.index(len + 1);
        all.extend((at..).take(1 + steps).filter(|&at| at <= len));
    }
    all.sort_unstable();
    all
}

/// Generates an argument for [`cuts`].
pub fn cutting() -> impl Strategy<Value = Vec<(Index, usize)>> {
    vec((any::<Index>(), 0usize..20), 0..6)
}

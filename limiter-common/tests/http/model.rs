//! Makes requests of which it is known what must come of them, and others that are like them.

use limiter_common::http::{BODY_CHUNKED, BODY_EMPTY, BODY_LENGTH, METHOD_HEAD, METHOD_OTHER};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::drive::{Seen, key};

/// The part of a request behind its head.
#[derive(Clone, Debug)]
pub enum Body {
    Empty,
    Length(Vec<u8>),
    Chunked(Vec<(Vec<u8>, &'static str)>, &'static str),
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    pub before: &'static str,
    pub method: &'static str,
    pub target: String,
    pub fields: Vec<(String, String)>,
    pub key: Option<(u32, String)>,
    pub at: Index,
    pub line_end: &'static str,
    pub body: Body,
}

impl Request {
    /// Appends the bytes to `bytes` and what must be seen to `seen`.
    pub fn write(&self, bytes: &mut Vec<u8>, seen: &mut Vec<Seen>) {
        let from = bytes.len() as u64;
        let end = self.line_end;
        bytes.extend_from_slice(self.before.as_bytes());
        bytes.extend(format!("{} {} HTTP/1.1{end}", self.method, self.target).bytes());
        let mut fields: Vec<String> = self
            .fields
            .iter()
            .map(|(name, value)| format!("{name}:{value}{end}"))
            .collect();
        if let Some((rank, value)) = &self.key {
            let line = match rank {
                1 => format!("X-API-Key: {value}{end}"),
                2 => format!("authorization:Bearer  {value} {end}"),
                _ => format!("api-token:\t{value}\t{end}"),
            };
            fields.insert(self.at.index(fields.len() + 1), line);
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
        seen.push(Seen::Head {
            from,
            to: bytes.len() as u64,
            method: if self.method == "HEAD" {
                METHOD_HEAD
            } else {
                METHOD_OTHER
            },
            status: 0,
            key: self
                .key
                .as_ref()
                .and_then(|(rank, value)| key(*rank, value)),
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

/// Requests, one behind the other: their bytes, and what must be seen.
pub fn write(requests: &[Request]) -> (Vec<u8>, Vec<Seen>) {
    let (mut bytes, mut seen) = (Vec::new(), Vec::new());
    for request in requests {
        request.write(&mut bytes, &mut seen);
    }
    (bytes, seen)
}

/// Content, of all lengths that matter: around a word, a carry and a window.
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
        "X-Api-Key: trailer\r\nContent-Length: 7\r\n",
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

/// A field that does not matter.
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
        !matters.contains(&name.to_ascii_lowercase().replace('_', "-").as_str())
    });
    (name, value())
}

/// A request that every server understands.
pub fn request() -> impl Strategy<Value = Request> {
    let body =
        prop_oneof![3 => Just(Body::Empty), 2 => content().prop_map(Body::Length), 2 => chunks()];
    let secret = prop_oneof!["[!-~]{1,40}", "[!-~]{120,128}"];
    let key = prop_oneof![1 => Just(None), 4 => (select(vec![1, 2, 4]), secret).prop_map(Some)];
    let target =
        prop_oneof![6 => "/[!-~]{0,40}", 1 => "/[a-z?&=]{200,700}", 1 => "http://a/[a-z]{0,9}"];
    (
        select(vec!["", "", "", "\r\n", "\n\r\n"]),
        select(vec!["GET", "HEAD", "POST", "PROPPATCH", "VERSION-CONTROL"]),
        target,
        vec(field(), 0..9),
        key,
        any::<Index>(),
        select(vec!["\r\n", "\r\n", "\n"]),
        body,
    )
        .prop_map(
            |(before, method, target, fields, key, at, line_end, body)| Request {
                before,
                method,
                target,
                fields,
                key,
                at,
                line_end,
                body,
            },
        )
}

/// Requests that are no longer what they were, in a place or several.
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

/// Where to cut: some anywhere, some close together.
pub fn cuts(len: usize, cuts: &[(Index, usize)]) -> Vec<usize> {
    let mut all = Vec::new();
    for (at, steps) in cuts {
        let at = at.index(len + 1);
        all.extend((at..).take(1 + steps).filter(|&at| at <= len));
    }
    all.sort_unstable();
    all
}

/// For [`cuts`].
pub fn cutting() -> impl Strategy<Value = Vec<(Index, usize)>> {
    vec((any::<Index>(), 0usize..20), 0..6)
}

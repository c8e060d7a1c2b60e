//! Byte streams as a client writes them who looks for a gap between two parsers: requests put
//! together of parts that are right mostly, and that some parser reads in its own way sometimes.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Where each part of a request comes from: `PLAIN` mostly, one of `ODD` sometimes.
struct Part {
    plain: &'static [&'static str],
    odd: &'static [&'static [u8]],
}

const BEFORE: Part = Part {
    plain: &["", "", "", "\r\n"],
    odd: &[
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"\0",
        b" \r\n",
        b"\r\n\r\n",
        b"\n\r\n",
        b"\x0b\r\n",
        b"X\r\n",
        b"\xff",
    ],
};

const START: Part = Part {
    plain: &[
        "GET / HTTP/1.1",
        "POST /p HTTP/1.1",
        "HEAD /h HTTP/1.1",
        "GET http://h/a HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET / HTTP/1.0",
    ],
    odd: &[
        b"GET /nine",
        b"GET / ",
        b"GET / HTTP/1.1 ",
        b"GET / HTTP/1.1\t",
        b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1",
        b"GET\t/\tHTTP/1.1",
        b"GET\x0b/ HTTP/1.1",
        b"GET /\x0cHTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET / HTTP/1.1 HTTP/1.1",
        b"GET / HTTP/1.1 x",
        b"GET / x HTTP/1.1",
        b" GET / HTTP/1.1",
        b"get / HTTP/1.1",
        b"G\xc9T / HTTP/1.1",
        b"G:T / HTTP/1.1",
        b"GET / HTTP/1.2",
        b"GET / HTTP/1.9",
        b"GET / HTTP/1.10",
        b"GET / HTTP/1.01",
        b"GET / HTTP/01.1",
        b"GET / HTTP/+1.1",
        b"GET / HTTP/1",
        b"GET / HTTP/1.",
        b"GET / HTTP/.1",
        b"GET / HTTP/0.9",
        b"GET / HTTP/2.0",
        b"GET / HTTP/1.1\0",
        b"GET / http/1.1",
        b"GET / Http/1.1",
        b"GET / HTP/1.1",
        b"GET / HTTPS/1.1",
        b"GET / ICE/1.0",
        b"SOURCE / ICE/1.0",
        b"ANNOUNCE / RTSP/1.0",
        b"PRI * HTTP/2.0",
        b"PRI * HTTP/1.1",
        b"CONNECT h:1 HTTP/1.1",
        b"CONNECT h:1 HTTP/1.0",
        b"M-SEARCH * HTTP/1.1",
        b"QUERY / HTTP/1.1",
        b"VERSION-CONTROL / HTTP/1.1",
        b"AMETHODOFMORETHANTWENTYFOURBYTES / HTTP/1.1",
        b"GET /\xe4 HTTP/1.1",
        b"GET /\x7f HTTP/1.1",
        b"GET /\x00 HTTP/1.1",
        b"GET /\r/ HTTP/1.1",
        b"GET /# HTTP/1.1",
        b"GET / HTTP/1.1\rX-Api-Key: alpha",
        b"GET //h/ HTTP/1.1",
        b"GET ? HTTP/1.1",
        b"GET h HTTP/1.1",
        b"GET HTTP/1.1",
        b"/ HTTP/1.1",
        b"GET",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
};

const LINE_END: Part = Part {
    plain: &["\r\n"; 8],
    odd: &[
        b"\n",
        b"\n",
        b"\n",
        b"\r",
        b"\r\r\n",
        b"\n\r",
        b" \r\n",
        b"\r\n ",
        b"\r\n\t",
        b"\0\r\n",
        b"\x0b\r\n",
        b"\x0c",
        b"\x1c",
        b"\x85",
        b"",
    ],
};

const BLANK: Part = Part {
    plain: &["\r\n"; 8],
    odd: &[
        b"\n", b"\n", b"\n", b"\r", b"\r\r\n", b" \r\n", b"\t\n", b"\n\r\n", b"",
    ],
};

const NAME: Part = Part {
    plain: &["X-Api-Key", "x-api-key", "X-API-KEY"],
    odd: &[
        b"X_Api_Key",
        b"X-Api_Key",
        b"X-Api-Key ",
        b"X-Api-Key\t",
        b" X-Api-Key",
        b"\tX-Api-Key",
        b"X-Api-Key\0",
        b"\0X-Api-Key",
        b"X-Api-Key\r",
        b"X-Api-Key\x0b",
        b"X-Api-Key\xa0",
        b"\xefX-Api-Key",
        b"X-Api-\xc4\xb0ey",
        b"X-Api-Key:",
        b"X:X-Api-Key",
        b"X-Api-Key;x",
        b"(X-Api-Key",
        b"X.Api.Key",
        b"X Api Key",
        b"X-Api--Key",
        b"Api-Key",
    ],
};

const BEFORE_VALUE: Part = Part {
    plain: &[": ", ": ", ":", ":\t", ": \t  "],
    odd: &[
        b" : ",
        b"\t:",
        b"",
        b" ",
        b"=",
        b": \r\n ",
        b":\r\n\t",
        b":\x0b",
        b":\x0c",
        b":\0",
        b":\x85",
        b":\xa0",
        b":\xc2\xa0",
        b":\n ",
        b":\r",
        b":\r\n",
        b":,",
        b": \"",
    ],
};

const AFTER_VALUE: Part = Part {
    plain: &["", "", "", " ", "\t", " \t "],
    odd: &[
        b"\x0b",
        b"\x0c",
        b"\0",
        b"\x7f",
        b"\x85",
        b"\xa0",
        b"\xc2\xa0",
        b"\x1f",
        b"\x1c",
        b",",
        b", alpha",
        b", beta",
        b"; x",
        b" x",
        b"\tx",
        b"\r",
        b"\"",
        b"\r\n x",
        b"\r\n\tbeta",
        b"\xe4",
    ],
};

const VALUE: Part = Part {
    plain: &["alpha", "alpha", "beta", "beta", "gamma", ""],
    odd: &[
        b"Alpha",
        b"al\tpha",
        b"al pha",
        b"al\0pha",
        b"al\rpha",
        b"\"alpha\"",
        b"alpha,alpha",
        b"\xe4",
        b" ",
    ],
};

const SCHEME: Part = Part {
    plain: &["Bearer ", "bearer ", "BEARER  ", "Bearer\t", "Token "],
    odd: &[
        b"Bearer",
        b"Bearer,",
        b"Bearer:",
        b"Bearer\x0b",
        b"Bearer\xa0",
        b"Bearer\xc2\xa0",
        b"Bearer\xe3\x80\x80",
        b"\xa0Bearer ",
        b"\"Bearer ",
        b"Bearer \x0c",
        b"Bearer Bearer ",
        b"Basic ",
        b"Digest x, Bearer ",
        b"Bearers ",
        b" ",
    ],
};

const BASIC: Part = Part {
    plain: &["YWxwaGE6", "YmV0YTo=", "Z2FtbWE6Zw=="],
    odd: &[
        b"YmV0YTo",
        b"YmV0YTp=",
        b"YmV0 YTo=",
        b"YmV0YTo==",
        b"YmV0YTo=YWxwaGE6",
        b"YWxw-_E6",
        b"YWxwaGE6\x0b",
        b"=",
        b"",
    ],
};

/// Fields that hold no key.
const FIELD: Part = Part {
    plain: &[
        "Host: h",
        "Accept: */*",
        "X-Other: \u{e4}\u{6771}",
        "Connection: keep-alive",
        "Connection: close",
        "Cookie: a=b; X-Api-Key=alpha",
        "X-Api-Keys: beta",
        "X-Api-Ke: beta",
    ],
    odd: &[
        b"Expect: 100-continue",
        b"Expect: 101-odd",
        b"Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        b"Connection: Upgrade\r\nUpgrade: websocket",
        b"Upgrade: x",
        b"Connection: x-api-key",
        b"Connection: transfer-encoding",
        b"Proxy-Connection: keep-alive",
        b"TE: trailers",
        b"Trailer: X-Api-Key",
        b"Host: other",
        b"Host",
        b"no colon",
        b": no name",
        b":",
        b" ",
        b" folded",
        b"\tfolded: line",
        b" X-Api-Key: alpha",
        b"X-Nul: a\0b",
        b"X-Bell: a\x07b",
        b"X-Cr: a\rX-Api-Key: beta",
        b"X-Lf: a\nX-Api-Key: beta",
        b"X-Ff: a\x0cX-Api-Key: beta",
        b"X-Fs: a\x1cX-Api-Key: beta",
        b"X-Nel: a\x85X-Api-Key: beta",
        b"X-Ls: a\xe2\x80\xa8X-Api-Key: beta",
        b"X-Quoted: \"a\r\nX-Api-Key: beta\r\nX-End: \"",
        b"X-Comment: (a",
        b"X-\xe4: b",
        b"X-\x7f: b",
        b"X[1]: b",
        b"X/1: b",
        b"X-Api-Key",
        b"From nobody",
        b">From: X-Api-Key: beta",
        b"Content-Type: multipart/mixed; boundary=x",
        b"--x",
        b"GET / HTTP/1.1",
        b"HTTP/1.1 200 OK",
    ],
};

const LENGTH_NAME: Part = Part {
    plain: &["Content-Length: ", "content-length:", "CONTENT-LENGTH:\t"],
    odd: &[
        b"Content-Length : ",
        b"Content-Length\t:",
        b" Content-Length: ",
        b"Content_Length: ",
        b"Content-Length\0: ",
        b"Content-Length:\r\n ",
        b"Content-Length\r: ",
        b"X: y\rContent-Length: ",
        b"X: y\nContent-Length: ",
        b"\xa0Content-Length: ",
        b"Content-Length;: ",
        b"Content-Length= ",
        b"Content-Length ",
        b"Content-Lengthx: ",
    ],
};

const ENCODING_NAME: Part = Part {
    plain: &[
        "Transfer-Encoding: ",
        "transfer-encoding:",
        "TRANSFER-ENCODING:\t",
    ],
    odd: &[
        b"Transfer-Encoding : ",
        b"Transfer-Encoding\t:",
        b" Transfer-Encoding: ",
        b"Transfer_Encoding: ",
        b"Transfer-Encoding\0: ",
        b"Transfer-Encoding:\r\n ",
        b"Transfer-Encoding:\n ",
        b"X: y\rTransfer-Encoding: ",
        b"X: y\nTransfer-Encoding: ",
        b"X: y\x0cTransfer-Encoding: ",
        b"Transfer-Encoding ",
        b"Transfer-Encodings: ",
        b"Transfer-Encoding: x\r\nTransfer-Encoding: ",
        b"Content-Encoding: ",
        b"Connection: Transfer-Encoding\r\nTransfer-Encoding: ",
    ],
};

const CODING: Part = Part {
    plain: &["chunked", "chunked", "Chunked", "CHUNKED "],
    odd: &[
        b"xchunked",
        b"chunkedx",
        b"chunk",
        b"chunked, gzip",
        b"gzip, chunked",
        b"gzip,chunked",
        b"chunked, chunked",
        b"identity",
        b"identity, chunked",
        b"chunked, identity",
        b"chunked\r\nTransfer-Encoding: identity",
        b"identity\r\nTransfer-Encoding: chunked",
        b"chunked\r\nTransfer-Encoding: chunked",
        b"gzip\r\nTransfer-Encoding: chunked",
        b"chunked\r\nTransfer-Encoding:",
        b"chunked;q=1",
        b"chunked ;x",
        b"\"chunked\"",
        b"'chunked'",
        b"chunked,",
        b",chunked",
        b", chunked",
        b"\x0bchunked",
        b"\x0cchunked",
        b"chunked\x0b",
        b"chunked\x0c",
        b"chunked\0",
        b"\0chunked",
        b"chunked\xa0",
        b"\x85chunked",
        b"chun\xc4\xb8ed",
        b"chunked\r\n x",
        b"chunked\r\n ",
        b"\r\n chunked",
        b"chunked\rx",
        b"",
    ],
};

/// A chunk's line with `5` for its size, then data of five bytes and its end.
const CHUNK: Part = Part {
    plain: &[
        "5\r\nhello\r\n",
        "05\r\nhello\r\n",
        "5;a=b\r\nhello\r\n",
        "A\r\nGET / HTTP\r\n",
        "2e\r\nGET /in HTTP/1.1\r\nHost: h\r\nX-Api-Key: gamma\r\n\r\n\r\n",
    ],
    odd: &[
        b"5 \r\nhello\r\n",
        b"5\t\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5 ;a\r\nhello\r\n",
        b"5; a = \"b;\"\r\nhello\r\n",
        b"5;a=\"\r\n\"\r\nhello\r\n",
        b"5;a\nhello\r\n",
        b"5;a\rb\r\nhello\r\n",
        b"5;\r\nhello\r\n",
        b"5;\0\r\nhello\r\n",
        b"5;\xe4\r\nhello\r\n",
        b"5,a\r\nhello\r\n",
        b"5a\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\rhello\r\n",
        b"5\r\rhello\r\n",
        b"5\r\nhello\n",
        b"5\r\nhello\r",
        b"5\r\nhello",
        b"5\r\nhelloxx",
        b"5\r\nhello\r\r\n",
        b"5\r\nhello\n\r",
        b"5\r\nhello\r\n\r\n",
        b"5\nhello\n",
        b"+5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5_\r\nhello\r\n",
        b"0_5\r\nhello\r\n",
        b"5h\r\nhello\r\n",
        b"5\0\r\nhello\r\n",
        b"5.0\r\nhello\r\n",
        b"\xd9\xa5\r\nhello\r\n",
        b"10000000000000005\r\nhello\r\n",
        b"00000000000000005\r\nhello\r\n",
        b"000000000000000000000000000000000005\r\nhello\r\n",
        b"100000005\r\nhello\r\n",
        b"8000000000000005\r\nhello\r\n",
        b"fffffffffffffffb\r\nhello\r\n",
        b"ffffffffffffffff\r\nhello\r\n",
        b"\r\n5\r\nhello\r\n",
        b"\r\n",
        b"\n",
        b"x\r\n",
        b";a\r\nhello\r\n",
    ],
};

const LAST_CHUNK: Part = Part {
    plain: &["0\r\n", "0\r\n", "000\r\n", "0;a=b\r\n"],
    odd: &[
        b"0\n",
        b"0 \r\n",
        b"0\r",
        b"-0\r\n",
        b"+0\r\n",
        b"0x0\r\n",
        b"0;\n",
        b"0;a\r\r\n",
        b"0_0\r\n",
        b"\r\n",
        b"",
        b"00000000000000000\r\n",
        b"0\r\n0\r\n",
    ],
};

const TRAILER: Part = Part {
    plain: &["", "", "", "X-Api-Key: gamma\r\n", "A: b\r\nC: d\r\n"],
    odd: &[
        b"A: b\n",
        b"A : b\r\n",
        b"A\r\n",
        b" A: b\r\n",
        b"A: b\r\n c\r\n",
        b"A: b\r",
        b"A: b\0\r\n",
        b": b\r\n",
        b"Content-Length: 40\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"X\n\n",
        b"\n",
    ],
};

const LAST_BLANK: Part = Part {
    plain: &["\r\n"],
    odd: &[b"\n", b"\r", b"", b"\r\r\n", b" \r\n", b"0\r\n\r\n"],
};

const CONTENT: [&str; 6] = [
    "hello",
    "",
    "GET /in HTTP/1.1\r\nHost: h\r\nX-Api-Key: gamma\r\n\r\n",
    "0\r\n\r\n",
    "0\r\n\r\nGET /in HTTP/1.1\r\nHost: h\r\nX-Api-Key: gamma\r\n\r\n",
    "\r\n\r\n",
];

impl Part {
    /// Odd once in twice so many times.
    fn once_in(self, times: u32) -> impl Strategy<Value = Vec<u8>> {
        let plain: Vec<Vec<u8>> = self
            .plain
            .iter()
            .map(|text| text.as_bytes().to_vec())
            .collect();
        let odd: Vec<Vec<u8>> = self.odd.iter().map(|bytes| bytes.to_vec()).collect();
        prop_oneof![2 * times - 1 => select(plain), 1 => select(odd)]
    }
}

/// Parts, one behind the other.
fn joined(parts: impl Strategy<Value = Vec<Vec<u8>>>) -> impl Strategy<Value = Vec<u8>> {
    parts.prop_map(|parts| parts.concat())
}

/// A field that may hold a key.
fn key_field() -> impl Strategy<Value = Vec<u8>> {
    let header = (
        NAME.once_in(15),
        BEFORE_VALUE.once_in(15),
        VALUE.once_in(20),
        AFTER_VALUE.once_in(15),
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
        BEFORE_VALUE.once_in(15),
        SCHEME.once_in(6),
        VALUE.once_in(20),
        AFTER_VALUE.once_in(15),
    );
    let basic = (
        authorization(),
        BEFORE_VALUE.once_in(15),
        BASIC.once_in(6),
        AFTER_VALUE.once_in(15),
    );
    prop_oneof![
        6 => header.prop_map(|(name, before, value, after)| [name, before, value, after].concat()),
        2 => bearer.prop_map(|(name, before, scheme, value, after)| [name, before, scheme, value, after].concat()),
        1 => basic.prop_map(|(name, before, value, after)| [name, before, b"Basic ".to_vec(), value, after].concat()),
    ]
}

/// A field of a length that borders on what can be kept of a line, or of a head.
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
        VALUE.once_in(20),
    )
        .prop_map(|(name, filler, length, value)| {
            [name.as_bytes(), &vec![filler; length], &value].concat()
        })
}

fn field() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![30 => FIELD.once_in(8), 1 => long_field()]
}

/// Fields that say how long the body is, and a body.
fn framed() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<u8>)> {
    let content = || select(CONTENT.to_vec()).prop_map(|text| text.as_bytes().to_vec());
    let none = Just((Vec::new(), Vec::new())).boxed();
    let length = (LENGTH_NAME.once_in(12), content(), AFTER_VALUE.once_in(25))
        .prop_map(|(name, content, after)| {
            let number = content.len().to_string().into_bytes();
            (vec![[name, number, after].concat()], content)
        })
        .boxed();
    let odd_length = (LENGTH_NAME.once_in(12), content(), 0usize..24)
        .prop_map(|(name, content, form)| {
            let number = odd_number(content.len(), form);
            (vec![[name, number].concat()], content)
        })
        .boxed();
    let chunks = || {
        let data = vec(CHUNK.once_in(10), 0..4).prop_map(|chunks| chunks.concat());
        (
            data,
            LAST_CHUNK.once_in(12),
            TRAILER.once_in(10),
            LAST_BLANK.once_in(16),
        )
            .prop_map(|(data, last, trailer, blank)| [data, last, trailer, blank].concat())
    };
    let encoding = || {
        (ENCODING_NAME.once_in(12), CODING.once_in(8))
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

/// Spellings of a length that are no number, or that some parsers take for one, or another one.
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

/// A request, or what is to pass for one.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let fields = (
        vec(field(), 0..3),
        vec(key_field(), 0..3),
        prop::bool::weighted(0.8),
    );
    (
        BEFORE.once_in(20),
        START.once_in(10),
        fields,
        framed(),
        any::<[Index; 4]>(),
        vec(LINE_END.once_in(50), 10),
        BLANK.once_in(30),
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

/// Bytes that show as text where they are.
#[derive(Clone, PartialEq, Eq)]
pub struct Stream(pub Vec<u8>);

impl std::fmt::Debug for Stream {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "b\"{}\"", self.0.escape_ascii())
    }
}

/// Streams of requests; some are changed once more anywhere, some break off.
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

/// How many times more cases a long run has.
const LONG: u32 = 20;

/// A number that the environment may give.
fn given(name: &str) -> Option<u32> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|error| panic!("{name} is no number: {error}")))
}

/// Runs `cases` cases, the same ones always. With `LIMITER_LONG` there are many more;
/// `LIMITER_CASES` says how many, and `LIMITER_SEED` gives others.
pub fn runner(cases: u32) -> TestRunner {
    let long = std::env::var_os("LIMITER_LONG").is_some();
    let seed = given("LIMITER_SEED").unwrap_or(0);
    // Shown if the test fails.
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

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Unusual lengths and chunks. For each request, either the limiter and nginx agree about the end
//! of the body, or the request does not reach the server.

use limiter_tests::fate::{
    Case,
    Fate::{self, Both, Broken, Refused},
    assert_fates,
};

#[test]
fn odd_lengths() {
    let cases: [Case<'_>; 31] = [
        (
            "a length",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: 3\r\n\r\nabc",
            Both,
        ),
        (
            "a length with a GET",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: 3\r\n\r\nabc",
            Both,
        ),
        (
            "a length of 0",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: 0\r\n\r\n",
            Both,
        ),
        (
            "zeros before the length",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: 0000000003\r\n\r\nabc",
            Both,
        ),
        (
            "spaces behind the length",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: 3   \r\n\r\nabc",
            Both,
        ),
        (
            "the length twice",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            Refused,
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: 3\r\nContent-Length: 0\r\n\r\nabc",
            Refused,
        ),
        (
            "two lengths in a list",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: 3, 3\r\n\r\nabc",
            Refused,
        ),
        (
            "two lengths in a value",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: 3 0\r\n\r\nabc",
            Refused,
        ),
        (
            "an empty length",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length:\r\n\r\n",
            Refused,
        ),
        (
            "a plus sign",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: +3\r\n\r\nabc",
            Refused,
        ),
        (
            "a minus sign",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: -0\r\n\r\nabc",
            Refused,
        ),
        (
            "a hexadecimal length",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: 0x3\r\n\r\nabc",
            Refused,
        ),
        (
            "a length with an underscore",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: 1_0\r\n\r\nabc",
            Refused,
        ),
        (
            "a length in quotes",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: \"3\"\r\n\r\nabc",
            Refused,
        ),
        (
            "a length of 2^63",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: 9223372036854775808\r\n\r\nabc",
            Refused,
        ),
        (
            "a length of 2^64 and 3",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: 18446744073709551619\r\n\r\nabc",
            Refused,
        ),
        (
            "an underscore in the name",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent_Length: 3\r\n\r\n",
            Refused,
        ),
        (
            "length and chunked",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "chunked and length",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "xchunked",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "chunked, gzip",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "gzip, chunked",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "chunked twice",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "identity",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nTransfer-Encoding: identity\r\n\r\n",
            Refused,
        ),
        (
            "an empty encoding",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nTransfer-Encoding:\r\n\r\n",
            Refused,
        ),
        (
            "an underscore in the encoding's name",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "a parameter of chunked",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "a vertical tab before chunked",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "chunked in HTTP/1.0",
            "POST / HTTP/1.0\r\nConnection: keep-alive\r\nX-Api-Key: $K\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "a request in the body",
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nContent-Length: 60\r\n\r\nGET /inner HTTP/1.1\r\nHost: x\r\nX-Api-Key: inner-key------\r\n\r\n",
            Both,
        ),
    ];
    assert_fates(&cases);
}

#[test]
fn odd_chunks() {
    const HEAD: &str =
        "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases: [(&str, &str, Fate); 28] = [
        ("as usual", "3\r\nabc\r\n0\r\n\r\n", Both),
        ("upper case", "A\r\n0123456789\r\n0\r\n\r\n", Both),
        (
            "zeros before",
            "0000000000000003\r\nabc\r\n00000\r\n\r\n",
            Both,
        ),
        ("an extension", "3;a=b\r\nabc\r\n0;c\r\n\r\n", Both),
        (
            "an extension in quotes",
            "3;a=\"b;c\"\r\nabc\r\n0\r\n\r\n",
            Both,
        ),
        (
            "an extension of a thousand bytes",
            "3;LONG\r\nabc\r\n0\r\n\r\n",
            Broken,
        ),
        (
            "an extension with a line's end in quotes",
            "3;a=\"\r\nabc\"\r\n0\r\n\r\n",
            Broken,
        ),
        (
            "trailers",
            "3\r\nabc\r\n0\r\nX-A: b\r\nX-B: c\r\n\r\n",
            Both,
        ),
        (
            "a key in the trailers",
            "3\r\nabc\r\n0\r\nX-Api-Key: other\r\n\r\n",
            Broken,
        ),
        (
            "a length in the trailers",
            "3\r\nabc\r\n0\r\nContent-Length: 500\r\n\r\n",
            Both,
        ),
        ("spaces behind the size", "3  \r\nabc\r\n0\r\n\r\n", Broken),
        (
            "a request in a chunk",
            "2b\r\nGET /inner HTTP/1.1\r\nHost: x\r\nX-Api-Key:1\r\n\r\n0\r\n\r\n",
            Both,
        ),
        ("a space before the size", " 3\r\nabc\r\n0\r\n\r\n", Broken),
        ("hexadecimal said so", "0x3\r\nabc\r\n0\r\n\r\n", Broken),
        ("a plus sign", "+3\r\nabc\r\n0\r\n\r\n", Broken),
        ("a minus sign", "-3\r\nabc\r\n0\r\n\r\n", Broken),
        ("no size", "\r\nabc\r\n0\r\n\r\n", Broken),
        ("no number", "xyz\r\nabc\r\n0\r\n\r\n", Broken),
        ("an underscore", "0_3\r\nabc\r\n0\r\n\r\n", Broken),
        ("a line that ends with LF", "3\nabc\r\n0\r\n\r\n", Broken),
        ("data that ends with LF", "3\r\nabc\n0\r\n\r\n", Broken),
        (
            "data longer than its size",
            "3\r\nabcd\r\n0\r\n\r\n",
            Broken,
        ),
        ("no line's end behind the data", "3\r\nabc0\r\n\r\n", Broken),
        (
            "a size of 2^63",
            "8000000000000000\r\nabc\r\n0\r\n\r\n",
            Broken,
        ),
        (
            "a size of 2^64 less one",
            "ffffffffffffffff\r\nabc\r\n0\r\n\r\n",
            Broken,
        ),
        (
            "a size of 2^64",
            "10000000000000000\r\nabc\r\n0\r\n\r\n",
            Broken,
        ),
        (
            "a size of 2^64 and three",
            "10000000000000003\r\nabc\r\n0\r\n\r\n",
            Broken,
        ),
        ("a folded trailer", "0\r\nX-A: b\r\n c\r\n\r\n", Broken),
    ];
    let long = "x".repeat(1000);
    let texts: Vec<String> = cases
        .iter()
        .map(|(_, chunks, _)| HEAD.to_owned() + &chunks.replace("LONG", &long))
        .collect();
    let cases: Vec<Case<'_>> = cases
        .iter()
        .zip(&texts)
        .map(|((name, _, fate), text)| (*name, text.as_str(), *fate))
        .collect();
    assert_fates(&cases);
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Makes the packets of the cases.

use limiter_tests::program::{ACK, KEY_FIELD, Talk};

/// The lengths of the heads of requests, in bytes.
pub const HEADS: [usize; 3] = [150, 400, 1500];

const UDP: u8 = 17;

/// Additional header fields of browsers and libraries, in the order in which they are added.
const FIELDS: [&str; 14] = [
    "Accept: application/json",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-US,en;q=0.5",
    "Connection: keep-alive",
    "Referer: https://app.example.com/dashboard/accounts/4711/profiles/calls?range=30d",
    "Cookie: session=eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c; _ga=GA1.2.1234567890.1700000000; _gid=GA1.2.987654321.1700000000; consent=all",
    "X-Request-Id: 0b2f6c1e-7d1e-4d1c-9b5e-2f7f0c8f3a11",
    "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "X-Forwarded-For: 203.0.113.195, 198.51.100.178",
    "X-Forwarded-Proto: https",
    "Sec-Fetch-Dest: empty",
    "Sec-Fetch-Mode: cors",
    "Cache-Control: no-cache",
];

/// The name of the last field. Its value makes the head exactly as long as it has to be.
const FILLER: &str = "X-Filler: ";

/// Returns a head of `len` bytes. If there is a key, it is in the middle of the head.
fn head(key: &str, len: usize) -> Vec<u8> {
    let mut head = String::from("GET /v1/calls?page=2 HTTP/1.1\r\nHost: api.example.com\r\n");
    let name = if key.is_empty() {
        "X-No-Key"
    } else {
        KEY_FIELD
    };
    let key = format!("{name}: {key}\r\n");
    let least = FILLER.len() + 1 + "\r\n\r\n".len();
    let mut keyed = false;
    for field in FIELDS {
        if !keyed && (head.len() > len / 3 || head.len() + key.len() + field.len() + least > len) {
            head.push_str(&key);
            keyed = true;
        }
        if head.len() + field.len() + 2 + least <= len - if keyed { 0 } else { key.len() } {
            head.push_str(field);
            head.push_str("\r\n");
        }
    }
    let missing = len - head.len() - FILLER.len() - "\r\n\r\n".len();
    let filler = "f".repeat(missing);
    head.push_str(&format!("{FILLER}{filler}\r\n\r\n"));
    assert!(keyed && head.len() == len, "a head of {len} bytes: {head}");
    head.into_bytes()
}

/// Returns the client's next segment, which is a request.
pub fn request(talk: &Talk, key: &str, len: usize) -> Vec<u8> {
    let mut talk = talk.clone();
    let segment = talk.client(&head(key, len));
    talk.shape.wrap(&talk.ends, true, &segment)
}

/// A response of nginx with a file of 24 bytes.
const RESPONSE: &str = "HTTP/1.1 200 OK\r\n\
    Server: nginx/1.22.1\r\n\
    Date: Wed, 25 Nov 2026 02:24:48 GMT\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 24\r\n\
    Last-Modified: Wed, 25 Nov 2026 02:24:31 GMT\r\n\
    Connection: keep-alive\r\n\
    ETag: \"6a3cbc1f-18\"\r\n\
    Accept-Ranges: bytes\r\n\
    \r\n\
    {\"calls\":[],\"next\":null}";

/// Returns the server's next segment, which is a response.
pub fn response(talk: &Talk) -> Vec<u8> {
    let mut talk = talk.clone();
    let segment = talk.server(RESPONSE.as_bytes());
    talk.shape.wrap(&talk.ends, false, &segment)
}

/// Returns an acknowledgement from either side.
pub fn ack(talk: &Talk, to_server: bool) -> Vec<u8> {
    let mut talk = talk.clone();
    let segment = if to_server {
        talk.client(b"")
    } else {
        talk.server(b"")
    };
    talk.shape
        .wrap(&talk.ends, to_server, &segment.with_flags(ACK))
}

/// Returns a segment with payload for a port that is not guarded.
pub fn other_port(talk: &Talk, to_server: bool) -> Vec<u8> {
    let mut talk = talk.clone();
    talk.ends.server_port = 443;
    let payload = vec![b'x'; 400];
    let segment = if to_server {
        talk.client(&payload)
    } else {
        talk.server(&payload)
    };
    talk.shape.wrap(&talk.ends, to_server, &segment)
}

/// Returns a UDP datagram with 400 bytes of payload. Its destination port has the same number as
/// the guarded TCP port.
pub fn udp(talk: &Talk) -> Vec<u8> {
    let mut datagram = vec![0; 8 + 400];
    datagram[..2].copy_from_slice(&talk.ends.client_port.to_be_bytes());
    datagram[2..4].copy_from_slice(&talk.ends.server_port.to_be_bytes());
    datagram[4..6].copy_from_slice(&408_u16.to_be_bytes());
    talk.shape
        .around(talk.ends.client, talk.ends.server, UDP, true, &datagram)
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! With Multipath TCP (RFC 8684), the bytes of a connection belong to a second stream, and an
//! option in each segment gives their position in that stream. A server that supports Multipath TCP
//! reads the bytes in the order of the second stream instead of the order of the connection.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::Instant,
};

use limiter_tests::{
    Config, GUARDED, Lab, Limiter, Server, clock, eventually,
    raw::{Opening, RawConn, RawHost},
    request, skip,
};

const KIND: u8 = 30;
/// The subtype MP_CAPABLE with version 1, and the flag for HMAC-SHA256.
const CAPABLE: [u8; 2] = [0x01, 0x01];
/// The subtype DSS, and the flags for an acknowledgement of four bytes and a mapping with a
/// sequence number of eight bytes.
const MAPPED: [u8; 2] = [0x20, 0x0d];

const CLIENT_KEY: [u8; 8] = *b"a client";

/// Returns the data sequence number of the first byte that the side with the key `key` sends (RFC
/// 8684, section 3.1).
fn first_byte(key: &[u8]) -> u64 {
    let mut sum = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start sha256sum");
    let mut stdin = sum.stdin.take().expect("it is piped");
    stdin.write_all(key).expect("hash a key");
    drop(stdin);
    let output = sum.wait_with_output().expect("a hash").stdout;
    let digest = std::str::from_utf8(&output[..64]).expect("hexadecimal");
    let number = u64::from_str_radix(&digest[48..], 16).expect("hexadecimal");
    number.wrapping_add(1)
}

/// Opens a Multipath TCP connection. If the server supports Multipath TCP, returns the data
/// sequence number of the server's first byte.
fn open(conn: &mut RawConn) -> Option<u64> {
    let mut syn = conn.syn();
    syn.options.extend([&[KIND, 4], &CAPABLE[..]].concat());
    conn.send(&syn);
    conn.wait("the SYN is answered", |conn| !conn.seen.is_empty());
    let options = &conn.seen[0].options;
    let at = options.windows(2).position(|pair| pair == [KIND, 12])?;
    let server_key: [u8; 8] = options[at + 4..at + 12].try_into().expect("eight bytes");
    let keys = [&[KIND, 20], &CAPABLE[..], &CLIENT_KEY, &server_key].concat();
    let ack = conn.segment(0, b"").with_options(keys);
    conn.send(&ack);
    Some(first_byte(&server_key))
}

#[test]
fn bytes_are_served_in_the_order_of_inspection() {
    if !Path::new("/proc/sys/net/mptcp/enabled").exists() {
        let name = "bytes_are_served_in_the_order_of_inspection";
        return skip(name, "this kernel has no Multipath TCP");
    }
    let lab = Lab::veth();
    let (line_sender, lines) = mpsc::channel();
    let _server = Server::start_multipath(lab.server(), GUARDED, move |mut conn| {
        while let Ok(head) = conn.head() {
            // This fails if the test has ended, and then nobody needs the line.
            let _ = line_sender.send(head.line.clone());
            if conn.body(&head).is_err() || conn.try_answer().is_err() {
                return;
            }
        }
    });
    let limiter = Limiter::start(&lab, &Config::new(&lab));
    let key = limiter.key("acme/web");
    let host = RawHost::new(&lab);
    let mut conn = host.begin(&Opening {
        scale: None,
        ..Opening::default()
    });
    let hidden = request("/hidden", &key).repeat(5);
    let head = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nContent-Length: {}\r\n\r\n",
        hidden.len()
    );
    let server_first = open(&mut conn);
    if let Some(server_first) = server_first {
        // The head is sent first and declares the requests to be its body. The mapping, however,
        // places the head after the requests.
        let client_first = first_byte(&CLIENT_KEY);
        let behind = client_first.wrapping_add(hidden.len() as u64);
        for (number, bytes) in [(behind, head.as_bytes()), (client_first, &hidden)] {
            let length = u16::try_from(bytes.len()).expect("a short message");
            let offset = conn.sent + 1;
            #[expect(clippy::cast_possible_truncation, reason = "its lower half is meant")]
            let seen = server_first as u32;
            let option = [
                &[KIND, 22],
                &MAPPED[..],
                &seen.to_be_bytes(),
                &number.to_be_bytes(),
                &offset.to_be_bytes(),
                &length.to_be_bytes(),
                &[1, 1],
            ]
            .concat();
            let segment = conn.segment(conn.sent, bytes).with_options(option);
            conn.send(&segment);
            conn.sent += u32::from(length);
        }
    } else {
        // The server does not support Multipath TCP, so it reads the bytes in the order of the
        // connection.
        conn.acknowledge();
        conn.deliver(head.as_bytes());
        conn.deliver(&hidden);
    }
    // The server has sent more than this number of bytes if it has served all requests.
    let answers = "HTTP/1.1 200 OK".len() * 5;
    conn.wait_until(Instant::now() + 20 * clock::RETRY, |conn| {
        usize::try_from(conn.received).expect("few") > answers
    });
    // The server may not have received a request yet that has already been charged.
    let mut served: Vec<String> = Vec::new();
    eventually("as many are served as are charged", || {
        served.extend(lines.try_iter());
        let used = limiter.usage("acme/web").used;
        assert!(
            served.len() as u64 <= used,
            "served: {served:?}, used {used}"
        );
        served.len() as u64 == used
    });
}

//! Multipath TCP (RFC 8684) carries a stream of its own over the bytes of a
//! connection, in an order that an option of each segment says. A server that
//! takes part in it reads another stream than what its connection carries.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::Instant,
};

use limiter_tests::{
    Config, GUARDED, Lab, Limiter, Server, clock,
    raw::{Host, Opening, RawConn},
    request, skip,
};

const KIND: u8 = 30;
/// The subtype MP_CAPABLE with version 1; the flag for HMAC-SHA256.
const CAPABLE: [u8; 2] = [0x01, 0x01];
/// The subtype DSS; flags for an acknowledgement of four bytes, and a mapping
/// of eight.
const MAPPED: [u8; 2] = [0x20, 0x0d];

const CLIENT_KEY: [u8; 8] = *b"a client";

/// The number of the first byte of who has this key (RFC 8684, section 3.1).
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

/// Opens a connection of Multipath TCP: what the server's first byte is called,
/// if it takes part.
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
fn bytes_are_served_in_the_order_in_which_they_were_inspected() {
    if !Path::new("/proc/sys/net/mptcp/enabled").exists() {
        let name = "bytes_are_served_in_the_order_in_which_they_were_inspected";
        return skip(name, "this kernel has no Multipath TCP");
    }
    let lab = Lab::veth();
    let (tell, heard) = mpsc::channel();
    let _server = Server::start_multipath(lab.server(), GUARDED, move |mut conn| {
        while let Ok(head) = conn.head() {
            // The test may be over.
            let _ = tell.send(head.line.clone());
            if conn.body(&head).is_err() || conn.try_answer().is_err() {
                return;
            }
        }
    });
    let limiter = Limiter::start(&lab, &Config::new(&lab));
    let key = limiter.key("acme/web");
    let host = Host::new(&lab);
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
        // First the head, which says that the requests are its body; but the
        // head is to be read behind them.
        let client_first = first_byte(&CLIENT_KEY);
        let behind = client_first.wrapping_add(hidden.len() as u64);
        for (number, bytes) in [(behind, head.as_bytes()), (client_first, &hidden)] {
            let length = u16::try_from(bytes.len()).expect("a short message");
            let offset = conn.said + 1;
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
            let segment = conn.segment(conn.said, bytes).with_options(option);
            conn.send(&segment);
            conn.said += u32::from(length);
        }
    } else {
        // The server takes no part: it reads what the connection carries.
        conn.acknowledge();
        conn.bring(head.as_bytes());
        conn.bring(&hidden);
    }
    // As many answers as there would be if they were served.
    let answers = "HTTP/1.1 200 OK".len() * 5;
    conn.look_for(Instant::now() + 20 * clock::RETRY, |conn| {
        usize::try_from(conn.heard).expect("few") > answers
    });
    let heard: Vec<String> = heard.try_iter().collect();
    let used = limiter.usage("acme/web").used;
    assert_eq!(heard.len() as u64, used, "served: {heard:?}");
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Segments that pass the program and are lost afterwards, in the receiver's IP layer or for lack
//! of memory. If the client retransmits the same content, even in smaller packets, the content
//! passes and is not charged again. If the client sends different content instead, it does not
//! pass, and after several attempts the connection is reset.

use std::{
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use limiter_tests::{
    Config, GUARDED, Lab, Limiter, Rig, Server, eventually,
    lab::{CLIENT_INTERFACE, SERVER_INTERFACE},
    packet::{Extension, Shape},
    raw::{End, Opening, RawConn, RawHost},
    request,
};

/// The number of retransmissions with different content at which the connection is reset.
const CONFLICTS: usize = 6;

/// The time after which the test concludes that the server has no room for more bytes, because it
/// has not acknowledged the last ones.
const NO_ROOM: Duration = Duration::from_secs(2);

/// A function that sends a segment that is lost after the programs have seen it.
type Lose = fn(&mut RawConn, u32, &[u8]);

/// Three ways to send a segment that the server's kernel drops after the programs have seen it,
/// each with a name and a bool that is true if it uses IPv6. The kernel drops a packet with a
/// source route (`ip_rcv_options`), a packet with an unknown option whose type requires the packet
/// to be dropped (RFC 8200, section 4.2), and a packet for a VLAN to which the host does not
/// belong.
const LOSSES: [(&str, bool, Lose); 3] = [
    ("a source route", false, |conn, at, payload| {
        let segment = conn.segment(at, payload);
        // This is a loose source route (RFC 791) over 192.0.2.2, with its padding.
        let shape = Shape::v4_with(vec![131, 7, 4, 192, 0, 2, 2, 0]);
        conn.link.send(&conn.frame_in(&shape, &segment));
    }),
    ("an unknown option", true, |conn, at, payload| {
        let segment = conn.segment(at, payload);
        let mut options = Extension::options(60, 1);
        options.bytes[2] = 0b1011_1110;
        let shape = Shape::v6_with(vec![options]);
        conn.link.send(&conn.frame_in(&shape, &segment));
    }),
    ("another VLAN", false, |conn, at, payload| {
        let segment = conn.segment(at, payload);
        let frame = conn.frame(&segment).tagged(&[(0x8100, 5)]);
        conn.link.send(&frame);
    }),
];

fn opening(v6: bool) -> Opening {
    Opening {
        v6,
        ..Opening::default()
    }
}

#[test]
fn lost_request_passes_again_and_is_charged_once() {
    let rig = Rig::veth(|config| config);
    let host = RawHost::new(&rig.lab);
    let key = rig.limiter.key("acme/web");
    let request = request("/", &key);
    let mut expected = 0;
    for (name, v6, lose) in LOSSES {
        let mut conn = host.open(&opening(v6));
        // Three cases follow: the whole request is lost, then each of the two parts of a request,
        // and then two requests in one segment.
        lose(&mut conn, 0, &request);
        assert_eq!(rig.limiter.usage("acme/web").used, expected + 1, "{name}");
        conn.send_next(&request);
        assert_eq!(conn.response().status, 200, "{name}");
        let from = conn.sent;
        lose(&mut conn, from, &request[..40]);
        conn.send_next(&request[..40]);
        lose(&mut conn, from + 40, &request[40..]);
        conn.send_next(&request[40..]);
        assert_eq!(conn.response().status, 200, "{name}");
        let from = conn.sent;
        lose(&mut conn, from, &request.repeat(2));
        conn.send_next(&request.repeat(2));
        assert_eq!(conn.statuses(2), [200, 200], "{name}");
        expected += 4;
        rig.assert_charged_as_served("acme/web", &key, expected);
    }
}

#[test]
fn other_content_is_dropped_and_finally_resets_the_connection() {
    let rig = Rig::veth(|config| config);
    let host = RawHost::new(&rig.lab);
    let [lost, other] = ["acme/lost", "acme/other"].map(|scope| rig.limiter.key(scope));
    for (number, (name, v6, lose)) in (1..).zip(LOSSES) {
        let mut conn = host.open(&opening(v6));
        lose(&mut conn, 0, &request("/", &lost));
        assert_eq!(rig.limiter.usage("acme/lost").used, number, "{name}");
        for _ in 1..CONFLICTS {
            conn.send_at(0, &request("/", &other));
            conn.drain();
            assert_eq!((conn.acked, conn.end()), (0, None), "{name}");
        }
        conn.send_at(0, &request("/", &other));
        assert_eq!(conn.wait_for_end(), End::Reset, "{name}");
        // After the reset, even the content that was admitted before the reset is not served.
        conn.send_at(0, &request("/", &lost));
        conn.drain();
        eventually("nothing is in flight", || {
            rig.limiter.usage("acme/lost").in_flight == 0
        });
    }
    assert_eq!(rig.nginx.served(&lost), 0);
    rig.assert_charged_as_served("acme/other", &other, 0);
    rig.assert_nothing_left("acme/lost");
}

/// Raises the MTU at both ends, for long segments.
fn widen(lab: &Lab) {
    lab.client().ip("link set c0 mtu 9000");
    lab.server().ip("link set s0 mtu 9000");
}

/// The offset at which a long head is split when it is retransmitted.
const CUT: usize = 1400;

/// Returns a request whose head is longer than an Ethernet packet.
fn long_head(key: &str) -> Vec<u8> {
    of_length(key, 2000)
}

#[test]
fn lost_long_head_is_served_in_parts_and_charged_once() {
    let rig = Rig::veth(|config| config);
    widen(&rig.lab);
    let host = RawHost::new(&rig.lab);
    let key = rig.limiter.key("acme/web");
    let head = long_head(&key);
    let end = at_byte(head.len());
    let (_, _, lose) = LOSSES[0];
    for timestamps in [false, true] {
        // For the first request, the client always sends both parts together. For the second
        // request, it sends the second part only after the server has acknowledged the first one.
        let mut conn = host.open(&Opening {
            timestamps,
            ..Opening::default()
        });
        lose(&mut conn, 0, &head);
        conn.retry_until_acked(end, |conn| {
            conn.send_at(0, &head[..CUT]);
            conn.send_at(at_byte(CUT), &head[CUT..]);
        });
        assert_eq!(conn.response().status, 200);
        lose(&mut conn, end, &head);
        conn.retry_until_acked(2 * end, |conn| {
            let from = conn.acked.max(end);
            let done = usize::try_from(from - end).expect("a short way");
            let to = if done < 1000 { CUT } else { head.len() };
            conn.send_at(from, &head[done..to]);
            if done > 0 {
                conn.send_at(from + at_byte(to - done), &head[to..]);
            }
        });
        assert_eq!(conn.response().status, 200);
    }
    rig.assert_charged_as_served("acme/web", &key, 4);
}

#[test]
fn other_long_head_in_parts_is_not_served_for_a_lost_one() {
    let rig = Rig::veth(|config| config);
    widen(&rig.lab);
    let host = RawHost::new(&rig.lab);
    let [lost, other] = ["acme/lost", "acme/other"].map(|scope| rig.limiter.key(scope));
    let (mine, others) = (long_head(&lost), long_head(&other));
    let (_, _, lose) = LOSSES[0];
    for timestamps in [false, true] {
        // The first cut is before the key. The second cut is in the key, six bytes before its end.
        for cut in [CUT, mine.len() - 10] {
            let mut conn = host.open(&Opening {
                timestamps,
                ..Opening::default()
            });
            lose(&mut conn, 0, &mine);
            for _ in 0..CONFLICTS {
                conn.send_at(0, &others[..cut]);
                conn.send_at(at_byte(cut), &others[cut..]);
                conn.send_at(at_byte(cut), &mine[cut..]);
                conn.send_at(0, &others);
            }
            conn.drain();
        }
    }
    assert_eq!(rig.nginx.served(&other), 0);
    rig.assert_charged_as_served("acme/other", &other, 0);
}

/// Converts an offset in the stream to the type of a sequence number.
fn at_byte(index: usize) -> u32 {
    u32::try_from(index).expect("a short way")
}

/// A server that reads nothing until the test permits it, and then answers all requests.
struct LazyServer {
    limiter: Limiter,
    read: mpsc::Sender<()>,
    lines: mpsc::Receiver<String>,
    _server: Server,
    lab: Lab,
}

impl LazyServer {
    fn start() -> Self {
        let lab = Lab::veth();
        // This receive buffer makes the server's window as small as possible.
        lab.server().set("net/ipv4/tcp_rmem", "4096 4096 4096");
        let (read, permission) = mpsc::channel();
        let (line_sender, lines) = mpsc::channel();
        let permission = Mutex::new(permission);
        let server = Server::start(lab.server(), GUARDED, move |mut conn| {
            if permission.lock().expect("the signal").recv().is_err() {
                return;
            }
            while let Ok(head) = conn.head() {
                if conn.body(&head).is_err() {
                    return;
                }
                // This fails if the test has ended, and then nobody needs the line.
                let _ = line_sender.send(head.line);
                if conn.try_answer().is_err() {
                    return;
                }
            }
        });
        let limiter = Limiter::start(&lab, &Config::new(&lab));
        Self {
            limiter,
            read,
            lines,
            _server: server,
            lab,
        }
    }
}

#[test]
fn requests_without_room_at_the_server_are_charged_once() {
    let rig = LazyServer::start();
    let host = RawHost::new(&rig.lab);
    let key = rig.limiter.key("acme/web");
    let request = request("/", &key);
    let mut conn = host.connect();
    // Requests are sent until the server stops acknowledging them, because its window or its memory
    // is full.
    let mut sent = 0;
    let from = loop {
        let from = conn.sent;
        conn.send_next(&request);
        sent += 1;
        if !conn.wait_until(Instant::now() + NO_ROOM, |conn| conn.acked == conn.sent) {
            break from;
        }
        assert!(sent < 1000, "there is always room");
    };
    // The client sends a probe of one byte, as a TCP sender does when the window is closed, and
    // then the whole request.
    for _ in 0..2 {
        conn.send_at(from, &request[..1]);
        conn.send_at(from, &request);
        conn.drain();
    }
    assert_eq!(conn.acked, from, "the server had room");
    rig.read.send(()).expect("the server waits");
    conn.retry_until_acked(conn.sent, |conn| conn.send_at(from, &request));
    assert_eq!(conn.statuses(sent), vec![200; sent]);
    assert_eq!(rig.lines.try_iter().count(), sent);
    assert_eq!(rig.limiter.usage("acme/web").used, sent as u64);
}

/// Returns a request that is exactly `length` bytes long.
fn of_length(key: &str, length: usize) -> Vec<u8> {
    let empty = String::from_utf8(request("/", key)).expect("text");
    let filler = "x".repeat(length - empty.len() - "X-Filler: \r\n".len());
    empty
        .replace("X-Api-Key", &format!("X-Filler: {filler}\r\nX-Api-Key"))
        .into_bytes()
}

/// Linux accepts bytes beyond the window if it has no other unread data (`tcp_sequence`). The test
/// therefore permits both results: the request is accepted and charged, or neither.
#[test]
fn request_beyond_the_window_is_charged_only_if_accepted() {
    let rig = LazyServer::start();
    widen(&rig.lab);
    let host = RawHost::new(&rig.lab);
    let [bad, good] = ["acme/bad", "acme/good"].map(|scope| rig.limiter.key(scope));
    for before in [0, 1] {
        for more in [1, 1000] {
            let mut conn = host.open(&Opening {
                scale: None,
                mss: Some(8940),
                ..Opening::default()
            });
            for _ in 0..before {
                conn.deliver(&request("/", &good));
            }
            let (from, window) = (conn.sent, usize::from(conn.server_window()));
            let used = rig.limiter.usage("acme/bad").used;
            conn.send_next(&of_length(&bad, window + more));
            let charged = rig.limiter.usage("acme/bad").used - used;
            conn.drain();
            let taken = conn.acked > from;
            rig.read.send(()).expect("the server waits");
            if taken {
                assert_eq!(charged, 1);
                assert_eq!(conn.statuses(before + 1), vec![200; before + 1]);
            } else {
                assert_eq!(charged, 0, "{more} bytes beyond a window of {window}");
                let good = request("/", &good);
                conn.sent = from;
                conn.deliver(&good);
                assert_eq!(conn.statuses(before + 1), vec![200; before + 1]);
            }
        }
    }
    let received: Vec<String> = rig.lines.try_iter().collect();
    let used = ["acme/bad", "acme/good"].map(|scope| rig.limiter.usage(scope).used);
    assert_eq!(received.len() as u64, used[0] + used[1], "{received:?}");
}

/// The receiver of a body longer than 2^32 bytes drops bytes that are far ahead, and sequence
/// numbers repeat after 2^32 bytes. If a program counted such bytes as sent, it would count 2^32
/// bytes too many and find the end of the body too early. It would then mistake parts of the body
/// for requests, and requests for parts of the body.
#[test]
fn body_bytes_beyond_the_window_are_not_counted_as_sent() {
    const ROUND: u64 = 1 << 32;
    const MORE: u64 = 100;
    let lab = Lab::veth();
    let (line_sender, lines) = mpsc::channel();
    let _server = Server::start(lab.server(), GUARDED, move |mut conn| {
        while let Ok(head) = conn.head() {
            let length = head.content_length().ok().flatten().unwrap_or(0);
            // This fails if the test has ended, and then nobody needs the line.
            let _ = line_sender.send(head.line);
            let mut left = length;
            while left > 0 {
                match conn.take(left.min(1)) {
                    Ok(_) => left -= 1,
                    Err(_) => return,
                }
            }
            if conn.try_answer().is_err() {
                return;
            }
        }
    });
    let limiter = Limiter::start(&lab, &Config::new(&lab));
    let key = limiter.key("acme/web");
    let host = RawHost::new(&lab);
    let mut conn = host.connect();
    let length = ROUND + MORE;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nContent-Length: {length}\r\n\r\n"
    );
    conn.deliver(head.as_bytes());
    let begin = conn.sent;
    // In four steps of 2^30, these positions go through all sequence numbers once.
    for quarter in 1..=4 {
        let at = begin
            .wrapping_add((1_u32 << 30).wrapping_mul(quarter))
            .wrapping_sub(1);
        let far = conn.segment(at, b"x");
        conn.send(&far);
    }
    conn.drain();
    conn.sent = begin;
    conn.deliver(&[b'x'; MORE as usize]);
    // For the server, this request is a part of the body, whose end is far away.
    conn.deliver(&request("/hidden", &key));
    let used = limiter.usage("acme/web").used;
    assert_eq!(
        (lines.try_iter().count(), used),
        (1, 1),
        "received and charged"
    );
}

#[test]
fn cut_bytes_may_be_retransmitted_in_other_pieces() {
    // The refused request is the last one of the packet. The programs have to cut the packet before
    // it, but can keep only the first 12 KiB or so of a packet that they cut. The cut is therefore
    // in the middle of the body.
    let lab = Lab::veth();
    for (namespace, interface) in [
        (lab.client(), CLIENT_INTERFACE),
        (lab.server(), SERVER_INTERFACE),
    ] {
        namespace.ip(&format!("link set {interface} mtu 50000"));
    }
    let rig = Rig::of(lab, |config| config.tier("none", "daily_quota = 1"));
    rig.limiter
        .done(&["scope", "add", "acme/over", "--tier", "none"]);
    let over = rig.limiter.another_key("acme/over");
    assert_eq!(rig.get(&over).status, 200);
    let key = rig.limiter.key("acme/web");
    let host = RawHost::new(&rig.lab);
    let body = vec![b'b'; 40_000];
    let chunk = format!("{:x}\r\n", body.len());
    let framings = [
        (
            format!("Content-Length: {}", body.len()),
            vec![body.clone()],
        ),
        (
            "Transfer-Encoding: chunked".to_owned(),
            vec![chunk.into_bytes(), body, b"\r\n0\r\n\r\n".to_vec()],
        ),
    ];
    let mut served = 0;
    for (framing, parts) in framings {
        for piece in [1000, 1441, 5000, 20_000] {
            let head =
                format!("POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n{framing}\r\n\r\n");
            let upload = [head.into_bytes(), parts.concat()].concat();
            let all = [request("/", &key), upload, request("/", &over)].concat();
            let mut conn = host.connect();
            conn.send_next(&all);
            // The server acknowledges only the part before the cut.
            conn.wait("a part is acknowledged", |conn| conn.acked > 0);
            let from = usize::try_from(conn.acked).expect("a short way");
            assert!(from < all.len(), "{framing}: it was not cut");
            conn.sent = conn.acked;
            for piece in all[from..].chunks(piece) {
                let end = conn.sent + u32::try_from(piece.len()).expect("a piece");
                if usize::try_from(end).expect("a short way") < all.len() - 60 {
                    conn.deliver(piece);
                } else {
                    conn.send_next(piece);
                }
            }
            assert_eq!(conn.statuses(2), [200, 200], "{framing} in {piece}");
            served += 2;
            assert_eq!(conn.end(), None, "{framing} in {piece}");
        }
    }
    assert_eq!(rig.limiter.count("/coverage/conflict_dropped"), 0);
    rig.assert_charged_as_served("acme/web", &key, served);
}

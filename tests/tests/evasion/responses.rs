// SPDX-License-Identifier: MIT OR Apache-2.0

//! Servers that respond early, late or never, that send invalid responses, or that send bytes that
//! look like another response. Each request is still counted once, and its slot is released.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use limiter_tests::{
    Conn, GUARDED, request,
    scripted::{PLAIN, Scripted},
};

#[test]
fn a_server_that_closes_at_once_leaves_nothing_behind() {
    type Serve = fn(Conn);
    let servers: [(&str, Serve); 6] = [
        ("before it reads", drop),
        ("before it reads, with a reset", Conn::reset),
        ("when it has read a little", |mut conn| {
            drop(conn.take(1));
        }),
        ("when it has read all", |mut conn| {
            drop(conn.head());
        }),
        ("in its answer", |mut conn| {
            if conn.head().is_ok() {
                conn.send(&PLAIN[..20]);
            }
        }),
        ("in its answer, with a reset", |mut conn| {
            if conn.head().is_ok() {
                conn.send(&PLAIN[..PLAIN.len() - 1]);
                conn.reset();
            }
        }),
    ];
    let (choose, chosen) = (Arc::new(AtomicUsize::new(0)), servers);
    let choice = Arc::clone(&choose);
    let rig = Scripted::serving(
        |config| config,
        move |conn| chosen[choice.load(Ordering::SeqCst)].1(conn),
    );
    for (number, (what, _)) in servers.iter().enumerate() {
        choose.store(number, Ordering::SeqCst);
        let before = rig.limiter.usage("acme/web").used;
        for address in rig.lab.addresses() {
            for _ in 0..10 {
                // A server that has already closed its socket may reset the connection. Each of
                // these calls may therefore fail.
                let Ok(mut conn) = Conn::try_open(rig.lab.client(), (address, GUARDED).into())
                else {
                    continue;
                };
                let _ = conn.try_send(&request("/", &rig.key));
                let _ = conn.try_send(&request("/", &rig.key));
                let _ = conn.rest();
            }
        }
        let used = rig.limiter.usage("acme/web").used - before;
        let least = if number < 2 { 0 } else { 20 };
        assert!((least..=40).contains(&used), "{what}: {used}");
        rig.assert_nothing_left(what);
    }
}

/// Bytes that look like a response after which the connection is a tunnel. Requests in a tunnel are
/// not counted.
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n";

#[test]
fn only_the_status_of_a_response_makes_a_tunnel() {
    const REQUESTS: u64 = 6;
    let answers = [
        ("in a body", format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{SWITCH}", SWITCH.len())),
        ("in a chunk", format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{SWITCH}\r\n0\r\n\r\n", SWITCH.len())),
        ("in a trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned()),
        ("in a header", "HTTP/1.1 200 OK\r\nX: y\r\n\tHTTP/1.1 101 Switching Protocols\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("in a reason", "HTTP/1.1 200 HTTP/1.1 101 \r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("in a body of two lengths that are the same", format!("HTTP/1.1 200 OK\r\nContent-Length: {0}\r\nContent-Length: {0}\r\n\r\n{SWITCH}", SWITCH.len())),
        ("behind hints", format!("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{SWITCH}", SWITCH.len())),
    ];
    let scripts = answers.clone();
    // The path in the request selects the response and the size of its pieces.
    let rig = Scripted::serving(
        |config| config,
        move |mut conn| {
            while let Ok(head) = conn.head() {
                let mut numbers = head
                    .line
                    .split(['/', ' '])
                    .filter_map(|word| word.parse().ok());
                let (Some(which), Some(size)) = (numbers.next(), numbers.next()) else {
                    return;
                };
                let which: usize = which;
                // Nagle's algorithm is disabled, so each piece is sent in its own segment.
                for piece in scripts[which].1.as_bytes().chunks(size) {
                    conn.send(piece);
                }
            }
        },
    );
    let mut expected = 0;
    for (number, (what, answer)) in answers.iter().enumerate() {
        for size in [answer.len(), 7, 1] {
            let mut conn = rig.lab.connect(GUARDED);
            for _ in 0..REQUESTS {
                conn.send(&request(&format!("/{number}/{size}"), &rig.key));
                conn.take(answer.len()).expect("the answer");
            }
            expected += REQUESTS;
            rig.assert_used(expected, what);
            drop(conn);
            rig.assert_nothing_left(what);
        }
    }
}

#[test]
fn unsolicited_response_changes_nothing() {
    let rig = Scripted::serving(
        |config| config,
        |mut conn| {
            // Some proxies send this response when they close an idle connection. This server keeps
            // the connection open.
            conn.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n");
            while conn.head().is_ok() {
                conn.send(PLAIN);
            }
        },
    );
    for address in rig.lab.addresses() {
        let mut conn = rig.lab.connect_to(address, GUARDED);
        assert_eq!(conn.response().status, 408);
        for _ in 0..3 {
            assert_eq!(conn.get("/", &rig.key).body, b"plain");
        }
    }
    rig.assert_used(6, "after an unrequested response");
    rig.assert_nothing_left("after an unrequested response");
}

#[test]
fn early_response_does_not_end_the_request_body() {
    let rig = Scripted::serving(
        |config| config,
        |mut conn| {
            while let Ok(head) = conn.head() {
                conn.send(PLAIN);
                if conn.body(&head).is_err() {
                    return;
                }
            }
        },
    );
    let inner = request("/inner", &rig.key).repeat(10);
    let bodies = [
        format!(
            "Content-Length: {}\r\n\r\n{}",
            inner.len(),
            String::from_utf8_lossy(&inner)
        ),
        format!(
            "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n",
            inner.len(),
            String::from_utf8_lossy(&inner)
        ),
    ];
    let mut expected = 0;
    for body in bodies {
        let post = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {}\r\n{body}",
            rig.key
        );
        let (head, body) = post.split_once("\r\n\r\n").expect("a head");
        let mut conn = rig.lab.connect(GUARDED);
        for _ in 0..3 {
            conn.send(format!("{head}\r\n\r\n").as_bytes());
            assert_eq!(conn.response().body, b"plain");
            conn.send_pieces(body.as_bytes().chunks(300));
            assert_eq!(conn.get("/", &rig.key).body, b"plain");
            expected += 2;
        }
        rig.assert_used(expected, "early answers");
    }
    rig.assert_nothing_left("early answers");
}

#[test]
fn invalid_responses_hold_their_slots_and_requests_are_counted() {
    let answers: [&[u8]; 5] = [
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/3 200\r\n\r\n",
        b"<html>no head at all</html>\r\n\r\n",
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\r\n\r\n",
    ];
    let rig = Scripted::serving(
        |config| config,
        move |mut conn| {
            while let Ok(head) = conn.head() {
                let number = head
                    .line
                    .split(['/', ' '])
                    .find_map(|word| word.parse().ok());
                let Some::<usize>(number) = number else {
                    return;
                };
                conn.send(answers[number]);
            }
        },
    );
    let mut expected = 0;
    for (number, answer) in answers.iter().enumerate() {
        let mut conn = rig.lab.connect(GUARDED);
        for _ in 0..3 {
            conn.send(&request(&format!("/{number}"), &rig.key));
            conn.take(answer.len()).expect("the answer");
            expected += 1;
            rig.assert_used(expected, "a response that is not one");
        }
        drop(conn);
        rig.assert_nothing_left("a response that is not one");
    }
}

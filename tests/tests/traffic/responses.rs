// SPDX-License-Identifier: MIT OR Apache-2.0

//! The programs find the end of a response with every kind of framing, and then free the slot of
//! its request.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use limiter_tests::{
    Conn, GUARDED, Lab, Net, Nginx, Rig, Server, eventually, request,
    scripted::{PLAIN, Scripted},
};

/// A limit of one request at a time. If a slot is not freed, the next request is refused.
const ONE_AT_A_TIME: &str = "concurrency = 1";

/// Starts a server behind a limiter that allows one request at a time. The server answers a request
/// for `/plain` with [`PLAIN`], and any other request with the bytes that the function `answer`
/// returns.
fn answering(answer: impl Fn(usize, &str) -> Vec<u8> + Send + Sync + 'static) -> Scripted {
    on(Net::Veth, |lab| {
        Server::answering(lab.server(), GUARDED, move |number, line| {
            if line.contains(" /plain ") {
                PLAIN.to_vec()
            } else {
                answer(number, line)
            }
        })
    })
}

fn serving(serve: impl Fn(Conn) + Send + Sync + 'static) -> Scripted {
    on(Net::Veth, |lab| Server::start(lab.server(), GUARDED, serve))
}

fn on(net: Net, server: impl FnOnce(&Lab) -> Server) -> Scripted {
    Scripted::on(net, |config| config.tier("profile", ONE_AT_A_TIME), server)
}

fn head_request(key: &str) -> Vec<u8> {
    format!("HEAD / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n\r\n").into_bytes()
}

#[test]
fn every_framing_of_a_response_gives_its_slot_back() {
    let answers: [(&str, &[u8]); 12] = [
        ("content-length", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
        ("no body", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (
            "chunked",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n",
        ),
        (
            "chunked with extensions and trailers",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n3;a=b\r\nabc\r\n000\r\nA: b\r\nC: d\r\n\r\n",
        ),
        ("204", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("304 with the length of what is not sent", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n"),
        ("304 said to be chunked", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("after 100", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"),
        (
            "after 102 and 103",
            b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\na",
        ),
        ("an error", b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno"),
        ("no reason phrase", b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nno"),
        ("HTTP/1.0 that stays", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nno"),
    ];
    let (next, chosen) = (answers, Arc::new(AtomicUsize::new(0)));
    let choose = Arc::clone(&chosen);
    let rig = answering(move |_, _| next[choose.load(Ordering::SeqCst)].1.to_vec());
    for (number, (what, _)) in answers.iter().enumerate() {
        chosen.store(number, Ordering::SeqCst);
        for address in rig.lab.addresses() {
            let mut conn = rig.lab.connect_to(address, GUARDED);
            for _ in 0..3 {
                conn.get("/", &rig.key);
                assert_eq!(conn.get("/plain", &rig.key).body, b"plain", "{what}");
            }
        }
        rig.assert_slot_is_free();
    }
}

#[test]
fn the_answer_to_head_ends_with_its_headers() {
    for headers in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
        let rig =
            answering(move |_, _| format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n").into_bytes());
        let mut conn = rig.lab.connect(GUARDED);
        for _ in 0..3 {
            conn.send(&head_request(&rig.key));
            assert_eq!(conn.head_response().status, 200);
            assert_eq!(conn.get("/plain", &rig.key).body, b"plain", "{headers}");
        }
        rig.assert_slot_is_free();
    }
}

#[test]
fn nginx_s_own_204_304_and_head_give_their_slots_back() {
    let rig = Rig::veth(|config| config.tier("profile", ONE_AT_A_TIME));
    let key = rig.limiter.key("acme/web");
    let mut conn = rig.lab.connect(GUARDED);
    let tag = conn.get(Nginx::FILE, &key).required("etag").to_owned();
    for _ in 0..3 {
        assert_eq!(conn.get(Nginx::NONE, &key).status, 204);
        let conditional = format!(
            "GET {} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nIf-None-Match: {tag}\r\n\r\n",
            Nginx::FILE
        );
        assert_eq!(conn.ask(conditional.as_bytes()).status, 304);
        conn.send(&head_request(&key));
        assert_eq!(conn.head_response().status, 200);
        let ranges = format!(
            "GET {} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nRange: bytes=0-9,20-29\r\n\r\n",
            Nginx::FILE
        );
        assert_eq!(conn.ask(ranges.as_bytes()).status, 206);
    }
    drop(conn);
    assert_eq!(rig.limiter.usage("acme/web").refused.total(), 0);
    rig.assert_nothing_left("acme/web");
}

#[test]
fn upload_with_expect_100_continue_is_one_request() {
    let rig = Rig::veth(|config| config.tier("profile", ONE_AT_A_TIME));
    let key = rig.limiter.key("acme/web");
    rig.nginx.gate().open();
    let body = Nginx::file_content();
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        Nginx::SLOW,
        body.len()
    );
    let mut conn = rig.lab.connect(GUARDED);
    for _ in 0..3 {
        conn.send(head.as_bytes());
        let asked = conn.head().expect("an interim answer");
        assert_eq!(asked.status().expect("a status"), 100);
        assert_eq!(rig.limiter.usage("acme/web").in_flight, 1);
        conn.send(&body);
        let answer = conn.response();
        assert_eq!(
            answer.body,
            format!("passed with {} bytes\n", body.len()).into_bytes()
        );
    }
    drop(conn);
    rig.assert_charged_as_served("acme/web", &key, 3);
    rig.assert_nothing_left("acme/web");
}

#[test]
fn a_response_in_pieces_holds_its_slot_to_the_last_byte() {
    let (proceed, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let rig = serving(move |mut conn| {
        while conn.head().is_ok() {
            let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n012345678";
            conn.send_pieces(bytes.chunks(1));
            if wait.lock().expect("the signal").recv().is_err() {
                return;
            }
            conn.send(b"9");
        }
    });
    let mut conn = rig.lab.connect(GUARDED);
    for _ in 0..2 {
        conn.send(&request("/", &rig.key));
        // The server has sent all bytes of the response except the last one.
        let head = conn.head().expect("a head");
        assert_eq!(head.status().expect("a status"), 200);
        assert_eq!(conn.take(9).expect("most of the body"), b"012345678");
        assert_eq!(rig.limiter.usage("acme/web").in_flight, 1);
        proceed.send(()).expect("the server waits");
        assert_eq!(conn.take(1).expect("the last byte"), b"9");
        assert_eq!(rig.limiter.usage("acme/web").in_flight, 0);
    }
    rig.assert_slot_is_free();
}

#[test]
fn response_without_length_ends_with_its_connection() {
    let rig = serving(|mut conn| {
        if conn.head().is_ok() {
            conn.send(b"HTTP/1.1 200 OK\r\n\r\nall there is");
        }
    });
    for address in rig.lab.addresses() {
        for _ in 0..3 {
            let mut conn = rig.lab.connect_to(address, GUARDED);
            assert_eq!(conn.get("/", &rig.key).body, b"all there is");
        }
    }
    rig.assert_slot_is_free();
}

#[test]
fn upgraded_connection_passes_everything_and_its_end_frees_the_slot() {
    let rig = serving(|mut conn| {
        if conn.head().is_err() {
            return;
        }
        conn.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n",
        );
        while let Ok(bytes) = conn.take(8) {
            conn.send(&bytes);
        }
    });
    let mut conn = rig.lab.connect(GUARDED);
    let upgrade = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {}\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n",
        rig.key
    );
    assert_eq!(conn.ask(upgrade.as_bytes()).status, 101);
    for bytes in [b"\x81\x05hello\x00", b"GET / HT", b"\r\n\r\n\r\n\r\n"] {
        conn.send(bytes);
        assert_eq!(conn.take(8).expect("an echo"), bytes);
    }
    assert_eq!(rig.limiter.usage("acme/web").used, 1);
    drop(conn);
    rig.assert_slot_is_free();
}

#[test]
fn half_closed_client_still_gets_its_response() {
    let (proceed, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let rig = serving(move |mut conn| {
        if conn.head().is_ok() && wait.lock().expect("the signal").recv().is_ok() {
            conn.send(PLAIN);
        }
    });
    let mut conn = rig.lab.connect(GUARDED);
    conn.send(&request("/", &rig.key));
    conn.finish();
    eventually("the request is in flight", || {
        rig.limiter.usage("acme/web").in_flight == 1
    });
    proceed.send(()).expect("the server waits");
    assert_eq!(conn.response().body, b"plain");
    rig.assert_slot_is_free();
}

#[test]
fn an_answer_that_comes_before_the_body_has_ended_gives_its_slot_back() {
    let rig = serving(|mut conn| {
        if conn.head().is_ok() {
            conn.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            conn.finish();
            // The server reads until the client closes the connection. If the server closed its
            // socket while bytes are unread, the server's kernel would reset the connection.
            let _ = conn.rest();
        }
    });
    for _ in 0..3 {
        let mut conn = rig.lab.connect(GUARDED);
        let head = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {}\r\nContent-Length: 100000\r\n\r\n",
            rig.key
        );
        conn.send(head.as_bytes());
        conn.send(&[b'x'; 1000]);
        assert_eq!(conn.response().status, 413);
    }
    rig.assert_slot_is_free();
}

#[test]
fn pipelined_responses_are_distinguished() {
    let rig = on(Net::Veth, |lab| {
        // The server waits for three requests, and then sends all three responses in one segment.
        Server::start(lab.server(), GUARDED, |mut conn| {
            loop {
                for _ in 0..3 {
                    if conn.head().is_err() {
                        return;
                    }
                }
                let answers: [&[u8]; 3] = [
                    b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
                    b"HTTP/1.1 204 No Content\r\n\r\n",
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
                ];
                conn.send(&answers.concat());
            }
        })
    });
    rig.limiter.done(&[
        "limits",
        "set",
        "acme/web",
        "--concurrency",
        "3",
        "--note",
        "pipelines",
    ]);
    let mut conn = rig.lab.connect(GUARDED);
    for _ in 0..3 {
        let plain = request("/", &rig.key);
        conn.send(&[head_request(&rig.key), plain.repeat(2)].concat());
        assert_eq!(conn.head_response().status, 200);
        assert_eq!(conn.response().status, 204);
        assert_eq!(conn.response().body, b"a");
        assert_eq!(rig.limiter.usage("acme/web").in_flight, 0);
    }
    rig.assert_slot_is_free();
}

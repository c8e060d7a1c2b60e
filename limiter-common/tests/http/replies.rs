// SPDX-License-Identifier: MIT OR Apache-2.0

//! Compares the ends of responses that the scanner finds with those that hyper's client finds.

use std::{cell::RefCell, future::Future as _, pin::pin, rc::Rc, task::Context, task::Waker};

use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, body::Bytes, client::conn::http1};
use limiter_common::http::{METHOD_HEAD, METHOD_OTHER};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::{
    drive::{Direction, Event},
    hyper::Pipe,
    model::{cuts, cutting},
    wild::{self, Stream},
};

/// The number of cases, unless the environment sets another number.
const CASES: u32 = 1000;

/// The method of a request, and all bytes that are sent in answer to it.
type Exchange = (&'static str, Vec<u8>);

fn reply() -> impl Strategy<Value = Exchange> {
    let interim = select(vec![
        "",
        "",
        "",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        "HTTP/1.1 102 Processing\r\nContent-Length: 5\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
    ]);
    let version = select(vec!["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"]);
    let status = select(vec![
        "200 OK",
        "200 OK",
        "404 Not Found",
        "204 No Content",
        "304 Not Modified",
        "500 ",
        "299",
    ]);
    let fields = select(vec![
        "",
        "Server: s\r\n",
        "Connection: keep-alive\r\nDate: x\r\n",
        "Content-Type: text/plain\r\nX: Content-Length: 3\r\n",
    ]);
    let framing = select(vec![
        ("Content-Length: 5\r\n", "hello"),
        ("content-length:0\r\n", ""),
        ("Content-Length: \t17 \r\n", "HTTP/1.1 200 OK\r\n"),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: Chunked\r\n", "0\r\n\r\n"),
        (
            "transfer-encoding:chunked\r\n",
            "5;a=b\r\nhello\r\n0\r\nX: y\r\nZ: 0\r\n\r\n",
        ),
        (
            "Transfer-Encoding: chunked\r\n",
            "00005\r\n0\r\n\r\n\r\n000\r\n\r\n",
        ),
        (
            "Transfer-Encoding: gzip, chunked\r\n",
            "A\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n",
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        ("Transfer-Encoding: gzip\r\n", "until the close"),
        ("", "until the close"),
    ]);
    let method = select(vec!["GET", "GET", "POST", "HEAD"]);
    (method, interim, version, status, fields, framing).prop_map(
        |(method, interim, version, status, fields, framing)| {
            let (framing, body) = framing;
            let none = method == "HEAD" || status.starts_with("204") || status.starts_with("304");
            let body = if none { "" } else { body };
            (
                method,
                format!("{interim}{version} {status}\r\n{fields}{framing}\r\n{body}").into_bytes(),
            )
        },
    )
}

/// Returns the end of each response according to hyper's client, up to the point at which the
/// client gives up on the connection.
fn received(methods: &[&'static str], bytes: &[u8]) -> Vec<u64> {
    let ends = Rc::new(RefCell::new(Vec::new()));
    let pipe = Pipe::default();
    let mut context = Context::from_waker(Waker::noop());
    let client = async {
        let (mut sender, connection) = http1::handshake(pipe.clone()).await?;
        let requests = async {
            for method in methods {
                sender.ready().await?;
                let request = Request::builder()
                    .method(*method)
                    .uri("/")
                    .body(Empty::<Bytes>::new());
                let response = sender.send_request(request.expect("a request")).await?;
                response.into_body().collect().await?;
                ends.borrow_mut().push(pipe.given.get() as u64);
            }
            Ok::<_, hyper::Error>(())
        };
        let (mut connection, mut requests) = (pin!(connection), pin!(requests));
        std::future::poll_fn(|context| {
            // hyper also reports an error of the connection to the request, so the result is not
            // needed here.
            let _ = connection.as_mut().poll(context);
            requests.as_mut().poll(context)
        })
        .await
    };
    let mut client = pin!(client);
    for byte in bytes {
        for _ in 0..3 {
            if client.as_mut().poll(&mut context).is_ready() {
                return ends.take();
            }
        }
        pipe.put(&[*byte]);
    }
    for _ in 0..3 {
        if client.as_mut().poll(&mut context).is_ready() {
            break;
        }
    }
    ends.take()
}

#[test]
fn responses_end_where_hypers_client_says() {
    let agreed = RefCell::new(0);
    let strategy = (vec(reply(), 1..5), cutting());
    let result = wild::runner(CASES).run(&strategy, |(exchanges, cutting)| {
        let methods: Vec<&str> = exchanges.iter().map(|(method, _)| *method).collect();
        let bytes: Vec<u8> = exchanges.into_iter().flat_map(|(_, bytes)| bytes).collect();
        let numbers = methods.iter().map(|method| {
            if *method == "HEAD" {
                METHOD_HEAD
            } else {
                METHOD_OTHER
            }
        });
        let mut direction = Direction::responses(&numbers.collect::<Vec<_>>());
        let seen = direction.cut(&bytes, &cuts(bytes.len(), &cutting));
        let ends: Vec<u64> = seen
            .iter()
            .filter_map(|seen| {
                if let Event::End(at) = seen {
                    Some(*at)
                } else {
                    None
                }
            })
            .collect();
        let received = received(&methods, &bytes);
        // hyper may report fewer ends, because it ignores all bytes after a response that closes
        // the connection.
        prop_assert!(
            ends.starts_with(&received),
            "hyper: {received:?}, we: {ends:?} of {:?}",
            Stream(bytes)
        );
        *agreed.borrow_mut() += received.len();
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(
        agreed.into_inner() > CASES as usize,
        "hyper received too few responses"
    );
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Compares the scanner with hyper's server, which determines the framing of requests with code of
//! its own. The scanner must find each request that hyper finds in the forwarded bytes, with the
//! same key.
//!
//! This command tests a larger number of streams, which are generated from another seed:
//!
//! ```text
//! LIMITER_CASES=1000000 LIMITER_SEED=7 cargo test -p limiter-common --test http hyper
//! ```

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::Future as _,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    rt::{Read, ReadBufCursor, Write},
    server::conn::http1 as server,
    service::service_fn,
};
use proptest::prelude::*;

use crate::{
    agreement::{self, ParsedRequest},
    model::{cuts, cutting},
    wild::{self, Stream},
};

/// The number of cases, unless the environment sets another number.
const CASES: u32 = 4000;

/// hyper's side of a connection. hyper reads the bytes that the test passes to [`Pipe::put`], and
/// all bytes that hyper writes are discarded.
#[derive(Clone, Default)]
pub struct Pipe {
    input: Rc<RefCell<Vec<u8>>>,
    /// The number of bytes that the test has passed to [`Pipe::put`].
    pub given: Rc<Cell<usize>>,
}

impl Pipe {
    pub fn put(&self, bytes: &[u8]) {
        self.input.borrow_mut().extend_from_slice(bytes);
        self.given.set(self.given.get() + bytes.len());
    }
}

impl Read for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut to: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut input = self.input.borrow_mut();
        if input.is_empty() {
            return Poll::Pending;
        }
        let len = input.len().min(to.remaining());
        to.put_slice(&input[..len]);
        input.drain(..len);
        Poll::Ready(Ok(()))
    }
}

impl Write for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Returns the requests that hyper's server finds. If `lenient` is true, the server is as lenient
/// as it can be configured to be.
fn served(bytes: &[u8], lenient: bool) -> Vec<ParsedRequest> {
    let pipe = Pipe::default();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let fields = request.headers().iter();
        seen.borrow_mut().push(ParsedRequest {
            end: pipe.given.get(),
            fields: fields
                .map(|(name, value)| (name.as_str().into(), value.as_bytes().into()))
                .collect(),
        });
        async move {
            // An error is ignored, because hyper ends the connection if the body is cut short.
            let _ = request.into_body().collect().await;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut connection = server::Builder::new()
        .max_headers(300)
        .ignore_invalid_headers(lenient)
        .allow_multiple_spaces_in_request_line_delimiters(lenient)
        .half_close(true)
        .serve_connection(pipe.clone(), service);
    let mut context = Context::from_waker(Waker::noop());
    // A head ends with a line feed. Therefore a request that hyper returns now was completed by
    // `line`.
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        pipe.put(line);
        // The connection is polled several times, because it may yield before it needs more bytes.
        for _ in 0..4 {
            if Pin::new(&mut connection).poll(&mut context).is_ready() {
                drop(connection);
                return seen.take();
            }
        }
    }
    drop(connection);
    seen.take()
}

#[test]
fn requests_that_hyper_serves_were_seen_with_their_keys() {
    let agreed = Cell::new(0);
    let mut runner = wild::runner(CASES);
    let result = runner.run(&wild::stream(), |Stream(bytes)| {
        for lenient in [false, true] {
            let count = agreement::check(&bytes, &served(&bytes, lenient));
            agreed.set(agreed.get() + count.map_err(TestCaseError::fail)?);
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(
        agreed.get() > runner.config().cases as usize,
        "hyper saw {} requests only",
        agreed.get()
    );
}

#[test]
fn events_of_wild_streams_do_not_depend_on_splits() {
    wild::runner(CASES)
        .run(&(wild::stream(), cutting()), |(Stream(bytes), cutting)| {
            let whole = agreement::seen(&bytes, &[]);
            prop_assert_eq!(
                &whole,
                &agreement::seen(&bytes, &cuts(bytes.len(), &cutting))
            );
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

//! Agreement with hyper's server, which frames requests itself: whatever of a stream that the
//! scanner lets by hyper takes for a request, it has seen too, with the same key.
//!
//! More streams, and others: `LIMITER_CASES=1000000 LIMITER_SEED=7 cargo test -p limiter-common
//! --test http hyper`.

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
    agreement::{self, Asked},
    model::{cuts, cutting},
    wild::{self, Stream},
};

/// Cases of a run that is not told how many.
const CASES: u32 = 4000;

/// One end of a connection whose other end is the test: reads what was put in, and writes nowhere.
#[derive(Clone, Default)]
pub struct Pipe {
    input: Rc<RefCell<Vec<u8>>>,
    /// Bytes that were put in so far.
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

/// The requests that hyper's server sees. `lenient`: with all leniency that it has.
fn served(bytes: &[u8], lenient: bool) -> Vec<Asked> {
    let pipe = Pipe::default();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let fields = request.headers().iter();
        seen.borrow_mut().push(Asked {
            end: pipe.given.get(),
            fields: fields
                .map(|(name, value)| (name.as_str().into(), value.as_bytes().into()))
                .collect(),
        });
        async move {
            // A body that breaks off ends the connection.
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
    // A head ends with a line feed, so what is seen then is what has just come to its end.
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        pipe.put(line);
        // Until it wants more: it may give up its turn in between.
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
fn what_hyper_serves_was_seen_with_its_key() {
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
fn what_is_seen_of_wild_streams_does_not_depend_on_how_they_are_split() {
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

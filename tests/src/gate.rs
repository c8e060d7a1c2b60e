// SPDX-License-Identifier: MIT OR Apache-2.0

//! A backend that sends a response only when the test releases it. Requests therefore stay in
//! flight exactly as long as the test needs, whatever the time.

use std::{
    collections::VecDeque,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::{self, JoinHandle},
};

use crate::clock::TIMEOUT;

/// The suffix of a path. If the path of a request ends with it, the response contains the body of
/// the request.
pub const ECHO: &str = "/echo";

/// A server on a Unix socket to which nginx forwards requests. Every request waits at the gate, in
/// the order of arrival, until it is released.
#[derive(Debug)]
pub struct Gate {
    shared: Arc<Shared>,
    listener: UnixListener,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The tickets of the waiting requests, oldest first.
    waiting: VecDeque<u64>,
    next_ticket: u64,
    arrived: usize,
    open: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the gate's state")
    }

    /// Waits until the response to this request may be sent.
    fn pass(&self) {
        let mut state = self.state();
        state.arrived += 1;
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back(ticket);
        self.changed.notify_all();
        while !state.open && state.waiting.contains(&ticket) {
            state = self.changed.wait(state).expect("the gate's state");
        }
        state.waiting.retain(|waiting| *waiting != ticket);
        self.changed.notify_all();
    }
}

impl Gate {
    /// Listens at `path` with the gate closed.
    pub fn listen(path: &Path) -> Self {
        let listener = UnixListener::bind(path)
            .unwrap_or_else(|error| panic!("cannot listen at {}: {error}", path.display()));
        let shared = Arc::new(Shared::default());
        let (accepting, gate) = (
            listener.try_clone().expect("a second handle"),
            shared.clone(),
        );
        let acceptor = thread::spawn(move || {
            // `accept` fails once the listening socket has been shut down, and that ends the loop.
            while let Ok((stream, _)) = accepting.accept() {
                let gate = gate.clone();
                // Errors are ignored, because some tests kill clients before the response is sent
                // to them.
                thread::spawn(move || drop(serve(&stream, &gate)));
            }
        });
        Self {
            shared,
            listener,
            acceptor: Some(acceptor),
        }
    }

    /// Returns the number of requests that are waiting at the gate.
    pub fn waiting(&self) -> usize {
        self.shared.state().waiting.len()
    }

    /// Returns the number of requests that have arrived so far.
    pub fn arrived(&self) -> usize {
        self.shared.state().arrived
    }

    /// Waits until `count` requests are waiting at the gate.
    #[track_caller]
    pub fn wait_for(&self, count: usize) {
        let state = self.shared.state();
        let (state, timeout) = self
            .shared
            .changed
            .wait_timeout_while(state, TIMEOUT, |state| state.waiting.len() < count)
            .expect("the gate's state");
        assert!(
            !timeout.timed_out(),
            "{} of {count} requests wait at the gate",
            state.waiting.len()
        );
    }

    /// Releases the `count` oldest waiting requests.
    pub fn release(&self, count: usize) {
        let mut state = self.shared.state();
        assert!(
            state.waiting.len() >= count,
            "fewer requests wait than are to be released"
        );
        state.waiting.drain(..count);
        self.shared.changed.notify_all();
    }

    /// Releases all requests, including those that arrive later.
    pub fn open(&self) {
        self.shared.state().open = true;
        self.shared.changed.notify_all();
    }

    /// Makes later requests wait again.
    pub fn close(&self) {
        self.shared.state().open = false;
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
        // This call wakes the accepting thread. It uses socket2, because std cannot shut down a
        // listening socket.
        let _ = socket2::SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// Reads one request from nginx (HTTP/1.0 with Content-Length), waits at the gate, sends the
/// response and closes the connection. The response normally states the length of the request's
/// body. If the path ends with [`ECHO`], the response is the request's body itself, without a
/// Content-Length.
fn serve(stream: &UnixStream, gate: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut reader = BufReader::new(stream);
    let (mut length, mut echo) = (0, false);
    for number in 0.. {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        echo |= number == 0
            && line
                .split(' ')
                .nth(1)
                .is_some_and(|path| path.ends_with(ECHO));
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    gate.pass();
    let head = "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n";
    let answer = if echo {
        [format!("{head}\r\n").as_bytes(), &body].concat()
    } else {
        let text = format!("passed with {} bytes\n", body.len());
        format!("{head}Content-Length: {}\r\n\r\n{text}", text.len()).into_bytes()
    };
    (&mut &*stream).write_all(&answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleanup;

    fn ask(path: &Path) -> JoinHandle<String> {
        let mut stream = UnixStream::connect(path).expect("reach the gate");
        thread::spawn(move || {
            stream
                .write_all(b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc")
                .expect("ask");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            answer
        })
    }

    #[test]
    fn requests_wait_until_they_are_released() {
        let path = cleanup::directory(&cleanup::unique_name()).with_extension("sock");
        let gate = Gate::listen(&path);
        let first = ask(&path);
        gate.wait_for(1);
        let second = ask(&path);
        gate.wait_for(2);
        gate.release(1);
        assert!(
            first
                .join()
                .expect("first")
                .ends_with("passed with 3 bytes\n")
        );
        assert!(!second.is_finished());
        assert_eq!((gate.waiting(), gate.arrived()), (1, 2));
        gate.open();
        assert!(second.join().expect("second").starts_with("HTTP/1.0 200"));
        drop(gate);
        std::fs::remove_file(path).expect("the socket's file");
    }
}

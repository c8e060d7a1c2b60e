//! A backend that answers when it is told to: requests stay in flight exactly
//! as long as a test wants, without a clock.

use std::{
    collections::VecDeque,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::{self, JoinHandle},
};

use crate::clock::PATIENCE;

/// The end of paths whose requests are answered with their own bodies.
pub const ECHO: &str = "/echo";

/// A server on a unix socket, for nginx to pass requests on to. Every request
/// waits at the gate, in order of arrival, until it is let through.
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
    /// Tickets of the requests that wait, oldest first.
    waiting: VecDeque<u64>,
    next_ticket: u64,
    arrived: usize,
    open: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the gate's state")
    }

    /// Waits for this request's turn to be answered.
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
    /// Listens at `path`, closed.
    pub fn listen(path: &Path) -> Self {
        let listener = UnixListener::bind(path)
            .unwrap_or_else(|error| panic!("cannot listen at {}: {error}", path.display()));
        let shared = Arc::new(Shared::default());
        let (accepting, gate) = (
            listener.try_clone().expect("a second handle"),
            shared.clone(),
        );
        let acceptor = thread::spawn(move || {
            // Ends when the listener is shut down.
            while let Ok((stream, _)) = accepting.accept() {
                let gate = gate.clone();
                // A peer that has gone is what tests about killed clients are
                // about: there is nobody left to tell.
                thread::spawn(move || drop(serve(&stream, &gate)));
            }
        });
        Self {
            shared,
            listener,
            acceptor: Some(acceptor),
        }
    }

    /// Requests at the gate now.
    pub fn waiting(&self) -> usize {
        self.shared.state().waiting.len()
    }

    /// Requests that ever came.
    pub fn arrived(&self) -> usize {
        self.shared.state().arrived
    }

    /// Returns when `count` requests wait.
    #[track_caller]
    pub fn wait_for(&self, count: usize) {
        let state = self.shared.state();
        let (state, timeout) = self
            .shared
            .changed
            .wait_timeout_while(state, PATIENCE, |state| state.waiting.len() < count)
            .expect("the gate's state");
        assert!(
            !timeout.timed_out(),
            "{} of {count} requests wait at the gate",
            state.waiting.len()
        );
    }

    /// Lets the `count` oldest waiting requests through.
    pub fn release(&self, count: usize) {
        let mut state = self.shared.state();
        assert!(state.waiting.len() >= count, "more to release than wait");
        state.waiting.drain(..count);
        self.shared.changed.notify_all();
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        self.shared.state().open = true;
        self.shared.changed.notify_all();
    }

    /// Holds requests again.
    pub fn close(&self) {
        self.shared.state().open = false;
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
        // Wakes the acceptor; std has no shutdown for listeners.
        let _ = socket2::SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// Reads one request as nginx sends it (HTTP/1.0, Content-Length), waits at
/// the gate, answers and closes: with the body's length, or with the body itself
/// and without a word of its length if the path ends in [`ECHO`].
fn serve(stream: &UnixStream, gate: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
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

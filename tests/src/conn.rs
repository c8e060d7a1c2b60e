// SPDX-License-Identifier: MIT OR Apache-2.0

//! A TCP connection that a test controls byte by byte.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    time::Duration,
};

use socket2::SockRef;

use socket2::{Domain, Socket, Type};

use crate::{
    Namespace, Response, clock,
    http::{self, Head, bad},
};

/// The size of the buffer for one read, in bytes.
const READ: usize = 64 * 1024;

/// One end of a TCP connection. Each small write is sent immediately in its own segment, and a read
/// fails if no bytes arrive within [`clock::TIMEOUT`].
#[derive(Debug)]
pub struct Conn {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Conn {
    /// Opens a connection from `namespace`.
    ///
    /// # Panics
    /// Panics if the server does not accept the connection.
    #[track_caller]
    pub fn open(namespace: &Namespace, to: SocketAddr) -> Self {
        match Self::try_open(namespace, to) {
            Ok(conn) => conn,
            Err(error) => panic!("cannot reach {to}: {error}"),
        }
    }

    pub fn try_open(namespace: &Namespace, to: SocketAddr) -> io::Result<Self> {
        let stream = namespace.enter(|| TcpStream::connect_timeout(&to, clock::TIMEOUT))?;
        Self::new(stream)
    }

    /// Opens a connection from the address and port `from`. If the port is 0, the kernel chooses
    /// one.
    ///
    /// # Panics
    /// Panics if the server does not accept the connection.
    #[track_caller]
    pub fn open_from(namespace: &Namespace, from: SocketAddr, to: SocketAddr) -> Self {
        let connected = namespace.enter(|| {
            let domain = Domain::for_address(from);
            let socket = Socket::new(domain, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&from.into())?;
            socket.connect_timeout(&to.into(), clock::TIMEOUT)?;
            Self::new(socket.into())
        });
        connected.unwrap_or_else(|error| panic!("cannot reach {to} from {from}: {error}"))
    }

    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(clock::TIMEOUT))?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    pub fn local(&self) -> SocketAddr {
        self.stream.local_addr().expect("an address of its own")
    }

    /// Writes all of `bytes` in one call.
    ///
    /// # Panics
    /// Panics if the connection is broken.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        if let Err(error) = self.try_send(bytes) {
            panic!("cannot send: {error}");
        }
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends an empty 200 response, as a server does. Returns an error if the client has closed the
    /// connection.
    pub fn try_answer(&mut self) -> io::Result<()> {
        self.try_send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    }

    /// Sends each piece in its own segment. For this, it waits after each piece until the peer's
    /// TCP has acknowledged the piece.
    #[track_caller]
    pub fn send_pieces<'a>(&mut self, pieces: impl IntoIterator<Item = &'a [u8]>) {
        for piece in pieces {
            self.send(piece);
            clock::eventually("the piece is acknowledged", || self.unacknowledged() == 0);
        }
    }

    /// Returns the number of written bytes that the peer's TCP has not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        let mut bytes: libc::c_int = 0;
        // SAFETY: TIOCOUTQ, which is SIOCOUTQ in tcp(7), stores one int through the pointer, which
        // is valid for the call; the descriptor stays open as long as `self` lives.
        let result =
            unsafe { libc::ioctl(self.stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        assert_eq!(result, 0, "ask for the unacknowledged bytes");
        usize::try_from(bytes).expect("a count")
    }

    /// Sends a GET request with a key and reads the response.
    #[track_caller]
    pub fn get(&mut self, path: &str, key: &str) -> Response {
        self.send(&http::request(path, key));
        self.response()
    }

    /// Does the same as [`Self::get`], but returns an error if the connection fails.
    pub fn try_get(&mut self, path: &str, key: &str) -> io::Result<Response> {
        self.try_send(&http::request(path, key))?;
        self.try_response()
    }

    /// Sends a complete request, which must not be a HEAD request, and reads the response.
    #[track_caller]
    pub fn ask(&mut self, request: &[u8]) -> Response {
        self.send(request);
        self.response()
    }

    /// Reads the next response.
    ///
    /// # Panics
    /// Panics if no response arrives, or if the received bytes are not HTTP.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        match self.try_response() {
            Ok(response) => response,
            Err(error) => panic!("no response: {error}"),
        }
    }

    pub fn try_response(&mut self) -> io::Result<Response> {
        self.read_response(true)
    }

    /// Reads the response to a HEAD request, which has no body regardless of its headers.
    #[track_caller]
    pub fn head_response(&mut self) -> Response {
        match self.try_head_response() {
            Ok(response) => response,
            Err(error) => panic!("no response: {error}"),
        }
    }

    pub fn try_head_response(&mut self) -> io::Result<Response> {
        self.read_response(false)
    }

    fn read_response(&mut self, with_body: bool) -> io::Result<Response> {
        let mut interim = Vec::new();
        let (head, status) = loop {
            let head = self.head()?;
            let status = head.status()?;
            // A response with status 101 is final, and the bytes after it are not HTTP.
            if status >= 200 || status == 101 {
                break (head, status);
            }
            interim.push(status);
        };
        let body = if !with_body || matches!(status, 101 | 204 | 304) {
            Vec::new()
        } else if head.chunked() {
            self.chunks()?
        } else if let Some(length) = head.content_length()? {
            self.take(length)?
        } else {
            self.rest()?
        };
        Ok(Response {
            status,
            headers: head.headers,
            body,
            interim,
        })
    }

    /// Reads the head of a message.
    pub fn head(&mut self) -> io::Result<Head> {
        loop {
            if let Some(head) = Head::take(&mut self.buffer)? {
                return Ok(head);
            }
            self.more()?;
        }
    }

    /// Reads the body that `head` announces.
    pub fn body(&mut self, head: &Head) -> io::Result<Vec<u8>> {
        if head.chunked() {
            return self.chunks();
        }
        let length = head.content_length()?.unwrap_or(0);
        self.take(length)
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16).map_err(|_| bad(&line))?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.take(size)?);
            if !self.line()?.is_empty() {
                return Err(bad("chunk longer than its size"));
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.more()?;
        }
    }

    /// Reads exactly `length` bytes.
    pub fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.more()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Reads until the peer closes the connection.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.more() {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Ok(std::mem::take(&mut self.buffer));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn more(&mut self) -> io::Result<()> {
        let mut bytes = [0; READ];
        // A signal interrupts a read that has a timeout, and the kernel does not restart the read
        // (signal(7)).
        let read = loop {
            match self.stream.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&bytes[..read]);
        Ok(())
    }

    /// Asserts that the peer closes the connection with a FIN and sends no bytes before the FIN.
    #[track_caller]
    pub fn assert_closed(&mut self) {
        match self.rest() {
            Ok(rest) => assert!(
                rest.is_empty(),
                "more bytes arrived: {:?}",
                String::from_utf8_lossy(&rest)
            ),
            Err(error) => panic!("no orderly close: {error}"),
        }
    }

    /// Sets the timeout of later reads. Tests that expect no response use a short one.
    pub fn set_read_timeout(&self, timeout: Duration) {
        self.stream
            .set_read_timeout(Some(timeout))
            .expect("set a timeout");
    }

    /// Returns whether bytes can be read without waiting.
    pub fn has_bytes(&mut self) -> bool {
        if !self.buffer.is_empty() {
            return true;
        }
        self.stream.set_nonblocking(true).expect("set non-blocking");
        let seen = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).expect("set blocking");
        matches!(seen, Ok(1))
    }

    /// Sends `bytes` and a FIN in one segment, and so closes the sending half.
    pub fn send_with_end(&mut self, bytes: &[u8]) {
        let sent = SockRef::from(&self.stream).send_with_flags(bytes, libc::MSG_MORE);
        assert_eq!(sent.ok(), Some(bytes.len()), "send the last bytes");
        self.finish();
    }

    /// Closes the sending half, as a client does after its last request.
    pub fn finish(&self) {
        // This call fails if the peer has already closed the connection.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Resets the connection.
    pub fn reset(self) {
        SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .expect("set linger");
    }

    /// Returns another handle to the same connection. Another thread can use it to end a read that
    /// waits on this connection.
    pub(crate) fn handle(&self) -> TcpStream {
        self.stream.try_clone().expect("a second handle")
    }
}

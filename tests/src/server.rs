// SPDX-License-Identifier: MIT OR Apache-2.0

//! A server that a test implements itself, for responses that nginx never sends.

use std::{
    collections::HashMap,
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::{Conn, Namespace};

/// The maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// A server that listens on a port in both families and handles each connection with a function on
/// a separate thread. Dropping it ends all of its connections.
#[derive(Debug)]
pub struct Server {
    listener: Socket,
    acceptor: Option<JoinHandle<()>>,
    open: Arc<Mutex<HashMap<u64, TcpStream>>>,
}

impl Server {
    /// # Panics
    /// Panics if the port is in use.
    pub fn start(
        namespace: &Namespace,
        port: u16,
        serve: impl Fn(Conn) + Send + Sync + 'static,
    ) -> Self {
        Self::start_of(Protocol::TCP, namespace, port, serve)
    }

    /// Does the same as [`Self::start`] over Multipath TCP (RFC 8684).
    pub fn start_multipath(
        namespace: &Namespace,
        port: u16,
        serve: impl Fn(Conn) + Send + Sync + 'static,
    ) -> Self {
        Self::start_of(Protocol::from(libc::IPPROTO_MPTCP), namespace, port, serve)
    }

    fn start_of(
        protocol: Protocol,
        namespace: &Namespace,
        port: u16,
        serve: impl Fn(Conn) + Send + Sync + 'static,
    ) -> Self {
        let listener = namespace.enter(|| {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(protocol))?;
            socket.set_only_v6(false)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
            socket.listen(BACKLOG)?;
            Ok::<_, std::io::Error>(socket)
        });
        let listener = listener.unwrap_or_else(|error| panic!("cannot listen on {port}: {error}"));
        let accepting = listener.try_clone().expect("a second handle");
        let open = Arc::new(Mutex::new(HashMap::new()));
        let opened = Arc::clone(&open);
        let serve = Arc::new(serve);
        let acceptor = thread::spawn(move || {
            // `accept` fails once the listening socket has been shut down, and that ends the loop.
            let mut number = 0;
            while let Ok((socket, _)) = accepting.accept() {
                let Ok(conn) = Conn::new(socket.into()) else {
                    continue;
                };
                number += 1;
                opened
                    .lock()
                    .expect("open connections")
                    .insert(number, conn.handle());
                let (serve, opened) = (Arc::clone(&serve), Arc::clone(&opened));
                thread::spawn(move || {
                    serve(conn);
                    // The connection would stay open as long as the handle in `opened` exists.
                    opened.lock().expect("open connections").remove(&number);
                });
            }
        });
        Self {
            listener,
            acceptor: Some(acceptor),
            open,
        }
    }

    /// Starts a server that reads the requests of a connection one after the other, with their
    /// bodies. It answers the n-th request of the connection with `answer(n, head line)`.
    pub fn answering(
        namespace: &Namespace,
        port: u16,
        answer: impl Fn(usize, &str) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self::start(namespace, port, move |mut conn| {
            for number in 0.. {
                let Ok(head) = conn.head() else { return };
                if conn.body(&head).is_err() {
                    return;
                }
                if conn.try_send(&answer(number, &head.line)).is_err() {
                    return;
                }
            }
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.listener.shutdown(Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for stream in self.open.lock().expect("open connections").values() {
            let _ = SockRef::from(stream).shutdown(Shutdown::Both);
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! With `handshake = "defer"`, a server learns of a connection only when the client sends the first
//! request, and never learns of the connection if this request is refused.

use std::{
    io::Read as _,
    net::{Ipv6Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use limiter_tests::{
    Config, Conn, GUARDED, Lab, Limiter, Nginx, eventually, request,
    scripted::{PLAIN, Scripted},
};
use socket2::{Domain, Socket, Type};

fn deferring(config: Config) -> Config {
    config.policy("handshake = \"defer\"")
}

/// The number of connections that the server has accepted.
#[derive(Clone, Default)]
struct AcceptCounter(Arc<AtomicUsize>);

impl AcceptCounter {
    fn count(&self) -> usize {
        self.0.load(SeqCst)
    }

    /// Returns a function for the server that handles one connection. The function counts the
    /// connection, sends the bytes in `first`, and then answers the requests.
    fn serve(&self, first: &'static [u8]) -> impl Fn(Conn) + Send + Sync + 'static {
        let accepted = self.clone();
        move |mut conn: Conn| {
            accepted.0.fetch_add(1, SeqCst);
            conn.send(first);
            while conn.head().is_ok() {
                conn.send(PLAIN);
            }
        }
    }
}

#[test]
fn deferred_refusals_reach_no_application_and_leave_no_socket() {
    let accepted = AcceptCounter::default();
    let scripted = Scripted::serving(
        |config| deferring(config.tier("profile", "daily_quota = 2")),
        accepted.serve(b""),
    );
    for address in scripted.lab.addresses() {
        let mut conn = scripted.lab.connect_to(address, GUARDED);
        assert_eq!(conn.get("/", &scripted.key).status, 200, "{address}");
    }
    assert_eq!(accepted.count(), 2);
    for address in scripted.lab.addresses() {
        for _ in 0..20 {
            let mut conn = scripted.lab.connect_to(address, GUARDED);
            let response = conn.get("/", &scripted.key);
            assert_eq!(response.status, 429, "{address}");
            assert_eq!(response.violated(), ["daily-quota"]);
            conn.assert_closed();
        }
    }
    Nginx::wait_until_no_sockets(&scripted.lab, GUARDED);
    assert_eq!(accepted.count(), 2);
    scripted.assert_used(2, "the day's");
    scripted.assert_nothing_left("refused");
    let count = scripted.limiter.count("/coverage/handshakes_deferred");
    assert_eq!(count, 42);
}

#[test]
fn silent_connection_is_accepted_after_a_retransmitted_syn_ack() {
    let accepted = AcceptCounter::default();
    let scripted = Scripted::serving(deferring, accepted.serve(b""));
    let mut conn = scripted.lab.connect(GUARDED);
    eventually("it is accepted", || accepted.count() == 1);
    assert_eq!(conn.get("/", &scripted.key).status, 200);
    assert_eq!(conn.get("/", &scripted.key).status, 200);
    scripted.assert_used(2, "on one connection");
}

#[test]
fn server_that_sends_first_works_with_deferred_handshakes() {
    let accepted = AcceptCounter::default();
    let scripted = Scripted::serving(deferring, accepted.serve(b"hello"));
    let mut conn = scripted.lab.connect(GUARDED);
    assert_eq!(conn.take(5).expect("what the server says"), b"hello");
}

#[test]
fn refused_connections_take_no_room_in_the_accept_queue() {
    let lab = Lab::veth();
    // The server does not accept any connection yet, and its accept queue has room for two.
    let listener = lab.server().enter(|| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        socket.set_only_v6(false)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, GUARDED)).into())?;
        socket.listen(1)?;
        Ok::<_, std::io::Error>(socket)
    });
    let listener = listener.expect("a listener");
    let config = Config::new(&lab).tier("over", "daily_quota = 0");
    let limiter = Limiter::start(&lab, &deferring(config));
    let refused = limiter.key_of_tier("flood", "over");
    let admitted = limiter.key("acme/web");
    for _ in 0..50 {
        assert_eq!(lab.connect(GUARDED).get("/", &refused).status, 429);
    }
    let mut conn = lab.connect(GUARDED);
    conn.send(&request("/", &admitted));
    let (socket, _) = listener.accept().expect("the admitted request");
    let mut head = [0; 4096];
    let length = TcpStream::from(socket)
        .read(&mut head)
        .expect("its request");
    assert_eq!(head[..length], request("/", &admitted));
    listener.set_nonblocking(true).expect("no wait");
    let another = listener.accept().map(|(_, from)| from);
    let error = another.expect_err("another connection");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Sequence numbers of connections that the limiter or the server does not know: connections opened
//! with SYN cookies, for which a server keeps no state; connections that have ended for the limiter
//! but not for the server; and connections that the server's host opens from a guarded port.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
};

use limiter_tests::{
    Config, GUARDED, Lab, Limiter, Nginx, Rig,
    netfilter::Rules,
    process,
    raw::{End, Opening, RawConn, RawHost},
    request,
};

/// Sets up a server that answers every SYN with a SYN cookie, and a key whose quota is used up.
fn spent() -> (Rig, String) {
    let lab = Lab::veth();
    lab.server().set("net/ipv4/tcp_syncookies", "2");
    let rig = Rig::of(lab, |config| config);
    let key = rig.limiter.key("acme/web");
    rig.limiter.set_quota("acme/web", 1);
    assert_eq!(rig.get(&key).status, 200);
    (rig, key)
}

/// Sends a request on a connection on which it must not reach the server.
#[track_caller]
fn assert_unanswered(conn: &mut RawConn, key: &str) {
    conn.send_next(&request("/", key));
    conn.drain();
    assert!(!conn.has_unread(), "an answer");
}

#[test]
fn exhausted_key_is_not_served_on_the_first_of_two_syn_cookies() {
    let (rig, key) = spent();
    let host = RawHost::new(&rig.lab);
    for (number, distance) in (0..).zip([1 << 30, 1 << 20, 3 << 30]) {
        for v6 in [false, true] {
            let opening = Opening {
                v6,
                client_port: Some(30_000 + number),
                ..Opening::default()
            };
            let mut first = host.begin(&opening);
            first.await_syn_ack();
            let mut second = host.begin(&Opening {
                start: opening.start.wrapping_add(distance),
                ..opening
            });
            second.await_syn_ack();
            first.acknowledge();
            assert_eq!(first.wait_for_end(), End::Reset);
            assert_unanswered(&mut first, &key);
            // The first connection stays closed even after the client has used the second cookie.
            second.acknowledge();
            second.send_next(b"GET / HTTP/1.1\r\n");
            assert_unanswered(&mut first, &key);
        }
    }
    rig.assert_charged_as_served("acme/web", &key, 1);
}

#[test]
fn syn_cookie_is_valid_for_one_connection() {
    let (rig, key) = spent();
    let host = RawHost::new(&rig.lab);
    let other = rig.limiter.key("acme/other");
    let mut conn = host.connect();
    let (sent, received) = (conn.sent, conn.received);
    conn.send_next(&request("/", &other));
    assert_eq!(conn.response().status, 200);
    conn.finish();
    conn.wait_for_end();
    conn.acknowledge();
    rig.assert_nothing_left("acme/other");
    // If the limiter let this acknowledgement pass, the server would open the connection a second
    // time, because the cookie is still valid.
    (conn.sent, conn.received) = (sent, received);
    conn.acknowledge();
    conn.send_next(&request("/", &key));
    assert_eq!(
        conn.wait_for_end(),
        End::Fin,
        "the end of the first connection"
    );
    conn.drain();
    rig.assert_charged_as_served("acme/web", &key, 1);
}

#[test]
fn connection_reset_by_a_firewall_does_not_continue() {
    let rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    for address in rig.lab.addresses() {
        let mut conn = rig.lab.connect_to(address, GUARDED);
        assert_eq!(conn.get("/", &key).status, 200);
        let firewall = Rules::reset(rig.lab.server(), GUARDED);
        conn.send(&request("/", &key));
        conn.rest().ok();
        drop(firewall);
    }
    // The server does not know about the reset, and here the client ignores it.
    let host = RawHost::new(&rig.lab);
    for opening in [Opening::default(), Opening::v6()] {
        let mut conn = host.open(&opening);
        conn.send_next(&request("/", &key));
        assert_eq!(conn.response().status, 200);
        let firewall = Rules::reset(rig.lab.server(), GUARDED);
        conn.send_next(&request("/", &key));
        assert_eq!(conn.wait_for_end(), End::Reset);
        drop(firewall);
        let at = conn.sent;
        conn.send_at(at, &request("/", &key));
        conn.send_at(
            at - u32::try_from(request("/", &key).len()).expect("a length"),
            &request("/", &key),
        );
        conn.drain();
    }
    rig.assert_nothing_left("acme/web");
    let served = rig.nginx.served(&key);
    assert_eq!(served, 4, "the requests before the reset");
    assert_eq!(rig.limiter.count("/coverage/untracked_bytes"), 0);
}

#[test]
fn guarded_port_may_be_the_source_port_of_a_client() {
    const OWN: u16 = 8081;
    let lab = Lab::veth();
    let _nginx = Nginx::start(&lab, &[GUARDED]);
    let limiter = Limiter::start(&lab, &Config::new(&lab).ports(&[GUARDED, OWN]));
    for (from, to) in [(lab.v4(), lab.client_v4()), (lab.v6(), lab.client_v6())] {
        let listener = lab
            .client()
            .enter(|| TcpListener::bind(SocketAddr::new(to, 0)).expect("listen"));
        let at = listener.local_addr().expect("an address");
        let mut outbound = lab
            .server()
            .enter(|| outbound(SocketAddr::new(from, OWN), at));
        let (mut far, _) = listener.accept().expect("a connection");
        // The bytes that arrive are not a request, so they are charged to no scope.
        far.write_all(b"SSH-2.0-anything at all\r\n\r\n")
            .expect("send something");
        let mut received = [0; 27];
        outbound
            .read_exact(&mut received[..25])
            .expect("receive it");
        assert_eq!(&received[..25], &b"SSH-2.0-anything at all\r\n\r\n"[..25]);
        outbound.write_all(b"an answer").expect("answer");
        far.read_exact(&mut received[..9])
            .expect("receive the answer");
    }
    assert_eq!(limiter.count("/coverage/outbound_connections"), 2);
    assert_eq!(limiter.count("/coverage/outbound_bytes"), 54);
    assert_eq!(limiter.count("/totals/malformed"), 0);
}

/// Opens a connection from the given address and port.
fn outbound(from: SocketAddr, to: SocketAddr) -> TcpStream {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.bind(&from.into()).expect("the port");
    socket.connect(&to.into()).expect("a connection");
    socket.into()
}

#[test]
fn fast_open_causes_no_second_connection_attempt() {
    let lab = Lab::veth();
    for namespace in [lab.client(), lab.server()] {
        namespace.set("net/ipv4/tcp_fastopen", "3");
    }
    let rig = Rig::with(lab, "", |config| config);
    let key = rig.limiter.key("acme/web");
    let url = rig.lab.url(GUARDED, "/");
    for _ in 0..3 {
        let header = format!("X-Api-Key: {key}");
        let arguments = [
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--tcp-fastopen",
        ];
        let mut curl = rig.lab.client().command("curl");
        let status = process::succeed(curl.args(arguments).args(["-H", &header, &url]));
        assert_eq!(status, "200");
    }
    rig.assert_charged_as_served("acme/web", &key, 3);
    // The client's kernel has retransmitted no SYN, which shows that no SYN was lost and that each
    // was answered.
    let stats = process::succeed(
        rig.lab
            .client()
            .command("nstat")
            .args(["-az", "TcpExtTCPSynRetrans"]),
    );
    let again = stats
        .lines()
        .find(|line| line.starts_with("TcpExtTCPSynRetrans"));
    let again = again.and_then(|line| line.split_whitespace().nth(1));
    assert_eq!(again, Some("0"), "{stats}");
    assert!(rig.limiter.count("/coverage/fast_open_declined") > 0);
}

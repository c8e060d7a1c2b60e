// SPDX-License-Identifier: MIT OR Apache-2.0

//! A gateway admits packets that do not reach the server, because the network path from the gateway
//! to the server has a smaller MTU or loses some packets. The clients' kernels retransmit the data,
//! and every request is served once and charged once.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use limiter_tests::{
    Config, Conn, GUARDED, Lab, Limiter, Namespace, Server, eventually,
    lab::{CLIENT_INTERFACE, SERVER_INTERFACE},
    netfilter::Rules,
    packet::{ACK, Ends, RST, SYN, Segment},
    process::succeed,
    raw::{self, RawHost},
    tools,
};

const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const SERVER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0x2e, 0, 0, 0, 1);
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0x2e, 0, 0, 0, 2);
const SCOPE: &str = "acme/web";

/// A client, a gateway, and a server on the other side of the gateway. The gateway guards its
/// interface to the client.
struct Gateway {
    limiter: Limiter,
    key: String,
    served: Arc<AtomicU64>,
    _server: Server,
    _behind: Namespace,
    lab: Lab,
}

impl Gateway {
    /// Creates a gateway whose interface to the server has the MTU `mtu`. The interface of the
    /// server has an MTU of 1500 bytes.
    fn new(mtu: u32) -> Self {
        let lab = Lab::veth();
        let behind = Namespace::new(&format!("{}b", lab.name()));
        lab.server().ip(&format!(
            "link add b0 mtu {mtu} type veth peer name e0 mtu 1500 netns {}",
            behind.name()
        ));
        for (namespace, interface, v4, v6) in [
            (lab.server(), "b0", GATEWAY_V4, GATEWAY_V6),
            (&behind, "e0", SERVER_V4, SERVER_V6),
        ] {
            namespace.ip(&format!("addr add {v4}/24 dev {interface}"));
            if mtu >= 1280 {
                namespace.ip(&format!("-6 addr add {v6}/64 dev {interface} nodad"));
            }
            namespace.ip(&format!("link set {interface} up"));
        }
        let (near, far) = (lab.addresses(), [GATEWAY_V4.into(), GATEWAY_V6.into()]);
        for (namespace, gateways) in [(lab.client(), near), (&behind, far)] {
            for gateway in gateways.iter().filter(|to| to.is_ipv4() || mtu >= 1280) {
                namespace.ip(&format!("route add default via {gateway}"));
            }
        }
        lab.server().set("net/ipv4/ip_forward", "1");
        lab.server().set("net/ipv6/conf/all/forwarding", "1");
        // Offloads are switched off, so that each packet arrives separately, as it would over a
        // physical cable.
        for (namespace, interface) in [
            (lab.client(), CLIENT_INTERFACE),
            (lab.server(), SERVER_INTERFACE),
        ] {
            succeed(namespace.command("ethtool").args([
                "-K", interface, "tx", "off", "tso", "off", "gso", "off", "gro", "off",
            ]));
        }
        lab.client()
            .ip(&format!("link set {CLIENT_INTERFACE} gso_max_segs 1"));
        let served = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&served);
        let server = Server::answering(&behind, GUARDED, move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
        });
        let limiter = Limiter::start(&lab, &Config::new(&lab));
        let key = limiter.key(SCOPE);
        Self {
            limiter,
            key,
            served,
            _server: server,
            _behind: behind,
            lab,
        }
    }

    fn addresses() -> [IpAddr; 2] {
        [SERVER_V4.into(), SERVER_V6.into()]
    }

    fn connect(&self, address: IpAddr) -> Conn {
        Conn::open(self.lab.client(), SocketAddr::new(address, GUARDED))
    }

    /// Makes the client's kernel forget the path MTUs.
    fn forget_path(&self) {
        self.lab.client().ip("-4 route flush cache");
        self.lab.client().ip("-6 route flush cache");
    }

    /// Asserts that each request was served and charged once, and that no connection or request in
    /// flight is left over.
    #[track_caller]
    fn assert_charged_as_served(&self, expected: u64) {
        let used = self.limiter.usage(SCOPE).used;
        let served = self.served.load(Ordering::Relaxed);
        assert_eq!((served, used), (expected, expected), "served and charged");
        let conflicts = self.limiter.count("/coverage/conflict_dropped");
        assert_eq!(conflicts, 0, "equal bytes are not a conflict");
        eventually("nothing is in flight", || {
            self.limiter.usage(SCOPE).in_flight == 0
        });
    }
}

/// Returns a request whose head has `head` bytes and whose body has `body` bytes.
fn request(key: &str, head: usize, body: usize) -> Vec<u8> {
    let start = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {body}\r\nX-Api-Key: {key}\r\nX-Filler: "
    );
    let filler = "f".repeat(head - start.len() - 4);
    let body = "b".repeat(body);
    format!("{start}{filler}\r\n\r\n{body}").into_bytes()
}

/// The length of the head and the length of the body of each request, in bytes. In this order, the
/// cases are two heads without a body, a head with a short body, a head that fills a packet exactly
/// (IPv6 and an MTU of 1420 bytes), a short head with a body in the same packet, a head of several
/// packets, and a head with a long body.
const REQUESTS: [(usize, usize); 7] = [
    (1440, 0),
    (1420, 0),
    (1300, 130),
    (1360, 60),
    (150, 1290),
    (4500, 0),
    (1440, 20_000),
];

#[test]
fn requests_longer_than_the_path_mtu_are_served_and_charged_once() {
    for (mtu, timestamps) in [
        (1420, "1"),
        (1420, "0"),
        (1280, "1"),
        (1280, "0"),
        (1000, "1"),
        (1000, "0"),
    ] {
        let gateway = Gateway::new(mtu);
        gateway
            .lab
            .client()
            .set("net/ipv4/tcp_timestamps", timestamps);
        let mut expected = 0;
        // IPv6 requires an MTU of at least 1280 bytes (RFC 8200, section 5).
        let addresses = Gateway::addresses();
        let addresses = addresses.iter().filter(|to| to.is_ipv4() || mtu >= 1280);
        for &address in addresses {
            for (head, body) in REQUESTS {
                let what = format!("{address}, mtu {mtu}: {head} and {body}");
                gateway.forget_path();
                let mut conn = gateway.connect(address);
                let request = request(&gateway.key, head, body);
                for _ in 0..2 {
                    conn.send(&request);
                    let response = conn.try_response();
                    let response = response.unwrap_or_else(|error| panic!("{what}: {error}"));
                    assert_eq!(response.status, 200, "{what}");
                    expected += 1;
                }
            }
        }
        gateway.assert_charged_as_served(expected);
    }
}

#[test]
fn curl_is_served_over_a_path_with_a_smaller_mtu() {
    let gateway = Gateway::new(1420);
    let filler = format!("X-Filler: {}", "f".repeat(1270));
    let key = format!("X-Api-Key: {}", gateway.key);
    for (address, expected) in Gateway::addresses().into_iter().zip(1..) {
        let url = gateway.lab.url_of(address, GUARDED, "/");
        let done = tools::curl(&gateway.lab, &["-H", &filler, "-H", &key, &url]);
        let status = done.response.map(|response| response.status);
        assert_eq!(status, Some(200), "{}", done.errors);
        gateway.assert_charged_as_served(expected);
    }
}

/// Uploads a body in `chunks` chunks of `size` bytes each, and returns the status of the response.
fn upload(conn: &mut Conn, key: &str, size: usize, chunks: usize) -> u16 {
    let head = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    conn.send(head.as_bytes());
    let chunk = [
        format!("{size:x}\r\n").into_bytes(),
        vec![b'c'; size],
        b"\r\n".to_vec(),
    ]
    .concat();
    // Each chunk is written separately. The kernel therefore sends each chunk in a packet of its
    // own, unless the kernel delays a chunk to join it with the next one.
    for _ in 0..chunks {
        conn.send(&chunk);
    }
    conn.send(b"0\r\n\r\n");
    conn.response().status
}

#[test]
fn uploads_in_small_chunks_survive_loss_behind_the_gateway() {
    const CLIENTS: u64 = 4;
    let gateway = Gateway::new(1500);
    // The minimum is half of Linux's. With a much lower one, a busy client can send six copies that
    // cannot be compared (`ending::conflict`) before it sends anything else.
    gateway
        .lab
        .client()
        .set_if_there("net/ipv4/tcp_rto_min_us", "100000");
    let _loss = Rules::lose_forwarded(gateway.lab.server(), &format!("dport {GUARDED}"), 200);
    let mut expected = 0;
    for (size, chunks) in [(40, 4000), (200, 3000), (1000, 2000), (5000, 600)] {
        let statuses: Vec<u16> = thread::scope(|scope| {
            let uploads: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let address = Gateway::addresses()[usize::from(client % 2 == 1)];
                    let mut conn = gateway.connect(address);
                    let key = &gateway.key;
                    scope.spawn(move || upload(&mut conn, key, size, chunks))
                })
                .collect();
            let statuses = uploads.into_iter().map(|upload| upload.join());
            statuses.map(|status| status.expect("an upload")).collect()
        });
        assert_eq!(statuses, [200; CLIENTS as usize], "chunks of {size}");
        expected += CLIENTS;
        gateway.assert_charged_as_served(expected);
    }
}

#[test]
fn client_of_a_gateway_cannot_send_as_the_server() {
    let gateway = Gateway::new(1500);
    let server = gateway.lab.server();
    for interface in ["all", SERVER_INTERFACE] {
        server.set(&format!("net/ipv4/conf/{interface}/rp_filter"), "0");
    }
    let host = RawHost::new(&gateway.lab);
    let mut forged = 0;
    for (address, own) in Gateway::addresses()
        .into_iter()
        .zip([raw::V4.into(), raw::V6.into()])
    {
        let mut conn = gateway.connect(address);
        assert_eq!(conn.get("/", &gateway.key).status, 200);
        let flows = gateway.limiter.count("/coverage/flows_opened");
        let (opens, ends) = (SYN | ACK, RST | ACK);
        for (client, client_port, flags) in [
            (own, 5000, opens),
            (conn.local().ip(), conn.local().port(), ends),
            (conn.local().ip(), conn.local().port(), RST),
        ] {
            let connection = Ends {
                client,
                server: address,
                client_port,
                server_port: GUARDED,
            };
            let segment = Segment {
                flags,
                ..Segment::default()
            };
            host.forge(&connection, &segment);
            forged += 1;
            eventually("the packet is sent back", || {
                gateway.limiter.count("/coverage/hairpin_disbelieved") == forged
            });
        }
        assert_eq!(gateway.limiter.count("/coverage/flows_opened"), flows);
        assert_eq!(conn.get("/", &gateway.key).status, 200);
    }
}

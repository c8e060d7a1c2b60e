// SPDX-License-Identifier: MIT OR Apache-2.0

//! Two guarded interfaces. Either both carry connections with the same addresses, or one connection
//! uses both.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use limiter_tests::{Config, Conn, GUARDED, Lab, Limiter, Namespace, Nginx, Rig, request};

/// The interfaces of the second veth pair, at the client's end and at the server's end.
const CLIENT_END: &str = "c1";
const SERVER_END: &str = "s1";

/// Adds a veth pair between the server's namespace and the namespace `client`.
fn join(lab: &Lab, client: &Namespace) {
    client.ip(&format!(
        "link add {CLIENT_END} type veth peer name {SERVER_END} netns {}",
        lab.server().name()
    ));
    client.ip(&format!("link set {CLIENT_END} up"));
    lab.server().ip(&format!("link set {SERVER_END} up"));
}

/// Returns the index of an interface.
fn index(namespace: &Namespace, interface: &str) -> u32 {
    let name = std::ffi::CString::new(interface).expect("a name");
    // SAFETY: `name` is a `CString`, so it ends with a NUL, and it outlives the call.
    namespace.enter(|| unsafe { libc::if_nametoindex(name.as_ptr()) })
}

#[test]
fn the_same_addresses_and_ports_on_two_links_are_two_connections() {
    const OWN: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x11);
    const SERVER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x22);
    let lab = Lab::veth();
    let other = Namespace::new(&format!("{}d", lab.name()));
    join(&lab, &other);
    for (namespace, interface, address) in [
        (lab.client(), "c0", OWN),
        (lab.server(), "s0", SERVER),
        (&other, CLIENT_END, OWN),
        (lab.server(), SERVER_END, SERVER),
    ] {
        namespace.ip(&format!("-6 addr add {address}/64 dev {interface} nodad"));
    }
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let config = Config::new(&lab).interfaces(&["s0", SERVER_END]);
    let limiter = Limiter::start(&lab, &config);
    let key = limiter.key("acme/web");
    let connect = |namespace: &Namespace, interface: &str, port: u16| {
        let scope = index(namespace, interface);
        let from = SocketAddrV6::new(OWN, port, 0, scope);
        let to = SocketAddrV6::new(SERVER, GUARDED, 0, scope);
        Conn::open_from(namespace, from.into(), to.into())
    };
    let mut expected = 0;
    for port in 40_000..40_004 {
        // The second connection begins while the first one is open, and the first one is used again
        // afterwards.
        let mut one = connect(lab.client(), "c0", port);
        assert_eq!(one.get("/", &key).status, 200);
        let mut two = connect(&other, CLIENT_END, port);
        for first in [true, false, true] {
            let conn = if first { &mut one } else { &mut two };
            assert_eq!(conn.ask(&request("/", &key)).status, 200);
        }
        expected += 4;
        assert_eq!(nginx.served(&key), expected);
        assert_eq!(
            limiter.usage("acme/web").used,
            expected,
            "one of them unread"
        );
    }
    assert_eq!(limiter.count("/coverage/untracked_segments"), 0);
}

#[test]
fn connection_with_asymmetric_links_is_tracked() {
    const OWN: &str = "198.51.100.1";
    let lab = Lab::veth();
    join(&lab, lab.client());
    for (namespace, words) in [
        (lab.client(), format!("addr add {OWN}/32 dev lo")),
        (lab.client(), "addr add 203.0.113.1/24 dev c1".to_owned()),
        (lab.client(), "link set lo up".to_owned()),
        (lab.server(), "addr add 203.0.113.2/24 dev s1".to_owned()),
        (lab.server(), format!("route add {OWN}/32 via 203.0.113.1")),
    ] {
        namespace.ip(&words);
    }
    for namespace in [lab.client(), lab.server()] {
        for interface in ["all", "default"] {
            namespace.set(&format!("net/ipv4/conf/{interface}/rp_filter"), "0");
        }
    }
    for (namespace, interface) in [
        (lab.client(), "c0"),
        (lab.client(), "c1"),
        (lab.server(), "s0"),
        (lab.server(), "s1"),
    ] {
        namespace.set(&format!("net/ipv4/conf/{interface}/rp_filter"), "0");
    }
    let rig = Rig::of(lab, |config| config.interfaces(&["s0", SERVER_END]));
    let key = rig.limiter.key("acme/web");
    rig.limiter.set_quota("acme/web", 3);
    let own: IpAddr = OWN.parse().expect("an address");
    let connect = || {
        let (from, to) = (
            SocketAddr::new(own, 0),
            SocketAddr::new(rig.lab.v4(), GUARDED),
        );
        Conn::open_from(rig.lab.client(), from, to)
    };
    let mut conn = connect();
    for status in [200, 200, 200, 429] {
        assert_eq!(conn.get("/", &key).status, status);
    }
    assert_eq!(connect().get("/", &key).status, 429);
    rig.assert_charged_as_served("acme/web", &key, 3);
    assert_eq!(rig.limiter.count("/coverage/untracked_segments"), 0);
    drop(conn);
    rig.assert_nothing_left("acme/web");
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! On a connection that went on after refusals, the server still learns the MTU of the path to its
//! client, although the packets that routers quote have translated sequence numbers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use limiter_tests::{Conn, GUARDED, Lab, Namespace, Nginx, Rig, lab::SERVER_INTERFACE, request};

const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const FAR_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0x2e, 0, 0, 0, 1);
const FAR_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0x2e, 0, 0, 0, 2);

/// Creates a client behind the lab's client namespace, which becomes a router. The link between the
/// router and the client has a smaller MTU than the client's interface, so the maximum segment size
/// that the client announces is too large for the path.
fn far_client(lab: &Lab) -> Namespace {
    let (router, server) = (lab.client(), lab.server());
    let far = Namespace::new(&format!("{}f", lab.name()));
    router.ip(&format!(
        "link add r0 mtu 1300 type veth peer name f0 mtu 1500 netns {}",
        far.name()
    ));
    for (namespace, interface, v4, v6) in [
        (router, "r0", ROUTER_V4, ROUTER_V6),
        (&far, "f0", FAR_V4, FAR_V6),
    ] {
        namespace.ip(&format!("addr add {v4}/24 dev {interface}"));
        namespace.ip(&format!("-6 addr add {v6}/64 dev {interface} nodad"));
        namespace.ip(&format!("link set {interface} up"));
    }
    router.set("net/ipv4/ip_forward", "1");
    router.set("net/ipv6/conf/all/forwarding", "1");
    for gateway in [IpAddr::from(ROUTER_V4), ROUTER_V6.into()] {
        far.ip(&format!("route add default via {gateway}"));
    }
    for gateway in [lab.client_v4(), lab.client_v6()] {
        server.ip(&format!(
            "route add default via {gateway} dev {SERVER_INTERFACE}"
        ));
    }
    far
}

#[test]
fn path_mtu_is_discovered_after_refusals() {
    let lab = Lab::veth();
    let far = far_client(&lab);
    let rig = Rig::of(lab, |config| config.tier("spent", "daily_quota = 0"));
    let key = rig.limiter.key("acme/web");
    let spent = rig.limiter.key_of_tier("acme/spent", "spent");
    for address in rig.lab.addresses() {
        let mut conn = Conn::open(&far, SocketAddr::new(address, GUARDED));
        // The refusals shift the numbers so far that the server would ignore an error that quotes a
        // number as the client sees it.
        for _ in 0..200 {
            assert_eq!(conn.ask(&request("/", &spent)).status, 429, "{address}");
        }
        let file = conn.get(Nginx::FILE, &key);
        assert!(file.body == Nginx::file_content(), "{address}");
        assert_eq!(conn.get("/", &key).status, 200, "{address}");
    }
    rig.assert_charged_as_served("acme/web", &key, 4);
}

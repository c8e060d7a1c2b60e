// SPDX-License-Identifier: MIT OR Apache-2.0

//! The limits hold on every kind of device and for every kind of packet that the tests can create:
//! with and without Ethernet headers, with VLAN tags, with IP options, and in fragments.

use limiter_tests::{
    Config, Conn, GUARDED, Lab, Limiter, Net, Nginx, Refused, Rig, UNGUARDED, eventually, frames,
    request, skip,
    wire::{self, DeviceKind, PacketHandler, Wire},
};

/// Creates a lab in which a device of the kind `kind` connects the client and the server. The
/// function `to_server` handles each packet from the client. nginx and the daemon run on the
/// server, and the daemon's tier has a daily quota of three requests.
fn over(kind: DeviceKind, to_server: PacketHandler, after: Refused) -> (Rig, Wire) {
    let lab = Lab::new(Net::Apart);
    let wire = Wire::join(&lab, kind, to_server, wire::untouched());
    let configure = |config| after.configure(config).tier("profile", "daily_quota = 3");
    (Rig::of(lab, configure), wire)
}

/// Asserts for both address families that three requests are served over a device of the kind
/// `kind` and all others are refused, whether refused connections go on or not. The function
/// `to_server` returns the handler for the client's packets.
#[track_caller]
fn assert_limits(kind: DeviceKind, to_server: impl Fn() -> PacketHandler) {
    for after in Refused::ALL {
        let (rig, _wire) = over(kind, to_server(), after);
        for address in rig.lab.addresses() {
            let scope = if address.is_ipv4() {
                "acme/v4"
            } else {
                "acme/v6"
            };
            let key = rig.limiter.key(scope);
            let mut conn = rig.lab.connect_to(address, GUARDED);
            let file = conn.get(Nginx::FILE, &key).body;
            assert_eq!(file, Nginx::file_content(), "{address}");
            let statuses = [(); 4].map(|()| rig.get_from(address, &key).status);
            assert_eq!(statuses, [200, 200, 429, 429], "{address}");
            assert_eq!(conn.get("/", &key).status, 429, "{address}");
            rig.assert_charged_as_served(scope, &key, 3);
            assert_eq!(rig.limiter.usage(scope).refused.daily_quota, 3);
            after.assert(&mut conn, &request("/", &key), 429);
            eventually("nothing is in flight", || {
                rig.limiter.usage(scope).in_flight == 0
            });
        }
    }
}

#[test]
fn tap_device_with_complete_checksums_is_limited() {
    assert_limits(DeviceKind::Tap, wire::untouched);
}

#[test]
fn tun_device_without_ethernet_headers_is_limited() {
    assert_limits(DeviceKind::Tun, wire::untouched);
}

#[test]
fn frames_with_a_priority_tag_are_limited() {
    assert_limits(DeviceKind::Tap, || Box::new(frames::priority_tagged));
}

#[test]
fn packets_with_ip_options_and_extension_headers_are_limited() {
    for kind in [DeviceKind::Tap, DeviceKind::Tun] {
        let link = kind.link_header();
        assert_limits(kind, || {
            Box::new(move |packet| {
                let v4 = frames::with_v4_options(packet, link);
                v4.into_iter()
                    .flat_map(|packet| frames::with_v6_options(packet, link))
                    .collect()
            })
        });
    }
}

#[test]
fn fragments_for_a_guarded_port_are_dropped_and_others_are_not() {
    for kind in [DeviceKind::Tap, DeviceKind::Tun] {
        let link = kind.link_header();
        let (rig, _wire) = over(
            kind,
            Box::new(move |packet| frames::fragmented(packet, link)),
            Refused::KeptOpen,
        );
        let key = rig.limiter.key("acme/web");
        for address in rig.lab.addresses() {
            assert_eq!(
                rig.lab.connect_to(address, UNGUARDED).get("/", &key).status,
                200
            );
            let before = rig.limiter.count("/coverage/fragment_dropped");
            let mut conn = rig.lab.connect_to(address, GUARDED);
            conn.send(&request("/", &key));
            eventually("fragments are dropped", || {
                rig.limiter.count("/coverage/fragment_dropped") > before
            });
            assert!(!conn.has_bytes());
            assert!(conn.unacknowledged() > 0);
        }
        let ports: Vec<_> = rig.nginx.log().iter().map(|access| access.port).collect();
        assert_eq!(ports, [UNGUARDED; 2]);
        assert_eq!(rig.limiter.usage("acme/web").used, 0);
    }
}

#[test]
fn vlan_devices_and_their_trunk_are_limited() {
    const NAME: &str = "vlan_devices_and_their_trunk_are_limited";
    // The programs are attached first to the device that removes the VLAN tag, and then, in a new
    // lab, to the device below it, where the packets still have their tags.
    for interface in ["s0.5", "s0"] {
        let lab = Lab::veth();
        let made = lab
            .client()
            .ip_works("link add link c0 name c0.5 type vlan id 5");
        if !made {
            skip(NAME, "the kernel has no VLAN devices (8021q)");
            return;
        }
        lab.server().ip("link add link s0 name s0.5 type vlan id 5");
        for (namespace, device, host) in [(lab.client(), "c0.5", 1), (lab.server(), "s0.5", 2)] {
            namespace.ip(&format!("addr add 198.51.100.{host}/24 dev {device}"));
            namespace.ip(&format!("-6 addr add fd00:5::{host}/64 dev {device} nodad"));
            namespace.ip(&format!("link set {device} up"));
        }
        let nginx = Nginx::start(&lab, &[GUARDED]);
        let config = Config::new(&lab)
            .interfaces(&[interface])
            .tier("profile", "daily_quota = 3");
        let limiter = Limiter::start(&lab, &config);
        for (address, scope) in [("198.51.100.2", "acme/v4"), ("fd00:5::2", "acme/v6")] {
            let address: std::net::IpAddr = address.parse().expect("an address");
            let key = limiter.key(scope);
            let statuses = [(); 5].map(|()| {
                Conn::open(lab.client(), (address, GUARDED).into())
                    .get("/", &key)
                    .status
            });
            assert_eq!(statuses, [200, 200, 200, 429, 429], "{interface}");
            assert_eq!(
                (nginx.served(&key), limiter.usage(scope).used),
                (3, 3),
                "{interface}"
            );
        }
    }
}

#[test]
fn interfaces_are_found_by_glob_and_status_names_them() {
    let rig = Rig::veth(|config| config.interfaces(&["s*"]));
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.get(&key).status, 200);
    let status = rig.limiter.status();
    let mut attached: Vec<_> = status["attached"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| (entry["interface"].as_str(), entry["hook"].as_str()))
        .collect();
    attached.sort_unstable();
    assert_eq!(
        attached,
        [(Some("s0"), Some("egress")), (Some("s0"), Some("ingress"))]
    );
    assert_eq!(status["guarded_ports"], serde_json::json!([GUARDED]));
}

#[test]
fn interfaces_that_appear_later_are_attached_to() {
    let lab = Lab::new(Net::Apart);
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let config = Config::new(&lab)
        .interfaces(&["s*"])
        .tier("profile", "daily_quota = 2");
    let limiter = Limiter::start(&lab, &config);
    let key = limiter.key("acme/web");
    for round in 1..=2 {
        // In the second iteration, a new device with the same name is created.
        let wire = Wire::join(&lab, DeviceKind::Tap, wire::untouched(), wire::untouched());
        eventually("the interface is attached to", || {
            let status = limiter.status();
            let attached = status["attached"].as_array().expect("a list").clone();
            attached
                .iter()
                .filter(|entry| entry["interface"] == "s0")
                .count()
                == 2
        });
        assert_eq!(
            lab.connect(GUARDED).get("/", &key).status,
            200,
            "round {round}"
        );
        assert_eq!(limiter.usage("acme/web").used, round);
        drop(wire);
        eventually("the interface is gone", || {
            limiter.status()["attached"]
                .as_array()
                .is_some_and(Vec::is_empty)
        });
    }
    assert_eq!(nginx.served(&key), 2);
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The warnings of `limiter check` about interfaces that exist.

use std::net::TcpListener;

use limiter_tests::{Config, Lab, Limiter, eventually, skip};
use serde_json::Value;

/// Returns the warnings of `limiter check` for a configuration with `interfaces`, which are
/// interfaces of the server's namespace.
fn warnings(limiter: &Limiter, interfaces: &[&str]) -> Vec<String> {
    let config = limiter.config_path().display().to_string();
    let mut arguments = vec!["check", "-c", &config];
    for interface in interfaces {
        arguments.extend(["--interface", interface]);
    }
    let checked = limiter.json(&arguments);
    let warnings = checked["warnings"].as_array().expect("a list");
    let texts = warnings.iter().map(Value::as_str);
    texts.map(|text| text.expect("a text").to_owned()).collect()
}

#[test]
fn check_warns_of_two_attachments_on_one_path() {
    let lab = Lab::veth();
    let limiter = Limiter::prepare(&lab, "limiter", &Config::published(&lab));
    for command in [
        "link add br0 type bridge",
        "link add v0 type veth peer name v1",
        "link set v0 master br0",
        "link add other index 60 type bridge",
    ] {
        lab.server().ip(command);
    }
    // The peer of `far` is in the client's namespace and has index 60 there. In the server's
    // namespace, `other` has the same index, and must not be taken for the peer.
    let away = lab.client().name();
    lab.server().ip(&format!(
        "link add far index 50 type veth peer name near index 60 netns {away}"
    ));
    for interface in ["lo", "br0", "v0", "v1", "far", "other"] {
        lab.server().ip(&format!("link set {interface} up"));
    }
    for (interfaces, wanted) in [
        (&["br0", "v0"][..], Some("v0 is a port of the bridge br0")),
        (
            &["v0", "v1"],
            Some("v0 and v1 are the two ends of a veth pair"),
        ),
        (&["lo", "v1"], Some("lo and v1 are attached")),
        (&["s0", "v1", "br0"], None),
        (&["far", "other"], None),
    ] {
        let found = warnings(&limiter, interfaces);
        assert_eq!(
            found.len(),
            wanted.iter().len(),
            "{interfaces:?}: {found:?}"
        );
        for (warning, wanted) in found.iter().zip(wanted) {
            assert!(warning.starts_with(wanted), "{warning}");
        }
    }
    lab.server().ip("link set v1 down");
    assert_eq!(warnings(&limiter, &["v1"]), ["the interface v1 is down"]);
}

#[test]
fn check_warns_of_stacked_interfaces() {
    let lab = Lab::veth();
    let limiter = Limiter::prepare(&lab, "limiter", &Config::published(&lab));
    for (name, link) in [
        ("s0.7", "link add link s0 name s0.7 type vlan id 7"),
        ("mac0", "link add mac0 link s0 type macvlan"),
    ] {
        if !lab.server().ip_works(link) {
            skip(
                "check_warns_of_stacked_interfaces",
                &format!("this kernel cannot `{link}`"),
            );
            return;
        }
        lab.server().ip(&format!("link set {name} up"));
        let found = warnings(&limiter, &["s0", name]);
        assert!(found.len() == 1 && found[0].starts_with(name), "{found:?}");
        assert!(found[0].contains("on s0"), "{found:?}");
    }
}

#[test]
fn check_warns_of_a_gateway_that_guards_a_bridge_port() {
    let lab = Lab::veth();
    let limiter = Limiter::prepare(&lab, "limiter", &Config::published(&lab));
    for link in [
        "link add br0 type bridge",
        "link set s0 master br0",
        "link set br0 up",
    ] {
        lab.server().ip(link);
    }
    for (forwards, wanted) in [("0", 0), ("1", 1)] {
        lab.server().set("net/ipv4/ip_forward", forwards);
        let found = warnings(&limiter, &["s0"]);
        let found = found
            .iter()
            .filter(|warning| warning.ends_with("attach br0 instead of s0"));
        assert_eq!(found.count(), wanted);
        let found = warnings(&limiter, &["br0"]);
        assert!(
            !found.iter().any(|warning| warning.contains("instead of")),
            "{found:?}"
        );
    }
}

#[test]
fn check_warns_of_a_server_reached_by_other_interfaces() {
    let lab = Lab::veth();
    let limiter = Limiter::prepare(&lab, "limiter", &Config::published(&lab));
    lab.server().ip("link set lo up");
    let listen = |at: &str| {
        let mut listener = None;
        // When another test starts a child process, the child has a copy of this test's socket
        // until the child executes its program, even if this test has closed the socket. The port
        // may therefore remain in use for a moment.
        eventually("the port is free", || {
            listener = lab.server().enter(|| TcpListener::bind(at)).ok();
            listener.is_some()
        });
        listener
    };
    assert_eq!(warnings(&limiter, &["s0"]), [""; 0]);
    let local = listen("127.0.0.1:80");
    let found = warnings(&limiter, &["s0"]);
    assert!(
        found.len() == 1 && found[0].ends_with("attach lo"),
        "{found:?}"
    );
    assert_eq!(warnings(&limiter, &["lo"]), [""; 0]);
    drop(local);
    let _open = listen("[::]:80");
    let found = warnings(&limiter, &["lo"]);
    assert!(
        found.len() == 1 && found[0].contains("other interfaces than lo"),
        "{found:?}"
    );
    assert_eq!(warnings(&limiter, &["s0"]), [""; 0]);
    let _tls = listen("0.0.0.0:443");
    let found = warnings(&limiter, &["s0"]);
    assert!(
        found.len() == 1 && found[0].contains("decrypts TLS"),
        "{found:?}"
    );
}

#[test]
fn check_warns_of_redirected_ports() {
    let name = "check_warns_of_redirected_ports";
    let lab = Lab::veth();
    let limiter = Limiter::prepare(&lab, "limiter", &Config::published(&lab));
    for (rules, wanted) in [
        ("tcp dport 8080 redirect to :80", Some("port 8080 ")),
        (
            "tcp dport { 8080, 9000-9010 } redirect to :80",
            Some("8080, 9000-9010 "),
        ),
        ("tcp dport 8080 dnat to 198.51.100.7:80", Some("port 8080 ")),
        (
            "meta l4proto tcp redirect to : tcp dport map { 8080 : 80 }",
            Some("port 8080 "),
        ),
        ("tcp dport @web redirect to :80", Some("8080, 8081 ")),
        ("tcp dport 80 redirect to :8080", None),
    ] {
        let text = format!(
            "table ip t
delete table ip t
table ip t {{
    set web {{ type inet_service; elements = {{ 8080, 8081 }}; }}
    chain pre {{ type nat hook prerouting priority -100; {rules}; }}
    chain out {{ type nat hook output priority -100; tcp dport 81 redirect to :80; }}
}}
"
        );
        let file = lab.file("rules");
        std::fs::write(&file, text).expect("write the rules");
        let made = lab.server().command("nft").arg("-f").arg(&file).output();
        if !made.is_ok_and(|output| output.status.success()) {
            return skip(name, "the kernel has no rules of nftables like that");
        }
        let found = warnings(&limiter, &["s0"]);
        assert_eq!(found.len(), wanted.iter().len(), "{rules}: {found:?}");
        for (warning, wanted) in found.iter().zip(wanted) {
            assert!(warning.contains("nftables (ip t pre)"), "{warning}");
            assert!(
                warning.contains(wanted) && warning.contains("guarded port 80"),
                "{warning}"
            );
        }
    }
}

#[test]
fn check_warns_of_a_gateway_without_source_validation() {
    let lab = Lab::veth();
    let limiter = Limiter::prepare(&lab, "limiter", &Config::published(&lab));
    let set = |name: &str, value: &str| lab.server().set(name, value);
    set("net/ipv4/conf/all/rp_filter", "0");
    set("net/ipv4/conf/s0/rp_filter", "0");
    assert_eq!(warnings(&limiter, &["s0"]), [""; 0]);
    set("net/ipv4/ip_forward", "1");
    let found = warnings(&limiter, &["s0"]);
    assert!(
        found.len() == 1 && found[0].contains("from s0, and"),
        "{found:?}"
    );
    assert!(found[0].contains("rp_filter is 0"), "{found:?}");
    set("net/ipv4/conf/all/rp_filter", "1");
    assert_eq!(warnings(&limiter, &["s0"]), [""; 0]);
    set("net/ipv4/conf/s0/rp_filter", "2");
    let found = warnings(&limiter, &["s0"]);
    assert!(
        found.len() == 1 && found[0].contains("rp_filter is 2"),
        "{found:?}"
    );
    set("net/ipv4/ip_forward", "0");
    set("net/ipv6/conf/all/forwarding", "1");
    let found = warnings(&limiter, &["s0"]);
    assert!(found.len() == 1 && found[0].contains("IPv6"), "{found:?}");
}

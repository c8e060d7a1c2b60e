//! `limiter check` on real interfaces: what it warns of, and what not.

use std::net::TcpListener;

use limiter_tests::{Config, Lab, Limiter, skip};
use serde_json::Value;

/// The warnings for these interfaces of the server's namespace, all of them.
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
fn two_attachments_on_one_path_are_warned_of() {
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
    // Its other end is in another namespace, under an index that is another's here.
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
        (&["lo", "v1"], Some("lo is attached beside v1")),
        (&["s0", "v1", "br0"], None),
        (&["far", "other"], None),
    ] {
        let told = warnings(&limiter, interfaces);
        assert_eq!(told.len(), wanted.iter().len(), "{interfaces:?}: {told:?}");
        for (told, wanted) in told.iter().zip(wanted) {
            assert!(told.starts_with(wanted), "{told}");
        }
    }
    lab.server().ip("link set v1 down");
    assert_eq!(warnings(&limiter, &["v1"]), ["the interface v1 is down"]);
}

#[test]
fn an_interface_that_lies_on_another_is_warned_of() {
    let lab = Lab::veth();
    let limiter = Limiter::prepare(&lab, "limiter", &Config::published(&lab));
    for (name, link) in [
        ("s0.7", "link add link s0 name s0.7 type vlan id 7"),
        ("mac0", "link add mac0 link s0 type macvlan"),
    ] {
        if !lab.server().ip_works(link) {
            skip(
                "an_interface_that_lies_on_another_is_warned_of",
                &format!("this kernel cannot `{link}`"),
            );
            return;
        }
        lab.server().ip(&format!("link set {name} up"));
        let told = warnings(&limiter, &["s0", name]);
        assert!(told.len() == 1 && told[0].starts_with(name), "{told:?}");
        assert!(told[0].contains("on s0"), "{told:?}");
    }
}

#[test]
fn a_server_whose_requests_come_another_way_is_warned_of() {
    let lab = Lab::veth();
    let limiter = Limiter::prepare(&lab, "limiter", &Config::published(&lab));
    lab.server().ip("link set lo up");
    let listen = |at: &str| {
        let listening = lab.server().enter(|| TcpListener::bind(at));
        listening.expect("a free port")
    };
    assert_eq!(warnings(&limiter, &["s0"]), [""; 0]);
    let local = listen("127.0.0.1:80");
    let told = warnings(&limiter, &["s0"]);
    assert!(
        told.len() == 1 && told[0].ends_with("attach lo"),
        "{told:?}"
    );
    assert_eq!(warnings(&limiter, &["lo"]), [""; 0]);
    drop(local);
    let _open = listen("[::]:80");
    let told = warnings(&limiter, &["lo"]);
    assert!(
        told.len() == 1 && told[0].contains("other interfaces than lo"),
        "{told:?}"
    );
    assert_eq!(warnings(&limiter, &["s0"]), [""; 0]);
    let _tls = listen("0.0.0.0:443");
    let told = warnings(&limiter, &["s0"]);
    assert!(
        told.len() == 1 && told[0].contains("out of TLS"),
        "{told:?}"
    );
}

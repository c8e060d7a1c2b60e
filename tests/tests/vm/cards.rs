// SPDX-License-Identifier: MIT OR Apache-2.0

//! Network cards: requests through real drivers, and a card that is removed from the running
//! machine.

use limiter_tests::{
    Config, GUARDED, Lab, Limiter, Net, Nginx, avoid_midnight, eventually, eventually_some,
    lab::{CLIENT_INTERFACE, SERVER_INTERFACE},
    process,
    vm::{self, CARDS, Card},
};
use std::{process::Command, time::Duration};

use super::{probe, status};

/// The test starts at least this long before midnight UTC. It takes much less time, so all of its
/// requests are counted on one day.
const TIME_BEFORE_MIDNIGHT: Duration = Duration::from_secs(120);

/// Moves a card to a namespace, and gives it the name that labs use.
fn give(card: Card, namespace: &limiter_tests::Namespace, name: &str) {
    let interface = eventually_some("the card's driver has taken it", || card.interface());
    let words = [
        "link",
        "set",
        &interface,
        "netns",
        namespace.name(),
        "name",
        name,
    ];
    process::succeed(Command::new("ip").args(words));
}

/// Returns the number of hooks at which the programs are attached.
fn hooks(limiter: &Limiter) -> usize {
    limiter.status()["attached"]
        .as_array()
        .expect("a list")
        .len()
}

#[test]
fn replugged_card_is_limited_again_without_granting_twice() {
    vm::require_vm();
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let [at_server, at_client] = CARDS;
    let lab = Lab::new(Net::Apart);
    give(at_server, lab.server(), SERVER_INTERFACE);
    give(at_client, lab.client(), CLIENT_INTERFACE);
    lab.address_ends();
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let config = Config::new(&lab)
        .interfaces(&["s*", "lo"])
        .tier("profile", "daily_quota = 6")
        .tier("never", "daily_quota = 0");
    let limiter = Limiter::start(&lab, &config);
    let (key, probe) = (limiter.key("acme/web"), probe(&limiter));
    assert_eq!(hooks(&limiter), 4);
    assert_eq!(status(&lab, &probe), 429);
    // The test sends requests over IPv4 and IPv6, and keeps one connection open.
    let mut open = lab.connect(GUARDED);
    assert_eq!(open.get("/", &key).status, 200);
    for address in lab.addresses() {
        assert_eq!(lab.connect_to(address, GUARDED).get("/", &key).status, 200);
    }

    at_server.unplug();
    eventually("the daemon has let go of the card", || hooks(&limiter) == 2);
    at_server.plug();
    give(at_server, lab.server(), SERVER_INTERFACE);
    let server = lab.server();
    server.ip(&format!("addr add {}/24 dev {SERVER_INTERFACE}", lab.v4()));
    server.ip(&format!(
        "-6 addr add {}/64 dev {SERVER_INTERFACE} nodad",
        lab.v6()
    ));
    server.ip(&format!("link set {SERVER_INTERFACE} up"));
    eventually("limits are in force on the card", || {
        status(&lab, &probe) == 429
    });
    assert_eq!(hooks(&limiter), 4);
    // The programs still follow the connection that was open while the card was removed.
    assert_eq!(open.get("/", &key).status, 200);
    let statuses = [(); 3].map(|()| status(&lab, &key));
    assert_eq!(statuses, [200, 200, 429]);
    let used = limiter.usage("acme/web").used;
    assert_eq!((nginx.served(&key), used), (6, 6));
    let health = limiter.status()["health"].clone();
    assert!(health.as_array().is_some_and(Vec::is_empty), "{health}");
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Connections that the programs do not follow, because they are older than the programs, because
//! their handshake is incomplete, or because the table of flows was full.

use std::time::Duration;

use limiter_tests::{
    Config, Conn, GUARDED, Lab, Limiter, Nginx, Rig, eventually, long,
    packet::{ACK, PSH, RST, Shape},
    raw::{Opening, RawHost},
    request,
};

#[test]
fn older_connections_pass_by_default_and_are_counted() {
    let lab = Lab::veth();
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let mut old: Vec<Conn> = lab
        .addresses()
        .into_iter()
        .map(|address| lab.connect_to(address, GUARDED))
        .collect();
    let limiter = Limiter::start(&lab, &Config::new(&lab));
    let key = limiter.key("acme/web");
    let request = request("/", &key);
    for conn in &mut old {
        // A request that is sent in two parts passes, and so does a request that is sent as a
        // whole.
        conn.send(&request[..20]);
        conn.send(&request[20..]);
        assert_eq!(conn.response().status, 200);
        assert_eq!(conn.ask(&request).status, 200);
    }
    assert_eq!((nginx.served(&key), limiter.usage("acme/web").used), (4, 0));
    assert_eq!(
        limiter.count("/coverage/untracked_bytes"),
        4 * request.len() as u64
    );
    // A new connection of the same client is followed.
    assert_eq!(lab.connect(GUARDED).ask(&request).status, 200);
    assert_eq!(limiter.usage("acme/web").used, 1);
}

#[test]
fn segments_without_a_connection_reach_no_server() {
    for policy in ["pass", "reject"] {
        let rig = Rig::veth(|config| config.policy(&format!("untracked = {policy:?}")));
        let host = RawHost::new(&rig.lab);
        let key = rig.limiter.key("acme/web");
        for opening in [Opening::default(), Opening::v6()] {
            let mut conn = host.begin(&opening);
            let stray = conn.segment(0, &request("/", &key)).with_flags(ACK | PSH);
            conn.send(&stray);
            conn.wait_for_end();
            // On this connection, the client has not acknowledged the SYN-ACK. It sends requests
            // with wrong acknowledgement numbers.
            let mut conn = host.begin(&opening);
            conn.await_syn_ack();
            for wrong in [1, 1000, u32::MAX] {
                let ack = conn.server_sequence(wrong);
                let early = conn.segment(0, &request("/", &key)).with_ack(ack);
                conn.send(&early);
            }
            conn.drain();
        }
        rig.assert_charged_as_served("acme/web", &key, 0);
        let mut conn = host.connect();
        conn.send_next(&request("/", &key));
        assert_eq!(conn.response().status, 200, "{policy}");
        rig.assert_charged_as_served("acme/web", &key, 1);
    }
}

#[test]
fn connections_without_room_are_refused_or_pass_and_are_counted() {
    const FLOWS: usize = 64;
    for (policy, passes) in [("reject", false), ("pass", true)] {
        let rig = Rig::veth(|config| {
            config
                .policy(&format!("table_full = {policy:?}"))
                .section("tables", &tables(FLOWS))
        });
        let key = rig.limiter.key("acme/web");
        let mut conns = Vec::new();
        for _ in 0..3 * FLOWS {
            if let Ok(conn) = Conn::try_open(rig.lab.client(), (rig.lab.v4(), GUARDED).into()) {
                conns.push(conn);
            }
        }
        let mut answered = 0;
        for conn in &mut conns {
            let asked = conn.try_send(&request("/", &key));
            if asked.is_ok() && conn.try_response().is_ok_and(|answer| answer.status == 200) {
                answered += 1;
            }
        }
        let used = rig.limiter.usage("acme/web").used;
        let bytes = rig.limiter.count("/coverage/table_full_bytes");
        let untracked = bytes / request("/", &key).len() as u64;
        assert_eq!(rig.nginx.served(&key), answered, "{policy}");
        assert_eq!(used + untracked, answered, "{policy}");
        assert_eq!(untracked > 0, passes, "{policy}");
        assert!(used >= FLOWS as u64 / 2, "{policy}: {used}");
        assert!(rig.limiter.count("/coverage/table_full") > 0, "{policy}");
    }
}

#[test]
fn connections_unknown_to_the_server_do_not_block_others_for_long() {
    let lab = Lab::veth();
    // With SYN cookies, the server keeps no state for a SYN that it has answered. The
    // acknowledgements that would complete the handshakes are lost after the programs have seen
    // them.
    lab.server().set("net/ipv4/tcp_syncookies", "2");
    let rig = Rig::of(lab, |config| config.section("tables", &tables(256)));
    let host = RawHost::new(&rig.lab);
    let key = rig.limiter.key("acme/web");
    let mut open = rig.lab.connect(GUARDED);
    assert_eq!(open.get("/", &key).status, 200);
    // The server's kernel drops a packet with a loose source route (RFC 791).
    let lost = Shape::v4_with(vec![131, 7, 4, 192, 0, 2, 2, 0]);
    let mut client = host.begin(&Opening::default());
    for number in 0..600 {
        client.ends.client_port = 1024 + number;
        client.seen.clear();
        let syn = client.syn();
        client.send(&syn);
        // Once the table is full, the client gets a reset instead of a SYN-ACK.
        client.wait("the SYN is answered", |conn| !conn.seen.is_empty());
        if client.seen.iter().all(|segment| !segment.has(RST)) {
            let ack = client.segment(0, b"");
            client.link.send(&client.frame_in(&lost, &ack));
        }
    }
    wait_until_served(&rig, &key);
    assert_eq!(open.get("/", &key).status, 200);
    assert_eq!(rig.charged_as_served("acme/web", &key), 3);
    assert!(rig.limiter.count("/coverage/hurried_handshakes") > 0);
}

/// Waits until a new client is served.
fn wait_until_served(rig: &Rig, key: &str) {
    eventually("a good client is served", || {
        let Ok(mut conn) = Conn::try_open(rig.lab.client(), (rig.lab.v4(), GUARDED).into()) else {
            return false;
        };
        conn.set_read_timeout(Duration::from_secs(5));
        conn.try_send(&request("/", key)).is_ok()
            && conn.try_response().is_ok_and(|answer| answer.status == 200)
    });
}

fn tables(flows: usize) -> String {
    format!("flows = {flows}\nscopes = 64\nkeys = 64\nunknown_keys = 64\n")
}

#[test]
fn half_open_connections_do_not_block_others_for_long() {
    let (flows, half_open) = if long() { (8192, 30_000) } else { (512, 3000) };
    let rig = Rig::veth(|config| config.section("tables", &tables(flows)));
    let host = RawHost::new(&rig.lab);
    let key = rig.limiter.key("acme/web");
    // This connection was opened before the half-open ones, which must not affect it.
    let mut open = rig.lab.connect(GUARDED);
    assert_eq!(open.get("/", &key).status, 200);
    let mut served = 1;
    let mut client = host.begin(&Opening::default());
    for number in 0..half_open {
        client.ends.client_port = 1024 + number;
        let syn = client.syn();
        client.send(&syn);
        if number % 500 == 0 {
            assert_eq!(open.get("/", &key).status, 200);
            served += 1;
        }
    }
    eventually("the table is or was full", || {
        rig.limiter.count("/coverage/table_full") > 0
            || rig.limiter.count("/coverage/swept_flows") > 0
    });
    wait_until_served(&rig, &key);
    served += 1;
    assert_eq!(open.get("/", &key).status, 200);
    assert_eq!(rig.charged_as_served("acme/web", &key), served + 1);
}

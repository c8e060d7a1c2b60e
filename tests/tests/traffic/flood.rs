// SPDX-License-Identifier: MIT OR Apache-2.0

//! The table of flows fills up with half-open connections.

use std::io::ErrorKind;

use limiter_tests::{Conn, GUARDED, Net, Rig, eventually, long, netfilter::Rules, request};

/// The minimum sizes of the tables.
const TABLES: &str = "flows = 64\nscopes = 64\nkeys = 64\nunknown_keys = 64\n";
/// A number of connections that nearly fills the table of flows.
const HALF_OPEN: usize = 62;

#[test]
fn half_open_connections_make_room_early_and_stay_inspected() {
    let rig = Rig::on(Net::Veth, |config| {
        config
            .section("tables", TABLES)
            // With this policy, untracked connections pass. The test shows that the half-open
            // connections whose entries the limiter removes are not treated as untracked, and that
            // none of their requests passes uncounted.
            .policy("untracked = \"pass\"")
    });
    let key = rig.limiter.key("acme/web");
    // The clients complete their handshakes, but the last segment of each handshake is lost before
    // it reaches the server.
    let lost = Rules::lose(
        rig.lab.client(),
        &format!("dport {GUARDED} tcp flags & syn != syn"),
    );
    let mut clients: Vec<Conn> = (0..HALF_OPEN).map(|_| rig.lab.connect(GUARDED)).collect();
    eventually("half-open connections are given up early", || {
        rig.limiter.count("/coverage/hurried_handshakes") > 0
    });
    let problem = |part: &str| {
        let status = rig.limiter.status();
        let health = status["health"].as_array().expect("a list").clone();
        health.into_iter().find(|health| health["part"] == part)
    };
    let flows = problem("flows").expect("the full table is reported");
    assert!(
        flows["message"]
            .as_str()
            .expect("a text")
            .contains("90% full"),
        "{flows}"
    );
    assert_eq!(rig.limiter.count("/flows/capacity"), 64);

    drop(lost);
    for conn in &mut clients {
        // An error is ignored, because the connection may already have been reset.
        let _ = conn.try_send(&request("/", &key));
    }
    let mut served = 0;
    for conn in &mut clients {
        match conn.try_response() {
            Ok(response) => {
                assert_eq!(response.status, 200);
                served += 1;
            }
            // A client that is not served must get a reset instead of waiting for a timeout.
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
    }
    rig.assert_charged_as_served("acme/web", &key, served);
    assert_eq!(rig.limiter.count("/coverage/untracked_bytes"), 0);
    drop(clients);
    // The daemon continues to report the table for some time after the last problem, so only a long
    // run waits for the end of the report.
    if long() {
        eventually("the table is reported as fine again", || {
            problem("flows").is_none()
        });
    }
    eventually("there is room for others", || {
        let answer = rig.lab.connect(GUARDED).try_get("/", &key);
        answer.is_ok_and(|response| response.status == 200)
    });
}

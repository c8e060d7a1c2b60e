//! A table of connections that fills up with half-open ones.

use std::io::ErrorKind;

use limiter_tests::{Conn, GUARDED, Net, Rig, eventually, long, netfilter::Rules, request};

/// The smallest table there is, and nearly as many connections.
const TABLES: &str = "flows = 64\nscopes = 64\nkeys = 64\nunknown_keys = 64\n";
const HALF_OPEN: usize = 62;

#[test]
fn half_open_connections_make_room_early_and_none_of_them_gets_by_unread() {
    let rig = Rig::on(Net::Veth, |config| {
        config
            .section("tables", TABLES)
            // A connection that was given up would be taken for an older one, and pass.
            .policy("untracked = \"pass\"")
    });
    let key = rig.limiter.key("acme/web");
    // The clients' handshakes are complete, but the server never hears of it.
    let lost = Rules::lose(
        rig.lab.client(),
        &format!("dport {GUARDED} tcp flags & syn != syn"),
    );
    let mut clients: Vec<Conn> = (0..HALF_OPEN).map(|_| rig.lab.connect(GUARDED)).collect();
    eventually("half-open connections are given up early", || {
        rig.limiter.count("/coverage/hurried_handshakes") > 0
    });
    let told = |part: &str| {
        let status = rig.limiter.status();
        let health = status["health"].as_array().expect("a list").clone();
        health.into_iter().find(|health| health["part"] == part)
    };
    let flows = told("flows").expect("the full table is told");
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
        // The server may have reset it already.
        let _ = conn.try_send(&request("/", &key));
    }
    let mut served = 0;
    for conn in &mut clients {
        match conn.try_response() {
            Ok(response) => {
                assert_eq!(response.status, 200);
                served += 1;
            }
            // Refused, not left waiting.
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
    }
    rig.assert_charged_as_served("acme/web", &key, served);
    assert_eq!(rig.limiter.count("/coverage/untracked_bytes"), 0);
    drop(clients);
    // It takes a while of calm to be believed.
    if long() {
        eventually("the table is told to be fine again", || {
            told("flows").is_none()
        });
    }
    eventually("there is room for others", || {
        let answer = rig.lab.connect(GUARDED).try_get("/", &key);
        answer.is_ok_and(|response| response.status == 200)
    });
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Healing corrects counts that are wrong, and removes connections that ended without a packet. It
//! changes nothing else.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use limiter_tests::{
    Config, Conn, GUARDED, Lab, Limiter, Net, Nginx, Rig, Server, UNGUARDED, eventually,
    netfilter::Rules, nginx, process, process::Process, program::PinnedState, request,
};

/// Healing intervals that are short enough for a test to wait for several checks and recounts.
const QUICK: &str =
    "check_interval = \"100ms\"\nsuspect_after = \"100ms\"\nrecount_interval = \"100ms\"\n";
/// The number of checks, and also the number of recounts, after which an error must be corrected.
/// Two consecutive checks or recounts have to find the same error, and one more may have begun
/// before the error occurred.
const ROUNDS: u64 = 3;
/// The id of the first scope in the kernel's tables.
const FIRST: u32 = 0;

fn quick(config: Config) -> Config {
    config.section("healing", QUICK)
}

fn healed_count(limiter: &Limiter, what: &str) -> u64 {
    limiter.count(&format!("/healed/{what}"))
}

/// Waits for [`ROUNDS`] further checks and recounts.
#[track_caller]
fn wait_for_rounds(limiter: &Limiter) {
    let rounds = || ["checks", "recounts"].map(|what| healed_count(limiter, what));
    let before = rounds();
    eventually("some rounds of healing", || {
        rounds()
            .iter()
            .zip(before)
            .all(|(now, before)| *now >= before + ROUNDS)
    });
}

#[test]
fn drift_is_healed_exactly_and_a_live_request_keeps_its_slot() {
    // These intervals are so long that no check or recount begins before the test shortens them.
    let slow = "check_interval = \"60min\"\nrecount_interval = \"60min\"\n";
    let configure = |config: Config| config.tier("profile", "concurrency = 3");
    let rig = Rig::veth(|config| configure(config).section("healing", slow));
    let key = rig.limiter.key("acme/web");
    let held = nginx::hold(&rig.lab, &rig.nginx, &key, 1);
    let state = PinnedState::open(rig.limiter.pin_dir());
    state.add_in_flight(FIRST, 2);
    assert_eq!(rig.get(&key).status, 429);

    let config = quick(configure(Config::new(&rig.lab)));
    rig.limiter.write_config(&config.to_string());
    rig.limiter.done(&["reload"]);
    eventually("the drift is healed", || {
        rig.limiter.usage("acme/web").in_flight == 1
    });
    wait_for_rounds(&rig.limiter);
    assert_eq!(healed_count(&rig.limiter, "slots"), 2);
    let more = nginx::hold(&rig.lab, &rig.nginx, &key, 2);
    assert_eq!(rig.get(&key).status, 429);

    // Now the count is too low: it is one while three requests are in flight.
    state.add_in_flight(FIRST, -2);
    eventually("the drift down is healed", || {
        rig.limiter.usage("acme/web").in_flight == 3
    });
    assert_eq!(healed_count(&rig.limiter, "slots"), 4);
    assert!(
        rig.limiter
            .log()
            .contains("acme/web was charged for 2 requests in flight too many")
    );
    assert!(
        rig.limiter
            .log()
            .contains("acme/web was charged for 2 requests in flight too few")
    );
    rig.nginx.gate().open();
    for mut conn in held.into_iter().chain(more) {
        assert_eq!(conn.response().status, 200);
    }
    rig.assert_nothing_left("acme/web");
}

/// A guard that stops the other threads when it is dropped, even if the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn drift_is_healed_exactly_under_load() {
    let rig = Rig::veth(quick);
    let key = rig.limiter.key("acme/web");
    let state = PinnedState::open(rig.limiter.pin_dir());
    let stop = AtomicBool::new(false);
    let client = || {
        while !stop.load(Ordering::Relaxed) {
            let mut conn = rig.lab.connect(GUARDED);
            for _ in 0..20 {
                assert_eq!(conn.get("/", &key).status, 200);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(client);
        }
        let _stop = Stop(&stop);
        state.add_in_flight(FIRST, 5);
        state.add_connections(FIRST, 3);
        eventually("the drifts are healed", || {
            ["slots", "connections"].map(|what| healed_count(&rig.limiter, what)) == [5, 3]
        });
        wait_for_rounds(&rig.limiter);
    });
    rig.assert_nothing_left("acme/web");
    wait_for_rounds(&rig.limiter);
    assert_eq!(
        ["slots", "connections"].map(|what| healed_count(&rig.limiter, what)),
        [5, 3],
        "nothing else counted as a drift"
    );
}

/// Asserts that `scope` has the `expected` numbers of requests in flight and connections, that
/// these numbers are still the same after several checks and recounts, and that healing has
/// corrected nothing.
#[track_caller]
fn assert_stays(limiter: &Limiter, scope: &str, expected: (u64, u64)) {
    let counted = || {
        let usage = limiter.usage(scope);
        (usage.in_flight, usage.connections)
    };
    assert_eq!(counted(), expected);
    wait_for_rounds(limiter);
    assert_eq!(counted(), expected);
    for what in ["slots", "connections", "orphaned_flows", "orphaned_slots"] {
        assert_eq!(healed_count(limiter, what), 0, "{what}");
    }
}

#[test]
fn silent_request_is_never_freed() {
    for net in [Net::Veth, Net::Loopback] {
        let rig = Rig::on(net, quick);
        let key = rig.limiter.key("acme/web");
        let mut held: Vec<Conn> = (1..)
            .zip(rig.lab.addresses())
            .map(|(number, address)| {
                let mut conn = rig.lab.connect_to(address, GUARDED);
                conn.send(&request(Nginx::SLOW, &key));
                rig.nginx.gate().wait_for(number);
                conn
            })
            .collect();
        assert_stays(&rig.limiter, "acme/web", (2, 2));
        rig.nginx.gate().open();
        for conn in &mut held {
            assert_eq!(conn.response().status, 200, "{net:?}");
        }
        assert_stays(&rig.limiter, "acme/web", (0, 2));
        for conn in &mut held {
            assert_eq!(conn.get("/", &key).status, 200, "{net:?}");
        }
        rig.assert_charged_as_served("acme/web", &key, 4);
        drop(held);
        rig.assert_nothing_left("acme/web");
    }
}

#[test]
fn silent_websocket_of_a_dual_stack_server_is_never_freed() {
    let lab = Lab::veth();
    let _server = Server::start(lab.server(), GUARDED, |mut conn| {
        let switched = b"HTTP/1.1 101 Switching Protocols\r\n\
            Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        if conn.head().is_err() || conn.try_send(switched).is_err() {
            return;
        }
        while let Ok(bytes) = conn.take(4) {
            if conn.try_send(&bytes).is_err() {
                return;
            }
        }
    });
    let limiter = Limiter::start(&lab, &quick(Config::new(&lab)));
    let key = limiter.key("acme/web");
    let upgrade = format!(
        "GET /chat HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\n\r\n"
    );
    let mut sockets: Vec<Conn> = lab
        .addresses()
        .into_iter()
        .map(|address| {
            let mut conn = lab.connect_to(address, GUARDED);
            assert_eq!(conn.ask(upgrade.as_bytes()).status, 101);
            conn
        })
        .collect();
    let in_flight = limiter.usage("acme/web").in_flight;
    assert_stays(&limiter, "acme/web", (in_flight, 2));
    for conn in &mut sockets {
        conn.send(b"ping");
        assert_eq!(conn.take(4).expect("the echo"), b"ping");
    }
    drop(sockets);
    eventually("no connection is left", || {
        let usage = limiter.usage("acme/web");
        (usage.in_flight, usage.connections) == (0, 0)
    });
}

#[test]
fn a_silent_request_to_a_socket_bound_to_a_device_is_never_freed() {
    let script = "import socket, sys\n\
        s = socket.socket()\n\
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[1].encode())\n\
        s.bind(('', int(sys.argv[2])))\n\
        s.listen()\n\
        c, _ = s.accept()\n\
        got = b''\n\
        while not got.endswith(b'!'): got += c.recv(1000)\n\
        c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n')\n\
        c.recv(1)\n";
    let lab = Lab::veth();
    let port = GUARDED.to_string();
    let _server = Process::start(
        "python",
        lab.server()
            .command("python3")
            .args(["-c", script, lab.interface(), &port]),
        &lab.file("python.log"),
    );
    let listening = ["-Hltn", &format!("sport = :{port}")].map(str::to_owned);
    eventually("the server listens", || {
        !process::succeed(lab.server().command("ss").args(&listening)).is_empty()
    });
    let limiter = Limiter::start(&lab, &quick(Config::new(&lab)));
    let key = limiter.key("acme/web");
    let mut conn = lab.connect(GUARDED);
    let head =
        format!("POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nContent-Length: 1\r\n\r\n");
    conn.send(head.as_bytes());
    eventually("the request is in flight", || {
        limiter.usage("acme/web").in_flight == 1
    });
    assert_stays(&limiter, "acme/web", (1, 1));
    conn.send(b"!");
    assert_eq!(conn.response().status, 200);
}

#[test]
fn silent_request_to_a_redirected_port_is_never_freed() {
    let rig = Rig::veth(quick);
    let _rules = Rules::redirect(rig.lab.server(), GUARDED, UNGUARDED);
    let key = rig.limiter.key("acme/web");
    let mut held = nginx::hold(&rig.lab, &rig.nginx, &key, 1);
    assert_stays(&rig.limiter, "acme/web", (1, 1));
    rig.nginx.gate().open();
    assert_eq!(held[0].response().status, 200);
}

#[test]
fn silent_request_behind_source_nat_is_never_freed() {
    let rig = Rig::veth(quick);
    let other = Ipv4Addr::new(192, 0, 2, 99);
    let _rules = Rules::source_nat(rig.lab.server(), GUARDED, other);
    let key = rig.limiter.key("acme/web");
    let mut held = nginx::hold(&rig.lab, &rig.nginx, &key, 1);
    assert_stays(&rig.limiter, "acme/web", (1, 1));
    rig.nginx.gate().open();
    assert_eq!(held[0].response().status, 200);
    let sockets = Nginx::sockets(&rig.lab, GUARDED);
    assert!(
        sockets.iter().any(|socket| socket.contains("192.0.2.99")),
        "{sockets:?}"
    );
}

/// Kills the server while it processes three requests. The last packets that the server sends are
/// lost, and therefore the clients do not learn that the server has ended. Returns the clients'
/// connections.
fn lose_the_server(rig: &mut Rig, key: &str) -> Vec<Conn> {
    // With this setting, the kernel soon gives up the sockets of a dead process even if the last
    // bytes of these sockets are not acknowledged.
    rig.lab.server().set("net/ipv4/tcp_orphan_retries", "1");
    let mut held = nginx::hold(&rig.lab, &rig.nginx, key, 3);
    // The server has not read these bytes when it is killed, so the server's kernel ends this
    // connection with a reset instead of a FIN.
    held[0].send(b"GET /more HT");
    let rules = Rules::lose(rig.lab.server(), &format!("sport {GUARDED}"));
    rig.nginx.kill();
    Nginx::wait_until_no_sockets(&rig.lab, GUARDED);
    drop(rules);
    held
}

#[test]
fn a_killed_server_whose_fin_and_rst_are_lost_frees_its_requests() {
    for net in [Net::Veth, Net::Loopback] {
        let mut rig = Rig::on(net, |config| {
            quick(config.tier("profile", "concurrency = 3"))
        });
        let key = rig.limiter.key("acme/web");
        let held = lose_the_server(&mut rig, &key);
        eventually("the slots of the dead server are released", || {
            let usage = rig.limiter.usage("acme/web");
            (usage.in_flight, usage.connections) == (0, 0)
        });
        assert_eq!(
            ["orphaned_flows", "orphaned_slots"].map(|what| healed_count(&rig.limiter, what)),
            [3, 3],
            "{net:?}"
        );
        assert_eq!(rig.limiter.count("/coverage/orphaned_slots"), 3);
        assert!(
            rig.limiter
                .log()
                .contains("connections that had lost their sockets")
        );
        drop(held);
        rig.nginx.gate().open();
        rig.nginx.start_again(&rig.lab);
        assert_eq!(rig.statuses(&key, 4), [200; 4], "{net:?}");
        rig.assert_nothing_left("acme/web");
    }
}

#[test]
fn drift_without_a_daemon_is_healed_by_the_next_one() {
    let mut rig = Rig::veth(|config| quick(config.tier("profile", "concurrency = 3")));
    let key = rig.limiter.key("acme/web");
    wait_for_rounds(&rig.limiter);
    rig.limiter.kill();
    let held = lose_the_server(&mut rig, &key);
    rig.limiter.run(&[]);
    eventually("the slots of the dead server are released", || {
        let usage = rig.limiter.usage("acme/web");
        (usage.in_flight, usage.connections) == (0, 0)
    });
    // The count becomes wrong while no daemon is running, and the next daemon corrects it.
    rig.limiter.kill();
    PinnedState::open(rig.limiter.pin_dir()).add_in_flight(FIRST, 3);
    rig.limiter.run(&[]);
    eventually("the drift is healed", || {
        rig.limiter.usage("acme/web").in_flight == 0
    });
    drop(held);
    rig.nginx.gate().open();
    rig.nginx.start_again(&rig.lab);
    assert_eq!(rig.get(&key).status, 200);
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The limits on requests in flight and on open connections. Both counts return to zero, however
//! the connections end.

use std::thread;

use limiter_tests::{
    Conn, GUARDED, Net, Nginx, Refused, Rig, eventually, nginx, process::Process, request, tools,
};

#[test]
fn concurrency_admits_twenty_of_thirty_and_slots_are_freed() {
    const LIMIT: usize = 20;
    for (net, after) in [
        (Net::Veth, Refused::KeptOpen),
        (Net::Loopback, Refused::KeptOpen),
        (Net::Veth, Refused::Closed),
    ] {
        let rig = Rig::on(net, |config| {
            after.configure(config).tier("profile", "concurrency = 20")
        });
        let key = rig.limiter.key("acme/web");
        for round in 1..=2 {
            rig.nginx.gate().close();
            let mut conns: Vec<_> = (0..30).map(|_| rig.lab.connect(GUARDED)).collect();
            for conn in &mut conns {
                conn.send(&request(Nginx::SLOW, &key));
            }
            rig.nginx.gate().wait_for(LIMIT);
            let (mut refused, mut held) = (Vec::new(), Vec::new());
            eventually("ten are answered", || {
                while let Some(at) = conns.iter_mut().position(Conn::has_bytes) {
                    refused.push(conns.swap_remove(at));
                }
                refused.len() >= 10
            });
            held.append(&mut conns);
            assert_eq!((refused.len(), held.len()), (10, LIMIT));
            for conn in &mut refused {
                let response = conn.response();
                assert_eq!(response.status, 429);
                assert_eq!(response.violated(), ["concurrency"]);
                if after == Refused::Closed {
                    conn.assert_closed();
                }
            }
            assert_eq!(rig.nginx.gate().waiting(), LIMIT);
            assert_eq!(rig.limiter.usage("acme/web").in_flight, LIMIT as u64);
            rig.nginx.gate().open();
            for conn in &mut held {
                assert_eq!(conn.response().status, 200);
            }
            assert_eq!(rig.limiter.usage("acme/web").in_flight, 0);
            let mut served = LIMIT as u64;
            if after == Refused::KeptOpen {
                for conn in &mut refused {
                    assert_eq!(conn.get("/", &key).status, 200);
                }
                served += refused.len() as u64;
            }
            rig.assert_charged_as_served("acme/web", &key, round * served);
            assert_eq!(
                rig.limiter.usage("acme/web").refused.concurrency,
                round * 10
            );
            drop(held);
            drop(refused);
            rig.assert_nothing_left("acme/web");
        }
    }
}

#[test]
fn one_response_frees_one_slot() {
    let rig = Rig::veth(|config| config.tier("profile", "concurrency = 2"));
    let key = rig.limiter.key("acme/web");
    let mut held = nginx::hold(&rig.lab, &rig.nginx, &key, 2);
    assert_eq!(rig.get(&key).status, 429);
    rig.nginx.gate().release(1);
    assert_eq!(held[0].response().status, 200);
    assert_eq!(rig.get(&key).status, 200);
    held.extend(nginx::hold(&rig.lab, &rig.nginx, &key, 1));
    assert_eq!(rig.get(&key).status, 429);
    rig.nginx.gate().open();
}

#[test]
fn a_client_that_closes_resets_or_is_killed_frees_its_slots() {
    let rig = Rig::veth(|config| config.tier("profile", "concurrency = 3"));
    let key = rig.limiter.key("acme/web");
    let gone = || {
        eventually("the slots are free", || {
            rig.limiter.usage("acme/web").in_flight == 0
        });
    };
    for address in rig.lab.addresses() {
        let mut conn = rig.lab.connect_to(address, GUARDED);
        conn.send(&request(Nginx::SLOW, &key));
        rig.nginx.gate().wait_for(1);
        assert_eq!(rig.limiter.usage("acme/web").in_flight, 1);
        conn.reset();
        gone();
        // nginx has closed its connection to the backend, so the backend no longer needs to hold
        // the request.
        rig.nginx.gate().release(rig.nginx.gate().waiting());
    }

    for _ in 0..20 {
        // The client closes the connection before it has read the response, so the client's kernel
        // resets the connection when the response arrives.
        rig.lab.connect(GUARDED).send(&request(Nginx::FILE, &key));
        gone();
    }

    drop(nginx::hold(&rig.lab, &rig.nginx, &key, 3));
    gone();
    rig.nginx.gate().release(rig.nginx.gate().waiting());

    let url = rig.lab.url(GUARDED, Nginx::SLOW);
    let script = "import sys, urllib.request as r\n\
                  r.urlopen(r.Request(sys.argv[1], headers={'X-Api-Key': sys.argv[2]})).read()";
    let mut python = Process::start(
        "python",
        tools::python_command(&rig.lab, script).args([&url, &key]),
        &rig.lab.file("python.log"),
    );
    rig.nginx.gate().wait_for(1);
    python.kill();
    gone();

    rig.nginx.gate().open();
    assert_eq!(rig.statuses(&key, 5), [200; 5]);
    rig.assert_nothing_left("acme/web");
}

#[test]
fn a_server_that_is_killed_frees_the_slots_of_its_requests() {
    for net in [Net::Veth, Net::Loopback] {
        let mut rig = Rig::on(net, |config| config.tier("profile", "concurrency = 3"));
        let key = rig.limiter.key("acme/web");
        let held = nginx::hold(&rig.lab, &rig.nginx, &key, 3);
        assert_eq!(rig.get(&key).status, 429);
        rig.nginx.kill();
        for mut conn in held {
            // The connection ends with a FIN or a reset, in both cases without a response.
            assert!(conn.rest().map_or(true, |rest| rest.is_empty()), "{net:?}");
        }
        eventually("the slots are free", || {
            rig.limiter.usage("acme/web").in_flight == 0
        });
        rig.nginx.gate().open();
        rig.nginx.start_again(&rig.lab);
        assert_eq!(rig.statuses(&key, 4), [200; 4], "{net:?}");
        rig.assert_nothing_left("acme/web");
    }
}

#[test]
fn open_connections_are_limited_and_their_ends_counted() {
    for net in [Net::Veth, Net::Loopback] {
        let rig = Rig::on(net, |config| config.tier("profile", "connections = 2"));
        let key = rig.limiter.key("acme/web");
        let mut conns: Vec<_> = (0..2).map(|_| rig.lab.connect(GUARDED)).collect();
        for conn in &mut conns {
            assert_eq!(
                [conn.get("/", &key).status, conn.get("/", &key).status],
                [200, 200]
            );
        }
        assert_eq!(rig.limiter.usage("acme/web").connections, 2);
        let mut third = rig.lab.connect(GUARDED);
        let response = third.get("/", &key);
        assert_eq!(response.status, 429);
        assert_eq!(response.violated(), ["connections"]);
        assert_eq!(conns[0].get("/", &key).status, 200);
        conns.pop();
        eventually("the connection's end is counted", || {
            rig.limiter.usage("acme/web").connections == 1
        });
        assert_eq!(third.get("/", &key).status, 200);
        assert_eq!(rig.get(&key).status, 429);
        assert_eq!(rig.limiter.usage("acme/web").refused.connections, 2);
        drop(third);
        conns.pop().expect("the other one").reset();
        rig.assert_nothing_left("acme/web");
    }
}

#[test]
fn clients_of_all_kinds_leave_no_counts_behind() {
    let rig = Rig::veth(|config| config.tier("profile", "concurrency = 4"));
    let key = rig.limiter.key("acme/web");
    rig.nginx.gate().open();
    let client = |kind: usize| {
        for number in 0..40 {
            let mut conn = rig.lab.connect(GUARDED);
            match (kind + number) % 4 {
                0 => drop(conn.get(Nginx::FILE, &key)),
                1 => conn.send(&request(Nginx::FILE, &key)),
                2 => {
                    conn.send(&request(Nginx::SLOW, &key));
                    conn.reset();
                }
                _ => conn.send(&request("/", &key)[..30]),
            }
        }
    };
    thread::scope(|scope| {
        for kind in 0..4 {
            scope.spawn(move || client(kind));
        }
    });
    rig.assert_nothing_left("acme/web");
    assert_eq!(rig.get(&key).status, 200);
}

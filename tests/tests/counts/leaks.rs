// SPDX-License-Identifier: MIT OR Apache-2.0

//! No count leaks. Whatever happens to connections, interfaces and the daemon, the counts of
//! requests in flight and of open connections return to zero, and the remaining connections
//! continue to work.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use limiter_tests::{
    Conn, Disorder, GUARDED, Lab, Limiter, Net, Nginx, Rig, Rule, Server, eventually, long,
    mixture::{self, Keys, Mixture, PACED, ROOMY, SPENT, Tally},
    nginx, percent, request,
};

const FIN: u32 = 1;
const RST: u32 = 4;
const SCOPE: &str = "acme/web";

/// Directives with which nginx closes idle connections after 8 s.
const SHORT_TIMEOUTS: &str = "keepalive_timeout 8s; send_timeout 2s; client_header_timeout 8s;";

/// A rule for a bad path. It loses 3% of the packets, duplicates 2% at once, repeats 1% later, and
/// delays 2%.
const BAD: Rule = Rule {
    lose: percent(3),
    double: percent(2),
    echo: percent(1),
    hold: percent(2),
    ..Rule::NONE
};

/// Creates a rig in which the server and its kernel soon close connections whose client is silent.
fn rig_with_short_timeouts(net: Net) -> Rig {
    let lab = Lab::new(net);
    lab.tune_for_packet_loss();
    // The server's kernel retransmits unacknowledged bytes at most three times, or at most twice
    // after the process has closed the socket.
    lab.server().set("net/ipv4/tcp_retries2", "3");
    lab.server().set("net/ipv4/tcp_orphan_retries", "2");
    Rig::with(lab, SHORT_TIMEOUTS, |config| config)
}

/// Opens two connections with one request in flight on each, and two idle connections.
fn open_some(rig: &Rig, key: &str) -> Vec<Conn> {
    let mut conns = nginx::hold(&rig.lab, &rig.nginx, key, 2);
    for _ in 0..2 {
        let mut conn = rig.lab.connect(GUARDED);
        assert_eq!(conn.get("/", key).status, 200);
        conns.push(conn);
    }
    let usage = rig.limiter.usage(SCOPE);
    assert_eq!((usage.in_flight, usage.connections), (2, 4));
    conns
}

/// Waits until no request is in flight and no connection is open.
#[track_caller]
fn assert_counts_are_zero(limiter: &Limiter) {
    eventually("nothing is in flight and no connection is open", || {
        let usage = limiter.usage(SCOPE);
        (usage.in_flight, usage.connections) == (0, 0)
    });
}

#[test]
fn client_gone_without_a_fin_is_counted_until_the_server_times_out() {
    let rig = rig_with_short_timeouts(Net::Veth);
    let key = rig.limiter.key(SCOPE);
    let conns = open_some(&rig, &key);
    rig.lab.client().ip("link set c0 down");
    drop(conns);
    // The server has not noticed that the client is gone. The two requests of the client are still
    // being processed and keep their slots.
    assert_eq!(rig.limiter.usage(SCOPE).in_flight, 2);
    rig.nginx.gate().open();
    rig.assert_nothing_left(SCOPE);
}

#[test]
fn client_with_a_deleted_namespace_is_counted_until_the_server_times_out() {
    let mut rig = rig_with_short_timeouts(Net::Veth);
    let key = rig.limiter.key(SCOPE);
    let conns = open_some(&rig, &key);
    rig.lab.client().ip("link set c0 down");
    drop(conns);
    // When the client's namespace is deleted, the kernel also removes the server's end of the veth
    // pair.
    rig.lab.delete_client();
    rig.nginx.gate().open();
    rig.assert_nothing_left(SCOPE);
}

#[test]
fn silently_killed_server_leaves_no_counts() {
    let mut rig = rig_with_short_timeouts(Net::Veth);
    // The programs that lose packets are attached first, and the limiter's programs are attached
    // after them. Packets from the server are therefore lost before the limiter sees them.
    rig.limiter.terminate();
    rig.limiter.detach();
    let mut disorder = Disorder::at_server(&rig.lab, GUARDED);
    rig.limiter.run(&[]);
    let key = rig.limiter.key(SCOPE);
    let conns = open_some(&rig, &key);
    disorder.set(Rule::NONE, Rule::dropping(FIN | RST));
    rig.nginx.kill();
    eventually("its last packets are lost", || {
        disorder.to_client().lost >= 4
    });
    assert_counts_are_zero(&rig.limiter);
    drop(conns);
    disorder.set_both(Rule::NONE);
    rig.nginx.start_again(&rig.lab);
    assert_eq!(rig.get(&key).status, 200);
    rig.assert_no_sockets(SCOPE);
}

#[test]
fn a_reset_from_either_side_ends_the_counts() {
    for net in [Net::Veth, Net::Loopback] {
        let rig = Rig::on(net, |config| config.ports(&[GUARDED, 8080]));
        let key = rig.limiter.key(SCOPE);
        for conn in open_some(&rig, &key) {
            conn.reset();
        }
        rig.assert_no_sockets(SCOPE);

        // This server resets the connection instead of answering the request.
        let _server = Server::start(rig.lab.server(), 8080, |mut conn| {
            if conn.head().is_ok() {
                conn.reset();
            }
        });
        for _ in 0..10 {
            let mut conn = rig.lab.connect(8080);
            conn.send(&request("/", &key));
            assert!(conn.rest().is_err(), "{net:?}");
        }
        assert_counts_are_zero(&rig.limiter);
    }
}

#[test]
fn client_whose_reset_is_lost_is_counted_until_the_server_times_out() {
    for net in [Net::Veth, Net::Loopback] {
        let rig = rig_with_short_timeouts(net);
        let key = rig.limiter.key(SCOPE);
        let mut disorder = Disorder::at_client(&rig.lab, GUARDED);
        disorder.set(Rule::dropping(RST), Rule::NONE);
        for conn in open_some(&rig, &key) {
            conn.reset();
        }
        assert!(disorder.to_server().lost >= 4, "{disorder:?}");
        // The requests stay in flight until the server gives up, because the resets with which the
        // client's kernel responds to further packets are lost too.
        assert_eq!(rig.limiter.usage(SCOPE).in_flight, 2);
        rig.nginx.gate().open();
        rig.assert_nothing_left(SCOPE);
    }
}

#[test]
fn connections_that_end_without_a_daemon_are_not_counted_by_the_next_one() {
    for net in [Net::Veth, Net::Loopback] {
        let mut rig = rig_with_short_timeouts(net);
        let key = rig.limiter.key(SCOPE);
        let mut disorder = Disorder::at_client(&rig.lab, GUARDED);
        let conns = open_some(&rig, &key);
        rig.limiter.kill();
        // Two of these connections have a request in flight, and the other two are idle. One
        // connection of each kind is reset, and the other is closed. The connections in `more`,
        // which are opened after them, are also reset, but their resets are lost.
        for (number, conn) in conns.into_iter().enumerate() {
            if number % 2 == 0 {
                conn.reset();
            }
        }
        let more: Vec<Conn> = (0..4)
            .map(|number| {
                let mut conn = rig.lab.connect(GUARDED);
                let path = [Nginx::SLOW, "/"][number % 2];
                conn.send(&request(path, &key));
                conn
            })
            .collect();
        eventually("the server has them", || rig.nginx.gate().arrived() >= 4);
        disorder.set(Rule::dropping(RST), Rule::NONE);
        for conn in more {
            conn.reset();
        }
        rig.nginx.gate().open();
        Nginx::wait_until_no_sockets(&rig.lab, GUARDED);
        rig.limiter.run(&[]);
        assert_counts_are_zero(&rig.limiter);
        disorder.set_both(Rule::NONE);
        assert_eq!(rig.get(&key).status, 200);
        rig.assert_no_sockets(SCOPE);
    }
}

/// A guard that stops the clients when it is dropped, even if the test fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs clients of all kinds while `happens` changes the daemon or the interfaces. Asserts
/// afterwards that all counts are correct.
#[track_caller]
fn assert_clients_succeed_while(
    net: Net,
    rule: Rule,
    happens: impl FnOnce(&mut Limiter, &Lab, &dyn Fn()),
) {
    let lab = Lab::new(net);
    lab.tune_for_packet_loss();
    let mut rig = Rig::with(lab, mixture::NGINX, mixture::tiers);
    rig.nginx.gate().open();
    let keys = Keys::make(&rig.limiter);
    assert_eq!(rig.get(&keys.spent).status, 200);
    let mut disorder = Disorder::at_client(&rig.lab, GUARDED);
    disorder.set_both(rule);
    let mixture = Mixture::new(&rig.lab, &[rig.lab.v4()], keys.clone(), 6);
    let stop = AtomicBool::new(false);
    let tally: Tally = thread::scope(|scope| {
        let clients = scope.spawn(|| mixture.run(|_| !stop.load(Ordering::SeqCst)));
        {
            let _ends_also_when_this_fails = SetOnDrop(&stop);
            let progress = || {
                let before = mixture.done.load(Ordering::SeqCst);
                eventually("clients go on", || {
                    clients.is_finished() || mixture.done.load(Ordering::SeqCst) > before + 20
                });
            };
            progress();
            happens(&mut rig.limiter, &rig.lab, &progress);
            progress();
        }
        clients.join().expect("no client failed")
    });
    rig.assert_charged_as_served(ROOMY, &keys.roomy, tally.roomy_served);
    rig.assert_charged_as_served(SPENT, &keys.spent, 1);
    rig.assert_charged_as_served(PACED, &keys.paced, tally.paced_served);
    for scope in [ROOMY, SPENT, PACED] {
        rig.assert_no_sockets(scope);
    }
}

fn times(short: usize) -> usize {
    if long() { short * 10 } else { short }
}

#[test]
fn interface_that_goes_down_and_up_loses_no_response() {
    assert_clients_succeed_while(Net::Veth, Rule::NONE, |_, lab, progress| {
        for _ in 0..times(3) {
            lab.server().ip("link set s0 down");
            // No event shows that clients are waiting for the interface. The test therefore pauses,
            // and after the pause at least some clients are waiting.
            thread::sleep(Duration::from_millis(200));
            lab.server().ip("link set s0 up");
            progress();
        }
    });
}

#[test]
fn daemon_restarts_on_a_bad_path_lose_no_response() {
    for net in [Net::Veth, Net::Loopback] {
        assert_clients_succeed_while(net, BAD, |limiter, _, progress| {
            for _ in 0..times(3) {
                limiter.kill();
                progress();
                limiter.run(&[]);
                progress();
            }
        });
    }
}

#[test]
fn reloads_on_a_bad_path_lose_no_response() {
    assert_clients_succeed_while(Net::Veth, BAD, |limiter, _, progress| {
        for _ in 0..times(5) {
            limiter.done(&["reload"]);
            progress();
        }
    });
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the tool that creates a bad path. On every kind of network, the tool really loses,
//! duplicates, delays and repeats packets, and its own counts agree with the packets that arrive.

use std::{collections::HashMap, fs, net::IpAddr, thread};

use limiter_tests::{
    Disorder, Lab, Namespace, Net, Nginx, Rule, UNGUARDED,
    capture::{Capture, Packet},
    eventually, long, percent,
};

/// In these tests nginx discards request bodies. With these directives, nginx waits long enough for
/// a body that arrives slowly.
const LONG_TIMEOUTS: &str = "lingering_time 600s; lingering_timeout 600s;";

const CLIENTS: usize = 4;

/// The maximum number of transfers under one rule. A test fails if the TCP counter that shows the
/// effect of the rule has not increased after this number of transfers.
const MOST_ATTEMPTS: usize = 10;

/// Returns the number of rounds for each client.
fn rounds() -> usize {
    if long() { 8 } else { 3 }
}

/// Returns the TCP counters of a namespace, indexed by their names.
fn tcp_counts(namespace: &Namespace) -> HashMap<String, u64> {
    // `/proc/net` would show the counters of the main thread's namespace instead.
    let text = namespace.enter(|| {
        ["snmp", "netstat"].map(|file| {
            fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("the counts of TCP")
        })
    });
    let text = text.concat();
    let lines: Vec<&str> = text.lines().collect();
    lines
        .chunks_exact(2)
        .filter(|pair| pair[0].starts_with("Tcp"))
        .flat_map(|pair| pair[0].split(' ').zip(pair[1].split(' ')))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

/// Uploads and downloads large bodies on several connections at once.
fn talk(lab: &Lab, address: IpAddr) {
    let file = Nginx::file_content();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        file.len()
    );
    let upload = [head.as_bytes(), &file].concat();
    let get = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", Nginx::FILE);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..rounds() {
                    let mut conn = lab.connect_to(address, UNGUARDED);
                    assert!(conn.ask(get.as_bytes()).body == file, "the file is whole");
                    assert_eq!(conn.ask(&upload).status, 200);
                    assert!(conn.ask(get.as_bytes()).body == file, "the file is whole");
                }
            });
        }
    });
}

/// Returns the number of packets whose sequence number is lower than that of an earlier packet of
/// the same connection.
fn out_of_order(packets: &[Packet]) -> usize {
    let mut newest: HashMap<_, u32> = HashMap::new();
    let late = packets.iter().filter(|packet| {
        let newest = newest.entry((packet.from, packet.to)).or_insert(packet.seq);
        let late = packet.seq.wrapping_sub(*newest).cast_signed() < 0;
        if !late {
            *newest = packet.seq;
        }
        late
    });
    late.count()
}

/// The effects of a rule that was applied in both directions: the packets that arrived, and the
/// increases of the TCP counters at both ends.
struct RuleEffects {
    disorder: Disorder,
    /// The packets from the client that arrived at the server.
    arrived: Vec<Packet>,
    /// The amount by which each TCP counter of the client increased.
    client: HashMap<String, u64>,
    /// The amount by which each TCP counter of the server increased.
    server: HashMap<String, u64>,
}

impl RuleEffects {
    /// Asserts that the TCP counter `sign` has increased at both ends.
    #[track_caller]
    fn assert_both_directions_affected(&self, sign: &str) {
        let (client, server) = (self.client[sign], self.server[sign]);
        assert!(
            client > 0 && server > 0,
            "{sign}: {client} at the client, {server} at the server; {:?}",
            self.disorder
        );
    }
}

/// Transfers data under `rule` until the TCP counter `sign` has increased at both ends, or once if
/// `sign` is `None`. One transfer may not be enough, because the rule chooses packets at random and
/// TCP notices only a few of these packets.
fn transfer_under(net: Net, v6: bool, rule: Rule, sign: Option<&str>) -> RuleEffects {
    let lab = Lab::new(net);
    lab.tune_for_packet_loss();
    let _nginx = Nginx::start_with(&lab, &[UNGUARDED], LONG_TIMEOUTS);
    let address = if v6 { lab.v6() } else { lab.v4() };
    let mut disorder = Disorder::at_client(&lab, UNGUARDED);
    let capture = Capture::start(&lab, "arrived", UNGUARDED);
    let ends = [lab.client(), lab.server()];
    let before = ends.map(tcp_counts);
    disorder.set_both(rule);
    let mut after;
    let mut attempts = 0;
    loop {
        talk(&lab, address);
        Nginx::wait_until_no_sockets(&lab, UNGUARDED);
        disorder.settle();
        after = ends.map(tcp_counts);
        attempts += 1;
        let met = sign.is_none_or(|sign| (0..2).all(|end| after[end][sign] > before[end][sign]));
        if met || attempts == MOST_ATTEMPTS {
            break;
        }
    }
    let mut arrived = capture.finish_all();
    arrived.retain(|packet| packet.to.port() == UNGUARDED);
    let [client, server] = [0, 1].map(|end| {
        let grown = |(name, value): (&String, &u64)| {
            let old = before[end].get(name).copied().unwrap_or(0);
            (name.clone(), value.saturating_sub(old))
        };
        after[end].iter().map(grown).collect()
    });
    RuleEffects {
        disorder,
        arrived,
        client,
        server,
    }
}

/// Returns the networks, each with a bool that is true if the client uses IPv6 there.
fn ways() -> &'static [(Net, bool)] {
    const WAYS: [(Net, bool); 5] = [
        (Net::Veth, false),
        (Net::Loopback, true),
        (Net::VethNoOffload, true),
        (Net::Veth, true),
        (Net::Loopback, false),
    ];
    if long() { &WAYS } else { &WAYS[..3] }
}

#[test]
fn no_packet_is_disturbed_without_a_rule() {
    let seen = transfer_under(Net::Veth, false, Rule::NONE, None);
    for counts in [seen.disorder.to_server(), seen.disorder.to_client()] {
        assert!(counts.seen > 0, "{:?}", seen.disorder);
        let disturbed = counts.lost + counts.doubled + counts.echoed + counts.held;
        assert_eq!(disturbed, 0, "{:?}", seen.disorder);
    }
    assert_eq!(seen.arrived.len() as u64, seen.disorder.to_server().seen);
}

#[test]
fn lost_packets_do_not_arrive_and_are_sent_again() {
    let rule = Rule {
        lose: percent(10),
        ..Rule::NONE
    };
    for &(net, v6) in ways() {
        let seen = transfer_under(net, v6, rule, Some("RetransSegs"));
        for counts in [seen.disorder.to_server(), seen.disorder.to_client()] {
            let share = counts.lost * 100 / counts.seen;
            assert!((3..=20).contains(&share), "{net:?} {:?}", seen.disorder);
        }
        seen.assert_both_directions_affected("RetransSegs");
        if net != Net::Loopback {
            let counts = seen.disorder.to_server();
            assert_eq!(seen.arrived.len() as u64, counts.seen - counts.lost);
        }
    }
}

#[test]
fn doubled_packets_arrive_twice() {
    let rule = Rule {
        double: percent(10),
        ..Rule::NONE
    };
    for &(net, v6) in ways() {
        let seen = transfer_under(net, v6, rule, Some("TCPDSACKOldSent"));
        let counts = seen.disorder.to_server();
        assert!(counts.doubled > 0 && seen.disorder.to_client().doubled > 0);
        seen.assert_both_directions_affected("TCPDSACKOldSent");
        if net != Net::Loopback {
            assert_eq!(seen.arrived.len() as u64, counts.seen + counts.doubled);
        }
    }
}

#[test]
fn held_packets_arrive_after_their_successors() {
    let rule = Rule {
        hold: percent(3),
        ..Rule::NONE
    };
    for &(net, v6) in ways() {
        let seen = transfer_under(net, v6, rule, Some("TCPOFOQueue"));
        let counts = seen.disorder.to_server();
        assert!(counts.held > 0 && seen.disorder.to_client().held > 0);
        seen.assert_both_directions_affected("TCPOFOQueue");
        if net != Net::Loopback {
            assert_eq!(seen.arrived.len() as u64, counts.seen);
            let late = out_of_order(&seen.arrived);
            assert!(late > 0, "{net:?} {late} {:?}", seen.disorder);
        }
    }
}

#[test]
fn echoes_arrive_late() {
    let rule = Rule {
        echo: percent(3),
        ..Rule::NONE
    };
    for &(net, v6) in ways() {
        let seen = transfer_under(net, v6, rule, Some("TCPDSACKOldSent"));
        let counts = seen.disorder.to_server();
        assert!(counts.echoed > 0 && seen.disorder.to_client().echoed > 0);
        seen.assert_both_directions_affected("TCPDSACKOldSent");
        if net != Net::Loopback {
            assert_eq!(seen.arrived.len() as u64, counts.seen + counts.echoed);
            let late = out_of_order(&seen.arrived);
            assert!(late > 0, "{net:?} {late} {:?}", seen.disorder);
        }
    }
}

#[test]
fn rule_for_resets_drops_only_resets() {
    let lab = Lab::veth();
    let _nginx = Nginx::start(&lab, &[UNGUARDED]);
    let mut disorder = Disorder::at_client(&lab, UNGUARDED);
    disorder.set(Rule::dropping(RST), Rule::NONE);
    let mut conn = lab.connect(UNGUARDED);
    assert_eq!(conn.get("/", "none").status, 200);
    conn.reset();
    // The kernel may process the packet later on another thread.
    eventually("the reset is lost", || disorder.to_server().lost == 1);
    assert_eq!(Nginx::sockets(&lab, UNGUARDED).len(), 1);
    disorder.set_both(Rule::NONE);
    // The rule has been removed, so a new connection loses no packets.
    assert_eq!(lab.connect(UNGUARDED).get("/", "none").status, 200);
    assert_eq!(disorder.to_server().lost, 1);
}

const RST: u32 = 4;

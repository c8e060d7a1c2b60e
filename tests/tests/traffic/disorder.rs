// SPDX-License-Identifier: MIT OR Apache-2.0

//! Clients get every response over a path that loses, duplicates, delays and repeats packets. No
//! request is charged twice, no request over a limit is served, and no connection and no request in
//! flight is left over.

use limiter_tests::{
    Config, Disorder, GUARDED, Lab, Net, Nginx, Rig, Rule, UNGUARDED, eventually, long,
    mixture::{self, Keys, Mixture, PACED, ROOMY, SPENT, Tally},
    netfilter::Rules,
    percent, tools,
};

/// This rule and the three rules after it are applied in both directions.
const LOSS: Rule = Rule {
    lose: percent(5),
    ..Rule::NONE
};
const LOSS_AND_DOUBLES: Rule = Rule {
    lose: percent(5),
    double: percent(3),
    echo: percent(1),
    ..Rule::NONE
};
const LOSS_AND_DISORDER: Rule = Rule {
    lose: percent(5),
    hold: percent(3),
    ..Rule::NONE
};
const ALL: Rule = Rule {
    lose: percent(5),
    double: percent(2),
    echo: percent(1),
    hold: percent(2),
    ..Rule::NONE
};

const CLIENTS: usize = 12;

/// The maximum ratio of the packets in a run with the limiter to the packets in the same run
/// without it, in halves, so that 3 stands for 1.5. In measurements, both runs had about the same
/// number of packets.
const STORM_HALVES: u64 = 3;

/// The address family of the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    Both,
}

impl Family {
    fn addresses(self, lab: &Lab) -> Vec<std::net::IpAddr> {
        match self {
            Self::V4 => vec![lab.v4()],
            Self::V6 => vec![lab.v6()],
            Self::Both => lab.addresses().to_vec(),
        }
    }
}

fn lab(net: Net) -> Lab {
    let lab = Lab::new(net);
    lab.tune_for_packet_loss();
    lab
}

/// Runs [`CLIENTS`] clients for `rounds` rounds each on a path to which `rule` applies, and returns
/// the results and the number of packets.
#[track_caller]
fn run_mixture(net: Net, family: Family, rule: Rule, rounds: usize) -> (Tally, u64) {
    run_mixture_with(net, family, rule, rounds, mixture::tiers)
}

/// Does the same as [`run_mixture`] with a configuration that `configure` changes.
#[track_caller]
fn run_mixture_with(
    net: Net,
    family: Family,
    rule: Rule,
    rounds: usize,
    configure: impl FnOnce(Config) -> Config,
) -> (Tally, u64) {
    let rig = Rig::with(lab(net), mixture::NGINX, configure);
    rig.nginx.gate().open();
    let keys = Keys::make(&rig.limiter);
    assert_eq!(rig.get(&keys.spent).status, 200);
    let mut disorder = Disorder::at_client(&rig.lab, GUARDED);
    disorder.set_both(rule);
    let addresses = family.addresses(&rig.lab);
    let mixture = Mixture::new(&rig.lab, &addresses, keys, CLIENTS);
    let tally = mixture.run(|round| round < rounds);

    let keys = &mixture.keys;
    rig.assert_charged_as_served(ROOMY, &keys.roomy, tally.roomy_served);
    rig.assert_charged_as_served(SPENT, &keys.spent, 1);
    rig.assert_charged_as_served(PACED, &keys.paced, tally.paced_served);
    let refused = |scope: &str| rig.limiter.usage(scope).refused;
    assert_eq!(refused(SPENT).daily_quota, tally.spent_refused);
    assert_eq!(refused(PACED).rate, tally.paced_refused);
    assert_eq!(
        [ROOMY, SPENT, PACED].map(|scope| refused(scope).total()),
        [0, tally.spent_refused, tally.paced_refused]
    );
    for scope in [ROOMY, SPENT, PACED] {
        rig.assert_no_sockets(scope);
    }
    println!("{net:?} {family:?}: {tally:?} {disorder:?}");
    (tally, disorder.packets())
}

/// Runs the same clients as [`run_mixture`] but without a limiter, and returns the results and the
/// number of packets.
fn without_limiter(net: Net, family: Family, rule: Rule, rounds: usize) -> (Tally, u64) {
    let lab = lab(net);
    let nginx = Nginx::start_with(&lab, &[GUARDED], mixture::NGINX);
    nginx.gate().open();
    let mut disorder = Disorder::at_client(&lab, GUARDED);
    disorder.set_both(rule);
    let mut mixture = Mixture::new(&lab, &family.addresses(&lab), Keys::none(), CLIENTS);
    mixture.limited = false;
    let tally = mixture.run(|round| round < rounds);
    Nginx::wait_until_no_sockets(&lab, GUARDED);
    println!("{net:?} {family:?}, no limiter: {tally:?} {disorder:?}");
    (tally, disorder.packets())
}

/// Returns the number of rounds for each client, which is `short`, or ten times `short` in a long
/// run.
fn rounds(short: usize) -> usize {
    if long() { short * 10 } else { short }
}

#[test]
fn responses_are_right_on_a_good_path() {
    run_mixture(Net::Veth, Family::Both, Rule::NONE, rounds(20));
}

#[test]
fn bad_path_keeps_responses_right_without_a_packet_storm() {
    let rounds = rounds(60);
    let (tally, packets) = run_mixture(Net::Veth, Family::Both, ALL, rounds);
    assert!(tally.requests() > 1000, "{tally:?}");
    let (_, without) = without_limiter(Net::Veth, Family::Both, ALL, rounds);
    assert!(
        packets * 2 < without * STORM_HALVES,
        "{packets} packets, without the limiter {without}"
    );
}

#[test]
fn every_bad_path_keeps_responses_right_and_charged_once() {
    if long() {
        for net in Net::ALL {
            for family in [Family::V4, Family::V6] {
                for rule in [LOSS, LOSS_AND_DOUBLES, LOSS_AND_DISORDER, ALL] {
                    run_mixture(net, family, rule, 60);
                }
            }
        }
    } else {
        run_mixture(Net::VethNoOffload, Family::V6, LOSS_AND_DISORDER, 10);
        run_mixture(Net::Veth, Family::V4, LOSS, 10);
        run_mixture(Net::Loopback, Family::Both, LOSS_AND_DOUBLES, 10);
    }
}

#[test]
fn deferred_handshakes_survive_a_bad_path() {
    let deferring = |config| mixture::tiers(config).policy("handshake = \"defer\"");
    run_mixture_with(Net::Veth, Family::Both, ALL, rounds(10), deferring);
}

/// The configuration in which connections go on after refusals.
fn keeping(config: Config) -> Config {
    mixture::tiers(config).policy("on_limit = \"keepalive\"")
}

#[test]
fn connections_go_on_after_refusals() {
    for (net, family) in [
        (Net::Veth, Family::Both),
        (Net::VethNoOffload, Family::V6),
        (Net::Loopback, Family::V4),
    ] {
        let (tally, _) = run_mixture_with(net, family, Rule::NONE, rounds(10), keeping);
        assert!(tally.kept > 0, "{tally:?}");
    }
}

#[test]
fn connections_that_go_on_after_refusals_survive_a_bad_path() {
    let (tally, _) = run_mixture_with(Net::Veth, Family::Both, ALL, rounds(60), keeping);
    assert!(tally.kept > 100, "{tally:?}");
    run_mixture_with(Net::VethNoOffload, Family::V6, LOSS, rounds(10), keeping);
    run_mixture_with(
        Net::Loopback,
        Family::Both,
        LOSS_AND_DOUBLES,
        rounds(10),
        keeping,
    );
}

/// A Python script that sends a SYN from the port of a connection that has ended.
const OLD_SYN: &str = r#"
import socket, struct, sys
source, target, sport, dport = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xffff) + (total >> 16)
    return ~(total + (total >> 16)) & 0xffff
def segment(check):
    return struct.pack("!HHIIBBHHH", sport, dport, 4711, 0, 5 << 4, 2, 64000, check, 0)
pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!BBH", 0, 6, 20)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
raw.sendto(segment(checksum(pseudo + segment(0))), (target, 0))
print("true")
"#;

#[test]
fn duplicate_old_syn_leaves_no_half_open_connection() {
    let rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    let (client, server) = (rig.lab.client_v4().to_string(), rig.lab.v4().to_string());
    for to in [UNGUARDED, GUARDED] {
        let mut conn = rig.lab.connect(to);
        assert_eq!(conn.get("/", &key).status, 200);
        let from = conn.local().port().to_string();
        drop(conn);
        Nginx::wait_until_no_sockets(&rig.lab, to);
        let ports = [from, to.to_string()];
        // The client's resets are held back until the server's answer has been seen.
        let held = Rules::lose(
            rig.lab.client(),
            &format!("dport {to} tcp flags & rst == rst"),
        );
        tools::python(&rig.lab, OLD_SYN, &[&client, &server, &ports[0], &ports[1]]);
        eventually("the server answers it", || {
            !Nginx::sockets(&rig.lab, to).is_empty()
        });
        drop(held);
        // The client's kernel has no connection on this port any more, and therefore answers the
        // SYN-ACK with a reset. The server's socket disappears only if that reset reaches the
        // server.
        Nginx::wait_until_no_sockets(&rig.lab, to);
    }
    rig.assert_no_sockets("acme/web");
}

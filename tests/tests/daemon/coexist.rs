// SPDX-License-Identifier: MIT OR Apache-2.0

//! Several limiters with separate directories run on one host, together with TC programs of other
//! owners.

use std::{path::PathBuf, time::Duration};

use limiter_tests::{
    Config, Conn, GUARDED, Lab, Limiter, Neighbour, Nginx, Place, Rig, UNGUARDED, avoid_midnight,
    eventually,
    limiter::{self, Output, exit},
    neighbour, process,
};

/// Each test starts at least this long before midnight UTC. It takes much less time, so all of its
/// requests are counted on one day.
const TIME_BEFORE_MIDNIGHT: Duration = Duration::from_secs(60);

const ONE_A_DAY: &str = "daily_quota = 1";

/// Returns the filters and the clsact qdisc of an interface, as tc lists them.
fn tc(lab: &Lab, interface: &str) -> String {
    [
        &["filter", "show", "dev", interface, "ingress"][..],
        &["filter", "show", "dev", interface, "egress"],
        &["qdisc", "show", "dev", interface, "clsact"],
    ]
    .map(|words| process::succeed(lab.server().command("tc").args(words)))
    .concat()
}

fn names(programs: &[Vec<neighbour::AttachedProgram>; 2]) -> [Vec<&str>; 2] {
    programs.each_ref().map(|hook| {
        let names = hook.iter().map(|program| program.name.as_str());
        names.collect()
    })
}

#[test]
fn second_daemon_with_a_shared_directory_exits_and_names_it() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let rig = Rig::veth(|config| config.tier("profile", ONE_A_DAY));
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.statuses(&key, 2), [200, 429]);
    let first = [
        rig.limiter.state_dir(),
        rig.limiter.runtime_dir(),
        rig.limiter.pin_dir().to_owned(),
    ];
    let pid = format!("(pid {})", rig.limiter.pid());
    let before = neighbour::links(rig.lab.server(), "s0");
    let other = Limiter::prepare(
        &rig.lab,
        "other",
        &Config::new(&rig.lab).ports(&[UNGUARDED]),
    );
    for shared in 0..3 {
        let mut directories = [
            other.state_dir(),
            other.runtime_dir(),
            other.pin_dir().to_owned(),
        ];
        directories[shared].clone_from(&first[shared]);
        let [state, runtime, pins] = &directories;
        let mut command = rig.lab.server().command(limiter::binary());
        command.args(["run", "-c"]).arg(other.config_path());
        command.arg("--state-dir").arg(state);
        command.arg("--runtime-dir").arg(runtime);
        command.arg("--pin-dir").arg(pins);
        let output = Output::from(process::output(command.env_remove("LIMITER_SOCKET")));
        let path = first[shared].display().to_string();
        output.assert_fails(exit::FAILED, &[&path, &pid, "stop it first"]);
        // The second daemon has left no links and no pins, and the first daemon continues to run.
        assert_eq!(neighbour::links(rig.lab.server(), "s0"), before);
        assert!(!other.pin_dir().exists(), "{shared}");
        assert!(!other.socket().exists(), "{shared}");
        assert_eq!(rig.get(&key).status, 429);
    }
    rig.assert_charged_as_served("acme/web", &key, 1);
    assert_eq!(rig.limiter.usage("acme/web").refused.daily_quota, 4);
}

/// Runs three daemons. The first and the second daemon guard different ports on one interface. The
/// third daemon guards the same port as the first, on another interface.
fn three_daemons(hook: &str) {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let lab = Lab::veth();
    let nginx = Nginx::start(&lab, &[GUARDED, UNGUARDED]);
    let start = |name: &str, interface: &str, port: u16| {
        let lines = format!("interfaces = [{interface:?}]\nports = [{port}]\nhook = {hook:?}\n");
        let config = Config::new(&lab).tier("profile", ONE_A_DAY);
        Limiter::start_named(&lab, name, &config.attach_lines(&lines))
    };
    let first = start("first", "s0", GUARDED);
    let mut second = start("second", "s0", UNGUARDED);
    let third = start("third", "lo", GUARDED);
    let keys = [&first, &second, &third].map(|daemon| daemon.key("acme/web"));
    let ask = |port| {
        lab.connect(port)
            .get("/", &keys[usize::from(port == UNGUARDED)])
            .status
    };
    let ask_lo = || {
        let to = (std::net::Ipv4Addr::LOCALHOST, GUARDED).into();
        Conn::open(lab.server(), to).get("/", &keys[2]).status
    };
    assert_eq!([ask(GUARDED), ask(UNGUARDED), ask_lo()], [200; 3]);
    assert_eq!([ask(GUARDED), ask(UNGUARDED), ask_lo()], [429; 3]);
    let counts = |daemon: &Limiter| {
        let usage = daemon.usage("acme/web");
        (usage.used, usage.refused.total())
    };
    assert_eq!([&first, &second, &third].map(counts), [(1, 1); 3]);
    let others_pins = || -> Vec<PathBuf> {
        let mut pins = Vec::new();
        for daemon in [&first, &third] {
            for directory in std::fs::read_dir(daemon.pin_dir()).expect("the pins") {
                let directory = directory.expect("an entry").path();
                for pin in std::fs::read_dir(directory).expect("pins") {
                    pins.push(pin.expect("an entry").path());
                }
            }
        }
        pins.sort();
        pins
    };
    let (pins, at_lo) = (others_pins(), tc(&lab, "lo"));
    second.kill();
    assert_eq!(second.detach().code, exit::DONE);
    // The second daemon's port has no limits any more. The pins and filters of the first and the
    // third daemon are unchanged, and their limits are in force.
    assert_eq!(others_pins(), pins);
    assert_eq!(tc(&lab, "lo"), at_lo);
    assert_eq!([ask(GUARDED), ask(UNGUARDED), ask_lo()], [429, 200, 429]);
    match hook {
        "tcx" => {
            let left = neighbour::links(lab.server(), "s0");
            assert_eq!(names(&left), [["limiter_ingress"], ["limiter_egress"]]);
        }
        _ => {
            let left = tc(&lab, "s0");
            assert_eq!(left.matches("direct-action").count(), 2, "{left}");
            assert!(left.contains("qdisc clsact"), "{left}");
        }
    }
    assert_eq!([&first, &third].map(counts), [(1, 2); 2]);
    second.run(&[]);
    assert_eq!([ask(GUARDED), ask(UNGUARDED), ask_lo()], [429; 3]);
    assert_eq!(counts(&second).0, 1);
    assert_eq!(nginx.served(&keys[1]), 2);
}

#[test]
fn tcx_daemons_have_separate_counts_links_and_pins() {
    three_daemons("tcx");
}

#[test]
fn clsact_daemons_have_separate_filters() {
    three_daemons("clsact");
}

/// Programs of other owners before and after the limiter's programs. They count the packets to and
/// from the server.
struct Neighbours {
    rig: Rig,
    key: String,
    before: Vec<Neighbour>,
    after: Vec<Neighbour>,
}

impl Neighbours {
    /// Sends one request on a new connection, and asserts that the request is dropped if `limited`
    /// is true, and served otherwise. Also asserts that all neighbours before the limiter's
    /// programs see the same packets, and that all neighbours after these programs see the same
    /// packets except those that the limiter dropped.
    fn assert_each_sees_its_packets(&self, limited: bool) {
        let seen = |neighbours: &[Neighbour]| -> Vec<[u64; 2]> {
            neighbours.iter().map(Neighbour::seen).collect()
        };
        // The server may still be sending packets of the previous connection.
        Nginx::wait_until_no_sockets(&self.rig.lab, GUARDED);
        let (before, after) = (seen(&self.before), seen(&self.after));
        let refused = || self.rig.limiter.usage("acme/web").refused.daily_quota;
        let mut conn = self.rig.lab.connect(GUARDED);
        if limited {
            let count = refused();
            conn.send(&limiter_tests::request("/", &self.key));
            eventually("the request is dropped", || refused() > count);
            assert!(conn.unacknowledged() > 0);
        } else {
            assert_eq!(conn.get("/", &self.key).status, 200);
        }
        conn.reset();
        Nginx::wait_until_no_sockets(&self.rig.lab, GUARDED);
        let since = |now: &[Neighbour], then: &[[u64; 2]]| -> Vec<[u64; 2]> {
            let now = seen(now);
            let pairs = now.iter().zip(then);
            pairs
                .map(|(now, then)| [now[0] - then[0], now[1] - then[1]])
                .collect()
        };
        let (earlier, later) = (since(&self.before, &before), since(&self.after, &after));
        let (first, last) = (earlier[0], later[0]);
        assert!(earlier.iter().all(|seen| *seen == first), "{earlier:?}");
        assert!(later.iter().all(|seen| *seen == last), "{later:?}");
        assert!(first[0] >= 4 && first[1] >= 1, "{first:?}");
        // The limiter does not drop packets from the server.
        assert_eq!(first[1], last[1]);
        assert_eq!(last[0] < first[0], limited, "{first:?} {last:?}");
    }
}

/// Attaches neighbours at the places in `before`, which come before the limiter's programs, and at
/// those in `after`. Asserts which packets they see, and that their order stays the same over
/// restarts of the daemon and over `detach`.
fn assert_neighbours_see_packets(hook: &str, before: &[Place], after: &[Place]) {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let lab = Lab::veth();
    let interface = lab.interface();
    let neighbour = |lab: &Lab, place| Neighbour::at(lab.server(), interface, GUARDED, place);
    // This neighbour is attached before the daemon starts, and all others are attached afterwards.
    let mut there = vec![neighbour(&lab, before[0])];
    let lines = format!(
        "interfaces = [{interface:?}]\nports = [{GUARDED}]\nhook = {hook:?}\norder = \"last\"\n"
    );
    let rig = Rig::of(lab, |config| {
        let config = config.attach_lines(&lines).tier("profile", ONE_A_DAY);
        config.policy("on_limit = \"drop\"")
    });
    there.extend(before[1..].iter().map(|place| neighbour(&rig.lab, *place)));
    let after = after
        .iter()
        .map(|place| neighbour(&rig.lab, *place))
        .collect();
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.get(&key).status, 200);
    let mut neighbours = Neighbours {
        rig,
        key,
        before: there,
        after,
    };
    neighbours.assert_each_sees_its_packets(true);
    let order = |neighbours: &Neighbours| {
        let links = neighbour::links(neighbours.rig.lab.server(), interface);
        links.map(|hook| {
            let programs = hook.into_iter();
            let id =
                |program: neighbour::AttachedProgram| match program.name.starts_with("limiter_") {
                    // The ids of the limiter's programs change with each daemon, so 0 represents
                    // them.
                    true => 0,
                    false => program.id,
                };
            programs.map(id).collect::<Vec<_>>()
        })
    };
    let first = (order(&neighbours), tc_order(&neighbours.rig.lab));
    for killed in [true, false] {
        if killed {
            neighbours.rig.limiter.kill();
        } else {
            neighbours.rig.limiter.terminate();
        }
        neighbours.rig.limiter.run(&[]);
        assert_eq!(
            (order(&neighbours), tc_order(&neighbours.rig.lab)),
            first,
            "{killed}"
        );
        neighbours.assert_each_sees_its_packets(true);
    }
    assert_eq!(neighbours.rig.limiter.detach().code, exit::DONE);
    let (links, filters) = (order(&neighbours), tc_order(&neighbours.rig.lab));
    let without_ours = first
        .0
        .map(|hook| hook.into_iter().filter(|id| *id != 0).collect::<Vec<_>>());
    assert_eq!(links, without_ours);
    let ours = |line: &&String| line.starts_with("pref 100 ");
    let without_ours: Vec<_> = first.1.iter().filter(|line| !ours(line)).cloned().collect();
    assert_eq!(filters, without_ours);
    neighbours.assert_each_sees_its_packets(false);
}

/// Returns the priorities and handles of the filters, in the order in which packets reach them.
fn tc_order(lab: &Lab) -> Vec<String> {
    let text = tc(lab, lab.interface());
    let filters = text.lines().filter(|line| line.contains("direct-action"));
    let word = |line: &str, name: &str| {
        let mut words = line.split(' ').skip_while(|word| *word != name);
        words.nth(1).unwrap_or_default().to_owned()
    };
    filters
        .map(|line| format!("pref {} {}", word(line, "pref"), word(line, "handle")))
        .collect()
}

#[test]
fn foreign_tcx_links_before_and_after_the_limiter_see_packets() {
    let before = [Place::Last, Place::First, Place::Before("limiter_")];
    assert_neighbours_see_packets("tcx", &before, &[Place::Last, Place::After("limiter_")]);
}

#[test]
fn foreign_filters_before_and_after_the_limiter_see_packets() {
    assert_neighbours_see_packets("clsact", &[Place::Filter(50)], &[Place::Filter(200)]);
}

#[test]
fn foreign_filters_and_links_can_be_mixed() {
    assert_neighbours_see_packets("tcx", &[Place::First], &[Place::Filter(50), Place::Last]);
    assert_neighbours_see_packets(
        "clsact",
        &[Place::Last, Place::Filter(50)],
        &[Place::Filter(200)],
    );
}

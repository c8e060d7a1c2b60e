// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tables are made larger by a restart under load, and no request is lost or counted twice. Tables
//! never become smaller.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use limiter_tests::{
    Conn, GUARDED, Limiter, Net, Rig, avoid_midnight,
    clock::TIMEOUT,
    eventually,
    limiter::exit,
    long, nginx,
    program::{SwitchPhase, switch_phase},
    request,
};
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};

/// Each test starts at least this long before midnight UTC. It takes much less time, so all of its
/// requests are counted on one day.
const TIME_BEFORE_MIDNIGHT: Duration = Duration::from_secs(120);

const NAMES: [&str; 4] = ["flows", "scopes", "keys", "unknown_keys"];

/// The interval at which the state of a starting daemon is polled, because no event reports changes
/// of this state.
const POLL_INTERVAL: Duration = Duration::from_micros(200);

/// The number of requests that the pipelining client sends at once.
const PIPELINED: usize = 5;

/// Returns the table sizes in the configuration, in the order of [`NAMES`].
fn sizes(limiter: &Limiter) -> [u64; 4] {
    let text = fs::read_to_string(limiter.config_path()).expect("the configuration");
    NAMES.map(|name| {
        let lines = text.lines();
        let mut sizes = lines.filter_map(|line| line.strip_prefix(&format!("{name} = ")));
        let size = sizes.next().expect("a size");
        size.parse().expect("a number")
    })
}

/// Applies `change` to each table size in the configuration.
fn resize(limiter: &Limiter, change: impl Fn(u64) -> u64) {
    let mut text = fs::read_to_string(limiter.config_path()).expect("the configuration");
    for (name, size) in NAMES.into_iter().zip(sizes(limiter)) {
        let new = format!("\n{name} = {}\n", change(size));
        text = text.replacen(&format!("\n{name} = {size}\n"), &new, 1);
    }
    limiter.write_config(&text);
}

/// Returns the directory of the larger maps, if there is one. The directory exists while the daemon
/// fills the larger maps, until they replace the present maps.
fn growing(limiter: &Limiter) -> Option<PathBuf> {
    let entries = fs::read_dir(limiter.pin_dir()).ok()?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.display().to_string().ends_with("-growing"))
}

/// Renames the directory of the pinned maps, so that the next daemon treats the maps as those of
/// the previous layout version.
fn pretend_older(limiter: &Limiter) {
    let entries = fs::read_dir(limiter.pin_dir()).expect("the pin directory");
    let this = entries
        .map(|entry| entry.expect("an entry").path())
        .find_map(|path| {
            let version = path.file_name()?.to_str()?.strip_prefix('v')?;
            Some((path.clone(), version.parse::<u32>().ok()?))
        });
    let (path, version) = this.expect("a directory of maps");
    let older = path.with_file_name(format!("v{}", version - 1));
    fs::rename(&path, older).expect("rename the directory of maps");
}

/// A guard that stops the clients when it is dropped, even if the test fails.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Runs clients that send requests continuously while `during` changes the daemon. Two clients use
/// one connection each, one client opens a connection for each request, and one client pipelines
/// its requests. The second argument of `during` is a function that waits until all clients have
/// made progress. Asserts that each response is a 200, and returns the number of requests.
fn under_load(rig: &mut Rig, key: &str, during: impl FnOnce(&mut Limiter, &dyn Fn())) -> u64 {
    let stop = AtomicBool::new(false);
    let asked: [AtomicU64; 4] = Default::default();
    let (lab, limiter) = (&rig.lab, &mut rig.limiter);
    let on_one = |asked: &AtomicU64| {
        let mut conn = lab.connect(GUARDED);
        while !stop.load(SeqCst) {
            assert_eq!(conn.get("/", key).status, 200);
            asked.fetch_add(1, SeqCst);
        }
    };
    let on_new_ones = |asked: &AtomicU64| {
        while !stop.load(SeqCst) {
            assert_eq!(lab.connect(GUARDED).get("/", key).status, 200);
            asked.fetch_add(1, SeqCst);
        }
    };
    let several = |asked: &AtomicU64| {
        let mut conn = lab.connect(GUARDED);
        let requests = request("/", key).repeat(PIPELINED);
        while !stop.load(SeqCst) {
            conn.send(&requests);
            for _ in 0..PIPELINED {
                assert_eq!(conn.response().status, 200);
                asked.fetch_add(1, SeqCst);
            }
        }
    };
    let progress = || {
        let counts = || asked.each_ref().map(|asked| asked.load(SeqCst));
        let before = counts();
        eventually("all clients go on", || {
            before
                .iter()
                .zip(counts())
                .all(|(before, now)| now > before + 10)
        });
    };
    thread::scope(|threads| {
        let _end = EndOnDrop(&stop);
        let [first, second, third, fourth] = &asked;
        threads.spawn(|| on_one(first));
        threads.spawn(|| on_one(second));
        threads.spawn(|| on_new_ones(third));
        threads.spawn(|| several(fourth));
        progress();
        during(limiter, &progress);
        progress();
    });
    asked.into_iter().map(AtomicU64::into_inner).sum()
}

/// Asserts that the new maps continue all counts of the previous maps: `asked` requests in total,
/// and two requests in flight on the connections in `held`.
fn assert_counts_continued(rig: &mut Rig, key: &str, asked: u64, held: Vec<Conn>, since: &str) {
    rig.assert_charged_as_served("acme/web", key, asked);
    let usage = rig.limiter.usage("acme/web");
    assert_eq!((usage.refused.total(), usage.lost), (0, 0), "{usage:?}");
    assert_eq!(rig.limiter.status()["since"], since);
    let admitted = asked + rig.limiter.usage("acme/slow").used;
    assert_eq!(rig.limiter.count("/totals/admitted"), admitted);
    assert_eq!(rig.limiter.count("/coverage/untracked_connections"), 0);
    let of_held = rig.limiter.usage("acme/slow");
    assert_eq!((of_held.in_flight, of_held.connections), (2, 2));
    // With this quota, exactly two more requests are admitted.
    let quota = (asked + 2).to_string();
    let limits = ["limits", "set", "acme/web", "--daily-quota", &quota];
    rig.limiter
        .done(&[&limits[..], &["--note", "so many"]].concat());
    assert_eq!(rig.statuses(key, 3), [200, 200, 429]);
    rig.nginx.gate().open();
    for mut conn in held {
        assert_eq!(conn.response().status, 200);
    }
    rig.assert_nothing_left("acme/slow");
    rig.assert_nothing_left("acme/web");
    let size = sizes(&rig.limiter)[0];
    assert_eq!(rig.limiter.count("/flows/capacity"), size);
    let health = &rig.limiter.status()["health"];
    assert!(health.as_array().is_some_and(Vec::is_empty), "{health}");
    assert_eq!(growing(&rig.limiter), None);
}

fn grows_under_load(net: Net, hook: &str) {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = Rig::on(net, |config| {
        let interface = if net == Net::Loopback { "lo" } else { "s0" };
        config.attach_lines(&format!(
            "interfaces = [\"{interface}\"]\nports = [{GUARDED}]\nhook = \"{hook}\"\n"
        ))
    });
    let key = rig.limiter.key("acme/web");
    let waiting = rig.limiter.key("acme/slow");
    let held = nginx::hold(&rig.lab, &rig.nginx, &waiting, 2);
    let since = rig.limiter.status()["since"].clone();
    let asked = under_load(&mut rig, &key, |limiter, progress| {
        for round in 1..=3 {
            if round == 2 {
                limiter.kill();
            } else {
                limiter.terminate();
            }
            progress();
            resize(limiter, |size| size + size / 2);
            limiter.run(&[]);
            let log = limiter.log();
            assert_eq!(log.matches("made larger: `tables.flows`").count(), round);
            progress();
        }
    });
    let since = since.as_str().expect("a time");
    assert_counts_continued(&mut rig, &key, asked, held, since);
}

#[test]
fn tables_grow_under_load_on_veth_with_tcx() {
    grows_under_load(Net::Veth, "tcx");
}

#[test]
fn tables_grow_under_load_on_loopback_with_clsact() {
    grows_under_load(Net::Loopback, "clsact");
}

#[test]
fn crash_while_tables_grow_leaves_one_complete_set_in_force() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let rounds = if long() { 200 } else { 15 };
    let mut rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    let waiting = rig.limiter.key("acme/slow");
    let held = nginx::hold(&rig.lab, &rig.nginx, &waiting, 2);
    let since = rig.limiter.status()["since"].clone();
    let mut runner = TestRunner::deterministic();
    if long() {
        runner = TestRunner::default();
    }
    // The delay in µs from the start of a phase until the daemon is killed. A delay of 5 µs to 9 µs
    // is doubled up to ten times, so that short and long delays are equally likely.
    let delays = (5..10u64, 0..11u32).prop_map(|(us, scale)| us << scale);
    let moments = [SwitchPhase::Old, SwitchPhase::Held, SwitchPhase::New];
    let mut died = BTreeMap::new();
    let asked = under_load(&mut rig, &key, |limiter, progress| {
        limiter.kill();
        for moment in moments.into_iter().cycle().take(rounds) {
            resize(limiter, |size| size + 64);
            let larger = |limiter: &Limiter| limiter.log().matches("made larger:").count();
            let before = larger(limiter);
            limiter.launch(&[]);
            let start = Instant::now();
            // A phase may be too short to be noticed, so the loop also ends when the tables have
            // been made larger.
            while switch_phase(limiter.pin_dir()).is_none_or(|switched| switched < moment)
                && larger(limiter) == before
            {
                assert!(start.elapsed() < TIMEOUT, "{}", limiter.log());
                thread::sleep(POLL_INTERVAL);
            }
            let delay = delays.new_tree(&mut runner).expect("a delay").current();
            thread::sleep(Duration::from_micros(delay));
            limiter.kill();
            *died.entry(switch_phase(limiter.pin_dir())).or_insert(0) += 1;
            progress();
        }
        limiter.run(&[]);
    });
    println!("{rounds} daemons died in these phases: {died:?}");
    // The test is meaningful only if at least one daemon was killed while it was making the tables
    // larger.
    assert!(died.keys().any(Option::is_some), "{died:?}");
    let since = since.as_str().expect("a time");
    assert_counts_continued(&mut rig, &key, asked, held, since);
}

#[test]
fn full_table_has_room_after_a_restart() {
    let mut rig = Rig::veth(|config| {
        config.section(
            "tables",
            "flows = 64\nscopes = 64\nkeys = 64\nunknown_keys = 64",
        )
    });
    let key = rig.limiter.key("acme/0");
    for number in 1..64 {
        rig.limiter.scope(&format!("acme/{number}"));
        rig.limiter.another_key(&format!("acme/{number}"));
    }
    let refused = |command: &[&str], table: &str| {
        let output = rig.limiter.cli(command);
        output.assert_fails(exit::FAILED, &[table, "restart"]);
        assert!(!output.stderr.contains("detach"), "{output:?}");
    };
    refused(&["scope", "add", "acme/more"], "tables.scopes");
    refused(&["key", "create", "acme/0"], "tables.keys");
    let mut open = Vec::new();
    let connect = || {
        let mut conn = Conn::try_open(rig.lab.client(), (rig.lab.v4(), GUARDED).into()).ok()?;
        (conn.try_get("/", &key).ok()?.status == 200).then_some(conn)
    };
    while let Some(conn) = connect() {
        open.push(conn);
        assert!(open.len() <= 64, "more connections than there is room for");
    }
    assert!(open.len() > 32, "{}", open.len());
    rig.limiter.terminate();
    resize(&rig.limiter, |size| size * 2);
    rig.limiter.run(&[]);
    let more = rig.limiter.key("acme/more");
    rig.limiter.another_key("acme/0");
    let mut new: Vec<_> = (0..16).map(|_| rig.lab.connect(GUARDED)).collect();
    for conn in open.iter_mut().chain(&mut new) {
        assert_eq!(conn.get("/", &key).status, 200);
    }
    assert_eq!(rig.get(&more).status, 200);
    rig.charged_as_served("acme/0", &key);
    assert_eq!(rig.limiter.count("/coverage/untracked_connections"), 0);
}

#[test]
fn a_head_that_is_divided_by_a_restart_is_charged_once() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    let request = String::from_utf8(request("/", &key)).expect("text");
    // The first part ends within the key.
    let (first, rest) = request.split_at(request.find(&key).expect("the key") + 5);
    for (number, tables_grow) in [(1, false), (2, true)] {
        let mut conn = rig.lab.connect(GUARDED);
        conn.send(first.as_bytes());
        eventually("the server has the first part", || {
            conn.unacknowledged() == 0
        });
        rig.limiter.terminate();
        if tables_grow {
            resize(&rig.limiter, |size| size * 2);
        }
        rig.limiter.run(&[]);
        assert_eq!(conn.ask(rest.as_bytes()).status, 200);
        rig.assert_charged_as_served("acme/web", &key, number);
    }
}

#[test]
fn tables_shrink_only_after_detach_and_that_is_reported() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = Rig::veth(|config| config.tier("profile", "rate = \"1/min\"\nburst = 1"));
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.get(&key).status, 200);
    resize(&rig.limiter, |size| size / 2);
    let warned = rig.limiter.json(&["reload"]).to_string();
    assert!(
        warned.contains("`tables.flows` stays 8192 instead of 4096"),
        "{warned}"
    );
    rig.limiter.terminate();
    rig.limiter.run(&[]);
    let health = rig.limiter.status()["health"].to_string();
    for text in [
        "`tables.flows` stays 8192 instead of 4096",
        "limiter detach",
    ] {
        assert!(
            health.contains(text) && rig.limiter.log().contains(text),
            "{health}"
        );
    }
    assert_eq!(rig.limiter.count("/flows/capacity"), 8192);
    assert_eq!(rig.get(&key).status, 429);
    assert_eq!(rig.limiter.usage("acme/web").used, 1);
    // A table size that is larger than the present one is accepted, and takes effect at a restart.
    resize(&rig.limiter, |size| size * 4);
    let warned = rig.limiter.json(&["reload"]).to_string();
    assert!(
        warned.contains("`tables.flows` from 8192 to 16384") && warned.contains("a restart"),
        "{warned}"
    );
    assert_eq!(rig.limiter.count("/flows/capacity"), 8192);
    rig.limiter.terminate();
    rig.limiter.run(&[]);
    assert_eq!(rig.limiter.count("/flows/capacity"), 16384);
    assert_eq!(rig.limiter.status()["health"].to_string(), "[]");
    assert_eq!(rig.get(&key).status, 429);
    assert_eq!(rig.limiter.detach().code, exit::DONE);
    resize(&rig.limiter, |size| size / 4);
    rig.limiter.wait_for_end();
    rig.limiter.run(&[]);
    assert_eq!(rig.limiter.count("/flows/capacity"), 4096);
    assert_eq!(rig.limiter.usage("acme/web").used, 1);
}

#[test]
fn older_layout_is_carried_over_and_enlarged_together() {
    // While the new programs start, the previous programs still take slots. Two recounts release
    // these slots, so the interval between recounts is short.
    let mut rig = Rig::veth(|config| config.section("healing", "recount_interval = \"1s\"\n"));
    let key = rig.limiter.key("acme/web");
    let waiting = rig.limiter.key("acme/slow");
    let held = nginx::hold(&rig.lab, &rig.nginx, &waiting, 2);
    let mut before = 0;
    let asked = under_load(&mut rig, &key, |limiter, progress| {
        before = limiter.usage("acme/web").used;
        limiter.kill();
        pretend_older(limiter);
        progress();
        resize(limiter, |size| size * 2);
        limiter.run(&[]);
    });
    // The map of flows of the older layout is not carried over. The connections from before the
    // restart are therefore untracked, and their requests are served without being counted.
    let used = rig.limiter.usage("acme/web").used;
    assert!(before < used && used <= asked, "{before} {used} {asked}");
    assert_eq!(rig.limiter.count("/flows/capacity"), sizes(&rig.limiter)[0]);
    rig.nginx.gate().open();
    for mut conn in held {
        assert_eq!(conn.response().status, 200);
    }
    let used = rig.limiter.usage("acme/web").used;
    assert_eq!(rig.get(&key).status, 200);
    assert_eq!(rig.limiter.usage("acme/web").used, used + 1);
    rig.assert_nothing_left("acme/slow");
    rig.assert_nothing_left("acme/web");
}

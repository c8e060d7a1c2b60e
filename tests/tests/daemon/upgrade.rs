// SPDX-License-Identifier: MIT OR Apache-2.0

//! A newer limiter takes over the maps of an older one, and an older limiter does not change the
//! maps of a newer one.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
};

use limiter_tests::{GUARDED, Limiter, Rig, eventually, limiter::exit, nginx};

/// Returns the directory of the pinned maps and the version of their layout.
fn layout(limiter: &Limiter) -> (PathBuf, u32) {
    let entries = fs::read_dir(limiter.pin_dir()).expect("the pin directory");
    let mut layouts = entries.filter_map(|entry| {
        let path = entry.expect("an entry").path();
        let version = path
            .file_name()?
            .to_str()?
            .strip_prefix('v')?
            .parse()
            .ok()?;
        Some((path, version))
    });
    let layout = layouts.next().expect("a directory of maps");
    assert!(layouts.next().is_none(), "two layouts");
    layout
}

/// Renames the directory of the pinned maps to the name of another layout version. The next daemon
/// then carries the maps over, or refuses them, as if they had that layout. Attached programs
/// continue to use the maps.
fn pretend(limiter: &Limiter, version: impl FnOnce(u32) -> u32) -> PathBuf {
    let (path, this) = layout(limiter);
    let other = path.with_file_name(format!("v{}", version(this)));
    fs::rename(&path, &other).expect("rename the directory of maps");
    other
}

/// The layout in which the map of flows last changed.
const FLOWS_SINCE: u32 = 7;

#[test]
fn counts_of_an_older_layout_are_carried_over_under_load() {
    carry_over_under_load(FLOWS_SINCE - 1);
}

#[test]
fn connections_of_a_layout_with_the_same_map_of_flows_are_carried_over_too() {
    carry_over_under_load(FLOWS_SINCE);
}

/// Takes over the maps of the layout `version` while clients send requests.
fn carry_over_under_load(version: u32) {
    let keeps_flows = version >= FLOWS_SINCE;
    // While the newer programs start, the older programs still change the counts. Two recounts
    // correct the difference, so the interval between recounts is short.
    let mut rig = Rig::veth(|config| config.section("healing", "recount_interval = \"1s\"\n"));
    let key = rig.limiter.key("acme/web");
    let waiting = rig.limiter.key("acme/slow");
    let mut held = nginx::hold(&rig.lab, &rig.nginx, &waiting, 2);
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let ask = || {
        let mut conn = rig.lab.connect(GUARDED);
        while !stop.load(SeqCst) {
            assert_eq!(conn.get("/", &key).status, 200);
            asked.fetch_add(1, SeqCst);
        }
    };
    let progress = || {
        let before = asked.load(SeqCst);
        eventually("clients go on", || asked.load(SeqCst) > before + 50);
    };
    let limiter = &mut rig.limiter;
    let before = thread::scope(|threads| {
        let clients: Vec<_> = (0..3).map(|_| threads.spawn(ask)).collect();
        progress();
        limiter.kill();
        let old = pretend(limiter, |_| version);
        progress();
        limiter.run(&[]);
        assert!(!old.exists(), "{} is still there", old.display());
        let admitted = limiter.count("/totals/admitted");
        progress();
        stop.store(true, SeqCst);
        for client in clients {
            client.join().expect("a client");
        }
        admitted
    });
    assert!(log_contains(&rig.limiter, "carried over to layout"));
    let asked = asked.into_inner();
    // The count includes requests from before the takeover.
    assert!(before > 100, "{before}");
    let count = |path: &str| rig.limiter.count(path);
    // If the map of flows is not carried over, the connections from before the takeover are
    // untracked, and hold no slots.
    let (used, older) = (
        rig.limiter.usage("acme/web").used,
        count("/coverage/untracked_segments"),
    );
    assert_eq!((used + older, rig.nginx.served(&key)), (asked, asked));
    let (untracked, in_flight) = if keeps_flows { (0, 2) } else { (3, 0) };
    assert_eq!(count("/coverage/untracked_connections"), untracked);
    assert_eq!(rig.limiter.usage("acme/slow").in_flight, in_flight);
    rig.nginx.gate().open();
    for conn in &mut held {
        assert_eq!(conn.response().status, 200);
    }
    drop(held);
    assert_eq!(rig.get(&key).status, 200);
    assert_eq!(rig.limiter.usage("acme/web").used, used + 1);
    rig.assert_nothing_left("acme/slow");
    rig.assert_nothing_left("acme/web");
}

fn log_contains(limiter: &Limiter, text: &str) -> bool {
    limiter.log().contains(text)
}

#[test]
fn the_maps_of_a_newer_layout_are_left_alone_and_stay_in_force() {
    limiter_tests::avoid_midnight(std::time::Duration::from_secs(60));
    let mut rig = Rig::veth(|config| config.tier("profile", "daily_quota = 3"));
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.get(&key).status, 200);
    rig.limiter.terminate();
    let newer = pretend(&rig.limiter, |this| this + 1);
    rig.limiter.launch(&[]);
    assert_eq!(rig.limiter.wait_for_end(), Some(exit::FAILED));
    let log = rig.limiter.log();
    let path = newer.display().to_string();
    assert!(
        log.contains(&path) && log.contains("newer limiter"),
        "{log}"
    );
    let pins = fs::read_dir(&newer).expect("the newer maps").count();
    assert!(pins > 10, "{pins} pins are left");
    assert_eq!(rig.statuses(&key, 3), [200, 200, 429]);
    let version: u32 = path
        .rsplit_once('v')
        .expect("a version")
        .1
        .parse()
        .expect("a number");
    let this = newer.with_file_name(format!("v{}", version - 1));
    fs::rename(&newer, &this).expect("rename the directory of maps");
    rig.limiter.run(&[]);
    assert_eq!(rig.get(&key).status, 429);
    rig.assert_charged_as_served("acme/web", &key, 3);
}

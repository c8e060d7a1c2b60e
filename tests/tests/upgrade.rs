//! A newer limiter takes over from an older one, and an older one keeps away from a newer one's maps.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
};

use limiter_tests::{GUARDED, Limiter, Rig, eventually, limiter::exit, nginx};

/// The directory of the pinned maps, with the version of its layout.
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

/// Gives the pinned maps out for those of another layout, which differs in what this one's version says
/// that it has changed; programs that are attached go on with them.
fn pretend(limiter: &Limiter, version: impl FnOnce(u32) -> u32) -> PathBuf {
    let (path, this) = layout(limiter);
    let other = path.with_file_name(format!("v{}", version(this)));
    fs::rename(&path, &other).expect("rename the directory of maps");
    other
}

#[test]
fn under_load_the_maps_of_an_older_layout_are_carried_over() {
    let mut rig = Rig::veth(|config| config);
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
        let old = pretend(limiter, |this| this - 1);
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
    assert!(log_says(
        &rig.limiter,
        "counts, requests in flight and connections go on"
    ));
    let asked = asked.into_inner();
    rig.assert_charged_as_served("acme/web", &key, asked);
    // Counters did not begin anew, nor did connections become unknown ones.
    assert!(before > 100, "{before}");
    let count = |path: &str| rig.limiter.count(path);
    // To the few that came just when one map's count was added to the other's.
    let admitted = count("/totals/admitted");
    assert!(
        admitted <= asked + 2 && admitted > asked * 9 / 10,
        "{admitted} of {asked}"
    );
    assert_eq!(count("/coverage/untracked_connections"), 0);
    assert_eq!(rig.limiter.usage("acme/slow").in_flight, 2);
    rig.nginx.gate().open();
    for conn in &mut held {
        assert_eq!(conn.response().status, 200);
    }
    drop(held);
    rig.assert_nothing_left("acme/slow");
    rig.assert_nothing_left("acme/web");
}

fn log_says(limiter: &Limiter, text: &str) -> bool {
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

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Daemons and engines that stop or crash: the hosts never admit more than the quota, and the rest
//! of it is not lost.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

use limiter_tests::{
    Hosts, Limiter, eventually,
    hosts::{self, Verdict},
};

use crate::support::{
    AWAY, LARGE, QUOTA, SCOPE, admit, admit_until_some_is_left, fleet, load, use_up,
};

/// Removes the pins of all maps and links of the limiter, as a reboot does.
fn forget_kernel(limiter: &Limiter) {
    for directory in fs::read_dir(limiter.pin_dir()).expect("the pin directory") {
        let directory = directory.expect("an entry").path();
        for pin in fs::read_dir(&directory).expect("a directory of pins") {
            fs::remove_file(pin.expect("an entry").path()).expect("remove a pin");
        }
    }
}

#[test]
fn a_daemon_that_is_killed_admits_and_loses_nothing() {
    let (mut hosts, key) = fleet();
    hosts.set_quota(SCOPE, LARGE);
    let (labs, mut limiters): (Vec<_>, Vec<_>) = hosts
        .rigs
        .iter_mut()
        .map(|rig| (&rig.lab, &mut rig.limiter))
        .unzip();
    let used_up = |verdict| verdict == Verdict::UsedUp;
    let admitted = load(labs, &key, used_up, |load| {
        load.wait_for(LARGE / 10);
        limiters[0].kill();
        limiters[0].run(&[]);
    });
    assert_eq!(admitted, LARGE);
    hosts.assert_charged_as_served(SCOPE, &key, LARGE);
}

#[test]
fn a_host_that_loses_its_maps_has_used_its_lease() {
    let (mut hosts, key) = fleet();
    admit(&hosts.rigs[1], &key, 20);
    let mut admitted = 20 + admit_until_some_is_left(&hosts.rigs[0], &key);
    let crashed = &mut hosts.rigs[0].limiter;
    crashed.kill();
    forget_kernel(crashed);
    crashed.run(&[]);
    let lost = crashed.usage(SCOPE).lost;
    assert!((1..=QUOTA / 20).contains(&lost), "{lost} lost");
    admitted += use_up(&hosts.rigs, &key);
    assert_eq!((admitted + lost, hosts.served(&key)), (QUOTA, admitted));
}

#[test]
fn a_daemon_that_is_stopped_gives_its_leases_back() {
    let (mut hosts, key) = fleet();
    let (stopped, others) = hosts.rigs.split_first_mut().expect("there is a host");
    let admitted = admit_until_some_is_left(stopped, &key);
    stopped.limiter.terminate();
    assert_eq!(use_up(&*others, &key), QUOTA - admitted);
    assert_ne!(hosts::ask(&stopped.lab, &key), Verdict::Admitted);
    stopped.limiter.run(&[]);
    assert_eq!(use_up([&*stopped], &key), 0);
    hosts.assert_charged_as_served(SCOPE, &key, QUOTA);
}

#[test]
fn a_daemon_that_starts_again_takes_part_again() {
    let (mut hosts, key) = fleet();
    let rig = &mut hosts.rigs[0];
    admit(rig, &key, 10);
    rig.limiter.terminate();
    rig.limiter.run(&[]);
    assert_eq!(use_up([&*rig], &key), QUOTA - 10);
    hosts.assert_charged_as_served(SCOPE, &key, QUOTA);
}

#[test]
fn an_engine_that_is_killed_loses_nothing() {
    let (mut hosts, key) = fleet();
    hosts.set_quota(SCOPE, LARGE);
    let Hosts { rigs, engine, .. } = &mut hosts;
    let labs = rigs.iter().map(|rig| &rig.lab);
    let mut admitted = load(
        labs,
        &key,
        |verdict| verdict == AWAY,
        |load| {
            load.wait_for(LARGE / 10);
            engine.kill();
        },
    );
    assert!((LARGE / 10..LARGE).contains(&admitted), "{admitted}");
    // The refusals go on for as long as the engine is away.
    for rig in &*rigs {
        eventually("the engine counts as away", || {
            hosts::status(rig)["engine"]["up"] == false
        });
        eventually("requests are refused for five seconds", || {
            let verdict = hosts::ask(&rig.lab, &key);
            admitted += u64::from(verdict == Verdict::Admitted);
            verdict == AWAY
        });
    }
    engine.restart();
    admitted += use_up(&*rigs, &key);
    assert_eq!(admitted, LARGE);
    hosts.assert_charged_as_served(SCOPE, &key, LARGE);
}

#[test]
fn a_daemon_that_starts_without_the_engine_goes_on_with_its_lease() {
    let (mut hosts, key) = fleet();
    let Hosts { rigs, engine, .. } = &mut hosts;
    let mut admitted = admit_until_some_is_left(&rigs[0], &key);
    rigs[0].limiter.kill();
    engine.kill();
    rigs[0].limiter.run(&[]);
    let left = hosts::left(&rigs[0]);
    assert!((1..=QUOTA / 20).contains(&left), "{left} left");
    let labs = || [&rigs[0].lab];
    let more = load(labs(), &key, |verdict| verdict == AWAY, |_| {});
    assert_eq!(more, left);
    admitted += more;
    // A daemon that starts now has nothing left.
    rigs[0].limiter.kill();
    rigs[0].limiter.run(&[]);
    assert_eq!(hosts::left(&rigs[0]), 0);
    eventually("requests are refused for five seconds", || {
        let verdict = hosts::ask(&rigs[0].lab, &key);
        assert_ne!(verdict, Verdict::Admitted);
        verdict == AWAY
    });
    engine.restart();
    admitted += use_up(&*rigs, &key);
    assert_eq!(admitted, QUOTA);
    hosts.assert_charged_as_served(SCOPE, &key, QUOTA);
}

#[test]
fn a_host_that_is_cut_off_keeps_its_lease() {
    let (hosts, key) = fleet();
    let (cut_off, others) = hosts.rigs.split_first().expect("there is a host");
    let mut admitted = admit_until_some_is_left(cut_off, &key);
    hosts::cut_off(cut_off);
    let left = hosts::left(cut_off);
    // The other hosts can use everything else, and are then told to come back later.
    let rest = QUOTA - admitted - left;
    let labs = others.iter().map(|rig| &rig.lab);
    let has_ended = AtomicBool::new(false);
    admitted += load(
        labs,
        &key,
        |_| has_ended.load(SeqCst),
        |load| {
            load.wait_for(rest);
            has_ended.store(true, SeqCst);
        },
    );
    assert_eq!(admitted, QUOTA - left);
    for rig in others {
        let verdict = hosts::ask(&rig.lab, &key);
        assert!(matches!(verdict, Verdict::Later(_)), "{verdict:?}");
    }
    admitted += load([&cut_off.lab], &key, |verdict| verdict == AWAY, |_| {});
    assert_eq!(admitted, QUOTA);
    hosts::reconnect(cut_off);
    assert_eq!(use_up(&hosts.rigs, &key), 0);
    hosts.assert_charged_as_served(SCOPE, &key, QUOTA);
}

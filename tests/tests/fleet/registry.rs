// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the registry with real servers.

use std::time::Duration;

use limiter_fleet::{
    client::{Announcement, Error, Kind},
    registry::{Base, ChangeResult, Identity, NumberedRecall, Object},
};
use limiter_tests::{
    clock::TIMEOUT,
    engine::{Engine, Program},
};
use nix::sys::signal::Signal;

use crate::support::{Host, pair, run, server, settings};

const FLEET: &str = "fleet-1";

async fn host_of_new_fleet(engine: &Engine) -> Host {
    let mut host = Host::new(settings(Kind::Single, &[engine]), "host-1");
    let host_of_new_fleet = host.client.create_fleet(FLEET, "check").await;
    host_of_new_fleet.expect("a fleet");
    host
}

fn object(name: &str, revision: u64, value: &str) -> Object {
    Object {
        name: name.to_owned(),
        revision,
        value: value.to_owned(),
    }
}

fn identity(host: &str, session: &str, machine: &str) -> Identity {
    let [fleet, host, session, machine] = [FLEET, host, session, machine].map(str::to_owned);
    Identity {
        fleet,
        host,
        session,
        machine,
    }
}

#[test]
fn an_engine_has_one_fleet() {
    for program in Program::ALL {
        run(async |lab| {
            let engine = server(program, lab, 6379, &[]);
            let mut other = Host::new(settings(Kind::Single, &[&engine]), "host-2");
            assert_eq!(other.client.fleet().await.expect("a server"), None);
            let news = other.client.changes_since(FLEET, 0, 10).await;
            assert!(matches!(news, Err(Error::NoFleet)), "{news:?}");
            host_of_new_fleet(&engine).await;
            let fleet = other
                .client
                .fleet()
                .await
                .expect("a server")
                .expect("a fleet");
            assert_eq!((fleet.id.as_str(), fleet.check.as_str()), (FLEET, "check"));
            let again = other.client.create_fleet("fleet-2", "check").await;
            assert!(matches!(again, Err(Error::FleetExists)), "{again:?}");
            let news = other.client.changes_since("fleet-2", 0, 10).await;
            assert!(
                matches!(&news, Err(Error::OtherFleet(id)) if id == FLEET),
                "{news:?}"
            );
        });
    }
}

#[test]
fn a_change_is_refused_if_the_object_has_changed_since() {
    for program in Program::ALL {
        run(async |lab| {
            let engine = server(program, lab, 6379, &[]);
            let mut host = host_of_new_fleet(&engine).await;
            let new = [
                (
                    Base::Revision(0),
                    object("s:acme", 1, "{\"tier\": \"master\"}"),
                ),
                (Base::Revision(0), object("s:other", 1, "{}")),
            ];
            let changed = host.client.change(FLEET, &new).await.expect("an answer");
            assert_eq!(changed, (2, vec![ChangeResult::Accepted; 2]));
            let second = [(Base::Revision(1), object("s:acme", 2, "second"))];
            let changed = host.client.change(FLEET, &second).await.expect("an answer");
            assert_eq!(changed, (3, vec![ChangeResult::Accepted]));
            let late = [(Base::Revision(1), object("s:acme", 2, "late"))];
            let changed = host.client.change(FLEET, &late).await.expect("an answer");
            let present = object("s:acme", 2, "second");
            assert_eq!(changed, (3, vec![ChangeResult::Refused(present.clone())]));
            // A host that has been cut off restores what it knows. The higher revision wins.
            let restored = [
                (Base::Restored, object("s:acme", 1, "first")),
                (Base::Restored, object("s:other", 5, "five")),
            ];
            let changed = host
                .client
                .change(FLEET, &restored)
                .await
                .expect("an answer");
            assert_eq!(
                changed,
                (
                    4,
                    vec![
                        ChangeResult::Refused(present.clone()),
                        ChangeResult::Accepted
                    ]
                )
            );
            let news = host
                .client
                .changes_since(FLEET, 2, 10)
                .await
                .expect("an answer");
            assert_eq!((news.version, news.complete_to), (4, 4));
            assert_eq!(news.objects, [present, object("s:other", 5, "five")]);
        });
    }
}

#[test]
fn a_large_registry_is_read_in_parts() {
    run(async |lab| {
        let engine = server(Program::Valkey9, lab, 6379, &[]);
        let mut host = host_of_new_fleet(&engine).await;
        let objects: Vec<_> = (0..2_500)
            .map(|number| (Base::Revision(0), object(&format!("k:{number}"), 1, "{}")))
            .collect();
        for some in objects.chunks(500) {
            host.client.change(FLEET, some).await.expect("an answer");
        }
        let (mut version, mut read) = (0, Vec::new());
        loop {
            let news = host
                .client
                .changes_since(FLEET, version, 1_000)
                .await
                .expect("an answer");
            read.extend(news.objects);
            version = news.complete_to;
            if version == news.version {
                break;
            }
        }
        let names = |objects: &[Object]| -> Vec<String> {
            objects.iter().map(|object| object.name.clone()).collect()
        };
        let all: Vec<Object> = objects.into_iter().map(|(_, object)| object).collect();
        assert_eq!(names(&read), names(&all));
    });
}

#[test]
fn a_second_machine_with_the_same_identity_is_refused() {
    run(async |lab| {
        let engine = server(Program::Redis7, lab, 6379, &[]);
        let mut host = host_of_new_fleet(&engine).await;
        let first = identity("host-1", "s1", "m1");
        let heartbeat = host
            .client
            .heartbeat(&first, "{\"name\": \"web 1\"}", 0, true)
            .await;
        let heartbeat = heartbeat.expect("an answer");
        assert_eq!(heartbeat.hosts.len(), 1);
        assert_eq!(heartbeat.hosts[0].text, "{\"name\": \"web 1\"}");
        // A clone of the host's disk runs on another machine.
        let clone = identity("host-1", "s2", "m2");
        let refused = host.client.heartbeat(&clone, "{}", 0, false).await;
        assert!(matches!(refused, Err(Error::Duplicate)), "{refused:?}");
        // The daemon starts again on the same machine.
        let again = identity("host-1", "s3", "m1");
        host.client
            .heartbeat(&again, "{}", 0, false)
            .await
            .expect("an answer");
        // The clone is refused until the host has sent no heartbeat for five seconds.
        let start = std::time::Instant::now();
        while host.client.heartbeat(&clone, "{}", 0, false).await.is_err() {
            assert!(start.elapsed() < TIMEOUT);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(
            start.elapsed() > Duration::from_secs(4),
            "{:?}",
            start.elapsed()
        );
        assert!(host.client.remove_host("host-1").await.expect("an answer"));
        assert!(!host.client.remove_host("host-1").await.expect("an answer"));
    });
}

#[test]
fn recalls_and_changes_are_announced_and_found_at_the_next_beat() {
    for program in Program::ALL {
        run(async |lab| {
            let engine = server(program, lab, 6379, &[]);
            let mut host = host_of_new_fleet(&engine).await;
            let mut hints = host.client.subscribe().await.expect("a subscription");
            let recall = "20000 all acme".to_owned();
            host.client
                .recall(std::slice::from_ref(&recall))
                .await
                .expect("an answer");
            let new = [(Base::Revision(0), object("s:acme", 1, "{}"))];
            host.client.change(FLEET, &new).await.expect("an answer");
            let numbered = NumberedRecall {
                number: 1,
                text: recall,
            };
            let announced = Announcement::Recall(numbered.clone());
            assert_eq!(hints.next().await, Some(announced));
            assert_eq!(hints.next().await, Some(Announcement::Changed(1)));
            let first = identity("host-1", "s1", "m1");
            let heartbeat = host
                .client
                .heartbeat(&first, "{}", 0, false)
                .await
                .expect("an answer");
            assert_eq!(
                (heartbeat.version, heartbeat.recall, heartbeat.recalls),
                (1, 1, vec![numbered])
            );
            let heartbeat = host
                .client
                .heartbeat(&first, "{}", 1, false)
                .await
                .expect("an answer");
            assert_eq!(heartbeat.recalls, []);
            // When the server has ended, so have the announcements.
            drop(engine);
            assert_eq!(hints.next().await, None);
        });
    }
}

#[test]
fn a_change_that_no_replica_has_is_reported() {
    run(async |lab| {
        let (primary, replica) = pair(Program::Redis7, lab);
        let mut host = host_of_new_fleet(&primary).await;
        replica.signal(Signal::SIGSTOP);
        let new = [(Base::Revision(0), object("s:acme", 1, "{}"))];
        let changed = host.client.change(FLEET, &new).await;
        assert!(matches!(changed, Err(Error::Unconfirmed(_))), "{changed:?}");
        replica.signal(Signal::SIGCONT);
        let news = host
            .client
            .changes_since(FLEET, 0, 10)
            .await
            .expect("an answer");
        assert_eq!(news.objects, [object("s:acme", 1, "{}")]);
    });
}

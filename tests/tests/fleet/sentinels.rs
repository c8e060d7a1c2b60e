// SPDX-License-Identifier: MIT OR Apache-2.0

//! A primary with two replicas, watched by three Sentinels.

use std::{fs, path::Path};

use limiter_fleet::{Purpose, client::Kind};
use limiter_tests::{
    Lab, Namespace,
    engine::{Engine, Program},
    eventually,
};

use crate::support::{Host, QUOTA, run, settings};

pub const PRIMARY: &str = "limiter";

fn sentinel(namespace: &Namespace, port: u16, directory: &Path) -> Engine {
    let file = directory.join(format!("sentinel-{port}.conf"));
    let text = format!(
        "port {port}\nbind 127.0.0.1\nsentinel monitor {PRIMARY} 127.0.0.1 6379 2\n\
         sentinel down-after-milliseconds {PRIMARY} 500\n\
         sentinel failover-timeout {PRIMARY} 5000\n"
    );
    fs::write(&file, text).expect("the configuration of a Sentinel");
    let options = [file.to_str().expect("a path"), "--sentinel"];
    let place = ("127.0.0.1", port);
    Engine::start(Program::Redis7, namespace, place, directory, &options)
}

/// Starts a primary with two replicas, and three Sentinels that watch it.
pub fn watched(lab: &Lab) -> (Engine, [Engine; 2], [Engine; 3]) {
    let (namespace, directory) = (lab.server(), lab.directory());
    let start = |port, options: &[&str]| {
        Engine::start(
            Program::Redis7,
            namespace,
            ("127.0.0.1", port),
            directory,
            options,
        )
    };
    let primary = start(6379, &[]);
    let replica = ["--replicaof", "127.0.0.1 6379"];
    let replicas = [6380, 6381].map(|port| start(port, &replica));
    primary.wait_for_replicas(2);
    let sentinels = [26379, 26380, 26381].map(|port| sentinel(namespace, port, directory));
    eventually("the Sentinels know each other and the replicas", || {
        sentinels.iter().all(|sentinel| {
            let state = sentinel.cli(&["SENTINEL", "MASTER", PRIMARY]);
            let number = |name: &str| {
                let value = state.lines().skip_while(|line| *line != name).nth(1);
                value.and_then(|value| value.parse::<u32>().ok())
            };
            number("num-other-sentinels") == Some(2) && number("num-slaves") == Some(2)
        })
    });
    (primary, replicas, sentinels)
}

#[test]
fn after_a_failover_no_lease_is_forgotten() {
    run(async |lab| {
        let (mut primary, _replicas, sentinels) = watched(lab);
        let kind = Kind::Sentinel {
            primary: PRIMARY.to_owned(),
        };
        let addresses: Vec<&Engine> = sentinels.iter().collect();
        let mut host = Host::new(settings(kind.clone(), &addresses), "a");
        host.client.claim_buckets().await.expect("a primary");
        assert_eq!(host.client.confirmations(), 1);
        assert_eq!(
            host.ask_until_granted(0, Purpose::Extend(20)).await.lease,
            20
        );
        primary.kill();
        let answer = host.ask_until_granted(20, Purpose::Extend(40)).await;
        assert_eq!((answer.lease, answer.free), (40, (QUOTA - 40) as i64));
        let unknown = Kind::Sentinel {
            primary: "another".to_owned(),
        };
        let mut host = Host::new(settings(unknown, &addresses), "a");
        let (_, error) = host.ask(0, Purpose::Extend(1)).await;
        let error = error.expect("a reason").to_string();
        assert!(
            error.contains("knows no primary with the name \"another\""),
            "{error}"
        );
    });
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! A cluster of six servers, of which three are primaries.

use std::time::{Duration, Instant};

use limiter_fleet::{
    Purpose,
    client::{CallResult, Kind},
};
use limiter_tests::{
    clock::TIMEOUT,
    engine::{Cluster, Place, Program},
};

use crate::support::{Host, run, settings};

const PORTS: [u16; 6] = [7000, 7001, 7002, 7003, 7004, 7005];

/// Extends the lease of each scope from `lease` to `lease + 5` requests.
async fn lease_all(host: &mut Host, names: &[String], lease: u64) {
    let start = Instant::now();
    let mut open = names.to_vec();
    while !open.is_empty() {
        let call = |name: &String| {
            (
                name.clone(),
                host.call(lease, lease, Purpose::Extend(lease + 5)),
            )
        };
        let calls: Vec<_> = open.iter().map(call).collect();
        let (results, error) = host.client.lease(&calls).await;
        let mut results = results.into_iter();
        open.retain(|_| {
            let result = results.next().expect("a result");
            !result.is_ok_and(|answer| answer.lease == lease + 5)
        });
        assert!(start.elapsed() < TIMEOUT, "{error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn each_call_goes_to_the_server_of_its_bucket_also_after_a_failover() {
    for program in [Program::Redis7, Program::Valkey9] {
        run(async |lab| {
            let places = PORTS.map(|port| Place::local(lab.server(), port));
            let mut engines = Cluster::start(program, places, lab.directory()).servers;
            let mut host = Host::new(settings(Kind::Cluster, &[&engines[1], &engines[0]]), "a");
            let names: Vec<String> = (0..600).map(|number| format!("scope-{number}")).collect();
            host.client.claim_buckets().await.expect("the servers");
            lease_all(&mut host, &names, 0).await;
            let servers = host.client.describe().await.expect("the servers");
            assert_eq!(servers.len(), 3);
            engines[0].kill();
            Cluster::replace_primary(&engines[1..].iter().collect::<Vec<_>>());
            // The new primary has no replica, so it confirms nothing until the old one is back.
            let unconfirmed =
                |results: Vec<CallResult>| results.iter().filter(|result| result.is_err()).count();
            let calls: Vec<_> = names
                .iter()
                .map(|name| (name.clone(), host.call(5, 5, Purpose::Extend(6))))
                .collect();
            let (results, _) = host.client.lease(&calls).await;
            assert!(unconfirmed(results) > 0);
            engines[0].restart();
            lease_all(&mut host, &names, 5).await;
        });
    }
}

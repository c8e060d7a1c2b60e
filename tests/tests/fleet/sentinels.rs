// SPDX-License-Identifier: MIT OR Apache-2.0

//! A primary with two replicas, watched by three Sentinels.

use limiter_fleet::{
    Purpose,
    client::{Kind, Settings},
};
use limiter_tests::{
    Lab,
    engine::{Engine, Place, Program, Sentinels},
};

use crate::support::{Host, QUOTA, run, settings};

/// Starts a primary with two replicas, and three Sentinels that watch it.
pub fn watched(lab: &Lab) -> Sentinels {
    let places = [6379, 6380, 6381].map(|port| Place::local(lab.server(), port));
    let engine = Sentinels::start(Program::Redis7, places, lab.directory(), &[]);
    engine.be_alert();
    engine
}

/// Returns the settings for the primary that the Sentinels of `engine` know under the name
/// `primary`.
pub fn settings_of(engine: &Sentinels, primary: &str) -> Settings {
    let primary = primary.to_owned();
    let addresses: Vec<&Engine> = engine.sentinels.iter().collect();
    settings(Kind::Sentinel { primary }, &addresses)
}

#[test]
fn after_a_failover_no_lease_is_forgotten() {
    run(async |lab| {
        let mut engine = watched(lab);
        let mut host = Host::new(settings_of(&engine, Sentinels::PRIMARY), "a");
        host.client.claim_buckets().await.expect("a primary");
        assert_eq!(host.client.confirmations(), 1);
        assert_eq!(
            host.ask_until_granted(0, Purpose::Extend(20)).await.lease,
            20
        );
        engine.servers[0].kill();
        let answer = host.ask_until_granted(20, Purpose::Extend(40)).await;
        assert_eq!((answer.lease, answer.free), (40, (QUOTA - 40) as i64));
        let mut host = Host::new(settings_of(&engine, "another"), "a");
        let (_, error) = host.ask(0, Purpose::Extend(1)).await;
        let error = error.expect("a reason").to_string();
        assert!(
            error.contains("knows no primary with the name \"another\""),
            "{error}"
        );
    });
}

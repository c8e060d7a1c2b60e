// SPDX-License-Identifier: MIT OR Apache-2.0

//! The scripts give the same replies on real servers as in the simulation.

use limiter_common::day::Day;
use limiter_fleet::{
    Answer, Bucket, Call, Purpose, account_key,
    client::{Client, Kind},
    script,
};
use limiter_simulation::{engine::Engine as Simulated, random::Random};
use limiter_tests::engine::{Engine, Place, Program};

use crate::support::{SCOPE, run, settings, today};

const HOSTS: u64 = 3;
const CALLS: usize = 400;

/// Returns a random call of one of the hosts.
fn call(random: &mut Random, number: u64) -> Call {
    let lease = random.below(60);
    Call {
        scope: 0,
        day: Day(today().0 + u32::from(random.below(10) == 0)),
        generation: random.below(40) / 39,
        quota: if random.below(20) == 0 { 60 } else { 150 },
        lease,
        used: random.below(lease + 1),
        purpose: match random.below(3) {
            0 => Purpose::Report,
            _ => Purpose::Extend(lease + random.below(40)),
        },
        // Some calls come late or twice.
        number: number - random.below(3).min(number),
    }
}

fn simulated(engine: &Simulated, host: &str, call: Call) -> Answer {
    let keys = [Bucket::of(SCOPE).state_key(), account_key(SCOPE, call.day)];
    let arguments = script::lease_arguments(&engine.name, host, &[call]);
    let replies = engine.lease(&keys, &arguments).expect("an answer");
    script::lease_answer(&replies[0]).expect("an answer")
}

/// Returns the answer without what depends on the time.
fn timeless(answer: Answer) -> impl PartialEq + std::fmt::Debug {
    (answer.lease, answer.free, answer.status)
}

#[test]
fn real_servers_and_the_simulation_agree() {
    for program in Program::ALL {
        run(async |lab| {
            let place = Place::local(lab.server(), 6379);
            let server = Engine::start(program, place, lab.directory(), &[]);
            let settings = settings(Kind::Single, &[&server]);

            let mut clients: Vec<Client> = (0..HOSTS)
                .map(|host| Client::new(settings.clone(), &format!("host-{host}")))
                .collect();
            clients[0].claim_buckets().await.expect("a server");
            let other = Simulated::new("simulated").expect("the scripts compile");
            let state = [Bucket::of(SCOPE).state_key()];
            let first = [other.name.clone(), "0".to_owned()];
            other.claim(&state, &first).expect("the script works");
            let mut random = Random::new(7);
            let mut compared = 0;
            for number in 0..CALLS {
                let host = random.below(HOSTS) as usize;
                let call = call(&mut random, number as u64);
                let sent = [(SCOPE.to_owned(), call)];
                let (results, error) = clients[host].lease(&sent).await;
                let real = results[0].unwrap_or_else(|_| panic!("{program:?}: {error:?}"));
                let now = limiter_tests::clock::unix_now();
                other.set_time(now * 1_000_000);
                let expected = simulated(&other, &format!("host-{host}"), call);
                assert_eq!(
                    timeless(real),
                    timeless(expected),
                    "{program:?}: call {number}: {call:?}"
                );
                compared += 1;
            }
            assert_eq!(compared, CALLS);
        });
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The division of rates among hosts by real servers.

use std::time::{Duration, Instant};

use limiter_fleet::{
    Bucket, RateAnswer, RateCall,
    client::{Announcement, Client, Kind, Settings},
};
use limiter_simulation::random::Random;
use limiter_tests::{clock::TIMEOUT, engine::Program};

use crate::support::{SCOPE, run, server, settings};

const RATE: f64 = 1_000.0;

/// Reports a demand, and returns the share of the host, or `None` for the whole rate.
async fn report(client: &mut Client, demand: f64) -> Option<f64> {
    let call = RateCall {
        scope: 0,
        rate: RATE,
        demand,
    };
    let calls = [(SCOPE.to_owned(), call)];
    let (mut answers, error) = client.divide_rates(&calls).await;
    match answers.remove(0) {
        Some(RateAnswer::Share(share)) => Some(share),
        Some(RateAnswer::Whole) => None,
        None => panic!("{error:?}"),
    }
}

/// Reports the demand of each host in turn, and returns their shares.
async fn report_all<const N: usize>(
    clients: &mut [Client; N],
    demands: [f64; N],
) -> [Option<f64>; N] {
    let mut shares = [None; N];
    for ((client, demand), share) in clients.iter_mut().zip(demands).zip(&mut shares) {
        *share = report(client, demand).await;
    }
    shares
}

fn clients<const N: usize>(settings: &Settings) -> [Client; N] {
    std::array::from_fn(|number| Client::new(settings.clone(), &format!("host-{number}")))
}

#[test]
fn a_rate_is_divided_according_to_the_demands() {
    for program in Program::ALL {
        run(async |lab| {
            let engine = server(program, lab, 6379, &[]);
            let mut hosts = clients::<3>(&settings(Kind::Single, &[&engine]));
            // The demands do not exceed the rate.
            assert_eq!(
                report_all(&mut hosts, [400.0, 300.0, 300.0]).await,
                [None; 3]
            );
            let demands = [1_000.0, 500.0, 500.0];
            for _ in 0..3 {
                report_all(&mut hosts, demands).await;
            }
            let shares = report_all(&mut hosts, demands).await;
            let shares = shares.map(|share| share.expect("the rate is divided"));
            for (share, exact) in shares.iter().zip([500.0, 250.0, 250.0]) {
                // A share that is nearly right stays as it is.
                assert!((share - exact).abs() <= 0.06 * exact, "{shares:?}");
            }
            let sum: f64 = shares.iter().sum();
            assert!((0.999 * RATE..=1.000_1 * RATE).contains(&sum), "{shares:?}");
            // With less demand, the rate stays divided for a while.
            report_all(&mut hosts, [300.0; 3]).await;
            let shares = report_all(&mut hosts, [300.0; 3]).await;
            assert!(
                shares
                    .iter()
                    .all(|share| share.is_some_and(|share| share > 300.0))
            );
            let key = format!("limiter:{}:r:{SCOPE}", Bucket::of(SCOPE));
            engine.cli(&["HSET", &key, "x", "1"]);
            assert_eq!(report_all(&mut hosts, [300.0; 3]).await, [None; 3]);
        });
    }
}

#[test]
fn the_shares_never_exceed_the_rate() {
    const HOSTS: usize = 5;
    run(async |lab| {
        let engine = server(Program::Redis7, lab, 6379, &[]);
        let mut hosts = clients::<HOSTS>(&settings(Kind::Single, &[&engine]));
        let mut random = Random::new(11);
        // Each host has the whole rate until it hears of the division.
        report_all(&mut hosts, [500.0; HOSTS]).await;
        let mut shares = report_all(&mut hosts, [500.0; HOSTS]).await;
        let mut demands = [500.0; HOSTS];
        for _ in 0..400 {
            let host = random.below(HOSTS as u64) as usize;
            // The others demand more than the rate in any case.
            demands[host] = 300.0 + random.below(2_000) as f64;
            let answer = report(&mut hosts[host], demands[host]).await;
            shares[host] = Some(answer.expect("the rate is divided"));
            let sum: f64 = shares.iter().flatten().sum();
            assert!(
                sum <= RATE * (1.0 + 0.001 * HOSTS as f64) + 0.01,
                "{shares:?}"
            );
        }
        let demands = [600.0; HOSTS];
        for _ in 0..20 {
            shares = report_all(&mut hosts, demands).await;
        }
        let sum: f64 = shares.iter().flatten().sum();
        assert!(sum >= 0.999 * RATE, "{shares:?}");
    });
}

#[test]
fn the_noise_of_the_demands_leaves_nothing_unused() {
    const HOSTS: usize = 3;
    run(async |lab| {
        let engine = server(Program::Redis7, lab, 6379, &[]);
        let mut hosts = clients::<HOSTS>(&settings(Kind::Single, &[&engine]));
        let mut random = Random::new(5);
        let mut shares = [0.0; HOSTS];
        for round in 0..60 {
            for (host, number) in hosts.iter_mut().zip(0..) {
                let demand = 3_000.0 * (0.985 + 0.03 * random.fraction());
                shares[number] = report(host, demand).await.unwrap_or(RATE);
                let sum: f64 = shares.iter().sum();
                assert!(round < 3 || sum >= 0.995 * RATE, "{shares:?}");
            }
        }
    });
}

#[test]
fn a_silent_host_loses_its_share() {
    run(async |lab| {
        let engine = server(Program::Valkey9, lab, 6379, &[]);
        let mut hosts = clients::<2>(&settings(Kind::Single, &[&engine]));
        for _ in 0..3 {
            report_all(&mut hosts, [2_000.0; 2]).await;
        }
        let [one, other] = &mut hosts;
        let share = report(one, 2_000.0).await.expect("the rate is divided");
        assert!(share < 0.6 * RATE, "{share}");
        report(other, 2_000.0).await;
        let start = Instant::now();
        while report(one, 2_000.0).await.expect("the rate is divided") < 0.999 * RATE {
            assert!(start.elapsed() < TIMEOUT, "the host is still known");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // A host without demand is forgotten at once.
        for _ in 0..4 {
            report(other, 2_000.0).await;
            report(one, 2_000.0).await;
        }
        assert!(report(one, 2_000.0).await.expect("a share") < 0.6 * RATE);
        assert_eq!(report(other, 0.0).await, None);
        assert!(report(one, 2_000.0).await.expect("a share") >= 0.999 * RATE);
    });
}

#[test]
fn half_of_the_rate_is_announced() {
    run(async |lab| {
        let engine = server(Program::Redis7, lab, 6379, &[]);
        let [mut one, mut other] = clients::<2>(&settings(Kind::Single, &[&engine]));
        let mut announcements = other.subscribe().await.expect("a subscription");
        report(&mut one, 400.0).await;
        report(&mut other, 300.0).await;
        let next = tokio::time::timeout(TIMEOUT, announcements.next()).await;
        let announced = Announcement::Rate(SCOPE.to_owned());
        assert_eq!(next, Ok(Some(announced)));
        // The announcement is not repeated with each report.
        report(&mut one, 400.0).await;
        let wait = Duration::from_millis(100);
        assert!(
            tokio::time::timeout(wait, announcements.next())
                .await
                .is_err()
        );
    });
}

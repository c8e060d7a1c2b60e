// SPDX-License-Identifier: MIT OR Apache-2.0

//! The client, with one server or with a primary and a replica.

use std::{
    fs,
    time::{Duration, Instant},
};

use limiter_fleet::{
    Failure, Purpose, Status,
    client::{Access, Certificates, Error, Kind, Settings},
};
use limiter_tests::engine::{Engine, Place, Program, Secured};
use nix::sys::signal::Signal;
use zeroize::Zeroizing;

use crate::support::{Host, QUOTA, SCOPE, pair, run, server, settings, today};

fn single(engine: &Engine) -> Settings {
    settings(Kind::Single, &[engine])
}

#[test]
fn hosts_share_a_quota() {
    for program in Program::ALL {
        run(async |lab| {
            let engine = server(program, lab, 6379, &[]);
            let mut hosts = ["a", "b"].map(|name| Host::new(single(&engine), name));
            hosts[0].client.claim_buckets().await.expect("a server");
            let mut leases = [0, 0];
            let mut ended = false;
            while !ended {
                ended = true;
                for (host, lease) in hosts.iter_mut().zip(&mut leases) {
                    let (answer, error) = host.ask(*lease, Purpose::Extend(*lease + 100)).await;
                    let answer = answer.unwrap_or_else(|_| panic!("{program:?}: {error:?}"));
                    ended &= answer.status == Status::UsedUp;
                    *lease = answer.lease;
                }
            }
            assert_eq!(leases.iter().sum::<u64>(), QUOTA, "{program:?}");
        });
    }
}

#[test]
fn leases_of_many_scopes_are_asked_for_together() {
    run(async |lab| {
        let engine = server(Program::Valkey9, lab, 6379, &[]);
        let mut host = Host::new(single(&engine), "a");
        let calls: Vec<_> = (0..5_000)
            .map(|scope| {
                (
                    format!("scope-{scope}"),
                    host.call(0, 0, Purpose::Extend(1)),
                )
            })
            .collect();
        host.client.claim_buckets().await.expect("a server");
        let (results, error) = host.client.lease(&calls).await;
        assert!(error.is_none(), "{error:?}");
        let granted = results
            .iter()
            .filter(|result| result.is_ok_and(|answer| answer.lease == 1));
        assert_eq!(granted.count(), calls.len());
    });
}

#[test]
fn a_server_that_forgot_scripts_or_data_is_used_again() {
    run(async |lab| {
        let mut engine = server(Program::Redis7, lab, 6379, &[]);
        let mut host = Host::new(single(&engine), "a");
        host.client.claim_buckets().await.expect("a server");
        assert_eq!(
            host.ask_until_granted(0, Purpose::Extend(10)).await.lease,
            10
        );
        engine.cli(&["SCRIPT", "FLUSH"]);
        let (answer, _) = host.ask(10, Purpose::Extend(20)).await;
        assert_eq!(answer.expect("an answer").lease, 20);
        // After the loss of all data, the server first learns which leases there are.
        engine.cli(&["FLUSHALL"]);
        let (answer, _) = host.ask(20, Purpose::Extend(30)).await;
        assert_eq!(answer, Err(Failure::OtherServer));
        let (answer, _) = host.ask(20, Purpose::Report).await;
        assert_eq!(answer.expect("an answer").free, (QUOTA - 20) as i64);
        let (answer, _) = host.ask(20, Purpose::Extend(30)).await;
        assert_eq!(answer.expect("an answer").status, Status::Learning);
        let answer = host.ask_until_granted(20, Purpose::Extend(30)).await;
        assert_eq!((answer.lease, answer.free), (30, (QUOTA - 30) as i64));
        // The client also notices a restart at its next call.
        engine.kill();
        let (answer, error) = host.ask(30, Purpose::Extend(40)).await;
        assert_eq!(answer, Err(Failure::Unanswered));
        let error = error.expect("the reason").to_string();
        assert!(error.contains("127.0.0.1:6379"), "{error}");
        engine.restart();
        let answer = host.ask_until_granted(30, Purpose::Extend(40)).await;
        assert_eq!((answer.lease, answer.free), (40, (QUOTA - 40) as i64));
    });
}

#[test]
fn a_grant_counts_only_when_a_replica_has_it() {
    for program in [Program::Valkey9, Program::Redis7] {
        run(async |lab| {
            let (primary, replica) = pair(program, lab);
            let mut host = Host::new(single(&primary), "a");
            host.client.claim_buckets().await.expect("a server");
            assert_eq!(host.client.confirmations(), 1, "there is a replica");
            assert_eq!(
                host.ask_until_granted(0, Purpose::Extend(10)).await.lease,
                10
            );
            replica.signal(Signal::SIGSTOP);
            let (answer, error) = host.ask(10, Purpose::Extend(20)).await;
            assert_eq!(answer, Err(Failure::Unanswered));
            assert!(matches!(error, Some(Error::Unconfirmed(_))), "{error:?}");
            replica.signal(Signal::SIGCONT);
            // The engine has executed the call, and the repeated call confirms the grant.
            let answer = host.ask_until_granted(10, Purpose::Extend(20)).await;
            assert_eq!((answer.lease, answer.free), (20, (QUOTA - 20) as i64));
            // Without any replica, confirmations stay necessary.
            drop(replica);
            let (answer, _) = host.ask(20, Purpose::Extend(30)).await;
            assert_eq!(answer, Err(Failure::Unanswered));
        });
    }
}

#[test]
fn a_server_that_could_not_confirm_for_long_first_learns_which_leases_there_are() {
    run(async |lab| {
        let (primary, replica) = pair(Program::Redis7, lab);
        let mut host = Host::new(single(&primary), "a");
        host.client.claim_buckets().await.expect("a server");
        let answer = host.ask_until_granted(0, Purpose::Extend(10)).await;
        assert_eq!(answer.lease, 10);
        replica.signal(Signal::SIGSTOP);
        let stopped = Instant::now();
        while stopped.elapsed() < Duration::from_secs(6) {
            let (answer, _) = host.ask(10, Purpose::Extend(20)).await;
            assert_eq!(answer, Err(Failure::Unanswered));
        }
        replica.signal(Signal::SIGCONT);
        // Meanwhile, another primary may have granted the same requests to other hosts.
        let first = loop {
            match host.ask(10, Purpose::Extend(20)).await.0 {
                Err(Failure::Unanswered) => {}
                first => break first,
            }
        };
        assert_eq!(first, Err(Failure::OtherServer));
        let (answer, error) = host.ask(10, Purpose::Report).await;
        assert!(answer.is_ok(), "{error:?}");
        let (answer, _) = host.ask(10, Purpose::Extend(20)).await;
        assert_eq!(answer.expect("an answer").status, Status::Learning);
        let answer = host.ask_until_granted(10, Purpose::Extend(20)).await;
        assert_eq!((answer.lease, answer.free), (20, (QUOTA - 20) as i64));
    });
}

#[test]
fn a_primary_without_confirmations_is_left_for_another_one() {
    run(async |lab| {
        // The first server is a primary whose replicas have followed another primary.
        let old = server(Program::Redis7, lab, 6379, &[]);
        let new = server(Program::Redis7, lab, 6380, &[]);
        let _replica = server(
            Program::Redis7,
            lab,
            6381,
            &["--replicaof", "127.0.0.1 6380"],
        );
        new.wait_for_replicas(1);
        let both = Settings {
            confirmations: Some(1),
            ..settings(Kind::Single, &[&old, &new])
        };
        let mut host = Host::new(both, "a");
        let (answer, error) = host.ask(0, Purpose::Extend(10)).await;
        assert!(answer.is_err(), "{error:?}");
        let answer = host.ask_until_granted(0, Purpose::Extend(10)).await;
        assert_eq!(answer.lease, 10);
        let scope = limiter_fleet::account_key(SCOPE, today());
        assert_eq!(new.cli(&["HGET", &scope, "g"]), "10");
    });
}

#[test]
fn a_server_that_is_demoted_or_may_drop_counts_is_not_used() {
    run(async |lab| {
        let first = server(Program::Redis7, lab, 6379, &[]);
        let second = server(Program::Redis7, lab, 6380, &[]);
        let both = settings(Kind::Single, &[&first, &second]);
        let mut host = Host::new(both, "a");
        host.client.claim_buckets().await.expect("a server");
        assert_eq!(
            host.ask_until_granted(0, Purpose::Extend(10)).await.lease,
            10
        );
        // The first server becomes a replica of the second while the client is connected to it.
        first.cli(&["REPLICAOF", "127.0.0.1", "6380"]);
        let answer = host.ask_until_granted(10, Purpose::Extend(20)).await;
        assert_eq!((answer.lease, answer.free), (20, (QUOTA - 20) as i64));
        let scope = limiter_fleet::account_key(SCOPE, today());
        assert_eq!(second.cli(&["HGET", &scope, "g"]), "20");
        let mut of_replica = Host::new(single(&first), "b");
        let (_, error) = of_replica.ask(0, Purpose::Extend(1)).await;
        let error = error.expect("a reason").to_string();
        assert!(error.contains("6379 is a replica"), "{error}");
        second.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
        let servers = host.client.describe().await.expect("an address");
        let (_, described) = &servers[0];
        let error = described.as_ref().expect_err("a reason").to_string();
        assert!(error.contains("maxmemory-policy allkeys-lru"), "{error}");
    });
}

#[test]
fn a_server_that_is_full_grants_nothing_and_says_why() {
    run(async |lab| {
        let engine = server(Program::Redis7, lab, 6379, &[]);
        let mut host = Host::new(single(&engine), "a");
        host.client.claim_buckets().await.expect("a server");
        engine.cli(&["CONFIG", "SET", "maxmemory", "1"]);
        let (answer, error) = host.ask(0, Purpose::Extend(1)).await;
        assert_eq!(answer, Err(Failure::Unanswered));
        let error = error.expect("a reason").to_string();
        assert!(error.contains("OOM"), "{error}");
        engine.cli(&["CONFIG", "SET", "maxmemory", "0"]);
        assert_eq!(host.ask_until_granted(0, Purpose::Extend(1)).await.lease, 1);
    });
}

#[test]
fn tls_and_a_user_with_few_rights_suffice() {
    run(async |lab| {
        let user = format!(
            "user {} on >{} ~limiter:* &limiter:* -@all +evalsha +script|load +wait +info +hmget \
             +hset +del +expireat +time +hello",
            Secured::USER,
            Secured::PASSWORD
        );
        let place = Place::local(lab.server(), 6379);
        let secured = Secured::start(place, lab.directory(), &user, &[]);
        let settings = |password: &str, authorities: Option<Vec<u8>>| Settings {
            addresses: vec!["rediss://127.0.0.1:6379".parse().expect("an address")],
            access: Access {
                user: Some(Secured::USER.to_owned()),
                password: Some(Zeroizing::new(password.to_owned())),
                certificates: Certificates {
                    authorities,
                    client: None,
                },
            },
            ..single(&secured.engine)
        };
        let trusted = fs::read(&secured.authority.certificate).expect("the certificate");
        let mut host = Host::new(settings(Secured::PASSWORD, Some(trusted.clone())), "a");
        host.client.claim_buckets().await.expect("a server");
        assert_eq!(
            host.ask_until_granted(0, Purpose::Extend(10)).await.lease,
            10
        );
        for (password, authorities, words) in [
            ("wrong", Some(trusted), "authentication failed"),
            (Secured::PASSWORD, None, "certificate"),
        ] {
            let mut host = Host::new(settings(password, authorities), "a");
            let (_, error) = host.ask(0, Purpose::Extend(1)).await;
            let error = error.expect("a reason").to_string();
            assert!(
                error.contains(words) && !error.contains(password),
                "{error}"
            );
        }
    });
}

#[test]
fn a_report_gives_back_what_a_host_does_not_know_and_makes_no_entry() {
    for program in Program::ALL {
        run(async |lab| {
            let engine = server(program, lab, 6379, &[]);
            let settings = settings(Kind::Single, &[&engine]);
            let [mut one, mut other] = ["a", "b"].map(|name| Host::new(settings.clone(), name));
            one.client.claim_buckets().await.expect("a server");
            // The answer to the first call is lost, and the daemon starts again.
            assert_eq!(
                one.ask_until_granted(0, Purpose::Extend(20)).await.lease,
                20
            );
            let (answer, _) = one.ask(0, Purpose::Report).await;
            assert_eq!(answer.expect("an answer").lease, 0);
            other.ask(0, Purpose::Report).await.0.expect("an answer");
            let account = other.client.account(SCOPE, today()).await.expect("a reply");
            assert_eq!((account.leased, account.hosts), (0, 1));
        });
    }
}

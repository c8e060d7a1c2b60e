// SPDX-License-Identifier: MIT OR Apache-2.0

//! The seven points of the demo. Each shows one property of the limiter.

use limiter_tests::{
    GUARDED,
    capture::{Capture, Exchange, exchanges},
    eventually, tools,
};

use super::{
    Stage, Table,
    clients::{Statuses, ask_guarded, ask_unguarded, at_once, paced},
};

/// The published daily quotas of a profile key and of a master account key.
const PROFILE_QUOTA: u64 = 1_000;
const MASTER_QUOTA: u64 = 10_000;
const CONCURRENCY: u64 = 20;
/// The interval of the published rate in nanoseconds. The rate is one request per millisecond.
const INTERVAL_NS: u64 = 1_000_000;

/// The minimum rate, in requests per second, that the demo accepts as "about 1,000 a second". wrk
/// shares the cores with the rest of the host, and sends fewer requests when the cores are busy.
const ABOUT_THOUSAND: u64 = 400;

const FAST_SECONDS: u32 = 4;
/// The number of connections of wrk. More connections would not increase the rate of admitted
/// requests, because each refusal closes a connection, and a thread of wrk opens new ones in bursts
/// that are more than a millisecond apart.
const FAST_CONNECTIONS: u32 = 4;

pub fn show_all(stage: &mut Stage) -> Table {
    let mut table = Table::default();
    let web = profile_quota(stage, &mut table);
    let master = master_quota(stage, &mut table);
    rate(stage, &mut table);
    concurrency(stage, &mut table);
    policies(stage, &web, &mut table);
    override_limits(stage, &web, &mut table);
    daemon_killed(stage, &web, &master, &mut table);
    table
}

/// Point 1: a profile key may send 1,000 requests a day.
fn profile_quota(stage: &Stage, table: &mut Table) -> String {
    const ASKED: u64 = 1_200;
    println!("\n1. a profile key, {ASKED} requests (Python)");
    let key = stage.limiter.key("acme/web");
    let seen = paced(&stage.lab, &[&key], 1_200, 2.0, 1);
    let refused = ASKED - PROFILE_QUOTA;
    let expected = Statuses::of([(200, PROFILE_QUOTA), (429, refused)]);
    table.same(
        "1 profile key, 1,200 paced requests",
        expected,
        seen.statuses,
    );
    table.same(
        "  the first refused one is number",
        PROFILE_QUOTA + 1,
        shown(seen.first_refused.map(|n| n + 1)),
    );
    table.judged(
        "  Retry-After of every refusal",
        "seconds to midnight UTC",
        format!(
            "{} s, {} wrong",
            shown(seen.last_wait),
            shown(seen.wrong_waits)
        ),
        seen.wrong_waits == Some(0) && seen.last_wait.is_some(),
    );
    table.same(
        "  requests in nginx's log",
        PROFILE_QUOTA,
        stage.nginx.served(&key),
    );
    table.same(
        "  used, says limiter usage",
        PROFILE_QUOTA,
        stage.limiter.usage("acme/web").used,
    );
    key
}

/// Point 2: a master account may send 10,000 requests a day, regardless of how many keys and
/// connections it uses.
fn master_quota(stage: &Stage, table: &mut Table) -> String {
    const ASKED: u32 = 10_050;
    println!("\n2. a master account, two keys, four connections, {ASKED} requests (Python)");
    let first = stage.limiter.key("acme");
    let second = stage.limiter.another_key("acme");
    let seen = paced(&stage.lab, &[&first, &second], ASKED, 1.0, 4);
    let expected = Statuses::of([(200, MASTER_QUOTA), (429, u64::from(ASKED) - MASTER_QUOTA)]);
    table.same(
        "2 master account, 2 keys, 4 connections",
        expected,
        seen.statuses,
    );
    let log = stage.nginx.log();
    let served = log
        .iter()
        .filter(|line| [&first, &second].contains(&&line.api_key))
        .count();
    table.same("  requests in nginx's log", MASTER_QUOTA, served);
    let usage = stage.limiter.usage("acme");
    table.same(
        "  used and left, says limiter usage",
        format!("{MASTER_QUOTA} and 0"),
        format!("{} and {}", usage.used, shown(usage.remaining)),
    );
    first
}

/// Point 3: one request per millisecond is admitted, regardless of how many are sent.
fn rate(stage: &Stage, table: &mut Table) {
    println!("\n3. wrk at full speed for {FAST_SECONDS} s");
    let key = stage.limiter.key("acme/fast");
    stage.limiter.done(&[
        "limits",
        "set",
        "acme/fast",
        "--daily-quota",
        "unlimited",
        "--note",
        "only the rate is shown",
    ]);
    let capture = Capture::start(&stage.lab, "fast", GUARDED);
    let url = stage.lab.url(GUARDED, "/");
    let wrk = tools::wrk(&stage.lab, &url, &key, FAST_CONNECTIONS, FAST_SECONDS);
    let admitted: Vec<Exchange> = exchanges(&capture.finish(), GUARDED)
        .into_iter()
        .filter(|exchange| exchange.status == 200)
        .collect();
    let Some((first, last)) = admitted.first().zip(admitted.last()) else {
        table.same("3 wrk at full speed", "some requests are admitted", "none");
        return;
    };
    // The capture does not show when a request was admitted. That time is between the arrival of
    // the request and the departure of its response. Two requests were certainly admitted too close
    // together if the response to the second request departed less than an interval after the
    // arrival of the first request.
    let too_close = admitted
        .windows(2)
        .filter(|pair| pair[1].answered < pair[0].asked + INTERVAL_NS)
        .count();
    let mut gaps: Vec<u64> = admitted
        .windows(2)
        .map(|pair| pair[1].asked - pair[0].asked)
        .collect();
    gaps.sort_unstable();
    let median = gaps.get(gaps.len() / 2).copied().unwrap_or_default();
    table.judged(
        "3 wrk at full speed: admitted in the capture",
        "no two within 1 ms",
        format!(
            "{too_close} within 1 ms, median {:.3} ms",
            median as f64 / 1e6
        ),
        too_close == 0,
    );
    let span = last.answered - first.asked;
    let a_second = admitted.len() as u64 * 1_000_000_000 / span.max(1);
    table.judged(
        "  admitted a second",
        "about 1,000, not more",
        format!(
            "{a_second} of {} asked",
            wrk.requests / u64::from(FAST_SECONDS)
        ),
        a_second >= ABOUT_THOUSAND && admitted.len() as u64 <= span / INTERVAL_NS + 1,
    );
    table.same("  socket errors that wrk saw", 0, wrk.socket_errors);
}

/// Point 4: at most twenty requests are in flight at once.
fn concurrency(stage: &Stage, table: &mut Table) {
    println!("\n4. thirty slow requests at once (Python)");
    let key = stage.limiter.key("acme/slow");
    let gate = stage.nginx.gate();
    let mut in_flight = 0;
    let seen = at_once(&stage.lab, &key, 30, || {
        eventually("twenty requests in flight and ten refused", || {
            let usage = stage.limiter.usage("acme/slow");
            in_flight = usage.in_flight;
            gate.waiting() as u64 + usage.refused.total() >= 30
        });
        gate.open();
    });
    let expected = Statuses::of([(200, CONCURRENCY), (429, 10)]);
    table.same("4 thirty slow requests at once", expected, seen);
    let refused = stage.limiter.usage("acme/slow").refused;
    table.same("  refused for concurrency", 10, refused.concurrency);
    table.same("  in flight meanwhile", CONCURRENCY, in_flight);
    table.same(
        "  in flight afterwards",
        0,
        stage.limiter.usage("acme/slow").in_flight,
    );
    gate.close();
    let seen = at_once(&stage.lab, &key, 20, || {
        gate.wait_for(20);
        gate.open();
    });
    table.same(
        "  twenty more at once",
        Statuses::of([(200, CONCURRENCY)]),
        seen,
    );
}

/// Point 5: requests without a key, with an unknown key or for another port are let through.
fn policies(stage: &Stage, exhausted: &str, table: &mut Table) {
    println!("\n5. no key, an unknown key, another port (curl)");
    table.same("5 no key", 200, ask_guarded(&stage.lab, None));
    table.same(
        "  an unknown key",
        200,
        ask_guarded(&stage.lab, Some("who-is-this")),
    );
    table.same(
        "  another port, with the key of 1",
        200,
        ask_unguarded(&stage.lab, Some(exhausted)),
    );
    table.same(
        "  this port, with the key of 1",
        429,
        ask_guarded(&stage.lab, Some(exhausted)),
    );
}

/// Point 6: the limits of an override replace those of the tier.
fn override_limits(stage: &Stage, exhausted: &str, table: &mut Table) {
    println!("\n6. limiter limits set acme/web --daily-quota 5000 (curl)");
    stage.limiter.done(&[
        "limits",
        "set",
        "acme/web",
        "--daily-quota",
        "5000",
        "--note",
        "syncs hundreds of profiles",
    ]);
    table.same(
        "6 after limits set, the key of 1",
        200,
        ask_guarded(&stage.lab, Some(exhausted)),
    );
    let usage = stage.limiter.usage("acme/web");
    table.same(
        "  used and left, says limiter usage",
        "1001 and 3999",
        format!("{} and {}", usage.used, shown(usage.remaining)),
    );
}

/// Point 7: the limits stay in force while the daemon does not run.
fn daemon_killed(stage: &mut Stage, web: &str, master: &str, table: &mut Table) {
    println!("\n7. kill -9 of the daemon (curl)");
    stage.limiter.kill();
    table.same(
        "7 daemon dead: the exhausted account",
        429,
        ask_guarded(&stage.lab, Some(master)),
    );
    table.same(
        "  daemon dead: a key with requests left",
        200,
        ask_guarded(&stage.lab, Some(web)),
    );
    stage.limiter.run(&[]);
    table.same(
        "  started again: the exhausted account",
        429,
        ask_guarded(&stage.lab, Some(master)),
    );
    table.same(
        "  started again: a key with requests left",
        200,
        ask_guarded(&stage.lab, Some(web)),
    );
    table.same(
        "  used, says limiter usage",
        1_003,
        stage.limiter.usage("acme/web").used,
    );
    table.same(
        "  requests in nginx's log",
        1_003,
        guarded_requests(stage, web),
    );
}

/// Returns the number of requests with the key `key` that nginx has logged for the guarded port.
fn guarded_requests(stage: &Stage, key: &str) -> usize {
    let log = stage.nginx.log();
    log.iter()
        .filter(|line| line.api_key == key && line.port == GUARDED)
        .count()
}

fn shown(number: Option<u64>) -> String {
    number.map_or_else(|| "none".to_owned(), |number| number.to_string())
}

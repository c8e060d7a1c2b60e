// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask demo fleet`: three hosts share the daily quotas of two customers. Each point shows
//! one property of a fleet.

use std::{fmt::Display, thread};

use limiter_tests::{
    Config, Hosts, Rig,
    engine::Program,
    eventually,
    hosts::{self, DURABLE},
};

use super::{
    Table,
    clients::{End, UntilRefused, ask_guarded, until_refused},
};

const HOSTS: usize = 3;
/// The daily quota of each customer.
const QUOTA: u64 = 1_000;
/// The number of requests that the second customer sends to a host before it turns to the next one.
const PART: u64 = 300;
/// The longest `Retry-After` while the engine is away, in seconds.
const LONGEST_WAIT: u64 = 5;

/// The scopes of the two customers.
const FIRST: &str = "acme/web";
const SECOND: &str = "globex/web";

/// Starts the fleet, shows all points, and returns what was seen.
pub fn show() -> Table {
    println!(
        "{HOSTS} hosts, each with nginx and limiter in a namespace and its clients in another one"
    );
    println!("the engine is a Redis ({})", DURABLE.join(" "));
    let mut hosts = Hosts::in_fleet(Program::Redis7, HOSTS, |config: Config| {
        config.tier("profile", &format!("daily_quota = {QUOTA}"))
    });
    println!("each customer has {QUOTA} requests a day on all hosts together");
    let mut table = Table::default();
    let first = created_on_one_host(&hosts, &mut table);
    all_hosts_at_once(&hosts, &first, &mut table);
    let second = one_host_after_the_other(&hosts, &mut table);
    let revoked = revoked_on_one_host(&hosts, &mut table);
    let keys = [second.as_str(), &revoked];
    engine_killed(&mut hosts, &second, &mut table);
    engine_back(&mut hosts, keys, &mut table);
    table
}

/// Point 1: a key that is created on one host works on all hosts.
fn created_on_one_host(hosts: &Hosts, table: &mut Table) -> String {
    println!("\n1. limiter key create {FIRST} on web-1 (curl)");
    let key = hosts.rigs[0].limiter.key(FIRST);
    table.same(
        "1 key created on web-1: web-1, web-2, web-3",
        all("200"),
        on_each(hosts, |rig| ask_guarded(&rig.lab, Some(&key))),
    );
    key
}

/// Point 2: a customer who asks all hosts at once gets exactly the quota.
fn all_hosts_at_once(hosts: &Hosts, key: &str, table: &mut Table) {
    println!("\n2. customer 1 asks all hosts at once, until they refuse (Python)");
    let rest = QUOTA - HOSTS as u64;
    use_up(
        hosts,
        key,
        ("2 customer 1, all hosts at once: admitted", rest),
        table,
    );
    table.same("  requests in all logs of nginx", QUOTA, hosts.served(key));
    table.same("  used, say all hosts", all(QUOTA), used(hosts, FIRST));
}

/// Point 3: each host knows the requests that all hosts have admitted.
fn one_host_after_the_other(hosts: &Hosts, table: &mut Table) -> String {
    println!("\n3. customer 2 asks web-1, then web-2, {PART} requests each (Python)");
    let key = hosts.rigs[2].limiter.key(SECOND);
    let results: Vec<_> = hosts.rigs[..2]
        .iter()
        .map(|rig| until_refused(&rig.lab, &key, End::Admitted(PART)))
        .collect();
    table.same(
        "3 customer 2, web-1, then web-2: admitted",
        format!("{PART}, {PART}"),
        joined(&results, ", ", |result| result.admitted),
    );
    table.same("  used, say all hosts", all(2 * PART), used(hosts, SECOND));
    key
}

/// Point 4: a key that is revoked on one host is refused on all hosts. Returns the key.
fn revoked_on_one_host(hosts: &Hosts, table: &mut Table) -> String {
    println!("\n4. customer 2's other key, created on web-2 and revoked on web-1 (curl)");
    let made = hosts.rigs[1].limiter.json(&["key", "create", SECOND]);
    let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
    let (key, id) = (text("key"), text("id"));
    let ask = || on_each(hosts, |rig| ask_guarded(&rig.lab, Some(&key)));
    table.same("4 customer 2's other key", all("200"), ask());
    hosts.rigs[0].limiter.done(&["key", "revoke", &id]);
    table.same("  revoked on web-1", all("401"), ask());
    key
}

/// Point 5: without the engine, the hosts admit requests within their leases, and no others.
fn engine_killed(hosts: &mut Hosts, key: &str, table: &mut Table) {
    println!("\n5. kill -9 of the engine, and customer 2 asks all hosts at once (Python)");
    hosts.engine.kill();
    let left = on_each(hosts, hosts::left);
    let results = at_once(hosts, key, End::Refused);
    table.same(
        "5 engine dead, leases left: admitted",
        left,
        joined(&results, ", ", |result| result.admitted),
    );
    let mut refused = |what, results: &[UntilRefused]| {
        table.judged(
            what,
            format!("at most {LONGEST_WAIT} s"),
            waits(results),
            results
                .iter()
                .all(|result| result.wait.is_some_and(|wait| wait <= LONGEST_WAIT)),
        );
    };
    refused("  then 429, Retry-After", &results);
    for rig in &hosts.rigs {
        eventually("the engine counts as away", || {
            hosts::status(rig)["engine"]["up"] == false
        });
    }
    let later = at_once(hosts, key, End::Refused);
    refused("  after five seconds: 429, Retry-After", &later);
    let more: u64 = later.iter().map(|result| result.admitted).sum();
    table.same("  more admitted", 0, more);
}

/// Point 6: when the engine is back, exactly the rest of the quota can be used.
fn engine_back(hosts: &mut Hosts, keys: [&str; 2], table: &mut Table) {
    println!("\n6. the engine starts again, and customer 2 asks all hosts at once (Python)");
    let served = |hosts: &Hosts| keys.iter().map(|key| hosts.served(key)).sum::<u64>();
    let rest = QUOTA.saturating_sub(served(hosts));
    hosts.engine.restart();
    use_up(
        hosts,
        keys[0],
        ("6 engine back, the rest: admitted", rest),
        table,
    );
    table.same("  requests in all logs of nginx", QUOTA, served(hosts));
    table.same("  used, say all hosts", all(QUOTA), used(hosts, SECOND));
}

/// Runs a customer at each host, all at once, until the quota is used up. `what` is the title of
/// the row with the admitted requests, of which `rest` are expected.
fn use_up(hosts: &Hosts, key: &str, (what, rest): (&str, u64), table: &mut Table) {
    let results = at_once(hosts, key, End::UsedUp);
    let admitted: u64 = results.iter().map(|result| result.admitted).sum();
    let parts = joined(&results, " + ", |result| result.admitted);
    table.judged(
        what,
        rest,
        format!("{parts} = {admitted}"),
        admitted == rest,
    );
    table.judged(
        "  Retry-After of the refusals",
        "seconds to midnight UTC",
        waits(&results),
        results.iter().all(|result| result.is_used_up),
    );
}

/// Runs a customer at each host, all at once, until `end`.
fn at_once(hosts: &Hosts, key: &str, end: End) -> Vec<UntilRefused> {
    thread::scope(|scope| {
        let customers: Vec<_> = hosts
            .rigs
            .iter()
            .map(|rig| scope.spawn(|| until_refused(&rig.lab, key, end)))
            .collect();
        customers
            .into_iter()
            .map(|customer| customer.join().expect("a customer reports"))
            .collect()
    })
}

/// Returns the usage of a scope, as each host reports it.
fn used(hosts: &Hosts, scope: &str) -> String {
    on_each(hosts, |rig| rig.limiter.usage(scope).used)
}

/// Returns the last `Retry-After` of each customer.
fn waits(results: &[UntilRefused]) -> String {
    joined(results, ", ", |result| {
        result
            .wait
            .map_or_else(|| "none".to_owned(), |wait| format!("{wait} s"))
    })
}

/// Returns the results of `look` on all hosts, separated by commas.
fn on_each<T: Display>(hosts: &Hosts, look: impl Fn(&Rig) -> T) -> String {
    joined(&hosts.rigs, ", ", look)
}

/// Returns the text of [`on_each`] if all hosts have the result `one`.
fn all(one: impl Display) -> String {
    joined(&[(); HOSTS], ", ", |()| one.to_string())
}

fn joined<T, U: Display>(values: &[T], separator: &str, text: impl Fn(&T) -> U) -> String {
    let texts: Vec<String> = values.iter().map(|value| text(value).to_string()).collect();
    texts.join(separator)
}

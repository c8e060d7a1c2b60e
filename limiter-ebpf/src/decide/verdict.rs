// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The decision about one request: to which scope the request belongs, and whether that scope is
//! within its limits.

use limiter_common::{
    abi::{
        Config, Event, FLOW_HELD, FLOW_RESPONSE_LOST, FLOW_SWITCHING, FLOW_UNSURE, Flow,
        HELD_SHIFT, KEY_ADOPTED, KEY_DISABLED, KEY_END_SHIFT, KeyEntry, LIMITS_LEASED, MAX_HELD_NS,
        NO_SCOPE, TextKey, counter, event, policy, reason,
    },
    http::{self, ASKS_TUNNEL, METHOD, METHOD_CONNECT, METHOD_CONNECT_LIKE},
};

use crate::{
    decide::{
        allowance::{self, ADMITTED},
        charge::{NO_LIMITS, limiter_charge, limiter_over_limit, utc_ns},
    },
    follow::{
        recount::{self, Count},
        ring::enter,
        slots::{count_connection, is_counted},
    },
    identify::scan,
    kernel::{global::global, maps, shared::Key, skb, work::Work},
};

/// The verdict on an admitted request. The request has been charged, unless it belongs to no scope,
/// and has been added to the outstanding requests. (`requests::outcome` uses the values of the
/// verdicts too.)
pub const ADMITS: u32 = 1;
/// The verdict on a request that is refused, for the reason in `Work::refusal`.
pub const REFUSES: u32 = 4;
/// The verdict on a request that has to be retransmitted.
pub const WAITS: u32 = 3;
/// The verdict on a request because of which the connection is reset.
pub const RESETS: u32 = 7;

global! {
    /// Returns [`ADMITS`] if the rules for tunnels admit the request in `Work::scan`. Otherwise,
    /// returns another verdict. `demands` are the demands of the request (`http::demands`).
    fn limiter_tunnel(work, flow; demands: u32) -> u32 = tunnel, or WAITS;

    /// Returns whether the request in `Work::scan` has waited for a longer lease of `scope` for as
    /// long as a request may wait ([`MAX_HELD_NS`]). `boot_ns` is the time on `CLOCK_BOOTTIME`.
    fn limiter_waited(work, flow; scope: u32, boot_ns: u64) -> bool = waited, or false;

    /// Returns whether a key with the flags `flags` has ended at `boot_ns` (`CLOCK_BOOTTIME`).
    fn limiter_has_ended(; flags: u32, boot_ns: u64) -> bool = has_ended;

    /// Makes a scope for the unknown key of the request in `Work`. Returns false if there is no
    /// room.
    fn limiter_adopt(work; boot_ns: u64) -> bool = adopt, or false;
}

/// Judges the request whose head has been scanned, and returns [`ADMITS`], [`REFUSES`], [`WAITS`]
/// or [`RESETS`]. The caller has made sure that the ring of outstanding requests has room.
#[inline(always)]
pub fn request(work: &mut Work, flow: &mut Flow, config: &Config) -> u32 {
    let demands = scan::demands(&mut work.scan);
    // The rules for tunnels do not apply to HEAD (method number 1) or to methods that do not affect
    // framing (method number 0). Therefore the lowest bit of `demands` is ignored here.
    if demands & !1 | flow.flags & FLOW_SWITCHING != 0 && config.observe == 0 {
        let verdict = limiter_tunnel(work, flow, demands);
        if verdict != ADMITS {
            return verdict;
        }
    }
    let Some(digest) = http::key(&work.scan.state) else {
        if http::is_preflight(&work.scan.state) {
            maps::count(counter::PREFLIGHTS);
            enter(flow, NO_SCOPE, demands);
            return ADMITS;
        }
        let rule = config.missing_key;
        return anonymous(work, flow, config, demands, reason::MISSING_KEY, rule);
    };
    let boot_ns = skb::boot_ns();
    let known = match maps::key(digest) {
        Some(key) => Ok(key),
        None => unknown_key(work, config, boot_ns),
    };
    let key = match known {
        Ok(key) => key,
        Err(rule) => return anonymous(work, flow, config, demands, reason::UNKNOWN_KEY, rule),
    };
    let flags = key.flags();
    if flags & KEY_DISABLED != 0 || flags >> KEY_END_SHIFT != 0 && limiter_has_ended(flags, boot_ns)
    {
        let (why, rule) = (reason::DISABLED_KEY, policy::REJECT);
        return anonymous(work, flow, config, demands, why, rule);
    }
    if flags & KEY_ADOPTED != 0 {
        maps::count(counter::UNKNOWN_KEY);
    }
    key.last_used_ns().store(boot_ns);
    let scope = key.scope();
    scoped(work, flow, config, demands, scope, boot_ns)
}

/// Adopts the unknown key of the request, and returns its entry. If the key is not adopted, returns
/// the rule for the request, which is `policy::PASS` or `policy::REJECT`.
#[inline(always)]
fn unknown_key(work: &mut Work, config: &Config, boot_ns: u64) -> Result<Key, u32> {
    if config.unknown_key != policy::ADOPT {
        return Err(config.unknown_key);
    }
    if limiter_adopt(work, boot_ns)
        && let Some(digest) = http::key(&work.scan.state)
        && let Some(key) = maps::key(digest)
    {
        return Ok(key);
    }
    maps::count(counter::UNKNOWN_KEY_OVERFLOW);
    Err(config.table_full)
}

/// The body of [`limiter_tunnel`].
#[inline(always)]
fn tunnel(work: &mut Work, flow: &mut Flow, demands: u32) -> u32 {
    let Some(config) = maps::config() else {
        return WAITS;
    };
    let method = demands & METHOD;
    if (method == METHOD_CONNECT || method == METHOD_CONNECT_LIKE)
        && config.connect == policy::REJECT
    {
        // This rule applies even to a request without a key, because some servers answer CONNECT
        // with 200 and then continue with HTTP. The programs would take that HTTP for a tunnel, and
        // would not limit its requests.
        refuse_without_scope(work, config, reason::CONNECT);
        return REFUSES;
    }
    let switching = flow.flags & FLOW_SWITCHING | demands & ASKS_TUNNEL;
    if switching != 0 && flow.asked != flow.answered {
        // Either an outstanding request asks for a tunnel, and the bytes after its response may not
        // be requests, or this request asks for a tunnel, and must be the only outstanding request.
        // In both cases, this request waits until all outstanding requests have been answered.
        return WAITS;
    }
    if demands & ASKS_TUNNEL != 0 && flow.flags & (FLOW_UNSURE | FLOW_RESPONSE_LOST) != 0 {
        // On this connection, bytes from the server that look like a response may be something
        // else, and therefore the beginning of a tunnel could not be recognized. To the client, the
        // reset looks as if the server had closed an idle connection, so the client uses another
        // connection.
        return RESETS;
    }
    ADMITS
}

/// Admits or refuses, by `rule`, a request that is charged to no scope.
#[inline(always)]
fn anonymous(
    work: &mut Work,
    flow: &mut Flow,
    config: &Config,
    demands: u32,
    why: u32,
    rule: u32,
) -> u32 {
    if rule == policy::PASS || config.observe != 0 {
        match why {
            reason::MISSING_KEY => maps::count(counter::MISSING_KEY),
            reason::UNKNOWN_KEY => maps::count(counter::UNKNOWN_KEY),
            _ => {}
        }
        enter(flow, NO_SCOPE, demands);
        return ADMITS;
    }
    refuse_without_scope(work, config, why);
    REFUSES
}

/// Records that a request is refused for a reason that concerns no scope.
#[inline(always)]
fn refuse_without_scope(work: &mut Work, config: &Config, reason: u32) {
    let set = config.common_texts;
    work.refuse(TextKey { set, reason }, NO_SCOPE, 0, 0);
}

/// The body of [`limiter_adopt`].
#[inline(always)]
fn adopt(work: &mut Work, boot_ns: u64) -> bool {
    let Some(config) = maps::config() else {
        return false;
    };
    let Some(digest) = http::key(&work.scan.state) else {
        return false;
    };
    let Some(scope) = maps::take_unused() else {
        return false;
    };
    let (Some(limits), Some(counts)) = (maps::limits(scope), maps::counts(scope)) else {
        return false;
    };
    limits.set(&config.adopt_limits);
    counts.day_count().store(config.adopt_count);
    work.key_entry = KeyEntry {
        scope,
        flags: KEY_ADOPTED,
        last_used_ns: boot_ns,
    };
    // Another CPU may have adopted the same key first. In that case, the key belongs to the scope
    // that the other CPU has taken, and `scope` stays unused until the daemon returns it to the
    // unused ids.
    if maps::insert_key(digest, &work.key_entry) {
        maps::count(counter::UNKNOWN_KEY_ADOPTED);
        maps::send_event(Event {
            kind: event::ADOPTED,
            scope,
            key: *digest,
        });
    }
    true
}

/// The body of [`limiter_has_ended`].
#[inline(always)]
fn has_ended(flags: u32, boot_ns: u64) -> bool {
    KeyEntry::is_disabled(flags, utc_ns(boot_ns))
}

/// The body of [`limiter_waited`].
///
/// The daemon also ends the wait, for all requests of a scope. That does not suffice: a request
/// whose retransmissions come just after each of these refusals would wait for ever.
#[inline(always)]
fn waited(_: &mut Work, flow: &mut Flow, scope: u32, boot_ns: u64) -> bool {
    let is_leased = maps::limits(scope).is_some_and(|limits| limits.flags() & LIMITS_LEASED != 0);
    if !is_leased {
        // The store of this host records the request soon, or the daemon stops attending.
        return false;
    }
    let now = (boot_ns >> HELD_SHIFT) as u32;
    if flow.flags & FLOW_HELD == 0 {
        flow.flags |= FLOW_HELD;
        flow.held_since = now;
    }
    now.wrapping_sub(flow.held_since) > (MAX_HELD_NS >> HELD_SHIFT) as u32
}

/// Charges a request to a scope, and returns the verdict.
#[inline(always)]
fn scoped(
    work: &mut Work,
    flow: &mut Flow,
    config: &Config,
    demands: u32,
    scope: u32,
    boot_ns: u64,
) -> u32 {
    let connects = !is_counted(flow, scope);
    let mut boot_ns = boot_ns;
    let mut verdict = limiter_charge(scope, u32::from(connects), boot_ns);
    if verdict == reason::RATE {
        // This CPU may have been delayed since it read the clock, for instance by its hypervisor,
        // while other CPUs charged for later requests. In that case the request is not early but
        // late, and is charged at the current time.
        boot_ns = skb::boot_ns();
        verdict = limiter_charge(scope, u32::from(connects), boot_ns);
    }
    if verdict == ADMITTED {
        maps::count(counter::ADMITTED);
        if connects {
            count_connection(flow, scope);
        }
        recount::added(flow, scope, Count::InFlight);
        enter(flow, scope, demands);
        return ADMITS;
    }
    if verdict == NO_LIMITS {
        // The scope and its keys have just been removed, so the key counts as unknown.
        let rule = config.unknown_key;
        return anonymous(work, flow, config, demands, reason::UNKNOWN_KEY, rule);
    }
    if verdict == allowance::WAITS {
        if !limiter_waited(work, flow, scope, boot_ns) {
            maps::count(counter::HELD);
            return WAITS;
        }
        verdict = reason::DAILY_QUOTA;
    }
    limiter_over_limit(work, scope, verdict, boot_ns);
    REFUSES
}

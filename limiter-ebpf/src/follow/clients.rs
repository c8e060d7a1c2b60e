// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The refusals of each client address. With `handshake = "auto"`, they decide whose handshakes are
//! deferred, and whether a connection whose handshake was deferred goes on when its first request
//! is refused.

use limiter_common::abi::{
    ClientKey, Config, FLOW_DEFERRED, Flow, KEPT_HANDSHAKE_RATE, RefusedClient, policy,
};

use crate::{
    kernel::{global::global, maps, skb::coarse_ns, work::Work},
    packet::header::MAPPED,
};

global! {
    /// Returns whether a request from the client's address was refused within
    /// `Config::defer_for_ns`.
    pub fn limiter_was_refused(work;) -> bool = was_refused, or false;

    /// Returns whether the budget of the client's address ([`KEPT_HANDSHAKE_RATE`]) allows another
    /// connection to go on whose handshake was deferred and whose first request is refused. If so,
    /// takes the connection out of the budget.
    fn limiter_may_keep(work;) -> bool = may_keep, or false;
}

/// Returns the key of a client's address in the maps `CLIENTS` and `REFUSED`: an IPv4 address as a
/// whole, or the first 64 bits of an IPv6 address ([`ClientKey`]).
#[inline(always)]
pub fn client_key(client: &[u32; 4]) -> ClientKey {
    let [a, b, c, d] = *client;
    if a | b | (c ^ MAPPED) == 0 {
        [a, b, c, d]
    } else {
        [a, b, 0, 0]
    }
}

/// Notes the time of a refusal under the client's address, if `handshake` is `"auto"`.
#[inline(always)]
pub fn note_refusal(work: &Work) {
    let Some(config) = maps::config() else {
        return;
    };
    if config.handshake != policy::AUTO {
        return;
    }
    let (key, now) = (client_key(&work.packet.key.client), coarse_ns());
    if let Some(client) = maps::refused_client(&key) {
        if client.refused_ns() != now {
            client.set_refused_ns(now);
        }
        return;
    }
    maps::insert_refused_client(
        &key,
        &RefusedClient {
            refused_ns: now,
            kept_ns: 0,
        },
    );
}

/// Returns whether the state of the handshake allows a connection to go on after a refusal. If the
/// handshake was deferred, the server would have to accept the connection for that, so the budget
/// of the client's address decides under `"auto"`, and it may not go on under `"defer"`.
#[inline(always)]
pub fn may_complete_handshake(work: &mut Work, flow: &Flow, config: &Config) -> bool {
    flow.flags & FLOW_DEFERRED == 0 || config.handshake == policy::AUTO && limiter_may_keep(work)
}

/// The body of [`limiter_was_refused`].
#[inline(always)]
fn was_refused(work: &mut Work) -> bool {
    let Some(config) = maps::config() else {
        return false;
    };
    let key = client_key(&work.packet.key.client);
    maps::refused_client(&key)
        .is_some_and(|client| coarse_ns().saturating_sub(client.refused_ns()) < config.defer_for_ns)
}

/// The body of [`limiter_may_keep`].
#[inline(always)]
fn may_keep(work: &mut Work) -> bool {
    let key = client_key(&work.packet.key.client);
    let Some(client) = maps::refused_client(&key) else {
        return false;
    };
    let Ok(kept_ns) = KEPT_HANDSHAKE_RATE.judge(client.kept_ns(), coarse_ns()) else {
        return false;
    };
    client.set_kept_ns(kept_ns);
    true
}

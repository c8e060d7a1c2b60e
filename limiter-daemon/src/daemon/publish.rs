//! From the resolved configuration to what the kernel program reads.

use limiter_common::{
    abi::{self, LIMITS_IN_USE, LIMITS_OBSERVE, UNLIMITED, policy},
    day::DayCount,
    fingerprint, gcra,
    http::{self, Rules, RulesError},
};

use super::text_sets::COMMON;
use crate::{
    config::{
        Config, Handshake, Http2, Malformed, MissingKey, Mode, OnLimit, Source, TableFull,
        Unattended, UnknownKey, Untracked,
    },
    limits::Limits,
};

/// Most bytes of a request's header block, with its start line.
pub(super) const MAX_HEAD: u32 = 16 * 1024;
/// Most lines of a request's header block: short lines are what costs the scanner most.
pub(super) const MAX_LINES: u32 = 128;

/// The kernel's form of a scope's limits; `ahead` is how far its count may run ahead of the store.
pub(super) fn limits(limits: &Limits, mode: Mode, text_set: u32, ahead: u32) -> abi::Limits {
    let rate = limits
        .rate
        .and_then(|rate| gcra::Rate::new(1, rate.interval_ns(), u64::from(limits.burst)))
        .unwrap_or(gcra::Rate {
            interval_ns: 0,
            tolerance_ns: 0,
        });
    let observe = if mode == Mode::Observe {
        LIMITS_OBSERVE
    } else {
        0
    };
    abi::Limits {
        daily_quota: limits.daily_quota.unwrap_or(UNLIMITED),
        interval_ns: rate.interval_ns,
        tolerance_ns: rate.tolerance_ns,
        concurrency: limits.concurrency.map_or(UNLIMITED, u64::from),
        connections: limits.connections.map_or(UNLIMITED, u64::from),
        flags: LIMITS_IN_USE | observe,
        text_set,
        allowed: 0,
        // Nothing is held against a scope that is only observed.
        ahead: if mode == Mode::Observe { 0 } else { ahead },
        until_s: 0,
    }
}

/// The kernel's form of the configuration. `adopt` is what a scope of an unknown key gets, when
/// the configuration makes scopes of them, and `begin` the count that it begins with.
///
/// # Errors
/// A source that the scanner cannot look for; the configuration lets none by.
pub(super) fn config(
    config: &Config,
    hash_key: [u64; 2],
    adopt: Option<abi::Limits>,
    begin: DayCount,
) -> Result<abi::Config, RulesError> {
    let pass_or_reject = |reject: bool| if reject { policy::REJECT } else { policy::PASS };
    let rules = &config.policy;
    let sources: Vec<http::Source<'_>> = config.sources.iter().map(source).collect();
    Ok(abi::Config {
        request_rules: Rules::request(&sources, hash_key, MAX_HEAD, MAX_LINES)?,
        response_rules: Rules::response(),
        missing_key: pass_or_reject(rules.missing_key == MissingKey::Reject),
        unknown_key: match rules.unknown_key {
            UnknownKey::Pass => policy::PASS,
            UnknownKey::Reject => policy::REJECT,
            UnknownKey::Tier(_) => policy::ADOPT,
        },
        malformed: pass_or_reject(rules.malformed == Malformed::Reject),
        untracked: pass_or_reject(rules.untracked == Untracked::Reject),
        table_full: pass_or_reject(rules.table_full == TableFull::Reject),
        http2: pass_or_reject(rules.http2 == Http2::Reset),
        on_limit: match rules.on_limit {
            OnLimit::Close => policy::ON_LIMIT_CLOSE,
            OnLimit::Reset => policy::ON_LIMIT_RESET,
            OnLimit::Drop => policy::ON_LIMIT_DROP,
        },
        observe: u32::from(rules.mode == Mode::Observe),
        common_texts: COMMON,
        unattended: pass_or_reject(config.accounting.unattended == Unattended::Reject),
        handshake: match rules.handshake {
            Handshake::Pass => policy::PASS,
            Handshake::Defer => policy::DEFER,
        },
        adopt_count: begin.0,
        adopt_limits: adopt.unwrap_or_default(),
        fingerprint_key: fingerprint::key(hash_key),
    })
}

fn source(source: &Source) -> http::Source<'_> {
    match source {
        Source::Header(name) => http::Source::Header(name.as_str()),
        Source::Bearer => http::Source::Bearer,
        Source::Basic => http::Source::Basic,
    }
}

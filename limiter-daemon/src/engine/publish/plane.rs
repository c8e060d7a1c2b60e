// SPDX-License-Identifier: MIT OR Apache-2.0

//! Conversion of limits and configuration to the structures of the kernel programs.

use limiter_common::{
    abi::{self, LIMITS_IN_USE, LIMITS_OBSERVE, UNLIMITED, policy},
    day::DayCount,
    fingerprint, gcra,
    http::{self, Rules, RulesError},
    siphash::siphash128,
};

use super::text_sets::COMMON;
use crate::{
    config::{
        Config, Connect, Handshake, Http2, Malformed, MissingKey, OnLimit, Preflight, Source,
        TableFull, Unattended, UnknownKey, Untracked,
    },
    domain::{limits::Limits, mode::Mode},
};

/// The maximum size of a request's header block in bytes, including its start line.
pub(crate) const MAX_HEAD: u32 = 16 * 1024;
/// The maximum number of lines in a request's header block. The limit is necessary because short
/// lines cost the scanner the most time per byte.
pub(crate) const MAX_LINES: u32 = 128;

/// Returns limits in the form that the kernel uses. The kernel's count of the scope can be up to
/// `ahead` requests higher than the count in the store.
pub(crate) fn limits(limits: &Limits, mode: Mode, text_set: u32, ahead: u32) -> abi::Limits {
    let rate = rate(limits);
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
        // The value 0 means that there is no allowance. The requests of a scope in observe mode
        // therefore do not wait for the store.
        ahead: if mode == Mode::Observe { 0 } else { ahead },
        until_s: 0,
    }
}

/// Returns the rate of some limits in the form that the kernel uses.
pub(crate) fn rate(limits: &Limits) -> gcra::Rate {
    limits
        .rate
        .and_then(|rate| gcra::Rate::new(1, rate.interval_ns(), u64::from(limits.burst)))
        .unwrap_or(gcra::Rate {
            interval_ns: 0,
            tolerance_ns: 0,
        })
}

/// Returns the configuration in the form that the kernel uses. If the kernel creates scopes for
/// unknown keys, they get the limits `adopt` and begin with the count `begin`.
///
/// # Errors
/// Returns an error if the scanner cannot find keys in one of the sources. A valid configuration
/// has no such source.
pub(crate) fn config(
    config: &Config,
    hash_key: [u64; 2],
    adopt: Option<abi::Limits>,
    begin: DayCount,
) -> Result<abi::Config, RulesError> {
    let pass_or_reject = |reject: bool| if reject { policy::REJECT } else { policy::PASS };
    let rules = &config.policy;
    let sources: Vec<http::Source<'_>> = config.sources.iter().map(source).collect();
    let mut request_rules = Rules::request(&sources, hash_key, MAX_HEAD, MAX_LINES)?;
    // If requests without a key pass, preflight requests need no exception.
    if rules.preflight == Preflight::Pass && rules.missing_key != MissingKey::Pass {
        request_rules = request_rules.with_preflights();
    }
    Ok(abi::Config {
        request_rules,
        response_rules: Rules::response(),
        missing_key: pass_or_reject(rules.missing_key == MissingKey::Reject),
        unknown_key: match rules.unknown_key {
            UnknownKey::Pass => policy::PASS,
            UnknownKey::Reject => policy::REJECT,
            UnknownKey::Tier(_) => policy::ADOPT,
        },
        malformed: pass_or_reject(rules.malformed == Malformed::Reject),
        untracked: match rules.untracked {
            Untracked::Pass => policy::PASS,
            Untracked::Reject => policy::REJECT,
            Untracked::Any => policy::ANY,
        },
        table_full: pass_or_reject(rules.table_full == TableFull::Reject),
        http2: pass_or_reject(rules.http2 == Http2::Reject),
        connect: pass_or_reject(rules.connect == Connect::Reject),
        on_limit: match rules.on_limit {
            OnLimit::Keepalive => policy::ON_LIMIT_KEEPALIVE,
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
            Handshake::Auto => policy::AUTO,
        },
        defer_for_ns: u64::try_from(rules.defer_for.0.as_nanos()).unwrap_or(u64::MAX),
        own_mark: own_mark(hash_key),
        adopt_count: begin.0,
        adopt_limits: adopt.unwrap_or_default(),
        fingerprint_key: fingerprint::key(hash_key),
    })
}

/// Returns the mark on the packets that the programs send. The mark cannot be guessed without the
/// secret of the installation. All programs of the installation use the same mark, so that each
/// program lets the packets of the others through.
fn own_mark(hash_key: [u64; 2]) -> u32 {
    let [first, _] = siphash128(hash_key, b"the mark of packets that the programs send");
    // The value 0 is not used, because it means that a packet has no mark.
    (first as u32).max(1)
}

fn source(source: &Source) -> http::Source<'_> {
    match source {
        Source::Header(name) => http::Source::Header(name.as_str()),
        Source::Bearer => http::Source::Bearer,
        Source::Basic => http::Source::Basic,
        Source::BasicUser => http::Source::BasicUser,
    }
}

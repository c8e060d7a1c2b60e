// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The counts of refusals, and the records from which the daemon learns the scopes, keys and
//! clients of refused requests.

use limiter_common::{
    abi::{NO_SCOPE, REFUSAL_RECORD_RATE, RefusalRecord, reason},
    http,
};

use crate::{
    follow::clients::note_refusal,
    kernel::{global::global, maps, skb, work::Work},
};

global! {
    /// Reports the refusal in `Work::refusal`, which is being carried out, and then counts it.
    /// Readers depend on this order (see [`RefusalRecord`]).
    pub fn limiter_count_refusal(work;) -> () = report_and_count, or ();
}

/// The body of [`limiter_count_refusal`].
#[inline(always)]
fn report_and_count(work: &mut Work) {
    report(work);
    note_refusal(work);
    count(work);
}

/// Reports the refusal, unless this CPU has just reported many.
#[inline(always)]
fn report(work: &mut Work) {
    let Ok(reported_ns) = REFUSAL_RECORD_RATE.judge(work.reported_ns, skb::coarse_ns()) else {
        return;
    };
    work.reported_ns = reported_ns;
    let refusal = &work.refusal;
    let key = match refusal.text.reason {
        // In these cases, the key that was scanned last may belong to another packet.
        reason::MISSING_KEY | reason::MALFORMED => None,
        _ => http::key(&work.scan.state),
    };
    maps::send_refusal(&RefusalRecord {
        at_ns: skb::boot_ns(),
        key: match key {
            Some(key) => *key,
            None => [0; 2],
        },
        client: work.packet.key.client,
        scope: refusal.scope,
        reason: refusal.text.reason,
        client_port: work.packet.key.client_port,
        reserved: [0; 3],
    });
}

#[inline(always)]
fn count(work: &Work) {
    let refusal = &work.refusal;
    let reason = refusal.text.reason;
    if let Some(case) = reason::case_counter(reason) {
        maps::count(case);
    }
    maps::count(reason::counter(reason));
    if refusal.scope != NO_SCOPE
        && reason < reason::LIMITS
        && let Some(counts) = maps::counts(refusal.scope)
    {
        counts.refused(reason).increment();
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The early end of a followed connection: a request was refused, the stream is malformed, or
//! retransmissions conflict with earlier bytes.

use limiter_common::{
    abi::{
        Config, FLOW_DEFERRED, FLOW_DROP_COUNTED, FLOW_SERVER_FIN, Flow, NO_SCOPE,
        TOMB_RESET_SERVER, TextKey, counter, policy, reason,
    },
    http,
};

use crate::{
    follow::{flow::Action, slots::limiter_end},
    kernel::{maps, work::Work},
    refuse::{
        report::limiter_count_refusal,
        tomb::{self, SERVER_KNOWS},
    },
};

/// The connection is reset at this number of consecutive segments that conflict with bytes seen
/// before or cannot be compared with them. The interval between retransmissions doubles each time,
/// so this takes some ten seconds.
const MAX_CONFLICTS: u32 = 6;

/// Handles bytes that were seen before and may not pass again. If `differ` is true, they differ
/// from the bytes seen before. Otherwise, they cannot be compared.
#[inline(always)]
pub fn conflict(work: &mut Work, flow: &mut Flow, differ: bool) -> Action {
    let counter = if differ {
        counter::CONFLICT_DROPPED
    } else {
        counter::PART_DROPPED
    };
    if !differ && work.packet.seq != flow.server_ack {
        // A sender may repair several losses at once. It cannot continue without the segment that
        // begins with the first byte that the server is missing, so only that segment is counted.
        return Action::Drop(counter);
    }
    flow.conflicts += 1;
    if flow.conflicts < MAX_CONFLICTS {
        return Action::Drop(counter);
    }
    maps::count(counter);
    bury(work, flow, true, true)
}

/// Handles a stream that is not HTTP/1.x from this point on, or that different servers would parse
/// in different ways. `split` states that the server already has a part of the malformed message.
/// `in_body` states that the malformed bytes are in the body of a request that was admitted.
#[inline(always)]
pub fn malformed(
    work: &mut Work,
    flow: &mut Flow,
    config: &Config,
    split: bool,
    in_body: bool,
) -> Action {
    let text = TextKey {
        set: config.common_texts,
        reason: reason::MALFORMED,
    };
    work.refuse(text, NO_SCOPE, 0, 0);
    if in_body {
        // The server is working on the request, which can never be complete, so no response can be
        // sent in the server's name.
        limiter_count_refusal(work);
        return bury(work, flow, true, true);
    }
    refused(work, flow, config, split)
}

/// Carries out the refusal in `Work::refusal`. The refused request begins at the next byte of the
/// stream or, if `split` is set, continues there.
#[inline(always)]
pub fn refused(work: &mut Work, flow: &mut Flow, config: &Config, split: bool) -> Action {
    let is_limit = work.refusal.text.reason < reason::LIMITS;
    let way = if is_limit {
        config.on_limit
    } else {
        policy::ON_LIMIT_CLOSE
    };
    if way == policy::ON_LIMIT_DROP {
        if flow.flags & FLOW_DROP_COUNTED == 0 {
            flow.flags |= FLOW_DROP_COUNTED;
            limiter_count_refusal(work);
        }
        return Action::Drop(counter::LIMIT_DROPPED);
    }
    if flow.flags & FLOW_SERVER_FIN != 0 {
        // The server has closed its side, and after its FIN nothing can be sent in its name.
        limiter_count_refusal(work);
        return bury(work, flow, split, true);
    }
    // The response may be sent only if no earlier response can arrive after it. That requires that
    // no request awaits a response, that the client has received everything that the server sent,
    // and that the server has received everything that was let through.
    let quiet = flow.asked == flow.answered
        && work.packet.ack == flow.server_next
        && (split || flow.server_ack == flow.next);
    if !quiet {
        return Action::Drop(counter::NOT_QUIET_DROPPED);
    }
    if split && way == policy::ON_LIMIT_KEEPALIVE {
        maps::count(counter::SPLIT_CLOSED);
    }
    limiter_count_refusal(work);
    bury(work, flow, split, way == policy::ON_LIMIT_RESET)
}

/// Ends the flow of a refused connection, and fills `Work::tomb`. `split` states that the server
/// already has a part of the request, and `reset` that both sides are reset without a response.
#[inline(always)]
pub fn bury(work: &mut Work, flow: &mut Flow, split: bool, reset: bool) -> Action {
    let head = work.scan.state.method == http::METHOD_HEAD;
    // If the server is still waiting for the last packet of the handshake, a FIN would complete the
    // handshake, so the server is reset instead. If that reset is lost, the server retransmits its
    // SYN-ACK, and the retransmission is answered with a reset. (The flags are computed without a
    // branch, because the verifier would check everything after a branch twice, for each call to
    // this function.)
    let waits = (flow.flags / FLOW_DEFERRED) & 1;
    let mut server = waits * (TOMB_RESET_SERVER | SERVER_KNOWS);
    if split {
        server |= TOMB_RESET_SERVER;
    }
    tomb::fill(work, flow, server, head, reset);
    limiter_end(work, flow);
    Action::Bury
}

//! How a followed connection ends before its time: refused, malformed, or in conflict with itself.

use limiter_common::{
    abi::{
        Config, FLOW_DEFERRED, FLOW_DROP_COUNTED, FLOW_SERVER_FIN, Flow, NO_SCOPE,
        TOMB_RESET_SERVER, counter, phase, policy, reason,
    },
    http,
};

use crate::{
    decide,
    flow::{self, Action},
    maps,
    refusals::limiter_count_refusal,
    refuse::{self, SERVER_KNOWS},
    work::Work,
};

/// Segments in a row that conflict with what was seen before, after which the connection is reset:
/// at the pace of retransmissions, which doubles each time, that is some ten seconds.
const MAX_CONFLICTS: u32 = 6;

/// Bytes seen before that may not pass again.
///
/// # Safety
/// All point to live map values, `work` is this CPU's, the flow is locked.
#[inline(always)]
pub unsafe fn conflict(work: *mut Work, flow: *mut Flow) -> Action {
    // SAFETY: the caller's promise.
    unsafe {
        (*flow).conflicts += 1;
        if (*flow).conflicts < MAX_CONFLICTS {
            return Action::Drop(counter::CONFLICT_DROPPED);
        }
        maps::count(counter::CONFLICT_DROPPED);
        bury(work, flow, true, true)
    }
}

/// The stream is not HTTP/1.x from here on, or servers disagree on it. `split`: the server has a
/// part of it already; `in_body`: it is the body of a request that was admitted.
///
/// # Safety
/// All point to live map values, `work` is this CPU's, the flow is locked.
#[inline(always)]
pub unsafe fn malformed(
    work: *mut Work,
    flow: *mut Flow,
    config: *const Config,
    split: bool,
    in_body: bool,
) -> Action {
    // SAFETY: the caller's promise.
    unsafe {
        decide::refuse(
            work,
            (*config).common_texts,
            reason::MALFORMED,
            NO_SCOPE,
            0,
            0,
        );
        if in_body {
            // The server is at work on it, so no response can tell, and it can never be complete.
            limiter_count_refusal();
            return bury(work, flow, true, true);
        }
        refused(work, flow, config, split)
    }
}

/// Carries out the refusal in `Work::refusal` of the request that the next byte begins or, if it is
/// `split`, goes on with.
///
/// # Safety
/// All point to live map values, `work` is this CPU's, the flow is locked.
#[inline(always)]
pub unsafe fn refused(
    work: *mut Work,
    flow: *mut Flow,
    config: *const Config,
    split: bool,
) -> Action {
    // SAFETY: the caller's promise.
    unsafe {
        let packet = &(*work).packet;
        let is_limit = (*work).refusal.text.reason < reason::LIMITS;
        let way = if is_limit {
            (*config).on_limit
        } else {
            policy::ON_LIMIT_CLOSE
        };
        if way == policy::ON_LIMIT_DROP {
            if (*flow).flags & FLOW_DROP_COUNTED == 0 {
                (*flow).flags |= FLOW_DROP_COUNTED;
                limiter_count_refusal();
            }
            return Action::Drop(counter::LIMIT_DROPPED);
        }
        if (*flow).flags & FLOW_SERVER_FIN != 0 {
            // The server has closed: it will not answer, and nor can we after its FIN.
            limiter_count_refusal();
            return bury(work, flow, split, true);
        }
        // Only in a quiet moment, lest an earlier response arrive after ours: nothing awaits an
        // answer, the client has all that the server sent, and the server all that was let by.
        let quiet = (*flow).asked == (*flow).answered
            && packet.ack == (*flow).server_next
            && (split || (*flow).server_ack == (*flow).next);
        if !quiet {
            return Action::Drop(counter::NOT_QUIET_DROPPED);
        }
        limiter_count_refusal();
        bury(work, flow, split, way == policy::ON_LIMIT_RESET)
    }
}

/// Ends a flow as refused.
///
/// # Safety
/// All point to live map values, `work` is this CPU's, the flow is locked.
#[inline(always)]
pub unsafe fn bury(work: *mut Work, flow: *mut Flow, split: bool, reset: bool) -> Action {
    // SAFETY: the caller's promise.
    unsafe {
        let head = (*work).scan.state.method == http::METHOD_HEAD;
        // Where the server waits for the end of the handshake a FIN would complete it; and should the reset
        // be lost, its SYN-ACK comes again, and is answered. (Without a branch: the verifier would follow all
        // that comes after it twice, at each place that refuses.)
        let waits = ((*flow).flags / FLOW_DEFERRED) & 1;
        let mut server = waits * (TOMB_RESET_SERVER | SERVER_KNOWS);
        if split {
            server |= TOMB_RESET_SERVER;
        }
        refuse::bury(
            work,
            (*flow).next,
            (*flow).server_next,
            (*flow).server_window,
            (*flow).server_tsval,
            server,
            head,
            reset,
        );
        flow::release_slots(flow);
        flow::release_connections(flow);
        // Whoever waits for the lock finds it so.
        (*flow).phase = phase::RESET;
    }
    Action::Bury
}

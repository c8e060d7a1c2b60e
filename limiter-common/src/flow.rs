// SPDX-License-Identifier: MIT OR Apache-2.0

//! The durations of silence after which followed connections count as dead.

use crate::abi::{
    FLOW_CLIENT_FIN, FLOW_CONFIRMED, FLOW_RESET_PASSED, FLOW_SERVER_FIN, IDLE_CLASSES, phase,
};

/// A class of connections for which the same duration of silence is allowed. The number of a class
/// is its index in `Sweep::idle_ns`.
///
/// The flow of a connection should be removed only after the server has forgotten the connection,
/// because packets that arrive after the removal are treated as those of an untracked connection.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// The handshake was never completed, or the client has sent a reset that the server may have
    /// accepted. A server retransmits its SYN-ACK after at most 120 seconds (`TCP_RTO_MAX`,
    /// include/net/tcp.h), waits equally long after the last retransmission, and accepts a SYN
    /// cookie for 120 seconds (`MAX_SYNCOOKIE_AGE`, in the same file).
    Handshake = 0,
    /// The connection is open, with or without a request in flight.
    Open = 1,
    /// One side has sent its FIN. The server's kernel gives up a socket that belongs to no process,
    /// or whose client does not answer, after `tcp_orphan_retries` retransmissions (at most about
    /// two minutes).
    Closing = 2,
    /// Both sides have sent their FIN and the server has acknowledged the client's, or the flow is
    /// in [`phase::RESET`]. (After a reset that may not have been accepted, see `Handshake`.)
    Closed = 3,
    /// The connection is open, but the server has sent nothing since the client completed the
    /// handshake. The client's last packet of the handshake may have been lost between the limiter
    /// and the server.
    Unconfirmed = 4,
}

impl Idle {
    /// The number of classes.
    pub const COUNT: usize = IDLE_CLASSES;

    /// The duration of silence in ns after which a connection is dead, by class.
    pub const DEFAULT_NS: [u64; Self::COUNT] = [
        135_000_000_000,
        5 * 86_400_000_000_000,
        900_000_000_000,
        10_000_000_000,
        900_000_000_000,
    ];

    /// Returns the class of a flow with the phase `flow_phase` (`abi::phase`) and the flags `flags`
    /// (`abi::FLOW_*`). The client's FIN counts only if the server has acknowledged it, because
    /// otherwise the server may not have received it.
    #[inline(always)]
    #[must_use]
    pub const fn of(flow_phase: u32, flags: u32, client_fin_acknowledged: bool) -> Self {
        let mut fins = flags & (FLOW_CLIENT_FIN | FLOW_SERVER_FIN);
        if !client_fin_acknowledged {
            fins &= !FLOW_CLIENT_FIN;
        }
        if flow_phase == phase::RESET || fins == FLOW_CLIENT_FIN | FLOW_SERVER_FIN {
            Self::Closed
        } else if fins != 0 {
            Self::Closing
        } else if flow_phase == phase::HANDSHAKE || flags & FLOW_RESET_PASSED != 0 {
            Self::Handshake
        } else if flags & FLOW_CONFIRMED == 0 {
            Self::Unconfirmed
        } else {
            Self::Open
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_classed_by_its_end_first() {
        let both = FLOW_CLIENT_FIN | FLOW_SERVER_FIN;
        assert_eq!(Idle::of(phase::HANDSHAKE, 0, false), Idle::Handshake);
        assert_eq!(Idle::of(phase::HTTP, FLOW_CONFIRMED, false), Idle::Open);
        assert_eq!(
            Idle::of(phase::TUNNEL, FLOW_CLIENT_FIN, true),
            Idle::Closing
        );
        assert_eq!(Idle::of(phase::HTTP, both, true), Idle::Closed);
        assert_eq!(Idle::of(phase::RESET, 0, false), Idle::Closed);
    }

    #[test]
    fn an_open_flow_is_classed_by_what_the_server_has_shown() {
        let open = |flags| Idle::of(phase::HTTP, flags, false);
        assert_eq!(open(0), Idle::Unconfirmed);
        assert_eq!(open(FLOW_CONFIRMED), Idle::Open);
        assert_eq!(open(FLOW_CONFIRMED | FLOW_RESET_PASSED), Idle::Handshake);
    }

    #[test]
    fn a_fin_that_the_server_may_not_have_ends_nothing() {
        let both = FLOW_CLIENT_FIN | FLOW_SERVER_FIN;
        let confirmed = FLOW_CLIENT_FIN | FLOW_CONFIRMED;
        assert_eq!(Idle::of(phase::HTTP, confirmed, false), Idle::Open);
        assert_eq!(Idle::of(phase::HTTP, both, false), Idle::Closing);
    }
}

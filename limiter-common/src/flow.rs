//! When a followed connection is taken for dead.

use crate::abi::{FLOW_CLIENT_FIN, FLOW_SERVER_FIN, phase};

/// How long a connection may be silent, by what is known of it: indices into `Sweep::idle_ns`.
///
/// A connection is only ever forgotten when its server has forgotten it too: what comes on a
/// forgotten connection is `untracked`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// The handshake was never completed: the server gives up after `tcp_synack_retries` (5,
    /// 63 seconds).
    Handshake = 0,
    /// Open, with or without a request in flight.
    Open = 1,
    /// One side has sent its FIN: an orphaned socket gives up after `tcp_orphan_retries`
    /// (at most some two minutes), and so does a peer that has gone.
    Closing = 2,
    /// Both sides have sent their FIN, or one a reset.
    Closed = 3,
}

impl Idle {
    /// Nanoseconds of silence, by class, after which a connection is dead.
    pub const DEFAULT_NS: [u64; 4] = [
        75_000_000_000,
        5 * 86_400_000_000_000,
        900_000_000_000,
        10_000_000_000,
    ];

    /// The class of a flow, by its phase (`abi::phase`) and flags (`abi::FLOW_*`), and whether the
    /// server has acknowledged the client's FIN. One that it may not have got ends nothing.
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
        } else if flow_phase == phase::HANDSHAKE {
            Self::Handshake
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
        assert_eq!(Idle::of(phase::HTTP, 0, false), Idle::Open);
        assert_eq!(
            Idle::of(phase::TUNNEL, FLOW_CLIENT_FIN, true),
            Idle::Closing
        );
        assert_eq!(Idle::of(phase::HTTP, both, true), Idle::Closed);
        assert_eq!(Idle::of(phase::RESET, 0, false), Idle::Closed);
    }

    #[test]
    fn a_fin_that_the_server_may_not_have_ends_nothing() {
        let both = FLOW_CLIENT_FIN | FLOW_SERVER_FIN;
        assert_eq!(Idle::of(phase::HTTP, FLOW_CLIENT_FIN, false), Idle::Open);
        assert_eq!(Idle::of(phase::HTTP, both, false), Idle::Closing);
    }
}

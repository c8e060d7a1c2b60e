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

    /// The class of a flow, by its phase (`abi::phase`) and flags (`abi::FLOW_*`).
    #[inline(always)]
    #[must_use]
    pub const fn of(flow_phase: u32, flags: u32) -> Self {
        let fins = flags & (FLOW_CLIENT_FIN | FLOW_SERVER_FIN);
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
        assert_eq!(Idle::of(phase::HANDSHAKE, 0), Idle::Handshake);
        assert_eq!(Idle::of(phase::HTTP, 0), Idle::Open);
        assert_eq!(Idle::of(phase::TUNNEL, FLOW_CLIENT_FIN), Idle::Closing);
        assert_eq!(
            Idle::of(phase::HTTP, FLOW_CLIENT_FIN | FLOW_SERVER_FIN),
            Idle::Closed
        );
        assert_eq!(Idle::of(phase::RESET, 0), Idle::Closed);
    }
}

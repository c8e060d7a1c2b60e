// SPDX-License-Identifier: MIT OR Apache-2.0

//! The state of a connection after a refusal.

use crate::{Conn, limiter::Config};

/// The state of a connection after a refused request was answered with a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The connection goes on (`on_limit = "keepalive"`, the default).
    KeptOpen,
    /// The connection is closed (`on_limit = "close"`).
    Closed,
}

impl Refused {
    /// Both states.
    pub const ALL: [Self; 2] = [Self::KeptOpen, Self::Closed];

    /// Returns the `policy.on_limit` that leads to this state.
    pub fn on_limit(self) -> &'static str {
        match self {
            Self::KeptOpen => "keepalive",
            Self::Closed => "close",
        }
    }

    /// Sets `policy.on_limit` to [`Refused::on_limit`].
    pub fn configure(self, config: Config) -> Config {
        config.policy(&format!("on_limit = {:?}", self.on_limit()))
    }

    /// Returns the value of the field `Connection` in the refusal.
    pub fn connection(self) -> &'static str {
        match self {
            Self::KeptOpen => "keep-alive",
            Self::Closed => "close",
        }
    }

    /// Asserts that the connection is in this state. `request` is sent only if the connection goes
    /// on, and must then get the status `status`.
    #[track_caller]
    pub fn assert(self, conn: &mut Conn, request: &[u8], status: u16) {
        match self {
            Self::KeptOpen => assert_eq!(conn.ask(request).status, status),
            Self::Closed => conn.assert_closed(),
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The first segments of a connection: the client's SYN, the server's SYN-ACK, which opens a flow,
//! and the client's segment that completes the handshake.

pub mod handshake;
pub mod syn;
pub mod syn_ack;

// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The first two segments of a connection: the client's SYN, and the server's SYN-ACK, which opens
//! a flow.

pub mod syn;
pub mod syn_ack;

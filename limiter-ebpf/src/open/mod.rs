// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The beginning of a connection, which consists of the client's SYN and the server's SYN-ACK. The
//! latter opens a flow.

pub mod syn;
pub mod syn_ack;

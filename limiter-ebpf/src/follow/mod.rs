// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The state of connections. These modules find the connection to which a packet belongs, validate
//! segments, compare retransmissions with the bytes seen before, and manage the slots and the
//! connection counts that each connection holds.

pub mod clients;
pub mod flow;
pub mod identity;
pub mod offers;
pub mod part;
pub mod records;
pub mod recount;
pub mod retransmission;
pub mod ring;
pub mod slots;
pub mod splice;
pub mod untracked;
pub mod validation;

// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The packet as it arrived: its link, network and transport headers, its checksums, and the code
//! that cuts it.

pub mod checksum;
pub mod header;
mod ipv4;
mod ipv6;
pub mod options;
mod parse;
mod tags;
mod tcp;
pub mod trim;

pub use parse::parse;

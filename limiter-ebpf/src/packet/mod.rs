// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Functions that parse the link, network and transport headers of a packet, verify its checksums,
//! cut it, and translate its numbers and those that ICMP errors quote.

pub mod checksum;
mod errors;
pub mod header;
mod ipv4;
mod ipv6;
pub mod options;
mod parse;
mod tags;
mod tcp;
pub mod translate;
pub mod trim;

pub use parse::parse;

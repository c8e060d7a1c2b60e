// SPDX-License-Identifier: MIT OR Apache-2.0

//! Packets for tests: code that wraps a [`Segment`] in a [`Shape`], and code that decodes a packet.

pub mod checksum;
mod decode;
mod segment;
mod shape;

pub use decode::DecodedSegment;
pub use segment::{ACK, FIN, PSH, RST, SYN, Segment, URG, timestamp};
pub use shape::{ETHERNET, Ends, Extension, Fragment, NetworkHeader, Shape};

//! Packets in a test's words: a [`Segment`] wrapped in a [`Shape`], and taken apart again.

pub mod checksum;
mod decode;
mod segment;
mod shape;

pub use decode::Decoded;
pub use segment::{ACK, FIN, PSH, RST, SYN, Segment, URG, timestamp};
pub use shape::{ETHERNET, Ends, Extension, Fragment, Net, Shape};

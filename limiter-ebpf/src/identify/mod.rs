// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Finds the requests in a packet, and their keys: runs the scanner on the packet and, if a request
//! has several keys, chooses the key by which the request is judged.

pub mod scan;
pub mod unfinished;

// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Finds out whose requests a packet carries: runs the scanner on the packet and, if a request has
//! several keys, chooses the one by which the request is judged.

pub mod scan;

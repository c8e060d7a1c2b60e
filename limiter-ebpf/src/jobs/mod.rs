// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The programs that the daemon runs, and the programs for the changeover to larger maps.

#[cfg(feature = "bench")]
pub mod bench;
pub mod sweep;
pub mod switch;

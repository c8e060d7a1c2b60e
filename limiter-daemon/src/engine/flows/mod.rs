// SPDX-License-Identifier: MIT OR Apache-2.0

//! Connections in the kernel, including those that are dead or older than the limiter, and the
//! counts that they hold.

pub mod corrections;
pub mod healing;
pub mod older;
pub mod orphans;
pub mod recount;
pub mod table;

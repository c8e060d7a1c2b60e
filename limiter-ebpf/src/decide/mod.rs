// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The decision whether a request may pass: to which scope the request belongs, and whether that
//! scope is within its limits.

mod allowance;
mod charge;
mod verdict;

pub use verdict::{ADMITS, REFUSES, RESETS, WAITS, request};

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The log of events, and the conversion of refused requests to events.

pub mod log;
pub mod refusal_sums;
pub mod refusals;

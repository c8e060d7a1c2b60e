// SPDX-License-Identifier: MIT OR Apache-2.0

//! The terms of limiter: keys, scopes, limits and rates.

pub mod bound;
pub mod hook;
pub mod key;
pub mod key_state;
pub mod limits;
pub mod mode;
pub mod plain;
pub mod rate;
pub mod refusals;
pub mod schema;
pub mod scope;

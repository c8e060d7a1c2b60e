// SPDX-License-Identifier: MIT OR Apache-2.0

//! The numbers of requests that scopes have used: the counts of today, their allowances, and the
//! counts of past days.

pub mod allowance;
pub mod day_counts;
pub mod departed;
pub mod figures;
pub(crate) mod flush;
pub mod history;
pub mod lost;
pub mod maps_record;
pub mod trial;
pub mod usage;

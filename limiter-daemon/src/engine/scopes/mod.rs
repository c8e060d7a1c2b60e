// SPDX-License-Identifier: MIT OR Apache-2.0

//! The registry of scopes, their limits, and explanations of the decisions about their requests.

pub mod audit;
pub mod explain;
pub mod free_ids;
pub mod lifecycle;
pub mod limits;
pub mod look_alikes;
pub mod overrides;
pub mod pace;
pub mod registry;
pub mod status;
pub mod tiers;
pub mod top;
pub mod view;

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The messages of the control socket: requests, responses, errors and events.
//!
//! `--json` prints the same types. Fields may be added, but are never renamed. Times have the form
//! of RFC 3339 and are in UTC. An unlimited limit is `null`.

pub mod error;
pub mod events;
pub mod fields;
pub mod fleet;
pub mod insight;
pub mod overrides;
pub mod requests;
pub mod schema;
pub mod trial;
pub mod views;

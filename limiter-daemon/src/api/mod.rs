//! The control interface: HTTP with JSON over a unix socket, `/v1/...`.
//!
//! The shapes here are what `--json` prints: fields may be added, never renamed. Times are
//! RFC 3339 in UTC, an unlimited limit is `null`.

mod access;
mod body;
mod error;
mod events;
mod insight;
#[cfg(test)]
mod openapi;
mod peer;
mod requests;
mod routes;
pub(crate) mod schema;
mod server;
#[cfg(test)]
mod tests;
mod views;

pub use access::Access;
pub use error::{ApiError, Kind, ProblemBody};
pub use events::{EventKind, EventView};
pub use insight::{ExplainView, LimitView, TopColumn, TopQuery, TopRow, TopView, Verdict};
pub use peer::user_name;
pub use requests::*;
pub use server::{bind, serve};
pub use views::*;
use views::{optional_time, time};

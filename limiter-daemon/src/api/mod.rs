// SPDX-License-Identifier: MIT OR Apache-2.0

//! The control interface: HTTP with JSON over a Unix socket, with paths below `/v1`.

mod access;
mod body;
mod describe;
mod error;
mod events;
mod extract;
mod fleet;
pub(crate) mod fuzzing;
mod handlers;
mod insight;
#[cfg(test)]
mod openapi;
mod peer;
mod route;
mod routes;
mod server;
#[cfg(test)]
mod tests;

pub use access::Access;
pub use peer::user_name;
pub use server::{bind, serve};

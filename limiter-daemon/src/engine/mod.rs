// SPDX-License-Identifier: MIT OR Apache-2.0

//! The engine and its parts. The engine keeps the store and the kernel's maps consistent.

pub mod caller;
pub mod counts;
mod error;
pub mod events;
pub mod fleet;
pub mod flows;
pub mod health;
pub mod keys;
pub mod publish;
pub mod pulse;
pub mod rounds;
pub mod scopes;
pub mod setup;
pub mod shared;
pub mod state;
#[cfg(test)]
pub(crate) mod tests;
pub mod time;
mod views;

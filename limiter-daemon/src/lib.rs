// SPDX-License-Identifier: MIT OR Apache-2.0

//! The daemon of limiter, and the commands for operators.
//!
//! [`cli`] reads the command line. `limiter run` continues in [`run`], which builds the daemon from
//! [`config`], [`store`], [`kernel`] and [`engine`]. Nearly all other commands send a request to a
//! running daemon, which answers in [`api`]. Both ends use the types in [`protocol`]. Imports
//! between the modules run in one direction only, which ARCHITECTURE.md shows.

pub mod api;
pub mod cli;
pub mod config;
#[cfg(test)]
mod documents;
pub mod domain;
pub mod engine;
pub mod files;
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod kernel;
mod logging;
pub mod metrics;
pub mod protocol;
pub mod run;
pub mod secret;
pub mod store;
mod suggest;
pub mod wipe;

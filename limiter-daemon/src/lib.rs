//! The daemon of limiter and the operators' commands.
//!
//! From the top down: [`cli`] reads the command line; `limiter run` goes on to [`daemon`], which
//! brings [`config`], [`store`] and [`kernel`] together; every other command asks a running
//! daemon through [`api`].

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
#[cfg(test)]
mod documents;
pub mod http;
pub mod kernel;
pub mod key;
pub mod limits;
mod logging;
pub mod metrics;
pub mod rate;
pub mod scope;
pub mod secret;
pub mod store;
mod suggest;
pub mod texts;
pub mod wipe;

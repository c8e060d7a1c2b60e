// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the engine with an in-memory kernel. They need no root privileges, and set the time
//! themselves.

mod audit;
mod counts;
mod engine;
mod explain;
mod figures;
mod fleet;
mod flows;
mod healing;
mod history;
mod host;
mod import;
mod key_ends;
mod keys;
mod modes;
mod own_limits;
mod plane;
mod preparation;
mod registry;
pub(crate) mod testing;
mod top;
mod trial;
mod unknown;

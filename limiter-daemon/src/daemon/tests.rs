//! The daemon's logic against a kernel in memory: no root, no clock but the test's own.

mod counts;
mod engine;
mod flows;
mod healing;
mod host;
mod import;
mod plane;
pub(crate) mod testing;

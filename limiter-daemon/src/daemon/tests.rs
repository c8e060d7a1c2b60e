//! The daemon's logic against a kernel in memory: no root, no clock but the test's own.

mod audit;
mod counts;
mod engine;
mod explain;
mod figures;
mod flows;
mod healing;
mod history;
mod host;
mod import;
mod keys;
mod modes;
mod plane;
pub(crate) mod testing;
mod top;
mod unknown;

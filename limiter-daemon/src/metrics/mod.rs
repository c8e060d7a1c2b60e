// SPDX-License-Identifier: MIT OR Apache-2.0

//! The page `/metrics` for Prometheus, which is served on its own port (`[metrics] listen`).

mod format;
mod page;
mod server;

pub use format::Page;
pub use server::{bind, serve};

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The page `/metrics` for Prometheus, which is served on its own port (`[metrics] listen`).

mod page;
mod server;

pub use page::Page;
pub use server::{bind, serve};

//! `/metrics`: numbers for Prometheus, over HTTP on a port of their own (`[metrics] listen`).

mod page;
mod server;

pub use page::Page;
pub use server::{bind, serve};

// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The code that ends a connection early, because the connection is refused or reset.
//!
//! The programs answer the client in the server's name, and close the connection to the server in
//! the client's name. Afterwards, they answer each side in the name of the other until both sides
//! have ended.

pub mod client;
pub mod ending;
pub mod kept;
pub mod report;
pub mod reset;
pub mod segment;
pub mod server;
mod text;
pub mod tomb;

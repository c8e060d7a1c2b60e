// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The code that carries out refusals and resets.
//!
//! If a refusal ends the connection, the programs answer the client in the server's name, and close
//! the connection to the server in the client's name. Afterwards, they answer each side in the name
//! of the other until both sides have ended. The module [`kept`] has the refusals after which the
//! connection goes on.

pub mod client;
pub mod ending;
pub mod kept;
pub mod report;
pub mod reset;
pub mod segment;
pub mod server;
mod text;
pub mod tomb;

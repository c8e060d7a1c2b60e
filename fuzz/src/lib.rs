// SPDX-License-Identifier: MIT OR Apache-2.0

//! The fuzz targets. The module of each target has a function `check`, which gives an input to a
//! parser, and panics if a property does not hold.
//!
//! `cargo xtask fuzz` runs the targets on stable Rust, and `cargo fuzz run TARGET` on nightly.

pub mod configuration;
pub mod control;
#[path = "../../limiter-common/tests/http/drive.rs"]
#[expect(dead_code, reason = "only the tests of the scanner use all of it")]
mod drive;
pub mod key_file;
pub mod packets;
pub mod requests;
pub mod responses;
mod splits;

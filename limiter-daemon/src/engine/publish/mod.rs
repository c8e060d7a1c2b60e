// SPDX-License-Identifier: MIT OR Apache-2.0

//! Publication of the configuration, limits, keys, texts, tables and clock to the kernel.

pub mod clock;
pub mod in_force;
pub mod interfaces;
pub mod keys;
pub mod plane;
pub mod reload;
pub mod tables;
pub mod text_sets;
pub mod texts;

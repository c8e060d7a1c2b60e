// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The interface to the kernel: safe functions for packets, maps and helpers, and the memory in
//! which each CPU processes a packet. All `unsafe` code of the programs is in this folder.

pub mod atomic;
pub mod bytes;
pub mod clock;
pub mod fingerprint;
pub mod flow;
pub mod global;
mod license;
pub mod linear;
pub mod maps;
pub mod plain;
pub mod repeat;
pub mod scanner;
pub mod shared;
pub mod skb;
pub mod verifier;
pub mod visit;
pub mod work;

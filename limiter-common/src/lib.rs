// SPDX-License-Identifier: MIT OR Apache-2.0

//! The code that the kernel programs, the daemon and their tests share. It is pure logic without
//! `std`, allocation or panics, and always receives the time as an argument.
#![cfg_attr(not(test), no_std)]
// The loads and barriers of the scanner (`http::word`) need inline assembly.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod abi;
pub mod day;
pub mod digits;
pub mod fingerprint;
pub mod flow;
pub mod gcra;
pub mod http;
pub mod seq;
pub mod siphash;

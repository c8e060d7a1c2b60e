//! What the kernel programs, the daemon and their tests share: pure logic without `std`, without
//! allocation, without panics; the time is always an argument.
#![cfg_attr(not(test), no_std)]
// The scanner's loads and barriers (`http::word`).
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

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The lab that the integration tests and `cargo xtask demo` use.
//!
//! A [`Lab`] is one or two network namespaces, the network between them and a directory, all with
//! unique names. It contains a real [`Nginx`], a [`Server`] that a test scripts byte by byte,
//! clients of every kind ([`Conn`], [`tools`]) and the daemon under test ([`Limiter`]). Everything
//! is cleaned up when it is dropped, even while a failed test unwinds. The next process removes the
//! objects that a killed process has left ([`cleanup`]).

pub mod bench;
pub mod capture;
pub mod cleanup;
pub mod clock;
pub mod conn;
#[cfg(feature = "program")]
pub mod disorder;
pub mod engine;
pub mod faketime;
pub mod fate;
pub mod frames;
pub mod gate;
pub mod host;
pub mod hosts;
pub mod http;
pub mod kernel;
pub mod lab;
pub mod limiter;
pub mod machine;
pub mod metrics;
pub mod mixture;
pub mod namespace;
#[cfg(feature = "program")]
pub mod neighbour;
pub mod netfilter;
pub mod nginx;
pub mod packet;
pub mod pages;
pub mod peers;
pub mod process;
#[cfg(feature = "program")]
pub mod program;
pub mod proxies;
pub mod raw;
pub mod record;
pub mod refused;
pub mod rig;
pub mod scripted;
pub mod server;
pub mod terminal;
pub mod tools;
pub mod vm;
pub mod wire;

pub use clock::{avoid_midnight, eventually, eventually_some, seconds_to_midnight};
pub use conn::Conn;
#[cfg(feature = "program")]
pub use disorder::{Disorder, Rule, percent};
pub use faketime::FakeTime;
pub use gate::Gate;
pub use host::Host;
pub use hosts::Hosts;
pub use http::{Response, request};
pub use lab::{Lab, Net};
pub use limiter::{Config, Limiter};
pub use machine::Machine;
pub use namespace::Namespace;
#[cfg(feature = "program")]
pub use neighbour::{Neighbour, Place, Stopper};
pub use nginx::Nginx;
pub use refused::Refused;
pub use rig::Rig;
pub use server::Server;
pub use terminal::Terminal;

/// The guarded port of every lab.
pub const GUARDED: u16 = 80;

/// A second port of the same server, to which no limit applies.
pub const UNGUARDED: u16 = 81;

/// Returns whether tests have to try additional cases, which take too long to be run after every
/// change (`cargo xtask test --long`).
pub fn long() -> bool {
    std::env::var_os("LIMITER_LONG").is_some()
}

/// Prints that the test `name` is skipped, and why, and appends the same to the file that the
/// variable `LIMITER_SKIPPED` names, if it is set. `cargo xtask test` sets the variable, reads the
/// file, and counts the test as skipped instead of passed.
pub fn skip(name: &str, reason: &str) {
    println!("skipped {name}: {reason}");
    let Some(file) = std::env::var_os("LIMITER_SKIPPED") else {
        return;
    };
    let written = std::fs::File::options()
        .append(true)
        .create(true)
        .open(file)
        .and_then(|mut file| {
            std::io::Write::write_all(&mut file, format!("{name}: {reason}\n").as_bytes())
        });
    written.expect("note the skipped test");
}

//! The lab: what the integration tests and `cargo xtask demo` stand on.
//!
//! A [`Lab`] is one or two network namespaces, the way between them and a
//! directory, all with names of their own. In it live a real [`Nginx`], a
//! [`Server`] that a test scripts byte by byte, clients of every kind
//! ([`Conn`], [`tools`]) and the daemon under test ([`Limiter`]). Everything
//! cleans up after itself when dropped, also while a failed test unwinds; what
//! a killed process leaves behind, the next one sweeps ([`cleanup`]).

pub mod bench;
pub mod capture;
pub mod cleanup;
pub mod clock;
pub mod conn;
#[cfg(feature = "program")]
pub mod disorder;
pub mod faketime;
pub mod fate;
pub mod frames;
pub mod gate;
pub mod host;
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
pub use http::{Response, request};
pub use lab::{Lab, Net};
pub use limiter::{Config, Limiter};
pub use machine::Machine;
pub use namespace::Namespace;
#[cfg(feature = "program")]
pub use neighbour::{Neighbour, Place};
pub use nginx::Nginx;
pub use rig::Rig;
pub use server::Server;
pub use terminal::Terminal;

/// The guarded port of every lab.
pub const GUARDED: u16 = 80;

/// A port that the same server listens on and that no limit covers.
pub const UNGUARDED: u16 = 81;

/// Whether tests are to try more than there is time for at every change: `cargo xtask test --long`.
pub fn long() -> bool {
    std::env::var_os("LIMITER_LONG").is_some()
}

/// Says why the test `name` does not run here, for whoever reads its output and
/// for `cargo xtask test`, which counts it as skipped and not as passed.
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

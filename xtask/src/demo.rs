// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask demo`: shows how the kernel programs limit real clients in front of a real nginx,
//! on one host or on the hosts of a fleet.

mod clients;
mod fleet;
mod interrupt;
mod points;
mod table;

use std::time::{Duration, Instant};

use anyhow::bail;
use limiter_tests::{Config, GUARDED, Lab, Limiter, Nginx, UNGUARDED, avoid_midnight, limiter};

use self::table::Table;
use crate::{build, context::Context, packages, privilege};

/// An upper bound for the duration of the demo, which must not run past midnight UTC.
const LONGEST: Duration = Duration::from_secs(180);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    subject: Option<Subject>,
}

#[derive(Debug, clap::Subcommand)]
enum Subject {
    /// Shows three hosts that share daily quotas through a Redis, which is killed in the middle
    Fleet,
}

/// The network, the server and the daemon of the demo. The fields are dropped in the order of their
/// declaration, which means that the daemon stops before its namespace is removed.
struct Stage {
    limiter: Limiter,
    nginx: Nginx,
    lab: Lab,
}

pub fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    privilege::require_root("demo")?;
    match args.subject {
        None => packages::for_demo()?,
        Some(Subject::Fleet) => packages::for_fleet_demo()?,
    }
    let binary = build::release(context)?;
    limiter::use_binary(&binary);
    interrupt::clean_up_on_signals()?;
    avoid_midnight(LONGEST);

    let start = Instant::now();
    let table = match args.subject {
        None => show_one_host(),
        Some(Subject::Fleet) => fleet::show(),
    };
    println!("\n{table}");
    println!(
        "the demo took {} s, and has removed everything that it made",
        start.elapsed().as_secs()
    );
    if table.all_as_expected() {
        return Ok(());
    }
    bail!("the demo did not see what it expected: look at the lines with NO");
}

/// Shows one host, and returns what was seen.
fn show_one_host() -> Table {
    println!("two network namespaces, nginx in one, curl, wrk and Python in the other");
    let mut stage = Stage::set();
    println!(
        "the API is http://{}:{GUARDED}, guarded on {}",
        stage.lab.v4(),
        stage.lab.interface()
    );
    points::show_all(&mut stage)
}

impl Stage {
    fn set() -> Self {
        let lab = Lab::veth();
        let nginx = Nginx::start(&lab, &[GUARDED, UNGUARDED]);
        let limiter = Limiter::start(&lab, &Config::published(&lab));
        Self {
            limiter,
            nginx,
            lab,
        }
    }
}

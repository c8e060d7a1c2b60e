//! `cargo xtask demo`: real clients, limited by a program in the kernel in front of a real nginx.

mod clients;
mod interrupt;
mod points;
mod table;

use std::time::{Duration, Instant};

use anyhow::bail;
use limiter_tests::{Config, GUARDED, Lab, Limiter, Nginx, UNGUARDED, avoid_midnight, limiter};

use self::table::Table;
use crate::{build, context::Context, packages, privilege};

/// Far more than the demo takes: all of it has to lie in one UTC day.
const LONGEST: Duration = Duration::from_secs(180);

/// What the points are shown on. Dropped from the top: the daemon goes before its namespace.
struct Stage {
    limiter: Limiter,
    nginx: Nginx,
    lab: Lab,
}

pub fn run(context: &Context, args: &[String]) -> anyhow::Result<()> {
    if let Some(unknown) = args.first() {
        bail!("the demo takes no arguments, and {unknown:?} is one");
    }
    privilege::require_root("demo")?;
    packages::for_demo()?;
    let binary = build::release(context)?;
    limiter::use_binary(&binary);
    interrupt::clean_up_on_signals()?;
    avoid_midnight(LONGEST);

    let start = Instant::now();
    println!("two network namespaces, nginx in one, curl, wrk and Python in the other");
    let mut stage = Stage::set();
    println!(
        "the API is http://{}:{GUARDED}, guarded on {}",
        stage.lab.v4(),
        stage.lab.interface()
    );
    let table = points::show_all(&mut stage);
    drop(stage);

    println!("\n{table}");
    println!(
        "{} s, everything is taken down again",
        start.elapsed().as_secs()
    );
    if table.all_as_expected() {
        return Ok(());
    }
    bail!("the demo saw something else than it expected: see the lines that say NO");
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

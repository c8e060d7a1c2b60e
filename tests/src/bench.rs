// SPDX-License-Identifier: MIT OR Apache-2.0

//! The parts that all benches share: the command line, medians, targets, and the results file.

use std::{
    fmt::{self, Display, Formatter},
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::{Value, json};

/// The command line of a bench.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Args {
    /// The file to which the figures are written as JSON.
    pub json: Option<PathBuf>,
    /// Whether to run fewer and shorter rounds. A quick run shows that every case works, but its
    /// figures are only rough.
    pub quick: bool,
    /// Whether to run only the cases that guard against a regression, and to exit with a failure if
    /// a case misses its bound.
    pub guard: bool,
    /// The string that the name of a case must contain for the case to run. An empty string selects
    /// all cases.
    pub filter: String,
}

impl Args {
    /// # Errors
    /// Returns a message if an argument is not valid.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self::default();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                // cargo passes this argument to every bench.
                "--bench" => {}
                "--quick" => parsed.quick = true,
                "--guard" => parsed.guard = true,
                "--json" => parsed.json = Some(args.next().ok_or("--json wants a file")?.into()),
                option if option.starts_with('-') => return Err(format!("unknown {option}")),
                _ => parsed.filter = arg,
            }
        }
        Ok(parsed)
    }

    /// Returns whether the case `name` was selected.
    pub fn wants(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }
}

/// The results of a bench.
pub trait Report: Display {
    fn json(&self) -> Value;

    /// Returns whether a figure misses its bound.
    fn failed(&self) -> bool {
        false
    }
}

/// Runs a bench with the command-line arguments, prints its results and writes them to a file.
pub fn main<R: Report>(name: &str, run: impl FnOnce(&Args) -> R) -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}; usage: {name} [--quick | --guard] [--json FILE] [PART OF A NAME]");
            return ExitCode::from(2);
        }
    };
    let machine = Environment::of_now();
    println!("{machine}");
    let report = run(&args);
    print!("{report}");
    let status = if report.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    };
    let Some(file) = args.json else { return status };
    let mut all = report.json();
    all["machine"] = machine.json();
    if let Err(error) = write(&file, &all) {
        eprintln!("cannot write {}: {error}", file.display());
        return ExitCode::FAILURE;
    }
    println!("\nwritten to {}", file.display());
    status
}

fn write(file: &Path, all: &Value) -> io::Result<()> {
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(file, format!("{all:#}\n"))
}

/// The machine on which a bench ran, and its load before the bench.
#[derive(Debug)]
pub struct Environment {
    pub cpu: String,
    pub cpus: usize,
    pub kernel: String,
    /// The load average over the last minute (proc_loadavg(5)).
    pub load: f64,
}

impl Environment {
    pub fn of_now() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let cpu = cpuinfo.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == "model name").then(|| value.trim().to_owned())
        });
        let load = read("/proc/loadavg");
        Self {
            cpu: cpu.unwrap_or_else(|| "unknown".to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(f64::NAN),
        }
    }

    fn json(&self) -> Value {
        let Self {
            cpu,
            cpus,
            kernel,
            load,
        } = self;
        json!({"cpu": cpu, "cpus": cpus, "kernel": kernel, "load_before": load})
    }
}

impl Display for Environment {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            cpu,
            cpus,
            kernel,
            load,
        } = self;
        writeln!(f, "{cpus} × {cpu}, Linux {kernel}, load before: {load:.2}")
    }
}

/// Returns the median, or NaN if there are no values.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Returns the quantile of the sorted values at `part` (0 to 1), or NaN if there are no values. If
/// the quantile falls between two values, the larger value is returned.
pub fn quantile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * part).ceil() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// The bound that a figure has to meet: a maximum or a minimum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// A figure, and the bound that the figure has to meet.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub what: String,
    pub bound: Bound,
    pub seen: f64,
}

impl Target {
    pub fn at_most(what: impl Into<String>, most: f64, seen: f64) -> Self {
        let (what, bound) = (what.into(), Bound::AtMost(most));
        Self { what, bound, seen }
    }

    pub fn at_least(what: impl Into<String>, least: f64, seen: f64) -> Self {
        let (what, bound) = (what.into(), Bound::AtLeast(least));
        Self { what, bound, seen }
    }

    /// Returns whether the figure meets its bound. A figure that was not measured does not meet it.
    pub fn reached(&self) -> bool {
        match self.bound {
            Bound::AtMost(most) => self.seen <= most,
            Bound::AtLeast(least) => self.seen >= least,
        }
    }
}

/// All targets of a bench.
#[derive(Debug, Default)]
pub struct Targets(pub Vec<Target>);

impl Targets {
    pub fn json(&self) -> Value {
        let targets = self.0.iter().map(|target| {
            let (side, bound) = match target.bound {
                Bound::AtMost(most) => ("at_most", most),
                Bound::AtLeast(least) => ("at_least", least),
            };
            json!({
                "name": target.what, side: bound, "seen": target.seen, "reached": target.reached(),
            })
        });
        targets.collect()
    }
}

impl Display for Targets {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:84} {:>10} {:>9}", "target", "", "seen")?;
        for target in &self.0 {
            let bound = match target.bound {
                Bound::AtMost(most) => format!("<= {most}"),
                Bound::AtLeast(least) => format!(">= {least}"),
            };
            let reached = if target.reached() {
                "reached"
            } else {
                "not reached"
            };
            writeln!(
                f,
                "{:84} {bound:>10} {:9.2} {reached}",
                target.what, target.seen
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmeasured_target_is_not_reached() {
        assert!(!Target::at_most("x", 1.0, f64::NAN).reached());
        assert!(!Target::at_least("x", 1.0, f64::NAN).reached());
        assert!(Target::at_most("x", 1.0, 1.0).reached());
        assert!(!Target::at_least("x", 1.0, 0.99).reached());
    }

    #[test]
    fn a_median_is_a_value_that_was_there() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert!(median([]).is_nan());
        let hundred: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(quantile(&hundred, 0.99), 99.0);
        assert_eq!(quantile(&hundred, 0.5), 50.0);
    }
}

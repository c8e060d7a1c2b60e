// SPDX-License-Identifier: MIT OR Apache-2.0

//! Prints the results of the simulated cases as a table. The arguments are parts of the names of
//! cases; without arguments, all cases are run.

use std::{env, process::ExitCode, thread};

use limiter_simulation::{
    fleet::Fleet,
    outcome::Outcome,
    scenarios::{self, Case},
};

fn main() -> ExitCode {
    let wanted: Vec<String> = env::args().skip(1).collect();
    let is_wanted = |case: &Case| {
        wanted.is_empty() || wanted.iter().any(|part| case.scenario.name.contains(part))
    };
    let cases: Vec<Case> = scenarios::all().into_iter().filter(is_wanted).collect();
    if cases.is_empty() {
        eprintln!(
            "error: no case has a name that contains {}",
            wanted.join(" or ")
        );
        return ExitCode::from(2);
    }
    println!(
        "| case | hosts | quota | over quota, max | unused quota, max | early 429 | \
         stranded | held once | calls per request | calls per second, max | recalls | \
         lost by crashes |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
    );
    let mut broken = 0;
    let workers = thread::available_parallelism().map_or(1, usize::from);
    for case in cases {
        let outcomes = run(&case, workers);
        println!("{}", row(&case, &outcomes));
        if case.exact && outcomes.iter().any(|outcome| outcome.over > 0) {
            eprintln!("error: {:?} has exceeded the quota", case.scenario.name);
            broken += 1;
        }
    }
    match broken {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Runs a case with all its seeds, on `workers` threads.
fn run(case: &Case, workers: usize) -> Vec<Outcome> {
    let simulate = |seed| {
        let fleet = Fleet::new(case.scenario.clone(), seed).expect("the scripts compile");
        fleet.run()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers as u64)
            .map(|first| {
                let seeds = (first..case.runs).step_by(workers);
                scope.spawn(move || seeds.map(simulate).collect::<Vec<_>>())
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("a simulation ends"))
            .collect()
    })
}

fn row(case: &Case, outcomes: &[Outcome]) -> String {
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>() as f64;
    let most = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).max().unwrap_or(0);
    let percent = |part: f64, whole: f64| format!("{:.2}%", 100.0 * part / whole.max(1.0));
    let (asked, admitted) = (
        sum(|outcome| outcome.asked),
        sum(|outcome| outcome.admitted),
    );
    let runs = outcomes.len() as f64;
    let scenario = &case.scenario;
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {:.2} | {} | {:.0} | {:.0} |",
        scenario.name,
        scenario.hosts,
        scenario.quota,
        most(|outcome| outcome.over),
        percent(most(|outcome| outcome.unused) as f64, scenario.quota as f64),
        percent(sum(|outcome| outcome.early), asked),
        percent(sum(|outcome| outcome.stranded), asked),
        percent(sum(|outcome| outcome.held), admitted),
        sum(|outcome| outcome.calls) / admitted,
        most(|outcome| outcome.calls_per_second),
        sum(|outcome| outcome.recalls) / runs,
        sum(|outcome| outcome.lost) / runs,
    )
}

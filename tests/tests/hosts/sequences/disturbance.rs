// SPDX-License-Identifier: MIT OR Apache-2.0

//! Faults of the daemons, of the links and of the engine, in a random order.

use std::sync::{
    RwLock,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use limiter_simulation::random::Random;
use limiter_tests::{
    Limiter,
    engine::Engine,
    eventually,
    hosts::{End, Network},
    limiter::exit,
};

use crate::support::HOSTS;

/// The largest number of faults at the same time.
const AT_ONCE: usize = 2;
/// The largest number of steps of the clients between two changes of the faults.
const STEPS: u64 = 40;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The daemon of a host is killed.
    Killed(usize),
    /// The daemon of a host is stopped in order.
    Stopped(usize),
    /// A host cannot reach the engine.
    CutOff(usize),
    /// The engine is killed.
    Engine,
}

impl Fault {
    fn random(random: &mut Random) -> Self {
        let host = random.below(HOSTS as u64) as usize;
        match random.below(5) {
            0 => Self::Killed(host),
            1 => Self::Stopped(host),
            2 | 3 => Self::CutOff(host),
            _ => Self::Engine,
        }
    }

    /// Returns whether two faults cannot happen at the same time.
    fn excludes(self, other: Self) -> bool {
        match (self, other) {
            (Self::Killed(one) | Self::Stopped(one), Self::Killed(two) | Self::Stopped(two)) => {
                one == two
            }
            _ => self == other,
        }
    }
}

/// The parts of a fleet that can have faults.
pub struct Parts<'a> {
    /// The daemons of the hosts. A daemon is locked for writing while it is stopped or started.
    pub limiters: Vec<RwLock<&'a mut Limiter>>,
    pub network: &'a Network,
}

impl Parts<'_> {
    /// Makes `count` random faults, and ends all of them. They go on while the clients take steps,
    /// whose number is `steps`, and at most until the clients have taken `last` steps.
    #[track_caller]
    pub fn disturb(
        &self,
        engine: &mut Engine,
        random: &mut Random,
        count: usize,
        (steps, last): (&AtomicUsize, usize),
    ) {
        let mut present = Vec::new();
        let mut begun = 0;
        while begun < count || !present.is_empty() {
            let next = steps.load(SeqCst) + random.below(STEPS) as usize;
            eventually("the clients go on", || steps.load(SeqCst) >= next.min(last));
            let fault = Fault::random(random);
            let is_possible = !present.iter().any(|one: &Fault| one.excludes(fault));
            if begun < count && present.len() < AT_ONCE && is_possible {
                self.begin(engine, fault);
                present.push(fault);
                begun += 1;
            } else if !present.is_empty() {
                let ended = random.below(present.len() as u64) as usize;
                self.end(engine, present.swap_remove(ended));
            }
        }
    }

    fn begin(&self, engine: &mut Engine, fault: Fault) {
        match fault {
            Fault::Killed(host) => self.limiters[host].write().expect("a daemon").kill(),
            Fault::Stopped(host) => self.limiters[host].write().expect("a daemon").terminate(),
            Fault::CutOff(host) => self.network.cut(End::Host(host)),
            Fault::Engine => engine.kill(),
        }
    }

    #[track_caller]
    fn end(&self, engine: &mut Engine, fault: Fault) {
        match fault {
            Fault::Killed(host) | Fault::Stopped(host) => {
                let limiter = &self.limiters[host];
                limiter.write().expect("a daemon").launch(&[]);
                eventually("the daemon answers", || {
                    let limiter = limiter.read().expect("a daemon");
                    limiter.cli(&["status"]).code == exit::DONE
                });
            }
            Fault::CutOff(host) => self.network.heal(&[End::Host(host)]),
            Fault::Engine => engine.restart(),
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Attaches to the configured interfaces, and restores attachments that other programs change.

use std::{sync::Arc, time::Duration};

use tokio::io::unix::AsyncFd;

use crate::{
    config::{Config, Order},
    engine::{
        flows::older::{self, Arrival},
        shared::Shared,
        state::Engine,
    },
    kernel::{
        Attachment, Plane,
        interfaces::{self, Resolution},
        mounts::Keeper,
        netdev::{self, Interface},
        rtnl,
    },
    protocol::{error::ApiError, views::Report},
};

/// The name under which the daemon's health reports that other programs at a hook run before the
/// limiter's programs.
const CHAIN: &str = "chain";

/// The maximum number of hooks that a message names.
const NAMED: usize = 3;

/// The minimum time between two checks that follow notifications from the kernel. Changes come in
/// bursts, and a program that undoes the daemon's changes must not keep the daemon busy.
const BETWEEN: Duration = Duration::from_millis(250);

impl Engine {
    /// Attaches the programs to `interfaces`, and detaches them from all other interfaces. The
    /// limits are in force when this function returns.
    ///
    /// # Errors
    /// Returns an error if the kernel reports one.
    pub fn attach(&mut self, interfaces: &[Interface]) -> Result<Report, ApiError> {
        let done = self.plane.follow(interfaces);
        let problem = chain_problem(self.plane.as_mut(), self.setup.config());
        self.note_health(CHAIN, problem);
        let done = done?;
        for line in &done {
            log::info!("{line}");
            self.events.add_message(line.as_str());
        }
        Ok(Report {
            done,
            warnings: Vec::new(),
        })
    }

    /// Attaches as [`Self::attach`] does. If `arrival` is set, the limiter begins to guard some
    /// ports or interfaces, and this function also lets their older connections continue.
    ///
    /// # Errors
    /// Returns an error if the kernel reports one.
    pub(crate) fn attach_first(
        &mut self,
        arrival: Option<Arrival>,
        interfaces: &[Interface],
    ) -> Result<Report, ApiError> {
        let publisher = self.clock.publisher().cloned();
        let Some((arrival, clock)) = arrival.zip(publisher) else {
            return self.attach(interfaces);
        };
        arrival.begin(&clock)?;
        arrival.clear_counts(&self.scopes, self.plane.as_ref());
        let report = self.attach(interfaces)?;
        let problem = arrival.finish(self.plane.as_mut(), &clock)?;
        self.note_health(older::PART, problem);
        Ok(report)
    }

    /// Attaches the programs again at hooks from which they were removed or at which other programs
    /// now run before them. Also attaches to interfaces that have appeared again, and to new
    /// interfaces that match a glob.
    pub fn follow_interfaces(&mut self) {
        if self.detached {
            return;
        }
        let present = match netdev::interfaces() {
            Ok(present) => present,
            Err(error) => {
                self.note_health("interfaces", Some(format!("cannot list them: {error}")));
                return;
            }
        };
        let Resolution {
            interfaces,
            missing,
            ..
        } = interfaces::resolve(&self.setup.config().attach, &present);
        self.note_missing(&missing);
        let failed = self.attach(&interfaces).err().map(|error| error.message);
        self.note_health("attach", failed);
        let unpinned = self.plane.unpinned().map(|error| error.to_string());
        self.note_health("maps", unpinned);
    }

    /// Records the interfaces for which the daemon waits.
    pub(crate) fn note_missing(&mut self, missing: &[String]) {
        let waiting = match missing {
            [] => None,
            names => Some(format!(
                "waiting for {}: limits are in force there within seconds after it appears",
                names.join(", ")
            )),
        };
        self.note_health("interfaces", waiting);
    }

    /// Records a problem if the pins do not stay when the daemon ends, or if it is unknown whether
    /// they stay.
    pub(crate) fn note_pins(&mut self, keeper: Keeper) {
        let problem = match keeper {
            Keeper::Others | Keeper::Container | Keeper::Companion(_) => None,
            Keeper::Unknown | Keeper::ThisProcess => keeper.warning(),
        };
        self.note_health("pins", problem);
    }
}

/// Returns a warning if other programs run before the limiter's programs although the configuration
/// requires the opposite order, or if other programs keep changing the attachments.
fn chain_problem(plane: &mut dyn Plane, config: &Config) -> Option<String> {
    let contested: Vec<String> = plane
        .contested()
        .into_iter()
        .map(|(interface, hook)| format!("{interface} ({})", hook.as_str()))
        .collect();
    let mut problems = Vec::new();
    if config.attach.order == Order::First {
        let attached = plane.attached();
        let behind = attached
            .iter()
            .filter(|attached| !attached.before.is_empty());
        problems.extend(summary(behind.map(before)).map(|behind| {
            format!("{behind}: packets that end there, or that are admitted there, are not limited")
        }));
    }
    problems.extend(summary(contested.into_iter()).map(|hooks| {
        format!(
            "another program repeatedly removes the limiter's programs, or puts its own before them: {hooks}"
        )
    }));
    (!problems.is_empty()).then(|| problems.join("; "))
}

/// Describes the programs and filters that run before the limiter's program at a hook.
fn before(attached: &Attachment) -> String {
    let others: Vec<String> = attached.before.iter().map(ToString::to_string).collect();
    format!(
        "{} before ours on {} ({})",
        others.join(", "),
        attached.interface,
        attached.hook.as_str()
    )
}

/// Returns a string with the first [`NAMED`] items and the number of the remaining items, or `None`
/// if there are no items.
fn summary(all: impl Iterator<Item = String>) -> Option<String> {
    let mut all: Vec<String> = all.collect();
    let more = all.len().saturating_sub(NAMED);
    all.truncate(NAMED);
    let more = match more {
        0 => String::new(),
        more => format!(", and {more} more such"),
    };
    (!all.is_empty()).then(|| format!("{}{more}", all.join(", ")))
}

/// Checks the interfaces when the kernel reports a change of an interface, a qdisc or a filter. The
/// kernel does not report changes of TCX links, which are therefore checked every second.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let watched = rtnl::watch().and_then(|socket| {
        // SAFETY: `netlink_sys::Socket` keeps its descriptor open and does not replace it while it
        // lives. The `AsyncFd` owns the only `Socket`.
        let watched = unsafe { AsyncFd::register(socket) }?;
        Ok(watched)
    });
    let watched = match watched {
        Ok(watched) => watched,
        Err(error) => {
            log::warn!(
                "cannot watch the interfaces, which are checked every second instead: {error}"
            );
            return;
        }
    };
    loop {
        let Ok(mut ready) = watched.readable().await else {
            return;
        };
        let mut message = Vec::with_capacity(32 * 1024);
        loop {
            message.clear();
            let read = ready.try_io(|socket| socket.get_ref().recv(&mut message, 0));
            // The loop ends when all notifications have been read, or when an error reports that
            // some were lost. In both cases, the interfaces have to be checked.
            if !matches!(read, Ok(Ok(_))) {
                break;
            }
        }
        let shared = Arc::clone(&shared);
        let checked = tokio::task::spawn_blocking(move || shared.engine().follow_interfaces());
        if let Err(error) = checked.await {
            log::error!("a check of the interfaces failed: {error}");
        }
        tokio::time::sleep(BETWEEN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_some_and_counts_the_others() {
        let all = |count: usize| summary((0..count).map(|number| format!("i{number}")));
        assert_eq!(all(0), None);
        assert_eq!(all(2).as_deref(), Some("i0, i1"));
        assert_eq!(all(5).as_deref(), Some("i0, i1, i2, and 2 more such"));
    }
}

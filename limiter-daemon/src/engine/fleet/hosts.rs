// SPDX-License-Identifier: MIT OR Apache-2.0

//! The changes in the list of the fleet's hosts, which become events.

use std::{collections::HashMap, time::Duration};

use limiter_fleet::registry::Host;

use super::{describe::HostText, link::AWAY};

/// The state of a host in a list of hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    name: String,
    is_silent: bool,
    differs: bool,
}

/// Returns a sentence for each difference between two lists of hosts, each of which has the time of
/// the engine at which it was made. `own` is the digest of this host's configuration.
pub(super) fn differences(
    (before, before_at): (&[Host], Duration),
    (after, after_at): (&[Host], Duration),
    own: &str,
) -> Vec<String> {
    if before.is_empty() {
        // There is nothing to compare with, because the daemon has just started.
        return Vec::new();
    }
    let (before, after) = (states(before, before_at, own), states(after, after_at, own));
    let mut sentences = Vec::new();
    for (id, now) in &after {
        let name = &now.name;
        let Some(then) = before.get(id) else {
            sentences.push(format!("the host {name} has joined the fleet"));
            continue;
        };
        match (then.is_silent, now.is_silent) {
            (false, true) => sentences.push(format!("the host {name} is silent")),
            (true, false) => sentences.push(format!("the host {name} is back")),
            _ => {}
        }
        match (then.differs, now.differs) {
            (false, true) => sentences.push(format!(
                "the configuration of the host {name} differs from that of this host"
            )),
            (true, false) => sentences.push(format!(
                "the configuration of the host {name} is that of this host again"
            )),
            _ => {}
        }
    }
    for (id, then) in &before {
        if !after.contains_key(id) {
            sentences.push(format!("the host {} has left the fleet", then.name));
        }
    }
    sentences.sort();
    sentences
}

fn states(hosts: &[Host], at: Duration, own: &str) -> HashMap<String, State> {
    let state = |host: &Host| {
        let text: HostText = serde_json::from_str(&host.text).unwrap_or_default();
        State {
            name: text.name,
            is_silent: at.saturating_sub(host.seen) > AWAY,
            // The first heartbeat of a host may have no description.
            differs: !text.configuration.is_empty() && text.configuration != own,
        }
    };
    hosts
        .iter()
        .map(|host| (host.id.clone(), state(host)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(id: &str, seen: u64, configuration: &str) -> Host {
        let text = HostText {
            name: format!("web-{id}"),
            configuration: configuration.to_owned(),
            ..HostText::default()
        };
        Host {
            id: id.to_owned(),
            seen: Duration::from_secs(seen),
            text: text.to_string(),
        }
    }

    #[test]
    fn each_difference_is_one_sentence() {
        let at = Duration::from_secs;
        let before = [host("1", 100, "a"), host("2", 100, "a"), host("3", 90, "b")];
        let after = [host("2", 100, "b"), host("3", 110, "a"), host("4", 110, "")];
        let sentences = differences((&before, at(100)), (&after, at(110)), "a");
        assert_eq!(
            sentences,
            [
                "the configuration of the host web-2 differs from that of this host",
                "the configuration of the host web-3 is that of this host again",
                "the host web-1 has left the fleet",
                "the host web-2 is silent",
                "the host web-3 is back",
                "the host web-4 has joined the fleet",
            ]
        );
        assert_eq!(
            differences((&after, at(110)), (&after, at(110)), "a"),
            [""; 0]
        );
        assert_eq!(differences((&[], at(0)), (&after, at(110)), "a"), [""; 0]);
    }
}

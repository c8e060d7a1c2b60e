// SPDX-License-Identifier: MIT OR Apache-2.0

//! Warnings of `limiter check` about settings that are valid but probably mistakes.

use std::{collections::BTreeSet, net::SocketAddr};

use super::{
    forwarding::{self, Forwarding},
    listed::listed,
    redirects::{self, Redirect},
};
use crate::{
    config::{Config, Tier, TierName},
    domain::rate::Rate,
    kernel::{
        sockets::KernelSockets,
        topology::{self, Device},
    },
};

/// Ports that usually carry TLS, in which limiter cannot read a key.
const TLS_PORTS: [u16; 2] = [443, 8443];
const NS_PER_DAY: u64 = 86_400_000_000_000;

/// The state of this host on which the warnings depend.
pub(super) struct Host {
    devices: Vec<Device>,
    listeners: Vec<SocketAddr>,
    redirects: Vec<Redirect>,
    forwarding: Vec<Forwarding>,
}

impl Host {
    /// Reads the current state of the host, as far as it affects packets that arrive on the
    /// interfaces `attached`. If a part of the state cannot be read, there are no warnings about
    /// that part.
    pub(super) fn inspect(attached: &[&str]) -> Self {
        let listeners = KernelSockets::open().and_then(|mut sockets| sockets.listeners());
        let mut host = Self {
            devices: topology::devices().unwrap_or_default(),
            listeners: listeners.unwrap_or_default(),
            redirects: redirects::find(),
            forwarding: Vec::new(),
        };
        for name in attached.iter().filter(|name| **name != "lo") {
            let mut forwarding = vec![forwarding::read(name, None)];
            forwarding.extend(
                host.above(name)
                    .into_iter()
                    .map(|above| forwarding::read(above, Some(name))),
            );
            host.forwarding.extend(forwarding);
        }
        host
    }

    fn device(&self, name: &str) -> Option<&Device> {
        self.devices.iter().find(|device| device.name == name)
    }

    fn by_index(&self, index: Option<u32>) -> Option<&Device> {
        self.devices
            .iter()
            .find(|device| Some(device.index) == index)
    }

    fn listening(&self, port: u16) -> impl Iterator<Item = &SocketAddr> {
        self.listeners.iter().filter(move |at| at.port() == port)
    }

    /// Returns the other interfaces of this host that a packet on `device` also passes. These are
    /// the lower interface on which `device` is stacked, and the bridge or bond of which `device`
    /// is a port. The same two rules then apply to each interface that was found.
    fn also_passed(&self, device: &Device) -> BTreeSet<&str> {
        let mut passed = BTreeSet::new();
        let mut next = vec![device];
        while let Some(device) = next.pop() {
            let below = device.link.filter(|_| device.kind != "veth");
            for other in [below, device.controller] {
                if let Some(other) = self.by_index(other)
                    && passed.insert(other.name.as_str())
                {
                    next.push(other);
                }
            }
        }
        passed
    }
}

impl Host {
    /// Returns the interfaces on which the kernel also sees packets that arrive on the interface
    /// `name`. These are the interfaces that are stacked on `name`, and the bridge or bond of which
    /// `name` is a port. The same two rules then apply to each interface that was found.
    fn above(&self, name: &str) -> BTreeSet<&str> {
        let mut above = BTreeSet::new();
        let mut next: Vec<&Device> = self.device(name).into_iter().collect();
        while let Some(below) = next.pop() {
            for device in &self.devices {
                let lies_on_it = device.link == Some(below.index) && device.kind != "veth";
                let is_above = lies_on_it || below.controller == Some(device.index);
                if is_above && above.insert(device.name.as_str()) {
                    next.push(device);
                }
            }
        }
        above
    }
}

/// Returns all warnings for a configuration that attaches to `attached`.
pub(super) fn likely_mistakes(config: &Config, attached: &[&str], host: &Host) -> Vec<String> {
    let mut warnings = Vec::new();
    for port in TLS_PORTS {
        if config.attach.ports.contains(&port) {
            warnings.push(format!(
                "port {port} usually carries TLS, in which no key can be read: guard the port behind the TLS terminator"
            ));
        }
    }
    for (name, tier) in config.tiers.iter() {
        warnings.extend(of_tier(name, tier));
    }
    let attached: Vec<&Device> = attached
        .iter()
        .filter_map(|name| host.device(name))
        .collect();
    warnings.extend(counted_twice(&attached, host));
    warnings.extend(passed_by(&config.attach.ports, &attached, host));
    warnings.extend(redirects::warnings(&config.attach.ports, &host.redirects));
    warnings.extend(forwarding::warnings(&host.forwarding));
    let redirected = attached.iter().filter(|device| device.has_xdp);
    if let Some(names) = listed(redirected.map(|device| device.name.as_str())) {
        warnings.push(format!(
            "an XDP program sees packets on {names} before limiter: packets that it redirects are not limited"
        ));
    }
    for device in attached.iter().filter(|device| !device.is_up) {
        warnings.push(format!("the interface {} is down", device.name));
    }
    warnings
}

fn of_tier(name: &TierName, tier: &Tier) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(quota) = tier.limits.daily_quota else {
        return warnings;
    };
    let burst = u64::from(tier.limits.burst);
    if quota < burst {
        warnings.push(format!(
            "the burst of the tier {name} is larger than its daily quota"
        ));
    }
    // Returns the maximum number of requests that the rate and the burst admit in a day.
    let most_per_day = |rate: Rate| NS_PER_DAY / rate.interval_ns() + burst;
    if let Some(rate) = tier.limits.rate
        && most_per_day(rate) < quota
    {
        warnings.push(format!(
            "the daily quota of the tier {name} cannot be used up: it is {quota}, and the rate {rate} admits at most {} requests in a day",
            most_per_day(rate)
        ));
    }
    warnings
}

/// Warns if packets pass two attached interfaces, because a request that passes both is inspected
/// twice.
fn counted_twice(attached: &[&Device], host: &Host) -> Vec<String> {
    let mut warnings = Vec::new();
    let names: BTreeSet<&str> = attached.iter().map(|device| device.name.as_str()).collect();
    for device in attached {
        for other in host.also_passed(device).intersection(&names) {
            let how = match host.by_index(device.controller) {
                Some(controller) if controller.name == *other => {
                    format!("is a port of the {} {other}", controller.kind)
                }
                _ if host
                    .by_index(device.link)
                    .is_some_and(|link| link.name == *other) =>
                {
                    format!("is a {} on {other}", device.kind)
                }
                _ => format!("sends and receives through {other}"),
            };
            warnings.push(format!(
                "{} {how}: a request that passes both is inspected twice; attach only one of them",
                device.name
            ));
        }
        // Each end of a veth pair refers to the other end. The names are compared so that each pair
        // is reported only once.
        if let Some(peer) = host.by_index(device.link)
            && device.kind == "veth"
            && device.name < peer.name
            && names.contains(peer.name.as_str())
        {
            warnings.push(format!(
                "{} and {} are the two ends of a veth pair: a request that passes both is inspected twice; attach only one of them",
                device.name, peer.name
            ));
        }
    }
    let others: Vec<&str> = attached
        .iter()
        .filter(|device| !device.is_loopback)
        .map(|device| device.name.as_str())
        .collect();
    if others.len() < attached.len() && !others.is_empty() {
        warnings.push(format!(
            "lo and {} are attached: a request that arrives there, and that a proxy on this host forwards over lo to a guarded port, is counted twice; attach only the one where requests are plain HTTP",
            others.join(", ")
        ));
    }
    warnings
}

/// Warns if requests to guarded ports can arrive on interfaces that are not attached.
fn passed_by(ports: &[u16], attached: &[&Device], host: &Host) -> Vec<String> {
    let mut warnings = Vec::new();
    let has_lo = attached.iter().any(|device| device.is_loopback);
    let has_other = attached.iter().any(|device| !device.is_loopback);
    let other_ways = host
        .devices
        .iter()
        .any(|device| device.is_up && !device.is_loopback);
    let mut is_open = false;
    for port in ports {
        let mut at = host.listening(*port).peekable();
        let Some(first) = at.peek().copied() else {
            continue;
        };
        let is_local = at.all(|at| at.ip().is_loopback());
        is_open |= !is_local;
        if is_local && !has_lo && has_other {
            warnings.push(format!(
                "the server of port {port} only listens on {}, and its requests arrive on lo: attach lo",
                first.ip()
            ));
        }
        if !is_local && has_lo && !has_other && other_ways {
            warnings.push(format!(
                "port {port} is also open on other interfaces than lo, whose requests are not limited: let its server listen on 127.0.0.1"
            ));
        }
    }
    if is_open && !has_lo && has_other && host.listening(443).next().is_some() {
        warnings.push(
            "a server on this host listens on port 443: if it decrypts TLS and forwards requests to a guarded port here, they go over lo, which is not attached"
                .to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overlay;

    /// Makes a host from devices, each with its name, kind, link and controller. The link and the
    /// controller are names, or `-` for none. All devices are up.
    fn host(devices: &[(&str, &str, &str, &str)], listeners: &[&str]) -> Host {
        let index = |name: &str| {
            let at = devices.iter().position(|(of, ..)| *of == name)?;
            u32::try_from(at + 1).ok()
        };
        let devices = devices.iter().map(|(name, kind, link, controller)| Device {
            index: index(name).unwrap(),
            name: (*name).to_owned(),
            kind: (*kind).to_owned(),
            is_up: true,
            is_loopback: *name == "lo",
            link: index(link),
            controller: index(controller),
            has_xdp: false,
        });
        Host {
            devices: devices.collect(),
            listeners: listeners.iter().map(|at| at.parse().unwrap()).collect(),
            redirects: Vec::new(),
            forwarding: Vec::new(),
        }
    }

    fn config(ports: &[u16], more: &str) -> Config {
        let text = format!("[attach]\ninterfaces = [\"lo\"]\nports = {ports:?}\n{more}");
        Config::parse(&text, None, &Overlay::default()).unwrap()
    }

    const DEVICES: [(&str, &str, &str, &str); 9] = [
        ("lo", "", "-", "-"),
        ("eth0", "", "-", "bond0"),
        ("eth1", "", "-", "-"),
        ("bond0", "bond", "-", "br0"),
        ("br0", "bridge", "-", "-"),
        ("br0.7", "vlan", "br0", "-"),
        ("veth0", "veth", "veth1", "br0"),
        ("veth1", "veth", "veth0", "-"),
        ("mac0", "macvlan", "eth1", "-"),
    ];

    #[test]
    fn two_attachments_on_one_path_are_named_with_their_relation() {
        let host = host(&DEVICES, &[]);
        let config = config(&[80], "");
        for (attached, wanted) in [
            (&["eth0"][..], &[][..]),
            (&["eth0", "eth1"], &[]),
            (&["bond0", "br0"], &["bond0 is a port of the bridge br0"]),
            (&["bond0", "eth0"], &["eth0 is a port of the bond bond0"]),
            (&["br0", "eth0"], &["eth0 sends and receives through br0"]),
            (&["br0", "br0.7"], &["br0.7 is a vlan on br0"]),
            (&["eth1", "mac0"], &["mac0 is a macvlan on eth1"]),
            (&["veth0", "veth1"], &["veth0 and veth1 are the two ends"]),
            (&["br0", "veth0"], &["veth0 is a port of the bridge br0"]),
            (&["br0", "veth1"], &[]),
            (&["lo"], &[]),
            (&["eth1", "lo"], &["lo and eth1 are attached"]),
        ] {
            let messages = likely_mistakes(&config, attached, &host);
            assert_eq!(messages.len(), wanted.len(), "{attached:?}: {messages:?}");
            for (messages, wanted) in messages.iter().zip(wanted) {
                assert!(messages.starts_with(wanted), "{messages}");
            }
        }
    }

    #[test]
    fn ways_around_the_attached_interfaces_are_named() {
        let ways = [("lo", "", "-", "-"), ("eth0", "", "-", "-")];
        let config = config(&[80], "");
        for (attached, listeners, wanted) in [
            (&["eth0"][..], &["0.0.0.0:80"][..], ""),
            (&["eth0"], &["127.0.0.1:80", "[::1]:80"], "attach lo"),
            (&["eth0"], &["127.0.0.1:80", "[::]:80"], ""),
            (&["eth0"], &["127.0.0.1:81"], ""),
            (&["lo"], &["127.0.0.1:80", "0.0.0.0:443"], ""),
            (&["lo"], &["0.0.0.0:80"], "other interfaces than lo"),
            (&["eth0"], &["0.0.0.0:80", "0.0.0.0:443"], "decrypts TLS"),
        ] {
            let messages = likely_mistakes(&config, attached, &host(&ways, listeners));
            assert_eq!(
                messages.is_empty(),
                wanted.is_empty(),
                "{listeners:?}: {messages:?}"
            );
            assert!(messages.concat().contains(wanted), "{messages:?}");
        }
        let alone = host(&ways[..1], &["0.0.0.0:80"]);
        assert_eq!(likely_mistakes(&config, &["lo"], &alone), [""; 0]);
        let mut down = host(&ways, &[]);
        down.devices[1].is_up = false;
        let messages = likely_mistakes(&config, &["eth0"], &down);
        assert_eq!(messages, ["the interface eth0 is down"]);
    }

    #[test]
    fn limits_that_cannot_be_reached_are_named() {
        let host = host(&[], &[]);
        for (more, wanted) in [
            ("", ""),
            ("[tiers.slow]\ndaily_quota = 1441\nrate = \"1/min\"\n", ""),
            (
                "[tiers.slow]\ndaily_quota = 1442\nrate = \"1/min\"\n",
                "it is 1442, and the rate 1/min admits at most 1441 requests in a day",
            ),
            (
                "[tiers.slow]\nrate = \"1/min\"\ndaily_quota = \"unlimited\"\n",
                "",
            ),
            (
                "[tiers.few]\ndaily_quota = 5\nburst = 6\n",
                "the burst of the tier few",
            ),
        ] {
            let messages = likely_mistakes(&config(&[80], more), &[], &host);
            assert_eq!(
                messages.is_empty(),
                wanted.is_empty(),
                "{more}: {messages:?}"
            );
            assert!(messages.concat().contains(wanted), "{messages:?}");
        }
        for port in [443, 8443] {
            let messages = likely_mistakes(&config(&[80, port], ""), &[], &host);
            assert!(
                messages.concat().contains(&format!("port {port} usually")),
                "{messages:?}"
            );
        }
    }
}

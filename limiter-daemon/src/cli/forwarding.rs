// SPDX-License-Identifier: MIT OR Apache-2.0

//! Warnings about a gateway that forwards packets without checking their source addresses.

use std::fs;

use super::listed::listed;

/// The kernel's settings for forwarding packets that arrive on an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Forwarding {
    /// The name of the interface.
    pub(super) name: String,
    /// The guarded interface on which `name` is stacked, if `name` is not guarded itself.
    pub(super) guarded: Option<String>,
    /// The mode of the source address check, or `None` if IPv4 is not forwarded. 0 is no check, 1
    /// is strict and 2 is loose (`rp_filter` in Documentation/networking/ip-sysctl.rst of the
    /// kernel).
    pub(super) v4: Option<u8>,
    /// Whether IPv6 is forwarded.
    pub(super) v6: bool,
}

/// Reads the settings of the interface `name` in this network namespace. If `guarded` is `None`,
/// the interface itself is guarded. Otherwise, the interface is stacked on the interface `guarded`.
/// There are no warnings about settings that cannot be read.
pub(super) fn read(name: &str, guarded: Option<&str>) -> Forwarding {
    // Each process sees the settings of its own network namespace here (proc(5)).
    let number = |family: &str, of: &str, variable: &str| -> Option<u8> {
        let path = format!("/proc/sys/net/{family}/conf/{of}/{variable}");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let forwards = |family| number(family, name, "forwarding").is_some_and(|on| on != 0);
    // The kernel applies the larger of two values: the one for all interfaces, and the one for this
    // interface.
    let check = ["all", name]
        .into_iter()
        .filter_map(|of| number("ipv4", of, "rp_filter"))
        .max();
    Forwarding {
        name: name.to_owned(),
        guarded: guarded.map(str::to_owned),
        v4: check.filter(|_| forwards("ipv4")),
        v6: forwards("ipv6"),
    }
}

/// Returns warnings about forwarded packets whose source addresses may be forged.
pub(super) fn warnings(interfaces: &[Forwarding]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (check, how) in [
        (0, "does not check their source addresses (rp_filter is 0)"),
        (
            2,
            "accepts any source address that it has a route to (rp_filter is 2)",
        ),
    ] {
        let names = interfaces
            .iter()
            .filter(|interface| interface.v4 == Some(check));
        if let Some(names) = listed(names.map(|interface| interface.name.as_str())) {
            warnings.push(format!(
                "this host forwards packets from {names}, and {how}: a host there can send packets with \
                 the address of a server elsewhere; set net.ipv4.conf.INTERFACE.rp_filter to 1"
            ));
        }
    }
    let v6 = interfaces.iter().filter(|interface| interface.v6);
    if let Some(names) = listed(v6.map(|interface| interface.name.as_str())) {
        warnings.push(format!(
            "this host forwards IPv6 packets from {names}, whose source addresses the kernel does not \
             check (there is no rp_filter for IPv6): drop packets with a wrong source in netfilter, for \
             example in nftables with `fib saddr . iif oif missing drop` at the hook prerouting"
        ));
    }
    for interface in interfaces {
        if let Some(guarded) = &interface.guarded
            && (interface.v4.is_some() || interface.v6)
        {
            let name = &interface.name;
            warnings.push(format!(
                "this host forwards packets from {name}, which arrive on {guarded}: a packet that a \
                 client sends with the address of a server, and that leaves through {name} again, is \
                 taken for one of the server; attach {name} instead of {guarded}"
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_that_accept_any_source_are_warned_of() {
        let of = |name: &str, v4, v6| Forwarding {
            name: name.to_owned(),
            guarded: None,
            v4,
            v6,
        };
        assert_eq!(
            warnings(&[of("a", None, false), of("b", Some(1), false)]),
            [""; 0]
        );
        let found = warnings(&[
            of("a", Some(0), true),
            of("b", Some(2), false),
            of("c", Some(0), false),
        ]);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("from a, c, and") && found[0].contains("rp_filter is 0"));
        assert!(found[1].contains("from b, and") && found[1].contains("rp_filter is 2"));
        assert!(found[2].contains("IPv6") && found[2].contains("from a, whose"));
        let found = warnings(&[Forwarding {
            guarded: Some("eth0".to_owned()),
            ..of("eth0.5", Some(1), false)
        }]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].ends_with("attach eth0.5 instead of eth0"),
            "{found:?}"
        );
    }
}

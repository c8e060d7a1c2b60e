// SPDX-License-Identifier: MIT OR Apache-2.0

//! nftables rules in a namespace that drop packets and translate ports and addresses.

use std::net::Ipv4Addr;

use crate::{Namespace, process};

/// Rules in a namespace, which are removed with the namespace or when this value is dropped.
#[derive(Debug)]
pub struct Rules<'a> {
    namespace: &'a Namespace,
    table: &'static str,
}

impl<'a> Rules<'a> {
    /// Drops every TCP packet that a socket of the namespace sends and that matches `matching` (for
    /// example `sport 80` or `flags & rst == rst`). TC programs do not see these packets, because
    /// traffic control comes later.
    pub fn lose(namespace: &'a Namespace, matching: &str) -> Self {
        let hook = "type filter hook output priority 0;";
        Self::add(namespace, "lose", hook, &format!("tcp {matching} drop"))
    }

    /// Answers every TCP packet to a port with a reset, as a firewall in front of a server does. A
    /// packet that is itself a reset is not answered.
    pub fn reset(namespace: &'a Namespace, port: u16) -> Self {
        let hook = "type filter hook input priority 0;";
        let rule = format!("tcp dport {port} tcp flags & rst == 0 reject with tcp reset");
        Self::add(namespace, "refuse", hook, &rule)
    }

    /// Drops at random one in `one_in` of the TCP packets that the namespace forwards and that
    /// match `matching`. The packets are dropped after the TC programs on the incoming interface
    /// have seen them.
    pub fn lose_forwarded(namespace: &'a Namespace, matching: &str, one_in: u32) -> Self {
        let hook = "type filter hook forward priority 0;";
        let rule = format!("tcp {matching} numgen random mod {one_in} == 0 drop");
        Self::add(namespace, "lose", hook, &rule)
    }

    /// Redirects connections from one port to another port of the same host.
    pub fn redirect(namespace: &'a Namespace, from: u16, to: u16) -> Self {
        let hook = "type nat hook prerouting priority -100;";
        let rule = format!("tcp dport {from} redirect to :{to}");
        Self::add(namespace, "translate", hook, &rule)
    }

    /// Translates the addresses of all clients of `port`. The sockets of the namespace then see
    /// `address` as the address of each client.
    pub fn source_nat(namespace: &'a Namespace, port: u16, address: Ipv4Addr) -> Self {
        let hook = "type nat hook input priority 100;";
        let rule = format!("ip daddr != 127.0.0.1 tcp dport {port} snat ip to {address}");
        Self::add(namespace, "disguise", hook, &rule)
    }

    /// Drops every TCP packet of the namespace that connection tracking (nf_conntrack) considers
    /// invalid, and counts the packets that it considers part of a connection.
    pub fn drop_invalid(namespace: &'a Namespace) -> Self {
        let table = "invalid";
        let rules = Self { namespace, table };
        rules.nft(&format!("add table inet {table}"));
        for name in ["valid", "invalid"] {
            rules.nft(&format!("add counter inet {table} {name}"));
        }
        for hook in ["input", "output"] {
            rules.nft(&format!(
                "add chain inet {table} {hook} {{ type filter hook {hook} priority 0; }}"
            ));
            for rule in [
                "meta l4proto tcp ct state established counter name valid",
                "meta l4proto tcp ct state invalid counter name invalid drop",
            ] {
                rules.nft(&format!("add rule inet {table} {hook} {rule}"));
            }
        }
        rules
    }

    /// Returns the number of packets that the counter `name` of the rules has counted.
    #[track_caller]
    pub fn counted(&self, name: &str) -> u64 {
        let words = format!("list counter inet {} {name}", self.table);
        let listing = process::succeed(self.namespace.command("nft").arg(words));
        let mut words = listing.split_whitespace();
        words
            .find(|word| *word == "packets")
            .and_then(|_| words.next()?.parse().ok())
            .unwrap_or_else(|| panic!("no number of packets in {listing}"))
    }

    fn add(namespace: &'a Namespace, table: &'static str, hook: &str, rule: &str) -> Self {
        let rules = Self { namespace, table };
        rules.nft(&format!("add table inet {table}"));
        rules.nft(&format!("add chain inet {table} packets {{ {hook} }}"));
        rules.nft(&format!("add rule inet {table} packets {rule}"));
        rules
    }

    fn nft(&self, words: &str) {
        process::succeed(self.namespace.command("nft").arg(words));
    }
}

impl Drop for Rules<'_> {
    fn drop(&mut self) {
        // A failure is ignored, because the rules are removed with the namespace.
        let words = format!("delete table inet {}", self.table);
        let _ = process::output(self.namespace.command("nft").arg(words));
    }
}

//! Packets lost and ports translated, by the namespace's own nftables.

use std::net::Ipv4Addr;

use crate::{Namespace, process};

/// Rules of a namespace; they go with it, or with this.
#[derive(Debug)]
pub struct Rules<'a> {
    namespace: &'a Namespace,
    table: &'static str,
}

impl<'a> Rules<'a> {
    /// Loses every TCP packet that leaves a socket of the namespace and matches
    /// (`sport 80`, `flags & rst == rst`). That is before traffic control: no
    /// program there sees it either.
    pub fn lose(namespace: &'a Namespace, matching: &str) -> Self {
        let hook = "type filter hook output priority 0;";
        Self::add(namespace, "lose", hook, &format!("tcp {matching} drop"))
    }

    /// Hands connections to one port to another port of the same host.
    pub fn redirect(namespace: &'a Namespace, from: u16, to: u16) -> Self {
        let hook = "type nat hook prerouting priority -100;";
        let rule = format!("tcp dport {from} redirect to :{to}");
        Self::add(namespace, "translate", hook, &rule)
    }

    /// Has the sockets of the namespace see all clients of a port under another address.
    pub fn disguise(namespace: &'a Namespace, port: u16, address: Ipv4Addr) -> Self {
        let hook = "type nat hook input priority 100;";
        let rule = format!("ip daddr != 127.0.0.1 tcp dport {port} snat ip to {address}");
        Self::add(namespace, "disguise", hook, &rule)
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
        // Nothing to do about a failure here: they go with the namespace.
        let words = format!("delete table inet {}", self.table);
        let _ = process::output(self.namespace.command("nft").arg(words));
    }
}

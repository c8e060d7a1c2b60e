// SPDX-License-Identifier: MIT OR Apache-2.0

//! The hooks of an interface, and the programs that are attached there.

use std::fmt::{self, Display, Formatter};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The direction of the packets that an attached program sees.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// Packets that the interface receives.
    Ingress,
    /// Packets that the interface sends.
    Egress,
}

impl Hook {
    /// The order in which programs are attached. Egress comes first, because the egress program
    /// begins a flow when the server's SYN-ACK leaves. If only the ingress program were attached,
    /// it would take every new connection for one that is older than limiter, and would not limit
    /// it.
    pub const ATTACH_ORDER: [Self; 2] = [Self::Egress, Self::Ingress];

    /// The order in which programs replace the programs of an older layout, which have their own
    /// map of flows. Ingress comes first. Otherwise the new egress program could begin a flow that
    /// is missing in the map of the old ingress program, and the old ingress program would end the
    /// connection. Until the egress program is replaced too, the new ingress program takes a
    /// connection without a flow for one that is older than limiter, and lets it continue.
    pub const TAKEOVER_ORDER: [Self; 2] = [Self::Ingress, Self::Egress];

    /// Returns the name in JSON and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// The mechanism by which a program is attached.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Mechanism {
    /// A TCX link (Linux 6.6 and later).
    Tcx,
    /// A filter of a clsact qdisc.
    Clsact,
}

impl Mechanism {
    /// Returns the name in JSON and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// A hook that should have a program of limiter but does not have one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Missing {
    /// The name of the interface.
    pub interface: String,
    /// The direction.
    pub hook: Hook,
    /// The reason.
    pub reason: String,
}

/// A program or a filter of other software at a hook.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Standing {
    /// The mechanism by which it is attached.
    pub mechanism: Mechanism,
    /// The id of the program, as `bpftool` shows it. It is `null` for a filter without a program.
    pub program_id: Option<u32>,
    /// The name of the program or of the filter, or the kind of a filter that has no name. It is
    /// `null` if the daemon lacks the right to read the name (CAP_SYS_ADMIN).
    pub name: Option<String>,
    /// The priority (`pref`), if it is a filter.
    pub priority: Option<u16>,
}

impl Display for Standing {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self.priority {
            Some(priority) => write!(out, "the filter of priority {priority}")?,
            None => write!(out, "the TCX program")?,
        }
        match (&self.name, self.program_id) {
            (Some(name), Some(id)) => write!(out, " {name} (id {id})"),
            (Some(name), None) => write!(out, " ({name})"),
            (None, Some(id)) => write!(out, " of id {id}"),
            (None, None) => Ok(()),
        }
    }
}

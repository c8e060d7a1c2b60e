// SPDX-License-Identifier: MIT OR Apache-2.0

//! The names of the maps. The comments state what the maps contain.

/// The map with the [`super::Config`].
pub const CONFIG: &str = "CONFIG";
/// The map with the [`super::Ports`].
pub const PORTS: &str = "PORTS";
/// The map with the [`super::Clock`].
pub const CLOCK: &str = "CLOCK";
/// The map with a [`super::KeyEntry`] for each [`super::Digest`].
pub const KEYS: &str = "KEYS";
/// The map with the [`super::Limits`] for each scope id.
pub const LIMITS: &str = "LIMITS";
/// The map with the [`super::Lease`] for each scope id.
pub const LEASES: &str = "LEASES";
/// The map with the [`super::Limits`] that apply after [`super::Limits::until_s`], for each
/// scope id that has such limits.
pub const ENDED: &str = "ENDED";
/// The map with the [`super::ScopeState`] for each scope id.
pub const STATE: &str = "STATE";
/// The ring buffer with [`super::Event`]s.
pub const EVENTS: &str = "EVENTS";
/// The ring buffer with [`super::RefusalRecord`]s.
pub const REFUSALS: &str = "REFUSALS";
/// The map with a [`super::FlowEntry`] for each [`super::FlowKey`].
pub const FLOWS: &str = "FLOWS";
/// The map with a [`crate::http::Unfinished`] for each [`super::UnfinishedKey`].
pub const UNFINISHED: &str = "UNFINISHED";
/// The map with a [`super::Tomb`] for each [`super::FlowKey`].
pub const TOMBS: &str = "TOMBS";
/// The map with a [`super::Text`] for each [`super::TextKey`].
pub const TEXTS: &str = "TEXTS";
/// The map with a u64 for each [`super::counter`], per CPU.
pub const COUNTERS: &str = "COUNTERS";
/// The map with a [`super::Unused`], followed by scope ids.
pub const UNUSED: &str = "UNUSED";
/// The map with the [`super::Sweep`].
pub const SWEEP: &str = "SWEEP";
/// The map with [`super::Suspect`]s by index.
pub const SUSPECTS: &str = "SUSPECTS";
/// The map with the [`super::Suspect`] to remove.
pub const FORGET: &str = "FORGET";
/// The map with a [`super::UntrackedConnection`] for each [`super::FlowKey`].
pub const UNTRACKED: &str = "UNTRACKED";
/// The map with a [`super::Client`] for each [`super::ClientKey`].
pub const CLIENTS: &str = "CLIENTS";
/// The map with a [`super::RefusedClient`] for each [`super::ClientKey`].
pub const REFUSED: &str = "REFUSED";
/// The map with one of the values in [`super::switch`].
pub const SWITCH: &str = "SWITCH";
/// The map with programs, which are described at [`super::switch::PROGRAMS`].
pub const PROGRAMS: &str = "PROGRAMS";

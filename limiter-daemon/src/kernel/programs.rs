// SPDX-License-Identifier: MIT OR Apache-2.0

//! Names and loads the programs, which depend on the hook and on the link layer of the interface.

use aya::{
    Ebpf,
    programs::{ProgramError, SchedClassifier},
};

use super::{KernelError, netdev::LinkLayer};
use crate::domain::hook::Hook;

/// The names of the programs that are attached.
pub(super) const PROGRAMS: [&str; 4] = [
    "limiter_ingress",
    "limiter_egress",
    "limiter_ingress_l3",
    "limiter_egress_l3",
];

/// The name of the program that removes dead flows.
pub(super) const SWEEP_PROGRAM: &str = "limiter_sweep";

/// The name of the program that removes one flow.
pub(super) const FORGET_PROGRAM: &str = "limiter_forget";

/// Returns the name of the program for a hook of an interface with this link layer.
pub(super) fn program_name(hook: Hook, link_layer: LinkLayer) -> &'static str {
    let [ingress, egress, ingress_l3, egress_l3] = PROGRAMS;
    match (hook, link_layer) {
        (Hook::Ingress, LinkLayer::Ethernet) => ingress,
        (Hook::Egress, LinkLayer::Ethernet) => egress,
        (Hook::Ingress, LinkLayer::None) => ingress_l3,
        (Hook::Egress, LinkLayer::None) => egress_l3,
    }
}

/// Returns the name of the program that replaces the program of [`program_name`] while larger maps
/// are put into force.
pub(super) fn hold_name(hook: Hook, link_layer: LinkLayer) -> &'static str {
    match (hook, link_layer) {
        (Hook::Ingress, LinkLayer::Ethernet) => "limiter_hold_ingress",
        (Hook::Egress, LinkLayer::Ethernet) => "limiter_hold_egress",
        (Hook::Ingress, LinkLayer::None) => "limiter_hold_ingress_l3",
        (Hook::Egress, LinkLayer::None) => "limiter_hold_egress_l3",
    }
}

/// A function that returns the name of the program for a hook and a link layer.
pub(super) type ProgramChoice = fn(Hook, LinkLayer) -> &'static str;

/// Returns the program `name`, and loads it into the kernel if it is not loaded yet.
pub(super) fn loaded<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, KernelError> {
    let refused = |source| KernelError::Program {
        name: name.to_owned(),
        source: Box::new(source),
    };
    let program: &mut SchedClassifier = ebpf
        .program_mut(name)
        .ok_or_else(|| KernelError::Missing(format!("program {name}")))?
        .try_into()
        .map_err(refused)?;
    match program.load() {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(program),
        Err(source) => Err(refused(source)),
    }
}

/// Returns the id of a program, and loads the program if necessary.
pub(super) fn program_id(ebpf: &mut Ebpf, name: &str) -> Result<u32, KernelError> {
    let info = loaded(ebpf, name)?.info();
    info.map(|info| info.id())
        .map_err(|source| KernelError::Program {
            name: name.to_owned(),
            source: Box::new(source),
        })
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Attaches programs with TCX links, before other programs if the configuration requires that, and
//! reads the positions of the programs.

use std::{fs, io, path::Path};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier,
    links::{FdLink, LinkError, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions},
};

use super::{
    KernelError,
    error::{attach_error, io_error, link_error, pin_error},
    links::{interface_of, link_pin, next_link_pin, read_link, unpin_link},
    netdev::Interface,
    pins::PinDirectory,
    stand_in::StandIn,
    sys,
};
use crate::{
    config::Order,
    domain::hook::{Hook, Standing},
};

/// Returns the `enum bpf_attach_type` of a hook (include/uapi/linux/bpf.h).
fn attach_type(hook: Hook) -> u32 {
    match hook {
        Hook::Ingress => 46,
        Hook::Egress => 47,
    }
}

/// Returns the ids of the programs at a hook, in the order in which packets meet them.
fn programs(interface: &Interface, hook: Hook) -> Result<Vec<u32>, KernelError> {
    match sys::query_tcx(interface.index, attach_type(hook)) {
        // Kernels before 6.6 have no TCX.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Vec::new()),
        found => found.map_err(|error| KernelError::Attach {
            interface: interface.name.clone(),
            hook: hook.as_str(),
            reason: format!("cannot list the attached programs: {error}"),
        }),
    }
}

/// Returns the programs of other software that precede the program `ours` at a hook, or all
/// programs of other software if `ours` is `None`.
///
/// # Errors
/// Returns [`KernelError::Attach`] if the kernel rejects the request.
pub(super) fn before(
    interface: &Interface,
    hook: Hook,
    ours: Option<u32>,
) -> Result<Vec<Standing>, KernelError> {
    let programs = programs(interface, hook)?.into_iter();
    Ok(programs
        .take_while(|program| Some(*program) != ours)
        .map(Standing::of_tcx)
        .filter(|standing| !standing.is_limiter())
        .collect())
}

/// Returns whether our pinned link for `hook` is on `interface` and has the program with the id
/// `program`.
///
/// # Errors
/// Returns [`KernelError::Io`] if a file operation fails.
pub(super) fn is_there(
    pins: &PinDirectory,
    interface: &Interface,
    hook: Hook,
    program: u32,
) -> Result<bool, KernelError> {
    let link = read_link(&link_pin(pins, &interface.name, hook))?;
    Ok(link.is_some_and(|link| link.interface == interface.index && link.program == program))
}

/// Attaches a program to a hook. If our link is on the hook already, the program of the link is
/// replaced. Otherwise a link is added. Returns a description of the change.
///
/// # Errors
/// Returns an error if the kernel rejects the program or the link.
pub(super) fn attach(
    program: &mut SchedClassifier,
    pins: &PinDirectory,
    (interface, hook): (&Interface, Hook),
    order: Order,
) -> Result<String, KernelError> {
    let failed = |source: ProgramError| attach_error(interface, hook, &source);
    let pin = link_pin(pins, &interface.name, hook);
    if let Some(link) = current_link(&pin, interface, hook)? {
        // bpf_link_update replaces the program in one step, so that each packet meets exactly one
        // of the old and the new program.
        program
            .attach_to_link(link)
            .and_then(|id| program.take_link(id))
            .map_err(failed)?;
        return Ok(format!(
            "replaced the program on {} ({})",
            interface.name,
            hook.as_str()
        ));
    }
    put(program, &pin, (interface, hook), order)?;
    Ok(format!(
        "attached to {} ({})",
        interface.name,
        hook.as_str()
    ))
}

/// Moves our program before all others. A link cannot be moved, so a new link with a stand-in for
/// the program is attached first. Then the old link is detached, and the program replaces its
/// stand-in. While both links exist, the program runs twice for each packet. In the second run it
/// treats the packet as a retransmission, so it does not charge a request twice.
///
/// # Errors
/// Returns an error if the kernel rejects an operation. The old link stays until the new one is
/// attached.
pub(super) fn put_first(
    program: &mut SchedClassifier,
    pins: &PinDirectory,
    (interface, hook): (&Interface, Hook),
) -> Result<(), KernelError> {
    let pin = link_pin(pins, &interface.name, hook);
    let next = next_link_pin(pins, &interface.name, hook);
    unpin_link(&next)?;
    let fd = program
        .fd()
        .map_err(|source| attach_error(interface, hook, &source))?;
    let failed = io_error("move the link to", &next);
    let stand_in = StandIn::of(fd, &pins.links()).map_err(&failed)?;
    stand_in
        .put_first(interface.index, attach_type(hook), &next)
        .map_err(&failed)?;
    unpin_link(&pin)?;
    fs::rename(&next, &pin).map_err(io_error("rename", &next))?;
    attach(program, pins, (interface, hook), Order::First)?;
    drop(stand_in);
    Ok(())
}

/// Attaches a program to a hook with a new link, and pins the link.
fn put(
    program: &mut SchedClassifier,
    pin: &Path,
    (interface, hook): (&Interface, Hook),
    order: Order,
) -> Result<(), KernelError> {
    let failed = |source: ProgramError| attach_error(interface, hook, &source);
    // Other software may have removed the directory.
    if let Some(directory) = pin.parent() {
        fs::create_dir_all(directory).map_err(io_error("create", directory))?;
    }
    let place = match order {
        Order::First => LinkOrder::first(),
        Order::Last => LinkOrder::last(),
    };
    let id = program
        .attach_with_options(
            &interface.name,
            hook.attach_type(),
            TcAttachOptions::TcxOrder(place),
        )
        .map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    FdLink::try_from(link)
        .map_err(link_error(pin))?
        .pin(pin)
        .map_err(pin_error(pin))?;
    Ok(())
}

/// Returns the link that is pinned at `pin` if the link is on `interface`. If the interface of the
/// link is gone, the link is unpinned, even if another interface has the same name now.
///
/// # Errors
/// Returns an error if the kernel or the file system rejects an operation.
pub(super) fn current_link(
    pin: &Path,
    interface: &Interface,
    hook: Hook,
) -> Result<Option<SchedClassifierLink>, KernelError> {
    let link = match PinnedLink::from_pin(pin) {
        Ok(link) => FdLink::from(link),
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(link_error(pin)(error)),
    };
    let program = link.info().map_err(link_error(pin))?.program_id();
    let programs = programs(interface, hook)?;
    // The program and the interface are both compared, because an interface in another namespace
    // can have the same index, and the program can be on several interfaces.
    if programs.contains(&program) && interface_of(pin)? == Some(interface.index) {
        return SchedClassifierLink::try_from(link)
            .map(Some)
            .map_err(link_error(pin));
    }
    log::info!(
        "removing the pinned link {}, whose interface has gone",
        pin.display()
    );
    unpin_link(pin)?;
    Ok(None)
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Attaches our programs as clsact filters.

use aya::programs::{
    ProgramError, SchedClassifier,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};

use super::{
    KernelError,
    clsact::{self, Filters, LAST_PRIORITY},
    error::{attach_error, chain},
    netdev::Interface,
    pins::PinDirectory,
    survey::Survey,
};
use crate::{config::Order, domain::hook::Hook};

/// Returns the filters at a hook.
///
/// # Errors
/// Returns [`KernelError::Attach`] if the kernel rejects the request.
pub(super) fn listed(
    survey: &mut Survey,
    (interface, hook): (&Interface, Hook),
) -> Result<Filters, KernelError> {
    Filters::ask(&mut survey.route, interface.index, hook).map_err(|error| KernelError::Attach {
        interface: interface.name.clone(),
        hook: hook.as_str(),
        reason: format!("cannot list the filters: {error}"),
    })
}

/// Attaches a program to a hook. If our filter is on the hook already, the program of the filter is
/// replaced. Otherwise a filter is added. Returns a description of the change.
///
/// # Errors
/// Returns an error if the kernel rejects the filter or the qdisc.
pub(super) fn attach(
    program: &mut SchedClassifier,
    pins: &PinDirectory,
    survey: &mut Survey,
    on: (&Interface, Hook),
    order: Order,
) -> Result<String, KernelError> {
    let (interface, hook) = on;
    add_qdisc(survey, on)?;
    let filters = listed(survey, on)?;
    let ours = filters.ours(pins);
    let Some((first, others)) = ours.split_first() else {
        let priority = match order {
            Order::First => filters.best_priority(),
            Order::Last => LAST_PRIORITY,
        };
        let [handle, _] = clsact::handles(pins);
        add(program, on, priority, handle)?;
        return Ok(format!(
            "attached to {} ({})",
            interface.name,
            hook.as_str()
        ));
    };
    let failed = |source: ProgramError| attach_error(interface, hook, &source);
    // Attaching a program to an existing filter replaces the program of the filter in one step.
    let link = clsact::link(&interface.name, hook, *first)
        .map_err(|error| failed(TcError::IoError(error).into()))?;
    let id = program.attach_to_link(link).map_err(failed)?;
    forget(program.take_link(id).map_err(failed)?);
    // Further filters of ours are left over from a daemon that died while it replaced one filter
    // with another.
    for place in others {
        clsact::remove_filter(&interface.name, hook, *place)?;
    }
    Ok(format!(
        "replaced the program on {} ({})",
        interface.name,
        hook.as_str()
    ))
}

/// Moves our filter to the earliest possible place. A second filter is added there before the old
/// one is removed.
///
/// # Errors
/// Returns an error if the kernel rejects the change. The old filter stays until the new one is
/// attached.
pub(super) fn put_first(
    program: &mut SchedClassifier,
    pins: &PinDirectory,
    survey: &mut Survey,
    on: (&Interface, Hook),
) -> Result<(), KernelError> {
    let filters = listed(survey, on)?;
    let old = filters.ours(pins);
    let taken = |handle: &u32| old.iter().any(|place| place.handle == *handle);
    let [usual, other] = clsact::handles(pins);
    let handle = if taken(&usual) { other } else { usual };
    add(program, on, filters.best_priority(), handle)?;
    let (interface, hook) = on;
    for place in old {
        clsact::remove_filter(&interface.name, hook, place)?;
    }
    Ok(())
}

/// The kind of qdisc that has both hooks.
pub(super) const CLSACT: &str = "clsact";

/// Adds a qdisc with both hooks, unless the interface has one.
fn add_qdisc(
    survey: &mut Survey,
    (interface, hook): (&Interface, Hook),
) -> Result<(), KernelError> {
    let refused = |reason: String| KernelError::Attach {
        interface: interface.name.clone(),
        hook: hook.as_str(),
        reason,
    };
    match survey.qdiscs.get(&interface.index) {
        Some(kind) if kind == CLSACT => Ok(()),
        Some(kind) => Err(refused(format!(
            "the interface has the qdisc `{kind}` in the place of clsact, and that qdisc has no \
             egress hook: move its filters to clsact (`tc qdisc del dev {0} {kind}`, which removes \
             them, then `tc qdisc add dev {0} clsact`), or use TCX (`attach.hook = \"auto\"`, \
             Linux 6.6)",
            interface.name
        ))),
        None => {
            if let Err(error) = tc::qdisc_add_clsact(&interface.name) {
                return Err(refused(format!(
                    "cannot add the qdisc clsact: {}",
                    chain(&error)
                )));
            }
            survey.qdiscs.insert(interface.index, CLSACT.to_owned());
            Ok(())
        }
    }
}

/// Attaches a program to a hook with a new filter.
fn add(
    program: &mut SchedClassifier,
    (interface, hook): (&Interface, Hook),
    priority: u16,
    handle: u32,
) -> Result<(), KernelError> {
    let failed = |source: ProgramError| attach_error(interface, hook, &source);
    let options = NlOptions {
        priority,
        handle: TcHandle::from(handle),
        ..NlOptions::default()
    };
    let id = program
        .attach_with_options(
            &interface.name,
            hook.attach_type(),
            TcAttachOptions::Netlink(options),
        )
        .map_err(failed)?;
    // Aya would remove the filter if the link were dropped, but the filter has to outlive this
    // process. The link has no descriptor, so forgetting the link leaks nothing.
    forget(program.take_link(id).map_err(failed)?);
    Ok(())
}

#[expect(
    clippy::mem_forget,
    reason = "a clsact link holds no descriptor; dropping it would detach the filter"
)]
fn forget(link: SchedClassifierLink) {
    std::mem::forget(link);
}

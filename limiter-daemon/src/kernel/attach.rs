// SPDX-License-Identifier: MIT OR Apache-2.0

//! Attaches the programs to interfaces, and takes over the attachments of an earlier daemon.

mod replace;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Instant,
};

use aya::{Ebpf, programs::TcAttachType};

use super::{
    Attachment, KernelError,
    chain::AttemptBudget,
    clsact::{remove_all_filters, remove_filters},
    error::{io_error, list_error},
    expedite::ShortGracePeriods,
    filters::{self, CLSACT},
    links::{interface_of, link_pin, pinned_links, unpin_link},
    netdev::{self, Interface},
    pins::PinDirectory,
    programs::{ProgramChoice, loaded, program_id, program_name},
    rtnl::Route,
    stand_in,
    survey::Survey,
    tcx,
};
use crate::{
    config::Order,
    domain::hook::{Hook, Mechanism, Missing, Standing},
};

/// The name of an interface, and one of its two hooks.
type InterfaceHook = (String, Hook);

/// The hooks that have our program, and those that should have it but do not.
pub(super) struct Attachments {
    mechanism: Mechanism,
    order: Order,
    /// The order in which the two hooks of an interface get their programs.
    hooks: [Hook; 2],
    pins: PinDirectory,
    attached: BTreeMap<InterfaceHook, Location>,
    /// The hooks that should have a program but have none, each with the reason.
    missing: BTreeMap<InterfaceHook, String>,
    /// For each hook, the budget of attempts to put our program back or to move it before other
    /// programs.
    budgets: BTreeMap<InterfaceHook, AttemptBudget>,
    /// Whether [`Attachments::follow`] has been called. The first call takes over the attachments
    /// of an earlier daemon, whose filters are not recorded here.
    has_followed: bool,
}

/// The interface of an attached program, and the position of the program at the hook.
#[derive(Debug, Clone)]
struct Location {
    /// The index that the interface had when the program was attached.
    index: u32,
    /// The programs and filters that a packet meets before our program.
    before: Vec<Standing>,
}

/// The position of our program among the programs and filters at a hook.
struct Position {
    before: Vec<Standing>,
    /// Whether our program could be moved before some of the programs and filters in `before`.
    can_be_earlier: bool,
}

impl Hook {
    pub(super) fn attach_type(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }
}

impl Attachments {
    pub(super) fn new(
        mechanism: Mechanism,
        order: Order,
        hooks: [Hook; 2],
        pins: PinDirectory,
    ) -> Self {
        Self {
            mechanism,
            order,
            hooks,
            pins,
            attached: BTreeMap::new(),
            missing: BTreeMap::new(),
            budgets: BTreeMap::new(),
            has_followed: false,
        }
    }

    /// Returns attachments with the same settings, but without any attached program.
    pub(super) fn emptied(&self) -> Self {
        Self::new(self.mechanism, self.order, self.hooks, self.pins.clone())
    }

    pub(super) fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    pub(super) fn list(&self) -> Vec<Attachment> {
        self.attached
            .iter()
            .map(|((interface, hook), location)| Attachment {
                interface: interface.clone(),
                hook: *hook,
                before: location.before.clone(),
            })
            .collect()
    }

    pub(super) fn missing(&self) -> Vec<Missing> {
        self.missing
            .iter()
            .map(|((interface, hook), reason)| Missing {
                interface: interface.clone(),
                hook: *hook,
                reason: reason.clone(),
            })
            .collect()
    }

    /// Returns the hooks at which our program has had to be put back several times recently.
    pub(super) fn contested(&mut self) -> Vec<InterfaceHook> {
        let now = Instant::now();
        let all = self.budgets.iter_mut();
        all.filter_map(|(at, budget)| budget.is_short(now).then(|| at.clone()))
            .collect()
    }

    /// See [`super::Plane::follow`].
    pub(super) fn follow(
        &mut self,
        ebpf: &mut Ebpf,
        interfaces: &[Interface],
    ) -> Result<Vec<String>, KernelError> {
        // All programs are loaded before any hook is changed. If the kernel rejects one of the
        // programs, all hooks keep the older programs, which work together.
        for interface in interfaces {
            for hook in Hook::ATTACH_ORDER {
                loaded(ebpf, program_name(hook, interface.link_layer))?;
            }
        }
        let mut changes = self.follow_names(interfaces)?;
        self.has_followed = true;
        let is_first = self.attached.is_empty();
        if is_first {
            changes.extend(self.release_old_filters(interfaces)?);
        }
        let mut survey = Survey::new()?;
        let new = interfaces.iter().filter(|interface| {
            let at = (interface.name.clone(), Hook::Ingress);
            let location = self.attached.get(&at);
            location.is_none_or(|location| !location.before.is_empty())
        });
        let short = ShortGracePeriods::during(match self.mechanism {
            Mechanism::Tcx => new.count() * Hook::ATTACH_ORDER.len(),
            Mechanism::Clsact => 0,
        });
        self.missing.clear();
        let mut failed = Vec::new();
        for interface in interfaces {
            for hook in self.hooks {
                if let Err(error) =
                    self.ensure_attached(ebpf, &mut survey, (interface, hook), &mut changes)
                {
                    let at = (interface.name.clone(), hook);
                    self.attached.remove(&at);
                    self.missing.insert(at, error.to_string());
                    failed.push(error);
                }
            }
        }
        drop(short);
        if is_first {
            stand_in::clear(&self.pins.links());
            self.hooks = Hook::ATTACH_ORDER;
        }
        for (name, hook) in self.unwanted(interfaces)? {
            match self.release(&name, hook) {
                Ok(change) => changes.push(change),
                Err(error) => failed.push(error),
            }
        }
        if failed.is_empty() {
            return Ok(changes);
        }
        // The error that is returned below does not contain the changes that have been made, so the
        // changes are logged here.
        for change in &changes {
            log::info!("{change}");
        }
        match failed.len() {
            1 => Err(failed.remove(0)),
            count => Err(KernelError::Several {
                first: Box::new(failed.remove(0)),
                others: count - 1,
            }),
        }
    }

    /// Makes sure that our program is at a hook, and before other programs if the configuration
    /// requires that.
    fn ensure_attached(
        &mut self,
        ebpf: &mut Ebpf,
        survey: &mut Survey,
        on: (&Interface, Hook),
        changes: &mut Vec<String>,
    ) -> Result<(), KernelError> {
        let (interface, hook) = on;
        let at = (interface.name.clone(), hook);
        let was_there =
            self.attached.get(&at).map(|location| location.index) == Some(interface.index);
        let mut position = match was_there {
            true => self.position(ebpf, survey, on)?,
            false => None,
        };
        if position.is_none() {
            if was_there {
                // The result is ignored. The program is put back even if the budget is empty,
                // because without the program nothing is limited.
                let _is_left = self.budget(&at, survey.now).take(survey.now);
            }
            changes.push(self.attach(ebpf, survey, on, program_name)?);
            position = self.position(ebpf, survey, on)?;
        }
        let Some(mut position) = position else {
            return Err(KernelError::Attach {
                interface: interface.name.clone(),
                hook: hook.as_str(),
                reason: "the program is gone right after attaching: other software detaches it"
                    .to_owned(),
            });
        };
        if self.order == Order::First
            && position.can_be_earlier
            && self.budget(&at, survey.now).take(survey.now)
        {
            changes.push(self.put_first(ebpf, survey, on, &position.before)?);
            position = self.position(ebpf, survey, on)?.unwrap_or(position);
        }
        let location = Location {
            index: interface.index,
            before: position.before,
        };
        self.attached.insert(at, location);
        Ok(())
    }

    fn budget(&mut self, at: &InterfaceHook, now: Instant) -> &mut AttemptBudget {
        let entry = self.budgets.entry(at.clone());
        entry.or_insert_with(|| AttemptBudget::new(now))
    }

    /// Returns the position of our program at a hook, or `None` if the hook does not have our
    /// program. The program is missing if other software has detached it, or if another interface
    /// has taken the name and the index of the interface.
    fn position(
        &self,
        ebpf: &mut Ebpf,
        survey: &mut Survey,
        on: (&Interface, Hook),
    ) -> Result<Option<Position>, KernelError> {
        let (interface, hook) = on;
        let name = program_name(hook, interface.link_layer);
        let program = program_id(ebpf, name)?;
        match self.mechanism {
            Mechanism::Tcx => {
                if !tcx::is_there(&self.pins, interface, hook, program)? {
                    return Ok(None);
                }
                let before = tcx::before(interface, hook, Some(program))?;
                let can_be_earlier = !before.is_empty();
                Ok(Some(Position {
                    before,
                    can_be_earlier,
                }))
            }
            Mechanism::Clsact => {
                let kind = survey.qdiscs.get(&interface.index);
                if kind.is_none_or(|kind| kind != CLSACT) {
                    return Ok(None);
                }
                let filters = filters::listed(survey, on)?;
                let ours = filters.ours(&self.pins);
                if ours.first().and_then(|location| location.program) != Some(program) {
                    return Ok(None);
                }
                // At each hook, the kernel runs the TCX programs first and the filters of the
                // clsact qdisc afterwards, so all TCX programs precede our filter.
                let mut before = tcx::before(interface, hook, None)?;
                before.extend(filters.before(&self.pins));
                Ok(Some(Position {
                    before,
                    can_be_earlier: filters.can_be_earlier(&self.pins),
                }))
            }
        }
    }

    fn put_first(
        &self,
        ebpf: &mut Ebpf,
        survey: &mut Survey,
        on: (&Interface, Hook),
        before: &[Standing],
    ) -> Result<String, KernelError> {
        let (interface, hook) = on;
        let name = program_name(hook, interface.link_layer);
        let program = loaded(ebpf, name)?;
        match self.mechanism {
            Mechanism::Tcx => tcx::put_first(program, &self.pins, on)?,
            Mechanism::Clsact => filters::put_first(program, &self.pins, survey, on)?,
        }
        let passed: Vec<String> = before.iter().map(ToString::to_string).collect();
        Ok(format!(
            "moved to the first place on {} ({}), before {}",
            interface.name,
            hook.as_str(),
            passed.join(", ")
        ))
    }

    /// Renames the pins of interfaces that have been renamed, because a link stays on its interface
    /// when the name of the interface changes.
    fn follow_names(&mut self, interfaces: &[Interface]) -> Result<Vec<String>, KernelError> {
        let mut changes = Vec::new();
        for (name, hook, pin) in pinned_links(&self.pins)? {
            let Some(index) = interface_of(&pin)? else {
                continue;
            };
            let Some(interface) = interfaces.iter().find(|known| known.index == index) else {
                continue;
            };
            let new = link_pin(&self.pins, &interface.name, hook);
            if new == pin {
                continue;
            }
            match interface_of(&new)? {
                None => {}
                // This pin belongs to an interface that had this name before and is gone.
                Some(0) => unpin_link(&new)?,
                Some(_) => continue,
            }
            if tcx::current_link(&pin, interface, hook)?.is_none() {
                continue;
            }
            fs::rename(&pin, &new).map_err(io_error("rename", &pin))?;
            if let Some(location) = self.attached.remove(&(name.clone(), hook)) {
                self.attached
                    .insert((interface.name.clone(), hook), location);
            }
            changes.push(format!(
                "the interface {name} was renamed to {} ({})",
                interface.name,
                hook.as_str()
            ));
        }
        Ok(changes)
    }

    /// Removes our filters from interfaces that are no longer wanted. All interfaces have to be
    /// searched, because filters have no pins that show where an earlier daemon attached them.
    fn release_old_filters(&self, wanted: &[Interface]) -> Result<Vec<String>, KernelError> {
        let present = netdev::interfaces().map_err(list_error("network interfaces"))?;
        let wanted: BTreeSet<u32> = wanted.iter().map(|interface| interface.index).collect();
        let others = present
            .iter()
            .filter(|interface| !wanted.contains(&interface.index));
        let removed = remove_all_filters(&self.pins, others)?.into_iter();
        Ok(removed
            .map(|(name, hook)| format!("detached from {name} ({})", hook.as_str()))
            .collect())
    }

    /// Returns the indices of the present interfaces that are not in `wanted`, if
    /// [`Self::follow`] may detach programs from some of them.
    ///
    /// # Errors
    /// Returns an error if the pins or the interfaces cannot be listed.
    pub(super) fn dropped(&self, wanted: &[Interface]) -> Result<Vec<u32>, KernelError> {
        if self.has_followed && self.unwanted(wanted)?.is_empty() {
            return Ok(Vec::new());
        }
        let present = netdev::interfaces().map_err(list_error("network interfaces"))?;
        let indices = present.iter().map(|interface| interface.index);
        let is_wanted = |index: u32| wanted.iter().any(|interface| interface.index == index);
        Ok(indices.filter(|index| !is_wanted(*index)).collect())
    }

    /// Returns the hooks to which this daemon, or an earlier daemon with the same pins, has
    /// attached a program, and whose interface is not in `wanted`.
    fn unwanted(&self, wanted: &[Interface]) -> Result<Vec<(String, Hook)>, KernelError> {
        let mut found: Vec<(String, Hook)> = self.attached.keys().cloned().collect();
        found.extend(
            pinned_links(&self.pins)?
                .into_iter()
                .map(|(interface, hook, _)| (interface, hook)),
        );
        found.sort();
        found.dedup();
        found.retain(|(name, _)| !wanted.iter().any(|interface| interface.name == *name));
        Ok(found)
    }

    fn attach(
        &self,
        ebpf: &mut Ebpf,
        survey: &mut Survey,
        on: (&Interface, Hook),
        choose: ProgramChoice,
    ) -> Result<String, KernelError> {
        let (interface, hook) = on;
        let program = loaded(ebpf, choose(hook, interface.link_layer))?;
        // An earlier daemon may have used the other mechanism, for example before an upgrade of the
        // kernel or a change of `attach.hook`. If programs stayed attached by both mechanisms, each
        // request would be charged twice.
        match self.mechanism {
            Mechanism::Tcx => {
                let change = tcx::attach(program, &self.pins, on, self.order)?;
                if survey.qdiscs.contains_key(&interface.index) {
                    remove_filters(&mut survey.route, &self.pins, interface, hook)?;
                }
                Ok(change)
            }
            Mechanism::Clsact => {
                let change = filters::attach(program, &self.pins, survey, on, self.order)?;
                unpin_link(&link_pin(&self.pins, &interface.name, hook))?;
                Ok(change)
            }
        }
    }

    fn release(&mut self, name: &str, hook: Hook) -> Result<String, KernelError> {
        self.attached.remove(&(name.to_owned(), hook));
        match self.mechanism {
            Mechanism::Tcx => unpin_link(&link_pin(&self.pins, name, hook))?,
            // If the interface is gone, the kernel has removed its filters too.
            Mechanism::Clsact => {
                let present = netdev::interfaces().map_err(list_error("network interfaces"))?;
                if let Some(interface) = present.iter().find(|known| known.name == name) {
                    let mut route = Route::open().map_err(list_error("filters"))?;
                    remove_filters(&mut route, &self.pins, interface, hook)?;
                }
            }
        }
        Ok(format!("detached from {name} ({})", hook.as_str()))
    }
}

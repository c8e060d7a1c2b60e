//! Putting the programs on interfaces, and taking over what an earlier daemon put there.

use std::{collections::BTreeMap, fs, io, path::Path};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions},
    },
};

use super::{
    Attached, Hook, KernelError, Mechanism,
    clsact::{CLSACT_PRIORITY, clsact_handle, remove_filter},
    error::{chain, link_error, pin_error},
    links::{interface_of, link_pin, pinned_links, unpin_link},
    netdev::{self, Interface, LinkLayer},
    pins::PinDirectory,
    sys,
};

/// What is attached where.
pub(super) struct Attachments {
    mechanism: Mechanism,
    pins: PinDirectory,
    /// By interface name and hook: the index of the interface it was attached to.
    attached: BTreeMap<(String, Hook), u32>,
}

impl Hook {
    pub(super) fn attach_type(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }

    /// `enum bpf_attach_type` (include/uapi/linux/bpf.h) of its TCX.
    fn tcx_type(self) -> u32 {
        match self {
            Self::Ingress => 46,
            Self::Egress => 47,
        }
    }
}

/// The programs that are attached.
pub(super) const PROGRAMS: [&str; 4] = [
    "limiter_ingress",
    "limiter_egress",
    "limiter_ingress_l3",
    "limiter_egress_l3",
];

/// The program for a hook of such an interface.
pub(super) fn program_name(hook: Hook, link_layer: LinkLayer) -> &'static str {
    let [ingress, egress, ingress_l3, egress_l3] = PROGRAMS;
    match (hook, link_layer) {
        (Hook::Ingress, LinkLayer::Ethernet) => ingress,
        (Hook::Egress, LinkLayer::Ethernet) => egress,
        (Hook::Ingress, LinkLayer::None) => ingress_l3,
        (Hook::Egress, LinkLayer::None) => egress_l3,
    }
}

/// The program in whose place that one goes on while maps take the place of others.
pub(super) fn hold_name(hook: Hook, link_layer: LinkLayer) -> &'static str {
    match (hook, link_layer) {
        (Hook::Ingress, LinkLayer::Ethernet) => "limiter_hold_ingress",
        (Hook::Egress, LinkLayer::Ethernet) => "limiter_hold_egress",
        (Hook::Ingress, LinkLayer::None) => "limiter_hold_ingress_l3",
        (Hook::Egress, LinkLayer::None) => "limiter_hold_egress_l3",
    }
}

/// Which program goes on a hook of such an interface.
pub(super) type Named = fn(Hook, LinkLayer) -> &'static str;

/// The program `name` of the object, accepted by the kernel: loaded when it is first wanted.
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

impl Attachments {
    pub(super) fn new(mechanism: Mechanism, pins: PinDirectory) -> Self {
        Self {
            mechanism,
            pins,
            attached: BTreeMap::new(),
        }
    }

    pub(super) fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    pub(super) fn list(&self) -> Vec<Attached> {
        self.attached
            .keys()
            .map(|(interface, hook)| Attached {
                interface: interface.clone(),
                hook: *hook,
            })
            .collect()
    }

    /// See [`super::Plane::follow`].
    pub(super) fn follow(
        &mut self,
        ebpf: &mut Ebpf,
        interfaces: &[Interface],
    ) -> Result<Vec<String>, KernelError> {
        // All programs first: one that the kernel does not accept must not leave the others
        // running with an older one.
        for interface in interfaces {
            for hook in Hook::ATTACH_ORDER {
                loaded(ebpf, program_name(hook, interface.link_layer))?;
            }
        }
        let mut changes = self.follow_names(interfaces)?;
        if self.attached.is_empty() {
            changes.extend(self.release_old_filters(interfaces)?);
        }
        let mut failed = None;
        for interface in interfaces {
            if self.is_attached(interface)? {
                continue;
            }
            for hook in Hook::ATTACH_ORDER {
                match self.attach(ebpf, interface, hook, program_name) {
                    Ok(change) => {
                        let at = (interface.name.clone(), hook);
                        self.attached.insert(at, interface.index);
                        changes.push(change);
                    }
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
        for (name, hook) in self.unwanted(interfaces)? {
            match self.release(&name, hook) {
                Ok(change) => changes.push(change),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(changes), Err)
    }

    /// Whether both programs are on this interface. It may be another one with the name and the index of
    /// one that has gone, and others may take off what is ours.
    fn is_attached(&self, interface: &Interface) -> Result<bool, KernelError> {
        for hook in Hook::ATTACH_ORDER {
            let at = (interface.name.clone(), hook);
            if self.attached.get(&at) != Some(&interface.index) {
                return Ok(false);
            }
            if self.mechanism == Mechanism::Tcx {
                let pin = link_pin(&self.pins, &interface.name, hook);
                if interface_of(&pin)? != Some(interface.index) {
                    return Ok(false);
                }
            }
        }
        // Filters go with their qdisc: where it can be added, there was none.
        Ok(self.mechanism == Mechanism::Tcx || tc::qdisc_add_clsact(&interface.name).is_err())
    }

    /// Links stay on an interface that gets another name: their pins follow it.
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
            match interface_of(&new)? {
                None => {}
                // Of one that had the name before, and has gone.
                Some(0) => unpin_link(&new)?,
                Some(_) => continue,
            }
            if current_link(&pin, interface, hook)?.is_none() {
                continue;
            }
            fs::rename(&pin, &new).map_err(|source| KernelError::Io { path: pin, source })?;
            if let Some(index) = self.attached.remove(&(name.clone(), hook)) {
                self.attached.insert((interface.name.clone(), hook), index);
            }
            changes.push(format!(
                "{name} is called {} now ({})",
                interface.name,
                hook.as_str()
            ));
        }
        Ok(changes)
    }

    /// Filters have no pins that would tell where an earlier daemon put them.
    fn release_old_filters(&self, wanted: &[Interface]) -> Result<Vec<String>, KernelError> {
        let present = netdev::interfaces().map_err(|source| KernelError::Io {
            path: "network interfaces".into(),
            source,
        })?;
        let mut changes = Vec::new();
        for Interface { name, .. } in present.iter().filter(|found| !wanted.contains(found)) {
            for hook in Hook::ATTACH_ORDER {
                if remove_filter(&self.pins, name, hook)? {
                    changes.push(format!("let go of {name} ({})", hook.as_str()));
                }
            }
        }
        Ok(changes)
    }

    /// Which programs are attached.
    ///
    /// # Errors
    /// [`KernelError::Io`].
    pub(super) fn programs(&self) -> Result<Vec<(Hook, LinkLayer)>, KernelError> {
        let mut programs = Vec::new();
        for (_, hook, interface) in self.interfaces()? {
            let program = (hook, interface.link_layer);
            if !programs.contains(&program) {
                programs.push(program);
            }
        }
        Ok(programs)
    }

    /// What is attached, by the name that it is known by, and the interface. One that has gone has taken
    /// its programs along.
    fn interfaces(&self) -> Result<Vec<(String, Hook, Interface)>, KernelError> {
        let present = netdev::interfaces().map_err(|source| KernelError::Io {
            path: "network interfaces".into(),
            source,
        })?;
        let found = self.attached.iter().filter_map(|((name, hook), index)| {
            let interface = present.iter().find(|known| known.index == *index)?;
            Some((name.clone(), *hook, interface.clone()))
        });
        Ok(found.collect())
    }

    /// Puts other programs in the place of those that are attached. What cannot be had is not attached any
    /// more as far as [`Self::follow`] knows, which tries again.
    ///
    /// # Errors
    /// The first that failed; the others get theirs all the same.
    pub(super) fn replace(&mut self, ebpf: &mut Ebpf, named: Named) -> Result<(), KernelError> {
        let mut failed = None;
        for (name, hook, interface) in self.interfaces()? {
            let known_as = Interface {
                name: name.clone(),
                ..interface
            };
            if let Err(error) = self.attach(ebpf, &known_as, hook, named) {
                self.attached.remove(&(name, hook));
                failed = failed.or(Some(error));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// What is attached, by us or by an earlier daemon on the same pins, and not wanted.
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
        interface: &Interface,
        hook: Hook,
        named: Named,
    ) -> Result<String, KernelError> {
        let program = loaded(ebpf, named(hook, interface.link_layer))?;
        // An earlier daemon may have attached the other way (the kernel was upgraded, or
        // `attach.hook` changed): both at once would charge each request twice.
        match self.mechanism {
            Mechanism::Tcx => {
                let change = self.attach_tcx(program, interface, hook)?;
                remove_filter(&self.pins, &interface.name, hook)?;
                Ok(change)
            }
            Mechanism::Clsact => {
                let change = self.attach_clsact(program, interface, hook)?;
                unpin_link(&link_pin(&self.pins, &interface.name, hook))?;
                Ok(change)
            }
        }
    }

    fn attach_tcx(
        &self,
        program: &mut SchedClassifier,
        interface: &Interface,
        hook: Hook,
    ) -> Result<String, KernelError> {
        let failed = |source: ProgramError| attach_error(interface, hook, &source);
        let pin = link_pin(&self.pins, &interface.name, hook);
        if let Some(link) = current_link(&pin, interface, hook)? {
            // bpf_link_update swaps the program in one step: no packet sees none.
            program
                .attach_to_link(link)
                .and_then(|id| program.take_link(id))
                .map_err(failed)?;
            return Ok(format!("took over {} ({})", interface.name, hook.as_str()));
        }
        let id = program
            .attach_with_options(
                &interface.name,
                hook.attach_type(),
                TcAttachOptions::TcxOrder(LinkOrder::default()),
            )
            .map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        FdLink::try_from(link)
            .map_err(link_error(&pin))?
            .pin(&pin)
            .map_err(pin_error(&pin))?;
        Ok(format!(
            "attached to {} ({})",
            interface.name,
            hook.as_str()
        ))
    }

    fn attach_clsact(
        &self,
        program: &mut SchedClassifier,
        interface: &Interface,
        hook: Hook,
    ) -> Result<String, KernelError> {
        let failed = |source: ProgramError| attach_error(interface, hook, &source);
        // The qdisc may be there already, of an earlier run or of somebody else: that is fine,
        // and if it is really missing, the filter below fails and says so.
        if let Err(error) = tc::qdisc_add_clsact(&interface.name) {
            log::debug!("clsact on {}: {error}", interface.name);
        }
        let handle = clsact_handle(self.pins.root());
        // A filter of that priority and handle is ours: replacing it swaps the program in place.
        let ours = SchedClassifierLink::attached(
            &interface.name,
            hook.attach_type(),
            CLSACT_PRIORITY,
            handle,
            None,
        )
        .map_err(|error| failed(tc::TcError::IoError(error).into()))?;
        let (id, change) = match program.attach_to_link(ours) {
            Ok(id) => (id, "took over"),
            Err(_none_there) => {
                let options = NlOptions {
                    priority: CLSACT_PRIORITY,
                    handle,
                    ..NlOptions::default()
                };
                let options = TcAttachOptions::Netlink(options);
                let id = program
                    .attach_with_options(&interface.name, hook.attach_type(), options)
                    .map_err(failed)?;
                (id, "attached to")
            }
        };
        // A filter outlives its process, but aya removes it when the link is dropped: this one
        // has no descriptor, so forgetting it leaks nothing.
        let link = program.take_link(id).map_err(failed)?;
        forget(link);
        Ok(format!("{change} {} ({})", interface.name, hook.as_str()))
    }

    fn release(&mut self, name: &str, hook: Hook) -> Result<String, KernelError> {
        self.attached.remove(&(name.to_owned(), hook));
        match self.mechanism {
            Mechanism::Tcx => unpin_link(&link_pin(&self.pins, name, hook))?,
            // Gone already when its interface is.
            Mechanism::Clsact => {
                remove_filter(&self.pins, name, hook)?;
            }
        }
        Ok(format!("let go of {name} ({})", hook.as_str()))
    }
}

#[expect(
    clippy::mem_forget,
    reason = "a clsact link holds no descriptor; dropping it would detach the filter"
)]
fn forget(link: SchedClassifierLink) {
    std::mem::forget(link);
}

fn attach_error(interface: &Interface, hook: Hook, source: &ProgramError) -> KernelError {
    KernelError::Attach {
        interface: interface.name.clone(),
        hook: hook.as_str(),
        reason: chain(source),
    }
}

/// The pinned link, if it is still on this interface. One whose interface has gone (and perhaps
/// come back under the same name) is unpinned.
fn current_link(
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
    let programs =
        sys::query_tcx(interface.index, hook.tcx_type()).map_err(|error| KernelError::Attach {
            interface: interface.name.clone(),
            hook: hook.as_str(),
            reason: format!("cannot list what is attached: {error}"),
        })?;
    // Of another namespace's interface the index may be the same, and the program may be on several.
    if programs.contains(&program) && interface_of(pin)? == Some(interface.index) {
        return SchedClassifierLink::try_from(link)
            .map(Some)
            .map_err(link_error(pin));
    }
    log::info!(
        "the link {} was of an interface that has gone",
        pin.display()
    );
    unpin_link(pin)?;
    Ok(None)
}

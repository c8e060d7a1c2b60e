// SPDX-License-Identifier: MIT OR Apache-2.0

//! Lists the filters of the clsact qdisc in order, and finds and removes ours.

use std::{collections::BTreeMap, io, path::Path};

use aya::programs::{
    ProgramError,
    links::Link as _,
    tc::{SchedClassifierLink, TcHandle},
};

use super::{
    KernelError,
    error::{chain, list_error},
    netdev::Interface,
    pins::PinDirectory,
    rtnl::{
        RTM_GETQDISC, RTM_GETTFILTER, RTM_NEWQDISC, RTM_NEWTFILTER, Route, attribute, text, word,
    },
};
use crate::domain::hook::{Hook, Mechanism, Standing};

/// The priority of our filter if it does not have to be first. A filter with this priority precedes
/// filters with the default priority (49152).
pub(super) const LAST_PRIORITY: u16 = 100;

/// The bit in which our two handles differ. Two handles are needed because, when our filter is
/// moved to an earlier place, the old filter and the new filter exist together for a moment.
const OTHER_HANDLE: u32 = 0x4000_0000;

/// The size of `struct tcmsg` (include/uapi/linux/rtnetlink.h) in bytes, and the offsets of its
/// fields in bytes: index, handle, parent, and priority with protocol.
const TC_BODY: usize = 20;
const TC_INDEX: usize = 4;
const TC_HANDLE: usize = 8;
const TC_PARENT: usize = 12;
const TC_INFO: usize = 16;
/// The parent of the qdiscs `clsact` and `ingress`. An interface has at most one such qdisc.
const TC_H_INGRESS: u32 = 0xffff_fff1;
/// The attributes of qdiscs and filters (`TCA_*`), and those of a filter of kind `bpf`
/// (include/uapi/linux/pkt_cls.h).
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;
/// The protocol of filters that see every packet (`ETH_P_ALL`), in the byte order of `tcm_info`.
const ALL_PROTOCOLS: u16 = 0x0003u16.to_be();

/// The kind of each interface's qdisc (`clsact` or `ingress`), by the index of the interface.
pub(super) type Qdiscs = BTreeMap<u32, String>;

/// A filter, or the list head of the filters with one priority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    priority: u16,
    protocol: u16,
    kind: String,
    /// The handle, which is 0 for a list head.
    handle: u32,
    /// The name of the filter and the id of its program, which only filters of kind `bpf` have.
    name: Option<String>,
    program: Option<u32>,
}

impl Filter {
    /// Returns whether our filter can be added with the same priority as this filter. All filters
    /// of one priority have the same kind and protocol (tcf_chain_tp_find() and tc_new_tfilter(),
    /// net/sched/cls_api.c).
    fn has_room(&self) -> bool {
        self.kind == "bpf" && self.protocol == ALL_PROTOCOLS
    }

    fn is_of(&self, pins: &PinDirectory) -> bool {
        self.kind == "bpf" && handles(pins).contains(&self.handle)
    }

    fn standing(&self) -> Standing {
        Standing {
            mechanism: Mechanism::Clsact,
            program_id: self.program,
            name: Some(self.name.clone().unwrap_or_else(|| self.kind.clone())),
            priority: Some(self.priority),
        }
    }
}

/// The filters at one hook of an interface, in the order in which packets meet them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filters(Vec<Filter>);

/// The place of one of our filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FilterPlace {
    pub(super) priority: u16,
    pub(super) handle: u32,
    pub(super) program: Option<u32>,
}

/// Returns the two handles that our filter can have, beginning with the usual one. The handles
/// depend on the path of the pin directory, so that several daemons on one interface do not replace
/// each other's filters.
pub(super) fn handles(pins: &PinDirectory) -> [u32; 2] {
    let first = handle(pins.root());
    [first, (first ^ OTHER_HANDLE).max(2)]
}

fn handle(root: &Path) -> u32 {
    // This is FNV-1a. The kernel accepts handles from 1 to 2^31 - 1 (`cls_bpf_change`).
    let hash = root
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
    (hash & 0x7fff_ffff).max(1)
}

/// Returns the parent of a hook's filters (`TC_H_MIN_INGRESS` or `TC_H_MIN_EGRESS` of
/// `TC_H_CLSACT`).
fn parent(hook: Hook) -> u32 {
    match hook {
        Hook::Ingress => 0xffff_fff2,
        Hook::Egress => 0xffff_fff3,
    }
}

/// Lists all qdiscs to which our filters can be added.
///
/// # Errors
/// Returns an error if the kernel rejects the request.
pub(super) fn qdiscs(route: &mut Route) -> io::Result<Qdiscs> {
    let found = route.dump(RTM_GETQDISC, RTM_NEWQDISC, &[0; TC_BODY], |message| {
        let kind = attribute(message.get(TC_BODY..)?, TCA_KIND).map(text)?;
        let is_clsact_or_ingress = word(message, TC_PARENT)? == TC_H_INGRESS;
        is_clsact_or_ingress.then_some((word(message, TC_INDEX)?, kind))
    })?;
    Ok(found.into_iter().collect())
}

impl Filters {
    /// Lists the filters at a hook of an interface. An `ingress` qdisc has no egress hook. The
    /// kernel then lists the filters of the ingress hook instead (see [`qdiscs`]).
    ///
    /// # Errors
    /// Returns an error if the kernel rejects the request, or if the interface is gone.
    pub(super) fn ask(route: &mut Route, index: u32, hook: Hook) -> io::Result<Self> {
        let mut question = [0; TC_BODY];
        for (at, value) in [(TC_INDEX, index), (TC_PARENT, parent(hook))] {
            if let Some(place) = question.get_mut(at..at + 4) {
                place.copy_from_slice(&value.to_ne_bytes());
            }
        }
        route
            .dump(RTM_GETTFILTER, RTM_NEWTFILTER, &question, filter)
            .map(Self)
    }

    /// Returns our filters. There is more than one only while a new filter replaces an old one.
    pub(super) fn ours(&self, pins: &PinDirectory) -> Vec<FilterPlace> {
        let ours = self.0.iter().filter(|filter| filter.is_of(pins));
        ours.map(|filter| FilterPlace {
            priority: filter.priority,
            handle: filter.handle,
            program: filter.program,
        })
        .collect()
    }

    /// Returns the filters of other software that packets meet before our first filter.
    pub(super) fn before(&self, pins: &PinDirectory) -> Vec<Standing> {
        let foreign = self.foreign_before(pins);
        foreign.map(Filter::standing).collect()
    }

    /// Returns the filters of other software that packets meet before our first filter. All filters
    /// of one priority count as a single filter if their kind is not `bpf`.
    fn foreign_before(&self, pins: &PinDirectory) -> impl Iterator<Item = &Filter> {
        let before = self.0.iter().take_while(|filter| !filter.is_of(pins));
        before.filter(|filter| {
            (filter.kind == "bpf") == (filter.handle != 0) && !filter.standing().is_limiter()
        })
    }

    /// Returns the priority with which a new filter of ours precedes as many other filters as
    /// possible. Among filters of the same priority, packets meet the newest one first
    /// (`list_add_rcu` in cls_bpf_change(), net/sched/cls_bpf.c).
    pub(super) fn best_priority(&self) -> u16 {
        let is_taken = |priority: &u16| {
            let mut there = self.0.iter().filter(|filter| filter.priority == *priority);
            there.any(|filter| !filter.has_room())
        };
        (1..u16::MAX)
            .find(|priority| !is_taken(priority))
            .unwrap_or(LAST_PRIORITY)
    }

    /// Returns whether our filter would precede more filters if it had the priority
    /// [`Self::best_priority`] than it does now.
    pub(super) fn can_be_earlier(&self, pins: &PinDirectory) -> bool {
        let best = self.best_priority();
        self.foreign_before(pins)
            .any(|filter| filter.priority >= best)
    }
}

fn filter(message: &[u8]) -> Option<Filter> {
    let rest = message.get(TC_BODY..)?;
    // Filters of other chains are left out, because packets reach another chain only if a filter
    // sends them there.
    if attribute(rest, TCA_CHAIN).and_then(|chain| word(chain, 0)) > Some(0) {
        return None;
    }
    let info = word(message, TC_INFO)?;
    let kind = attribute(rest, TCA_KIND).map(text)?;
    let options = attribute(rest, TCA_OPTIONS).filter(|_| kind == "bpf");
    let option = |kind| attribute(options?, kind);
    Some(Filter {
        priority: u16::try_from(info >> 16).ok()?,
        protocol: u16::try_from(info & 0xffff).ok()?,
        handle: word(message, TC_HANDLE)?,
        name: option(TCA_BPF_NAME).map(text),
        program: option(TCA_BPF_ID).and_then(|id| word(id, 0)),
        kind,
    })
}

/// Returns aya's representation of one of our filters.
///
/// # Errors
/// Returns an error if the interface does not exist.
pub(super) fn link(
    interface: &str,
    hook: Hook,
    place: FilterPlace,
) -> io::Result<SchedClassifierLink> {
    let handle = TcHandle::from(place.handle);
    SchedClassifierLink::attached(interface, hook.attach_type(), place.priority, handle, None)
}

/// Removes our clsact filters at a hook. Returns whether there were any.
///
/// # Errors
/// Returns an error if a filter that exists cannot be removed.
pub(super) fn remove_filters(
    route: &mut Route,
    pins: &PinDirectory,
    interface: &Interface,
    hook: Hook,
) -> Result<bool, KernelError> {
    // If the interface is gone, the kernel has removed its filters too.
    let filters = Filters::ask(route, interface.index, hook).unwrap_or_default();
    let mut removed = false;
    for place in filters.ours(pins) {
        removed |= remove_filter(&interface.name, hook, place)?;
    }
    Ok(removed)
}

/// Removes one filter. Returns whether it existed.
///
/// # Errors
/// Returns the same errors as [`remove_filters`].
pub(super) fn remove_filter(
    interface: &str,
    hook: Hook,
    place: FilterPlace,
) -> Result<bool, KernelError> {
    let Ok(link) = link(interface, hook, place) else {
        return Ok(false);
    };
    match link.detach() {
        Ok(()) => Ok(true),
        // The kernel returns ENOENT or EINVAL if the filter or its qdisc does not exist. Aya does
        // not distinguish these from other netlink failures. Therefore every netlink failure is
        // taken to mean that the filter does not exist.
        Err(ProgramError::NetlinkError(_) | ProgramError::TcError(_)) => Ok(false),
        Err(source) => Err(KernelError::Attach {
            interface: interface.to_owned(),
            hook: hook.as_str(),
            reason: chain(&source),
        }),
    }
}

/// Removes our filters from all the given interfaces. Returns the hooks from which a filter was
/// removed.
///
/// # Errors
/// Returns the first error.
pub(super) fn remove_all_filters<'a>(
    pins: &PinDirectory,
    interfaces: impl IntoIterator<Item = &'a Interface>,
) -> Result<Vec<(String, Hook)>, KernelError> {
    let failed = list_error("qdiscs of the network interfaces");
    let mut route = Route::open().map_err(&failed)?;
    let qdiscs = qdiscs(&mut route).map_err(failed)?;
    let mut removed = Vec::new();
    for interface in interfaces {
        if !qdiscs.contains_key(&interface.index) {
            continue;
        }
        for hook in Hook::ATTACH_ORDER {
            if remove_filters(&mut route, pins, interface, hook)? {
                removed.push((interface.name.clone(), hook));
            }
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pins() -> PinDirectory {
        PinDirectory::new(Path::new("/a"))
    }

    /// Builds a list of filters from pairs of a priority and a kind, in order. The filters of each
    /// priority are preceded by their list head. The kind `ours` stands for our filter, and the
    /// kind `peer` for a filter of another limiter.
    fn filters(listed: &[(u16, &str)]) -> Filters {
        let mut all: Vec<Filter> = Vec::new();
        for (number, (priority, what)) in listed.iter().enumerate() {
            let is_bpf = matches!(*what, "ours" | "peer" | "bpf");
            let filter = |handle| Filter {
                priority: *priority,
                protocol: if *what == "v4" { 8 } else { ALL_PROTOCOLS },
                kind: if is_bpf || *what == "v4" { "bpf" } else { what }.to_owned(),
                handle,
                name: match (*what, handle) {
                    (_, 0) => None,
                    ("ours" | "peer", _) => Some("limiter_ingress".to_owned()),
                    _ => Some("other".to_owned()),
                },
                program: (handle != 0).then_some(7),
            };
            if all.last().is_none_or(|last| last.priority != *priority) {
                all.push(filter(0));
            }
            all.push(filter(match *what {
                "ours" => handles(&pins())[0],
                _ => u32::try_from(number).unwrap() + 1,
            }));
        }
        Filters(all)
    }

    #[test]
    fn daemons_side_by_side_have_filters_of_their_own() {
        let [a, b] = ["/a", "/b"].map(|root| handles(&PinDirectory::new(Path::new(root))));
        assert!(a.iter().all(|handle| !b.contains(handle)));
        assert!(a[0] != a[1] && a.iter().all(|handle| (1..1 << 31).contains(handle)));
    }

    #[test]
    fn our_filter_gets_the_earliest_place_that_the_kernel_allows() {
        for (listed, best, earlier, before) in [
            (&[(1, "ours")][..], 1, false, 0),
            (&[(100, "ours")], 1, false, 0),
            (&[(1, "bpf"), (100, "ours")], 1, true, 1),
            (&[(1, "bpf"), (1, "ours")], 1, true, 1),
            (&[(1, "ours"), (1, "bpf")], 1, false, 0),
            (&[(50, "flower"), (100, "ours")], 1, true, 1),
            (&[(1, "flower"), (2, "ours")], 2, false, 1),
            (&[(1, "v4"), (2, "ours")], 2, false, 1),
            (&[(1, "flower"), (2, "bpf"), (2, "ours")], 2, true, 2),
            (&[(1, "flower"), (2, "u32"), (9, "ours")], 3, false, 2),
            (&[(1, "peer"), (1, "ours")], 1, false, 0),
            (&[(1, "peer"), (1, "bpf"), (1, "ours")], 1, true, 1),
        ] {
            let found = filters(listed);
            assert_eq!(found.best_priority(), best, "{listed:?}");
            assert_eq!(found.can_be_earlier(&pins()), earlier, "{listed:?}");
            let standing = found.before(&pins());
            assert_eq!(standing.len(), before, "{listed:?}: {standing:?}");
        }
    }
}

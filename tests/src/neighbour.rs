// SPDX-License-Identifier: MIT OR Apache-2.0

//! TC programs of another owner on an interface that limiter uses too. They count packets and let
//! the later programs on the hook see them.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::{
    Ebpf,
    maps::{Array, PerCpuArray},
    programs::{
        LinkOrder, ProgramId, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, TcAttachOptions},
    },
};

use crate::{
    Lab, Namespace, clock,
    disorder::{
        OBJECT, Rule,
        abi::{self, Config, TO_CLIENT, TO_SERVER, count},
    },
    program::bpffs::BpfFs,
};

/// The two hooks, each with the name of its program.
const HOOKS: [(TcAttachType, &str); 2] = [
    (TcAttachType::Ingress, "disorder_ingress"),
    (TcAttachType::Egress, "disorder_egress"),
];

/// The position on a hook that a program requests.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// Before all TCX links.
    First,
    /// After all TCX links.
    Last,
    /// Immediately before the TCX program whose name begins with this text.
    Before(&'static str),
    /// Immediately after the TCX program whose name begins with this text.
    After(&'static str),
    /// A filter of the clsact qdisc, with this priority.
    Filter(u16),
}

/// Two programs, one on each hook of an interface. Dropping this value removes TCX links. clsact
/// filters stay until the namespace is deleted.
pub struct Neighbour {
    ebpf: Ebpf,
}

/// The id and the name of a program on a hook. The kernel keeps only the first 15 bytes of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedProgram {
    pub id: u32,
    pub name: String,
}

impl Neighbour {
    /// Attaches the programs to an interface of a server, where they count the segments of `port`.
    pub fn at(namespace: &Namespace, interface: &str, port: u16, place: Place) -> Self {
        let mut ebpf = Ebpf::load(OBJECT).unwrap_or_else(|error| panic!("load: {error:?}"));
        let map = ebpf.map_mut("CONFIG").expect("the map CONFIG");
        let mut config: Array<_, Config> = map.try_into().expect("an array");
        let look = Config {
            port: port.into(),
            server_side: 1,
            interface: 0,
            slow: 0,
            back: 0,
            rules: [Rule::NONE; 2],
        };
        config.set(0, look, 0).expect("configure the programs");
        namespace.enter(|| {
            for (hook, name) in HOOKS {
                attach(&mut ebpf, name, interface, hook, place);
            }
        });
        Self { ebpf }
    }

    /// Returns the number of segments that have reached the programs: first those from clients,
    /// then those to clients.
    pub fn seen(&self) -> [u64; 2] {
        let map = self.ebpf.map("COUNTS").expect("the map COUNTS");
        let counts: PerCpuArray<_, u64> = map.try_into().expect("an array");
        [TO_SERVER, TO_CLIENT].map(|direction| {
            let place = abi::place(direction, count::SEEN);
            let values = counts.get(&place, 0).expect("read a count");
            values.iter().sum()
        })
    }

    /// Returns the ids of the ingress program and the egress program, in this order.
    pub fn ids(&self) -> [u32; 2] {
        HOOKS.map(|(_, name)| {
            let program = self.ebpf.program(name).expect("a program");
            program.info().expect("it is loaded").id()
        })
    }
}

/// Returns the TCX programs on both hooks of an interface, in the order in which packets reach
/// them.
pub fn links(namespace: &Namespace, interface: &str) -> [Vec<AttachedProgram>; 2] {
    HOOKS.map(|(hook, _)| namespace.enter(|| links_here(interface, hook)))
}

fn links_here(interface: &str, hook: TcAttachType) -> Vec<AttachedProgram> {
    // The query fails if a program is replaced after its id was read.
    let (_revision, programs) = clock::eventually_some("the attached programs are listed", || {
        SchedClassifier::query_tcx(interface, hook).ok()
    });
    let programs = programs.iter();
    programs
        .map(|program| AttachedProgram {
            id: program.id(),
            name: program.name_as_str().unwrap_or_default().to_owned(),
        })
        .collect()
}

/// A program on both hooks of an interface that accepts each packet and ends the chain, so that
/// later programs do not run (`TCX_PASS`, or `TC_ACT_OK` for clsact). Dropping this value removes
/// TCX links. A clsact filter stays until the namespace is deleted.
pub struct Stopper(SchedClassifier);

impl Stopper {
    pub fn at(lab: &Lab, interface: &str, place: Place) -> Self {
        // It is possible that no daemon has mounted the host's BPF file system yet.
        let pins = BpfFs::new().expect("a BPF file system");
        let path = pins.path().join("stopper");
        pin_stopper(&path);
        let program = SchedClassifier::from_pin(&path);
        let mut program = program.unwrap_or_else(|error| panic!("the stopper: {error:?}"));
        lab.server().enter(|| {
            for (hook, _) in HOOKS {
                attach_at(&mut program, "stopper", interface, hook, place);
            }
        });
        Self(program)
    }

    pub fn id(&self) -> u32 {
        self.0.info().expect("it is loaded").id()
    }
}

/// The fields of `union bpf_attr` (include/uapi/linux/bpf.h) that `BPF_PROG_LOAD` and `BPF_OBJ_PIN`
/// read.
#[repr(C)]
struct ProgLoad {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log: [u32; 4],
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct ObjPin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Loads and pins the program `r0 = 0; exit`.
fn pin_stopper(path: &Path) {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_OBJ_PIN: libc::c_long = 6;
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    let code: [u64; 2] = [0xb7, 0x95];
    let load = ProgLoad {
        kind: BPF_PROG_TYPE_SCHED_CLS,
        instructions: 2,
        code: code.as_ptr().expose_provenance() as u64,
        license: c"Dual MIT/GPL".as_ptr().expose_provenance() as u64,
        log: [0; 4],
        kernel_version: 0,
        flags: 0,
        name: *b"stopper\0\0\0\0\0\0\0\0\0",
    };
    // SAFETY: `load` outlives the call, and so do the instructions and the string to which it
    // points. The size passed is the size of `load`.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const load,
            size_of::<ProgLoad>(),
        )
    };
    assert!(fd >= 0, "load: {}", io::Error::last_os_error());
    let fd = i32::try_from(fd).expect("a descriptor");
    // SAFETY: the kernel has just opened this descriptor, and nothing else owns it.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    let text = CString::new(path.as_os_str().as_bytes()).expect("a path");
    let pin = ObjPin {
        path: text.as_ptr().expose_provenance() as u64,
        fd: program.as_raw_fd().cast_unsigned(),
        flags: 0,
    };
    // SAFETY: `pin` and the path outlive the call, and the size passed is the size of `pin`.
    let pinned = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_PIN,
            &raw const pin,
            size_of::<ObjPin>(),
        )
    };
    assert!(pinned >= 0, "pin: {}", io::Error::last_os_error());
}

fn attach(ebpf: &mut Ebpf, name: &str, interface: &str, hook: TcAttachType, place: Place) {
    let program: &mut SchedClassifier = ebpf
        .program_mut(name)
        .unwrap_or_else(|| panic!("no program {name}"))
        .try_into()
        .expect("a classifier");
    program
        .load()
        .unwrap_or_else(|error| panic!("{name}: {error:?}"));
    attach_at(program, name, interface, hook, place);
}

fn attach_at(
    program: &mut SchedClassifier,
    name: &str,
    interface: &str,
    hook: TcAttachType,
    place: Place,
) {
    let beside = |name: &str| {
        let found = links_here(interface, hook);
        let found = found.iter().find(|program| program.name.starts_with(name));
        let id = found.unwrap_or_else(|| panic!("no program {name}")).id;
        // SAFETY: the kernel has just reported that a program with this id exists.
        unsafe { ProgramId::new(id) }
    };
    let options = match place {
        Place::First => TcAttachOptions::TcxOrder(LinkOrder::first()),
        Place::Last => TcAttachOptions::TcxOrder(LinkOrder::last()),
        Place::Before(name) => {
            TcAttachOptions::TcxOrder(LinkOrder::before_program_id(beside(name)))
        }
        Place::After(name) => TcAttachOptions::TcxOrder(LinkOrder::after_program_id(beside(name))),
        Place::Filter(priority) => {
            // The qdisc may already exist.
            let _ = tc::qdisc_add_clsact(interface);
            TcAttachOptions::Netlink(NlOptions {
                priority,
                ..NlOptions::default()
            })
        }
    };
    let link = program
        .attach_with_options(interface, hook, options)
        .unwrap_or_else(|error| panic!("attach {name} to {interface}: {error:?}"));
    if let Place::Filter(_) = place {
        // The clsact filter must stay attached, so its link is taken out of the program and
        // forgotten. Dropping the link, or the program with the link in it, would detach a filter
        // in the wrong namespace.
        let link = program.take_link(link).expect("just attached");
        #[expect(clippy::mem_forget, reason = "a filter's link holds no descriptor")]
        std::mem::forget(link);
    }
}

//! TC programs of somebody else at an interface: they look at packets, and let later programs have them.

use aya::{
    Ebpf,
    maps::{Array, PerCpuArray},
    programs::{
        LinkOrder, ProgramId, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, TcAttachOptions},
    },
};

use crate::{
    Namespace,
    disorder::{
        OBJECT, Rule,
        abi::{self, Config, TO_CLIENT, TO_SERVER, count},
    },
};

/// The hooks and the programs that look.
const HOOKS: [(TcAttachType, &str); 2] = [
    (TcAttachType::Ingress, "disorder_ingress"),
    (TcAttachType::Egress, "disorder_egress"),
];

/// Where among others a program asks to be.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// Before all links of TCX.
    First,
    /// After all of them.
    Last,
    /// Just before the program of TCX whose name begins so.
    Before(&'static str),
    /// Just after it.
    After(&'static str),
    /// A filter of the clsact qdisc, with this priority.
    Filter(u16),
}

/// Two programs, at both hooks of an interface. Links go when this is dropped, filters with their
/// namespace.
pub struct Neighbour {
    ebpf: Ebpf,
}

/// A program of a hook: its id, and its name, of which the kernel keeps 15 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    pub id: u32,
    pub name: String,
}

impl Neighbour {
    /// At an interface of a server, looking at the segments of `port`.
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
        config.set(0, look, 0).expect("tell what to look at");
        namespace.enter(|| {
            for (hook, name) in HOOKS {
                attach(&mut ebpf, name, interface, hook, place);
            }
        });
        Self { ebpf }
    }

    /// Segments that came to it: from clients, and to them.
    pub fn seen(&self) -> [u64; 2] {
        let map = self.ebpf.map("COUNTS").expect("the map COUNTS");
        let counts: PerCpuArray<_, u64> = map.try_into().expect("an array");
        [TO_SERVER, TO_CLIENT].map(|direction| {
            let place = abi::place(direction, count::SEEN);
            let values = counts.get(&place, 0).expect("read a count");
            values.iter().sum()
        })
    }

    /// The ids of its programs: of ingress and of egress.
    pub fn ids(&self) -> [u32; 2] {
        HOOKS.map(|(_, name)| {
            let program = self.ebpf.program(name).expect("a program");
            program.info().expect("it is loaded").id()
        })
    }
}

/// The programs of TCX at both hooks of an interface, in the order in which packets come to them.
pub fn links(namespace: &Namespace, interface: &str) -> [Vec<Attached>; 2] {
    HOOKS.map(|(hook, _)| namespace.enter(|| links_here(interface, hook)))
}

fn links_here(interface: &str, hook: TcAttachType) -> Vec<Attached> {
    let (_revision, programs) =
        SchedClassifier::query_tcx(interface, hook).expect("ask what is attached");
    let programs = programs.iter();
    programs
        .map(|program| Attached {
            id: program.id(),
            name: program.name_as_str().unwrap_or_default().to_owned(),
        })
        .collect()
}

fn attach(ebpf: &mut Ebpf, name: &str, interface: &str, hook: TcAttachType, place: Place) {
    let beside = |name: &str| {
        let found = links_here(interface, hook);
        let found = found.iter().find(|program| program.name.starts_with(name));
        let id = found.unwrap_or_else(|| panic!("no program {name}")).id;
        // SAFETY: the kernel has just said that there is a program of this id.
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
            // It may be there.
            let _ = tc::qdisc_add_clsact(interface);
            TcAttachOptions::Netlink(NlOptions {
                priority,
                ..NlOptions::default()
            })
        }
    };
    let program: &mut SchedClassifier = ebpf
        .program_mut(name)
        .unwrap_or_else(|| panic!("no program {name}"))
        .try_into()
        .expect("a classifier");
    program
        .load()
        .unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let link = program
        .attach_with_options(interface, hook, options)
        .unwrap_or_else(|error| panic!("attach {name} to {interface}: {error:?}"));
    if let Place::Filter(_) = place {
        // It would be taken off where this is dropped: in another namespace.
        let link = program.take_link(link).expect("just attached");
        #[expect(clippy::mem_forget, reason = "a filter's link holds no descriptor")]
        std::mem::forget(link);
    }
}

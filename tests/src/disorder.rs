//! A bad way: packets are lost, doubled and held up by chance, at an interface of a lab, in the
//! kernel. It takes packets as they are there: large ones before they are cut, checksums left to the
//! device, both ways of loopback. (A [`crate::wire::Wire`] sees what comes out of a device.)

#[path = "../disorder/src/abi.rs"]
pub(crate) mod abi;

use std::{ffi::CString, fmt, process::Command};

use aya::{
    Ebpf, Pod,
    maps::{Array, MapData, PerCpuArray},
    programs::{SchedClassifier, TcAttachType, tc},
};

use self::abi::{Config, TO_CLIENT, TO_SERVER, count};
use crate::{
    Lab, Namespace, clock,
    lab::{CLIENT_INTERFACE, SERVER_INTERFACE},
    process,
};

pub use self::abi::Rule;

/// Built by build.rs.
pub(crate) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/limiter-disorder"));

/// The veth pair through which late packets go. Its queue (tbf) has every packet for
/// [`QUEUE_OVERHEAD`] bytes longer than it is, and lets [`QUEUE_BURST`] bytes through at once: one
/// packet of whatever length, and not another one after it before a quarter of a
/// millisecond.
const QUEUE_OVERHEAD: &str = "200000";
const QUEUE_BURST: &str = "270000";
const QUEUE_RATE: &str = "4gbit";
/// Bytes that wait at most; more packets than tests hold up.
const QUEUE_LIMIT: &str = "1000000000";
/// Takes a packet of loopback, whose MTU is larger.
const QUEUE_MTU: u32 = 65_535;

impl Rule {
    /// Nothing happens.
    pub const NONE: Self = Self {
        flags: 0,
        lose: 0,
        double: 0,
        echo: 0,
        hold: 0,
    };

    /// Packets with one of these TCP flags are lost.
    pub const fn eats(flags: u32) -> Self {
        Self {
            flags,
            lose: abi::CERTAIN,
            ..Self::NONE
        }
    }
}

/// So many of a hundred, as a [`Rule`] has it.
pub const fn percent(percent: u32) -> u32 {
    abi::CERTAIN * percent / 100
}

// SAFETY: it consists of integers, and has no padding.
unsafe impl Pod for Config {}

/// What was done to the packets of one direction.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub seen: u64,
    pub lost: u64,
    pub doubled: u64,
    pub echoed: u64,
    pub held: u64,
    /// Those held, and echoes, that have come by now; one that was as large as can be (loopback's
    /// are) comes in two.
    pub late: u64,
}

/// Which end of the way the interface is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client's, or loopback: packets are disturbed before any program of the server sees what
    /// the client sent, and after it has seen what the server sends.
    Client,
    /// The server's. Programs that are attached later see what the server sends only after it was
    /// disturbed.
    Server,
}

/// Programs at an interface; gone when dropped, with what they held.
pub struct Disorder {
    config: Array<MapData, Config>,
    counts: PerCpuArray<MapData, u64>,
    now: Config,
    _ebpf: Ebpf,
}

impl Disorder {
    /// At the client's interface of a lab, about `port` of the server; does nothing yet.
    pub fn at_client(lab: &Lab, port: u16) -> Self {
        let interface = match lab.interface() {
            "lo" => "lo",
            _ => CLIENT_INTERFACE,
        };
        Self::at(lab.client(), interface, Side::Client, port)
    }

    /// At the server's interface of a lab that is not loopback.
    pub fn at_server(lab: &Lab, port: u16) -> Self {
        Self::at(lab.server(), SERVER_INTERFACE, Side::Server, port)
    }

    fn at(namespace: &Namespace, interface: &str, side: Side, port: u16) -> Self {
        let (slow, back) = (format!("{interface}-slow"), format!("{interface}-back"));
        make_queue(namespace, &slow, &back);
        if interface == "lo" {
            // What has been somewhere else than on loopback would be taken for a stranger's.
            namespace.set("net/ipv4/conf/lo/route_localnet", "1");
        }
        let mut ebpf = Ebpf::load(OBJECT).unwrap_or_else(|error| panic!("load: {error:?}"));
        namespace.enter(|| {
            for (name, interface, attach_type) in [
                ("disorder_egress", interface, TcAttachType::Egress),
                ("disorder_ingress", interface, TcAttachType::Ingress),
                ("disorder_late", &back, TcAttachType::Ingress),
            ] {
                attach(&mut ebpf, name, interface, attach_type);
            }
        });
        let index = |name: &str| namespace.enter(|| interface_index(name));
        let now = Config {
            port: port.into(),
            server_side: (side == Side::Server).into(),
            interface: index(interface),
            slow: index(&slow),
            back: index(&back),
            rules: [Rule::NONE; 2],
        };
        let mut take = |name: &str| {
            ebpf.take_map(name)
                .unwrap_or_else(|| panic!("no map {name}"))
        };
        let mut disorder = Self {
            config: take("CONFIG").try_into().expect("an array"),
            counts: take("COUNTS").try_into().expect("an array"),
            now,
            _ebpf: ebpf,
        };
        disorder.tell();
        disorder
    }

    /// What happens from now on, both ways.
    pub fn set_both(&mut self, rule: Rule) {
        self.set(rule, rule);
    }

    /// What happens from now on.
    pub fn set(&mut self, to_server: Rule, to_client: Rule) {
        self.now.rules[TO_SERVER] = to_server;
        self.now.rules[TO_CLIENT] = to_client;
        self.tell();
    }

    fn tell(&mut self) {
        self.config.set(0, self.now, 0).expect("set the rules");
    }

    /// What was done to packets from clients.
    pub fn to_server(&self) -> Counts {
        self.direction(TO_SERVER)
    }

    /// What was done to packets from the server.
    pub fn to_client(&self) -> Counts {
        self.direction(TO_CLIENT)
    }

    /// Packets that came to the interface, both ways.
    pub fn packets(&self) -> u64 {
        self.to_server().seen + self.to_client().seen
    }

    /// Waits until all that was to come late has come.
    #[track_caller]
    pub fn settle(&self) {
        clock::eventually("late packets come", || {
            [self.to_server(), self.to_client()]
                .iter()
                .all(|counts| counts.late >= counts.held + counts.echoed)
        });
    }

    fn direction(&self, direction: usize) -> Counts {
        let get = |kind: usize| -> u64 {
            let place = abi::place(direction, kind);
            let values = self.counts.get(&place, 0).expect("read a count");
            values.iter().sum()
        };
        Counts {
            seen: get(count::SEEN),
            lost: get(count::LOST),
            doubled: get(count::DOUBLED),
            echoed: get(count::ECHOED),
            held: get(count::HELD),
            late: get(count::LATE),
        }
    }
}

impl fmt::Debug for Disorder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Disorder")
            .field("to_server", &self.to_server())
            .field("to_client", &self.to_client())
            .finish()
    }
}

fn make_queue(namespace: &Namespace, slow: &str, back: &str) {
    for words in [
        format!("link add {slow} mtu {QUEUE_MTU} type veth peer name {back} mtu {QUEUE_MTU}"),
        format!("link set {slow} addrgenmode none up"),
        format!("link set {back} addrgenmode none up"),
    ] {
        namespace.ip(&words);
    }
    process::succeed(
        Command::new("tc")
            .args(["-n", namespace.name()])
            .args(["qdisc", "replace", "dev", slow, "root"])
            .args(["stab", "overhead", QUEUE_OVERHEAD, "linklayer", "ethernet"])
            .args(["tbf", "rate", QUEUE_RATE, "burst", QUEUE_BURST])
            .args(["limit", QUEUE_LIMIT]),
    );
}

fn attach(ebpf: &mut Ebpf, name: &str, interface: &str, attach_type: TcAttachType) {
    // Only kernels without TCX links need it, and it may be there.
    let _ = tc::qdisc_add_clsact(interface);
    let program: &mut SchedClassifier = ebpf
        .program_mut(name)
        .unwrap_or_else(|| panic!("no program {name}"))
        .try_into()
        .expect("a classifier");
    program
        .load()
        .unwrap_or_else(|error| panic!("{name}: {error:?}"));
    program
        .attach(interface, attach_type)
        .unwrap_or_else(|error| panic!("attach {name} to {interface}: {error:?}"));
}

fn interface_index(name: &str) -> u32 {
    let text = CString::new(name).expect("a name");
    // SAFETY: the text ends with a NUL and lives through the call.
    let index = unsafe { libc::if_nametoindex(text.as_ptr()) };
    assert_ne!(index, 0, "no interface {name}");
    index
}

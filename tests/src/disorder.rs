// SPDX-License-Identifier: MIT OR Apache-2.0

//! A bad network path: kernel programs on a lab's interface drop, duplicate and delay packets at
//! random. The programs see packets of both directions in the form that they have on the interface,
//! even on loopback: large packets are not segmented yet, and checksums that are left to the device
//! are not complete. (A [`crate::wire::Wire`], in contrast, sees packets after they have left a
//! device.)

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

/// The kernel object, which build.rs builds.
pub(crate) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/limiter-disorder"));

/// Delayed packets go through a veth pair with a queue (tbf). The queue adds [`QUEUE_OVERHEAD`]
/// bytes to the length of each packet and lets [`QUEUE_BURST`] bytes through at once. A packet
/// therefore passes an idle queue immediately, whatever its length, and the next packet follows
/// after a quarter of a millisecond at the earliest.
const QUEUE_OVERHEAD: &str = "200000";
const QUEUE_BURST: &str = "270000";
const QUEUE_RATE: &str = "4gbit";
/// The capacity of the queue in bytes, which is larger than the total size of the packets that any
/// test delays.
const QUEUE_LIMIT: &str = "1000000000";
/// The MTU of the veth pair, which is large enough for a loopback packet.
const QUEUE_MTU: u32 = 65_535;

impl Rule {
    /// A rule under which packets pass unchanged.
    pub const NONE: Self = Self {
        flags: 0,
        lose: 0,
        double: 0,
        echo: 0,
        hold: 0,
    };

    /// Returns a rule that drops all packets with at least one of these TCP flags.
    pub const fn dropping(flags: u32) -> Self {
        Self {
            flags,
            lose: abi::CERTAIN,
            ..Self::NONE
        }
    }
}

/// Converts a percentage to the scale of a [`Rule`].
pub const fn percent(percent: u32) -> u32 {
    abi::CERTAIN * percent / 100
}

// SAFETY: the type consists of integers and has no padding.
unsafe impl Pod for Config {}

/// Counts of packets in one direction: all packets that the programs have seen, and the packets to
/// which each action was applied.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub seen: u64,
    pub lost: u64,
    pub doubled: u64,
    pub echoed: u64,
    pub held: u64,
    /// The number of delayed packets and delayed copies that have arrived. Packets of the largest
    /// size, which occur on loopback, are counted twice because each arrives as two packets.
    pub late: u64,
}

/// The end of the path at which the programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client's interface, or loopback. These programs act on packets from the client before
    /// the server's programs see them, and on packets from the server after the server's programs
    /// have seen them.
    Client,
    /// The server's interface. These programs act on packets from the server first, before programs
    /// that are attached to this interface later.
    Server,
}

/// The programs on an interface. Dropping this value removes the programs and the packets that they
/// hold.
pub struct Disorder {
    config: Array<MapData, Config>,
    counts: PerCpuArray<MapData, u64>,
    now: Config,
    _ebpf: Ebpf,
}

impl Disorder {
    /// Attaches the programs to the client's interface of a lab, for the traffic of the server's
    /// `port`. Packets pass unchanged until a rule is set.
    pub fn at_client(lab: &Lab, port: u16) -> Self {
        let interface = match lab.interface() {
            "lo" => "lo",
            _ => CLIENT_INTERFACE,
        };
        Self::at(lab.client(), interface, Side::Client, port)
    }

    /// Attaches the programs to the server's interface of a lab that does not use loopback.
    pub fn at_server(lab: &Lab, port: u16) -> Self {
        Self::at(lab.server(), SERVER_INTERFACE, Side::Server, port)
    }

    fn at(namespace: &Namespace, interface: &str, side: Side, port: u16) -> Self {
        let (slow, back) = (format!("{interface}-slow"), format!("{interface}-back"));
        make_queue(namespace, &slow, &back);
        if interface == "lo" {
            // Without this setting, the kernel treats a loopback packet that has passed through
            // another device as a martian packet, and drops it.
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
        disorder.publish();
        disorder
    }

    /// Sets one rule for both directions.
    pub fn set_both(&mut self, rule: Rule) {
        self.set(rule, rule);
    }

    /// Sets the rule for each direction.
    pub fn set(&mut self, to_server: Rule, to_client: Rule) {
        self.now.rules[TO_SERVER] = to_server;
        self.now.rules[TO_CLIENT] = to_client;
        self.publish();
    }

    fn publish(&mut self) {
        self.config.set(0, self.now, 0).expect("set the rules");
    }

    /// Returns the counts of packets to the server.
    pub fn to_server(&self) -> Counts {
        self.direction(TO_SERVER)
    }

    /// Returns the counts of packets to the client.
    pub fn to_client(&self) -> Counts {
        self.direction(TO_CLIENT)
    }

    /// Returns the number of packets in both directions that reached the interface.
    pub fn packets(&self) -> u64 {
        self.to_server().seen + self.to_client().seen
    }

    /// Waits until all delayed packets have arrived.
    #[track_caller]
    pub fn settle(&self) {
        clock::eventually("delayed packets arrive", || {
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
    // Only kernels without TCX links need the qdisc, and it may already exist.
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
    // SAFETY: the text ends with a NUL and outlives the call.
    let index = unsafe { libc::if_nametoindex(text.as_ptr()) };
    assert_ne!(index, 0, "no interface {name}");
    index
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Measures the cost of a decision among many keys and many connections, and the kernel memory for
//! them.

use std::{collections::BTreeMap, fmt, fs, net::Ipv4Addr};

use aya::{maps::Array, programs::TestRunOptions};
use limiter_common::{
    abi::{FlowKey, Limits, UNLIMITED, counter},
    day::MAX_COUNT,
};
use limiter_tests::{
    bench::Target,
    program::{KEY_FIELD, Programs, Shape, Tables, Talk, no_limits},
};
use serde_json::{Value, json};

/// The numbers of keys and the numbers of flows for which the bench measures a decision. The key or
/// the flow of each decision is drawn at random. Each key has its own scope.
const KEYS: [u32; 6] = [10, 100, 1000, 10_000, 100_000, 1_000_000];
const FLOWS: [u32; 6] = [10, 100, 1000, 10_000, 100_000, 500_000];
const QUICK_MOST: u32 = 10_000;

const FIRST_SCOPE: u32 = 1;
const CROWD: &str = "3f9c1b7a5d2e";

/// The number of runs in a round, and the number of rounds. As in the bench `program`, the best
/// round is the result.
const REPEAT: u32 = 20_000;
const ROUNDS: usize = 7;

/// The number of entries in `DRAWS` of limiter-ebpf/src/jobs/bench.rs.
const DRAWS: u32 = 1 << 16;

/// The verdict `TCX_NEXT` (include/uapi/linux/pkt_cls.h) in the form in which a test run returns
/// it.
const NEXT: u32 = u32::MAX;

/// The distribution with which keys or flows are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spread {
    Uniform,
    /// The second key is drawn half as often as the first key, the third key is drawn a third as
    /// often, and so on (Zipf's law).
    Zipf,
}

impl Spread {
    const ALL: [Self; 2] = [Self::Uniform, Self::Zipf];

    fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "Zipf",
        }
    }
}

struct Cost {
    what: &'static str,
    of: u32,
    spread: Spread,
    ns: i64,
}

pub struct Measured {
    costs: Vec<Cost>,
    /// The kernel memory per key and per flow, in bytes.
    a_key: f64,
    a_flow: f64,
}

pub fn measure(quick: bool) -> Measured {
    let most = |sizes: &[u32]| {
        let wanted = |size: &&u32| !quick || **size <= QUICK_MOST;
        sizes.iter().copied().filter(|size| wanted(&size)).collect()
    };
    let (keys, flows): (Vec<u32>, Vec<u32>) = (most(&KEYS), most(&FLOWS));
    let (last_key, last_flow) = (keys[keys.len() - 1], flows[flows.len() - 1]);
    let mut programs = Programs::sized(Tables {
        scopes: last_key + FIRST_SCOPE,
        keys: last_key,
        flows: last_flow + 64,
    });
    let empty = own_maps();
    // The bench rewinds the counts of only one scope, so the counts of the others grow, and the
    // limits have to be too high to be reached.
    let limits = Limits {
        daily_quota: MAX_COUNT,
        interval_ns: 1,
        tolerance_ns: 0,
        concurrency: UNLIMITED - 1,
        connections: UNLIMITED - 1,
        ..no_limits()
    };
    for number in 0..last_key {
        programs.scope(FIRST_SCOPE + number, &key(number), limits);
    }
    let with_keys = own_maps();
    let mut talk = Talk::new(Shape::v4());
    talk.ends.client = client_of(0).into();
    talk.ends.client_port = port_of(0);
    let talk = talk.opened(&mut programs);
    let template = programs.flow(&talk.key()).expect("the flow");
    for number in 0..last_flow {
        let mut flow = template;
        flow.key = FlowKey {
            client: [
                0,
                0,
                template.key.client[2],
                u32::from(client_of(number)).to_be(),
            ],
            client_port: port_of(number).to_be(),
            ..template.key
        };
        programs.set_flow(flow);
    }
    let with_flows = own_maps();
    let bench = Bench::new(&talk);
    let mut costs = Vec::new();
    for (what, sizes, program) in [
        ("keys", &keys, "bench_drawn"),
        ("connections", &flows, "bench_drawn_flow"),
    ] {
        for &of in sizes {
            for spread in Spread::ALL {
                let ns = bench.cost(&mut programs, program, of, spread);
                costs.push(Cost {
                    what,
                    of,
                    spread,
                    ns,
                });
            }
        }
    }
    Measured {
        costs,
        a_key: (with_keys - empty) as f64 / f64::from(last_key),
        a_flow: (with_flows - with_keys) as f64 / f64::from(last_flow),
    }
}

fn key(number: u32) -> String {
    let letter = |at: u32| char::from(b'a' + (number >> (4 * at) & 15) as u8);
    format!("{CROWD}{}", (0..8).map(letter).collect::<String>())
}

/// Returns the client address of the flow with the number `number`. The address and the port must
/// be those that `draw_flow` of limiter-ebpf/src/jobs/bench.rs computes.
fn client_of(number: u32) -> Ipv4Addr {
    let group = number >> 15;
    Ipv4Addr::from((0x0a00 + group) << 16 | (0xf000 - group))
}

fn port_of(number: u32) -> u16 {
    1024 + (number & 0x7fff) as u16
}

/// Returns the memory of all maps of this process, in bytes.
fn own_maps() -> u64 {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fdinfo").expect("own descriptors") {
        let text = fs::read_to_string(entry.expect("a descriptor").path()).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    maps.values().sum()
}

/// A request of 400 bytes, and the contents of `REWIND`, which determine the flow that the programs
/// rewind before each run.
struct Bench {
    packet: Vec<u8>,
    /// The 32-bit words of `REWIND` except for the last two, which depend on the draw.
    rewind: [u32; 14],
}

impl Bench {
    fn new(talk: &Talk) -> Self {
        let start = format!(
            "GET /v1/calls?page=2 HTTP/1.1\r\nHost: api.example.com\r\n\
             User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
             Accept: application/json\r\nAccept-Language: en-US,en;q=0.5\r\n{KEY_FIELD}: {}\r\n\
             X-Request-Id: 0b2f6c1e-7d1e-4d1c-9b5e-2f7f0c8f3a11\r\nX-Filler: ",
            key(0)
        );
        let end = "\r\n\r\n";
        let filler = "f".repeat(400 - start.len() - end.len());
        let head = start + &filler + end;
        let mut talk = talk.clone();
        let segment = talk.client(head.as_bytes());
        let packet = talk.shape.wrap(&talk.ends, true, &segment);
        let crowd = CROWD.as_bytes();
        let key_at = packet.windows(crowd.len()).position(|place| place == crowd);
        let letters_at = key_at.expect("the key in the packet") + crowd.len();
        let mut rewind = [0; 14];
        rewind[..11].copy_from_slice(&talk.key_words());
        let letters_at = u32::try_from(letters_at).expect("a short packet");
        rewind[11..].copy_from_slice(&[talk.client_start, FIRST_SCOPE, letters_at]);
        Self { packet, rewind }
    }

    /// Returns the cost of a decision, without the costs of drawing and rewinding: the best time of
    /// the program that decides, minus the best time of the program that only draws and rewinds.
    fn cost(&self, programs: &mut Programs, program: &str, of: u32, spread: Spread) -> i64 {
        if spread == Spread::Zipf {
            set_draws(programs, of);
        }
        let mut words = [0; 16];
        words[..14].copy_from_slice(&self.rewind);
        words[14] = if spread == Spread::Uniform { of } else { 0 };
        let map = programs.object_mut().ebpf().map_mut("REWIND");
        let map = map.expect("an object with the feature `bench`: use `cargo xtask bench`");
        let mut map: Array<_, [u32; 16]> = Array::try_from(map).expect("an array");
        map.set(0, words, 0).expect("set where to rewind to");
        let baseline = program.replace("bench_", "bench_rewind_");
        let [mut with, mut without] = [i64::MAX; 2];
        for _ in 0..ROUNDS {
            with = with.min(self.once(programs, program, NEXT, u64::from(REPEAT)));
            without = without.min(self.once(programs, &baseline, 0, 0));
        }
        with - without
    }

    fn once(&self, programs: &Programs, program: &str, verdict: u32, admitted: u64) -> i64 {
        let before = programs.counter(counter::ADMITTED);
        let options = TestRunOptions {
            data_in: Some(&self.packet),
            repeat: REPEAT,
            ..TestRunOptions::default()
        };
        let result = programs.object().run(program, options);
        let result = result.expect("run a program");
        assert_eq!(result.return_value, verdict, "the verdict of {program}");
        assert_eq!(
            programs.counter(counter::ADMITTED) - before,
            admitted,
            "admitted by {program}"
        );
        i64::try_from(result.duration.as_nanos()).expect("a short time")
    }
}

/// Fills `DRAWS`, from which the programs draw, with numbers that are distributed by Zipf's law:
/// evenly spaced quantiles of the distribution.
fn set_draws(programs: &mut Programs, of: u32) {
    let map = programs.object_mut().ebpf().map_mut("DRAWS");
    let mut map: Array<_, u32> =
        Array::try_from(map.expect("a map of the bench")).expect("an array");
    let all: f64 = (1..=of).map(|rank| f64::from(rank).recip()).sum();
    let (mut rank, mut sum) = (0, 1.0);
    for at in 0..DRAWS {
        let wanted = (f64::from(at) + 0.5) / f64::from(DRAWS) * all;
        while sum < wanted && rank + 1 < of {
            rank += 1;
            sum += f64::from(rank + 1).recip();
        }
        map.set(at, rank, 0).expect("set a draw");
    }
}

impl Measured {
    pub fn targets(&self) -> Vec<Target> {
        let many = self
            .costs
            .iter()
            .find(|cost| (cost.what, cost.of, cost.spread) == ("keys", 1_000_000, Spread::Uniform));
        let target =
            |cost: &Cost| Target::at_most("a million scopes and keys, ns", 1000.0, cost.ns as f64);
        many.map(target).into_iter().collect()
    }

    pub fn json(&self) -> Value {
        let costs = self.costs.iter().map(|cost| {
            json!({
                "what": cost.what, "of": cost.of, "spread": cost.spread.name(), "net_ns": cost.ns,
            })
        });
        json!({
            "costs": costs.collect::<Value>(),
            "bytes_a_key": self.a_key, "bytes_a_connection": self.a_flow,
        })
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{:24}", "a request, net ns")?;
        for spread in Spread::ALL {
            write!(f, " {:>8}", spread.name())?;
        }
        writeln!(f)?;
        for pair in self.costs.chunks(Spread::ALL.len()) {
            write!(f, "{:24}", format!("of {} {}", pair[0].of, pair[0].what))?;
            for cost in pair {
                write!(f, " {:8}", cost.ns)?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "\nkernel memory: a key {:.0} bytes, a connection {:.0} bytes",
            self.a_key, self.a_flow
        )
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs and measures the cases.

use aya::{maps::Array, programs::TestRunOptions};
use limiter_common::abi::{Flow, Link, counter};
use limiter_tests::program::{Programs, Talk};

use crate::{KEYS, SCOPE, SHARED, drawn};

/// The number of runs of each case in a round. These runs take a few milliseconds.
const REPEAT: u32 = 20_000;
const ROUNDS: usize = 15;
const QUICK_ROUNDS: usize = 5;

/// The verdicts `TCX_NEXT` and `TC_ACT_SHOT` (include/uapi/linux/pkt_cls.h).
const NEXT: i32 = -1;
const DROP: i32 = 2;

/// A program with its packet and the expected result.
pub struct Case {
    pub name: String,
    pub program: &'static str,
    pub packet: Vec<u8>,
    /// A program that only does the preparations for a run, such as the rewinding of the flow. Its
    /// cost is subtracted from the cost of the case.
    pub baseline: Option<&'static str>,
    /// The length of the head of an admitted request, in bytes.
    pub head: Option<usize>,
    verdict: i32,
    /// The counter that each packet of the case increases by one.
    counter: Option<u32>,
}

impl Case {
    /// Makes a case for a program that does not read the packet.
    pub fn idle(name: &str, program: &'static str, packet: Vec<u8>) -> Self {
        Self {
            verdict: 0,
            ..Self::new(name, program, packet)
        }
    }

    pub fn is_idle(&self) -> bool {
        self.verdict == 0
    }

    /// Makes a case for a packet that passes and changes nothing.
    pub fn new(name: &str, program: &'static str, packet: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            program,
            packet,
            baseline: None,
            head: None,
            verdict: NEXT,
            counter: None,
        }
    }

    /// Makes a case for a request that passes or is dropped, and that increases the counter
    /// `counter`. The network device has already verified the checksum of the packet.
    pub fn request(name: &str, packet: Vec<u8>, passes: bool, counter: u32) -> Self {
        Self {
            baseline: Some("bench_rewind_checked"),
            verdict: if passes { NEXT } else { DROP },
            counter: Some(counter),
            ..Self::new(name, "bench_checked", packet)
        }
    }

    /// Makes a case for a response, which frees the slot of its request.
    pub fn response(name: &str, packet: Vec<u8>) -> Self {
        Self {
            baseline: Some("bench_rewind_response"),
            ..Self::new(name, "bench_response", packet)
        }
    }

    /// Makes a case for an admitted request whose checksum the network device has not verified.
    pub fn unchecked(name: &str, packet: Vec<u8>) -> Self {
        Self {
            program: "bench_request",
            baseline: Some("bench_rewind"),
            ..Self::request(name, packet, true, counter::ADMITTED)
        }
    }

    /// Makes a case for an admitted request whose key is replaced in each run by a key drawn at
    /// random.
    pub fn drawn(name: &str, packet: Vec<u8>) -> Self {
        Self {
            program: "bench_drawn",
            baseline: Some("bench_rewind_drawn"),
            ..Self::request(name, packet, true, counter::ADMITTED)
        }
    }

    /// Makes a case for a request with a head of `len` bytes, which is admitted in each run.
    pub fn admitted(len: usize, packet: Vec<u8>) -> Self {
        let name = format!("request of {len} bytes, admitted");
        Self {
            head: Some(len),
            ..Self::request(&name, packet, true, counter::ADMITTED)
        }
    }
}

/// The cost of a case, in nanoseconds per packet.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub best: u64,
    pub median: u64,
}

/// Runs all cases in turn.
///
/// # Panics
/// Panics if a packet has a result other than the expected one, because the measurements are then
/// useless.
pub fn all(programs: &mut Programs, talk: &Talk, cases: &[Case], quick: bool) -> Vec<Cost> {
    let rounds = if quick { QUICK_ROUNDS } else { ROUNDS };
    set_link(programs, talk);
    set_rewind(programs, talk, cases);
    let mut times = vec![Vec::new(); cases.len()];
    // The first round is a warm-up, so its times are not used.
    for round in 0..=rounds {
        for (case, times) in cases.iter().zip(&mut times) {
            let time = once(programs, case);
            if round > 0 {
                times.push(time);
            }
        }
    }
    times
        .into_iter()
        .map(|mut times| {
            times.sort_unstable();
            Cost {
                best: times[0],
                median: times[times.len() / 2],
            }
        })
        .collect()
}

fn once(programs: &Programs, case: &Case) -> u64 {
    let name = &case.name;
    let counted = |index| programs.counter(index);
    let before = case.counter.map(counted);
    let options = TestRunOptions {
        data_in: Some(&case.packet),
        repeat: REPEAT,
        ..TestRunOptions::default()
    };
    let result = programs
        .object()
        .run(case.program, options)
        .expect("run a program");
    assert_eq!(
        result.return_value.cast_signed(),
        case.verdict,
        "the verdict on: {name}"
    );
    let wanted = before.map(|before| before + u64::from(REPEAT));
    assert_eq!(
        case.counter.map(counted),
        wanted,
        "what was counted for: {name}"
    );
    u64::try_from(result.duration.as_nanos()).expect("a short time")
}

/// The link of the packets in a test run. The kernel runs the program on `lo` if no interface is
/// given.
const HERE: Link = Link {
    ifindex: 1,
    vlan: 0,
};

/// Sets the link of the flow to that of the packets.
fn set_link(programs: &mut Programs, talk: &Talk) {
    if let Some(flow) = programs.flow(&talk.key()) {
        programs.set_flow(Flow { link: HERE, ..flow });
    }
}

/// Fills `REWIND` of limiter-ebpf/src/jobs/bench.rs with the flow and its scope, the state to which
/// the flow is rewound, the number of keys to draw from, and the offset in the packet at which the
/// letters of a drawn key are written.
fn set_rewind(programs: &mut Programs, talk: &Talk, cases: &[Case]) {
    let first = drawn(SHARED, 0);
    let of_letters = |case: &Case| {
        let mut places = case.packet.windows(first.len());
        let key = places.position(|place| place == first.as_bytes())?;
        u32::try_from(key + SHARED.len()).ok()
    };
    let letters_at = cases.iter().find_map(of_letters).unwrap_or(0);
    let mut words = [0; 16];
    words[..11].copy_from_slice(&talk.key_words());
    let next = talk.client_start.wrapping_add(talk.asked);
    let response_next = talk.server_start.wrapping_add(talk.answered);
    words[11..].copy_from_slice(&[next, SCOPE, letters_at, KEYS, response_next]);
    let map = programs.object_mut().ebpf().map_mut("REWIND");
    let map = map.expect("an object with the feature `bench`: use `cargo xtask bench`");
    let mut map: Array<_, [u32; 16]> = Array::try_from(map).expect("an array");
    map.set(0, words, 0).expect("say where to rewind to");
}

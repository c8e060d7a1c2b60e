//! Running the cases.

use aya::{maps::Array, programs::TestRunOptions};
use limiter_common::abi::counter;
use limiter_tests::program::{Programs, Talk};

use crate::{KEYS, SCOPE, SHARED, drawn};

/// Runs of a program in a round: some milliseconds.
const REPEAT: u32 = 20_000;
const ROUNDS: usize = 15;
const QUICK_ROUNDS: usize = 5;

/// `TCX_NEXT` and `TC_ACT_SHOT` (include/uapi/linux/pkt_cls.h).
const NEXT: i32 = -1;
const DROP: i32 = 2;

/// Which program runs on what, and what becomes of it.
pub struct Case {
    pub name: String,
    pub program: &'static str,
    pub packet: Vec<u8>,
    /// The program that does what this one does besides.
    pub besides: Option<&'static str>,
    /// Bytes of the head of a request that is admitted.
    pub head: Option<usize>,
    verdict: i32,
    /// What is counted, once for each packet.
    counter: Option<u32>,
}

impl Case {
    /// A program that looks at no packet.
    pub fn idle(name: &str, program: &'static str, packet: Vec<u8>) -> Self {
        Self {
            verdict: 0,
            ..Self::new(name, program, packet)
        }
    }

    pub fn is_idle(&self) -> bool {
        self.verdict == 0
    }

    /// A packet that passes without a trace.
    pub fn new(name: &str, program: &'static str, packet: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            program,
            packet,
            besides: None,
            head: None,
            verdict: NEXT,
            counter: None,
        }
    }

    /// A request that passes or is dropped, which is counted; the device has checked its sum.
    pub fn request(name: &str, packet: Vec<u8>, passes: bool, counter: u32) -> Self {
        Self {
            besides: Some("bench_rewind_checked"),
            verdict: if passes { NEXT } else { DROP },
            counter: Some(counter),
            ..Self::new(name, "bench_checked", packet)
        }
    }

    /// A response, which frees the slot of its request.
    pub fn response(name: &str, packet: Vec<u8>) -> Self {
        Self {
            besides: Some("bench_rewind_response"),
            ..Self::new(name, "bench_response", packet)
        }
    }

    /// A request that is admitted, whose sum nobody has checked.
    pub fn unchecked(name: &str, packet: Vec<u8>) -> Self {
        Self {
            program: "bench_request",
            besides: Some("bench_rewind"),
            ..Self::request(name, packet, true, counter::ADMITTED)
        }
    }

    /// A request that is admitted, with a key that another one takes the place of each time.
    pub fn drawn(name: &str, packet: Vec<u8>) -> Self {
        Self {
            program: "bench_drawn",
            besides: Some("bench_rewind_drawn"),
            ..Self::request(name, packet, true, counter::ADMITTED)
        }
    }

    /// A request with a head of `len` bytes, admitted each time.
    pub fn admitted(len: usize, packet: Vec<u8>) -> Self {
        let name = format!("request of {len} bytes, admitted");
        Self {
            head: Some(len),
            ..Self::request(&name, packet, true, counter::ADMITTED)
        }
    }
}

/// What a case costs, in nanoseconds a packet.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub best: u64,
    pub median: u64,
}

/// Runs all cases in turns.
///
/// # Panics
/// When a packet meets another fate than it should: then nothing that was measured says anything.
pub fn all(programs: &mut Programs, talk: &Talk, cases: &[Case], quick: bool) -> Vec<Cost> {
    let rounds = if quick { QUICK_ROUNDS } else { ROUNDS };
    set_rewind(programs, talk, cases);
    let mut times = vec![Vec::new(); cases.len()];
    // The first round only warms up.
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

/// Tells `REWIND` of limiter-ebpf/src/bench.rs which flow to set back, where to, and whose it is, and
/// where the keys that are drawn stand in their packet.
fn set_rewind(programs: &mut Programs, talk: &Talk, cases: &[Case]) {
    let first = drawn(SHARED, 0);
    let of_letters = |case: &Case| {
        let mut places = case.packet.windows(first.len());
        let key = places.position(|place| place == first.as_bytes())?;
        u32::try_from(key + SHARED.len()).ok()
    };
    let letters_at = cases.iter().find_map(of_letters).unwrap_or(0);
    let mut words = [0; 14];
    words[..9].copy_from_slice(&talk.key_words());
    let next = talk.client_start.wrapping_add(talk.asked);
    let response_next = talk.server_start.wrapping_add(talk.answered);
    words[9..].copy_from_slice(&[next, SCOPE, letters_at, KEYS, response_next]);
    let map = programs.object_mut().ebpf().map_mut("REWIND");
    let map = map.expect("an object with the feature `bench`: use `cargo xtask bench`");
    let mut map: Array<_, [u32; 14]> = Array::try_from(map).expect("an array");
    map.set(0, words, 0).expect("say where to rewind to");
}

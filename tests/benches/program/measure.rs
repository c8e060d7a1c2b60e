//! Running the cases.

use aya::{maps::Array, programs::TestRunOptions};
use limiter_common::abi::{FlowKey, counter};
use limiter_tests::program::{Programs, Talk};

use crate::SCOPE;

/// Runs of a program in a round: some milliseconds.
const REPEAT: u32 = 20_000;
const ROUNDS: usize = 15;

/// Which program runs on what.
pub struct Case {
    pub name: String,
    pub program: &'static str,
    pub packet: Vec<u8>,
    /// Bytes of the request's head, if it is one.
    pub head: Option<usize>,
}

impl Case {
    pub fn new(name: &str, program: &'static str, packet: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            program,
            packet,
            head: None,
        }
    }

    /// A request, admitted each time.
    pub fn request(len: usize, packet: Vec<u8>) -> Self {
        let name = format!("request of {len} bytes, admitted");
        Self {
            name,
            program: "bench_request",
            packet,
            head: Some(len),
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
pub fn all(programs: &mut Programs, talk: &Talk, cases: &[Case]) -> Vec<Cost> {
    set_rewind(programs, talk);
    let mut times = vec![Vec::new(); cases.len()];
    // The first round only warms up.
    for round in 0..=ROUNDS {
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
    let admitted = programs.counter(counter::ADMITTED);
    let options = TestRunOptions {
        data_in: Some(&case.packet),
        repeat: REPEAT,
        ..TestRunOptions::default()
    };
    let result = programs
        .object()
        .run(case.program, options)
        .expect("run a program");
    let empty = case.program == "bench_empty" || case.program == "bench_rewind";
    let wanted = if empty { 0 } else { -1 };
    assert_eq!(
        result.return_value.cast_signed(),
        wanted,
        "the verdict on: {}",
        case.name
    );
    let admitted = programs.counter(counter::ADMITTED) - admitted;
    let wanted = if case.head.is_some() {
        u64::from(REPEAT)
    } else {
        0
    };
    assert_eq!(admitted, wanted, "requests admitted: {}", case.name);
    u64::try_from(result.duration.as_nanos()).expect("a short time")
}

/// Tells `REWIND` of limiter-ebpf/src/bench.rs which flow to set back, where to, and whose it is.
fn set_rewind(programs: &mut Programs, talk: &Talk) {
    let FlowKey {
        client,
        server,
        client_port,
        server_port,
    } = talk.key();
    let [a, b] = [client_port.to_ne_bytes(), server_port.to_ne_bytes()];
    let ports = u32::from_ne_bytes([a[0], a[1], b[0], b[1]]);
    let mut words = [0; 11];
    words[..4].copy_from_slice(&client);
    words[4..8].copy_from_slice(&server);
    words[8..].copy_from_slice(&[ports, talk.client_start.wrapping_add(talk.asked), SCOPE]);
    let map = programs.object_mut().ebpf().map_mut("REWIND");
    let map = map.expect("an object with the feature `bench`: use `cargo xtask bench`");
    let mut map: Array<_, [u32; 11]> = Array::try_from(map).expect("an array");
    map.set(0, words, 0).expect("say where to rewind to");
}

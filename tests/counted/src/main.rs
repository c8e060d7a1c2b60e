//! Runs one piece of limiter-common, named on the command line; without a name, prints all names.
//!
//! A test runs it under callgrind, which counts the instructions within `counted` and nothing else: no
//! allocation, no library, nothing that differs from one run to the next.

use std::{env, hint::black_box, mem::MaybeUninit, process::ExitCode};

use limiter_common::{
    day::{Day, DayCount},
    fingerprint,
    gcra::Rate,
    http::{self, EVENT_HEAD, EVENT_MORE, LINES, Parser, Payload, Rules, Scan, Source, UNITS},
    siphash::siphash128,
};

const SECRET: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
const MAX_HEAD: u32 = 16_384;
const MAX_LINES: u32 = 128;

/// What is counted: how often a piece runs is a part of its case.
struct Case {
    name: &'static str,
    input: Vec<u8>,
    run: fn(&Case, &mut Tools) -> u64,
}

/// What a case works with, made before it is counted.
struct Tools {
    scan: Box<Scan>,
    requests: Rules,
    responses: Rules,
    fingerprint: [u64; fingerprint::KEY_WORDS],
}

fn main() -> ExitCode {
    let cases = cases();
    let Some(name) = env::args().nth(1) else {
        for case in &cases {
            println!("{}", case.name);
        }
        return ExitCode::SUCCESS;
    };
    let Some(case) = cases.iter().find(|case| case.name == name) else {
        eprintln!("there is no case {name:?}");
        return ExitCode::from(2);
    };
    let sources = [Source::Header("x-api-key"), Source::Bearer];
    let Ok(requests) = Rules::request(&sources, SECRET, MAX_HEAD, MAX_LINES) else {
        return ExitCode::FAILURE;
    };
    let mut tools = Tools {
        // SAFETY: any content will do, a scan is made of integers.
        scan: Box::new(unsafe { MaybeUninit::zeroed().assume_init() }),
        requests,
        responses: Rules::response(),
        fingerprint: fingerprint::key(SECRET),
    };
    // Printed, so that nothing of it can be left out.
    println!("{:x}", counted(black_box(case), &mut tools));
    ExitCode::SUCCESS
}

/// Within this, instructions count.
#[inline(never)]
fn counted(case: &Case, tools: &mut Tools) -> u64 {
    (case.run)(case, tools)
}

fn cases() -> Vec<Case> {
    let case = |name, input: String, run| Case {
        name,
        input: input.into_bytes(),
        run,
    };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()
        + &"40\r\n0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n".repeat(8)
        + "0\r\n\r\n";
    let response = "HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Tue, 24 Nov 2026 12:00:00 GMT\r\n\
                    Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    vec![
        case("request-150", request(150), |case, tools| {
            scan(&mut tools.scan, &tools.requests, &case.input)
        }),
        case("request-400", request(400), |case, tools| {
            scan(&mut tools.scan, &tools.requests, &case.input)
        }),
        case("request-1500", request(1500), |case, tools| {
            scan(&mut tools.scan, &tools.requests, &case.input)
        }),
        case("response", response.to_owned(), |case, tools| {
            scan(&mut tools.scan, &tools.responses, &case.input)
        }),
        case("response-chunked", chunked, |case, tools| {
            scan(&mut tools.scan, &tools.responses, &case.input)
        }),
        case(
            "siphash-20",
            "3f9c1b7a5d2e48c0a6b4".to_owned(),
            |case, _| siphash128(SECRET, &case.input)[0],
        ),
        case("fingerprint-400", request(400), |case, tools| {
            fingerprint::of(&case.input, &tools.fingerprint)
        }),
        case("rate-1000", String::new(), |_, _| {
            let mut tat = 0;
            for now in (0..1000).map(|turn| turn * 700_000) {
                let rate = Rate {
                    interval_ns: black_box(1_000_000),
                    tolerance_ns: 0,
                };
                tat = rate.judge(tat, now).unwrap_or(tat);
            }
            tat
        }),
        case("day-1000", String::new(), |_, _| {
            let mut count = DayCount::new(Day(20_000), 0);
            for turn in 0..1000_u32 {
                count = count.on(Day(20_000 + black_box(turn) / 300)).charged();
            }
            count.0
        }),
    ]
}

/// A request of so many bytes, its key in the middle.
fn request(len: usize) -> String {
    let mut head = "GET /v1/calls?page=2 HTTP/1.1\r\nHost: api.example.com\r\n".to_owned();
    let end = "X-Api-Key: 3f9c1b7a5d2e48c0a6b4\r\n\r\n";
    let fields = [
        "Accept: application/json\r\n",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101\r\n",
        "Accept-Language: en-US,en;q=0.5\r\n",
        "Cache-Control: no-cache\r\n",
    ];
    let filler = "X-Filler: \r\n";
    for field in fields.iter().cycle() {
        if head.len() + field.len() + filler.len() + end.len() > len {
            break;
        }
        head += field;
    }
    let missing = len - head.len() - filler.len() - end.len();
    head + "X-Filler: " + &"f".repeat(missing) + "\r\n" + end
}

/// A segment's payload.
struct Slice<'a>(&'a [u8]);

impl Payload for Slice<'_> {
    unsafe fn load(&self, at: u32, to: *mut u8, len: u32) -> bool {
        let Some(from) = self.0.get(at as usize..(at + len) as usize) else {
            return false;
        };
        for (offset, byte) in from.iter().enumerate() {
            // Each by itself: the library's copy is another one on each kind of processor.
            let byte = black_box(*byte);
            // SAFETY: the caller says that `len` bytes can be written.
            unsafe { to.add(offset).write(byte) };
        }
        true
    }
}

/// Takes a segment in, as the kernel programs do; something that depends on all of it.
fn scan(scan: &mut Scan, rules: &Rules, bytes: &[u8]) -> u64 {
    let mut parser = Parser::NEW;
    let scan: *mut Scan = scan;
    // SAFETY: both are valid and ours.
    unsafe { http::begin(scan, &raw const parser, 0, bytes.len() as u32) };
    let mut seen = 0_u64;
    for _ in 0..UNITS {
        let lines = || {
            // SAFETY: the scan was begun, and is not used meanwhile.
            (0..LINES).any(|_| unsafe { http::line(scan, rules) });
        };
        // SAFETY: the scan was begun.
        if !unsafe { http::unit(scan, rules, &Slice(bytes), lines) } {
            continue;
        }
        // SAFETY: valid, and nothing else uses it.
        let (event, state) = unsafe { ((*scan).event, &(*scan).state) };
        seen = seen << 4 | u64::from(event);
        match event {
            EVENT_HEAD => {
                let body = if state.status == 0 {
                    http::request_body(state)
                } else {
                    http::response_body(state, 0)
                };
                seen ^= http::key(state).map_or(0, |digest| digest[0]);
                // SAFETY: the scan was begun.
                unsafe { http::go_on(scan, body) };
            }
            EVENT_MORE => break,
            _ => {}
        }
    }
    // SAFETY: the scan was begun.
    unsafe { http::end(scan, &raw mut parser) };
    seen
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs one piece of the code of limiter-common. The command line names the piece. Without a name,
//! the program prints all names.
//!
//! A test runs this program under callgrind, which counts only the instructions within `counted`.
//! They are the same in each run, because that function does not allocate memory or call a library,
//! and always does the same work.

use std::{env, hint::black_box, mem::MaybeUninit, process::ExitCode};

use limiter_common::{
    day::{Day, DayCount},
    fingerprint,
    gcra::Rate,
    http::{self, EVENT_HEAD, EVENT_MORE, LINES, Payload, Progress, Rules, Scan, Source, UNITS},
    siphash::siphash128,
};

const SECRET: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
const MAX_HEAD: u32 = 16_384;
const MAX_LINES: u32 = 128;

/// A piece of code whose instructions are counted. `run` repeats the piece if it is short.
struct Case {
    name: &'static str,
    input: Vec<u8>,
    run: fn(&Case, &mut Tools) -> u64,
}

/// The data that the cases use. It is prepared before the count starts.
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
        // SAFETY: a scan consists of integers, for which all bit patterns are valid.
        scan: Box::new(unsafe { MaybeUninit::zeroed().assume_init() }),
        requests,
        responses: Rules::response(),
        fingerprint: fingerprint::key(SECRET),
    };
    // The result is printed. Otherwise, the compiler could remove some of the work.
    println!("{:x}", counted(black_box(case), &mut tools));
    ExitCode::SUCCESS
}

/// Runs a case. callgrind counts only the instructions within this function.
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
        case("request-token-1000", token(1000), |case, tools| {
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
            fingerprint::of(limiter_common::seq::Seq(0), &case.input, &tools.fingerprint)
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

/// Returns a request of `len` bytes with its key in the middle.
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

/// Returns a request with a token of `len` bytes, which is too long to be a key.
fn token(len: usize) -> String {
    let token = "eyJhbGciOiJFUzI1NiJ9.".chars().cycle().take(len);
    let token: String = token.collect();
    format!(
        "GET /v1/calls HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
}

/// The payload of a segment.
struct Slice<'a>(&'a [u8]);

impl Payload for Slice<'_> {
    unsafe fn load(&self, at: u32, to: *mut u8, len: u32) -> bool {
        let Some(from) = self.0.get(at as usize..(at + len) as usize) else {
            return false;
        };
        for (offset, byte) in from.iter().enumerate() {
            // The bytes are copied one by one, because the C library's copy function executes
            // different numbers of instructions on different processors.
            let byte = black_box(*byte);
            // SAFETY: the caller promises that `len` bytes can be written.
            unsafe { to.add(offset).write(byte) };
        }
        true
    }
}

/// Scans a segment as the kernel programs do, and returns a number that depends on the whole
/// result.
fn scan(scan: &mut Scan, rules: &Rules, bytes: &[u8]) -> u64 {
    let mut progress = Progress::default();
    let scan: *mut Scan = scan;
    // SAFETY: both pointers come from references that nothing else uses during the call.
    unsafe { http::begin(scan, &raw const progress, 0, bytes.len() as u32) };
    let mut seen = 0_u64;
    for _ in 0..UNITS {
        let lines = || {
            // SAFETY: `begin` was called for `scan`, `rules` comes from a reference, and nothing
            // else uses the scan.
            (0..LINES).any(|_| unsafe { http::line(scan, rules) });
        };
        // SAFETY: `begin` was called for `scan`, `rules` comes from a reference, and only `unit`
        // and `lines` access the scan during the call.
        if !unsafe { http::unit(scan, rules, &Slice(bytes), lines) } {
            continue;
        }
        // SAFETY: `scan` comes from a reference, and nothing else uses the scan.
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
                // SAFETY: `scan` comes from a reference, and nothing else uses the scan.
                unsafe { http::go_on(scan, body) };
            }
            EVENT_MORE => break,
            _ => {}
        }
    }
    // SAFETY: both pointers come from references that nothing else uses during the call.
    unsafe { http::end(scan, &raw mut progress) };
    seen
}

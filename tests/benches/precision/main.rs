// SPDX-License-Identifier: MIT OR Apache-2.0

//! Measures how exactly limits are kept in a flood, as a part of `cargo xtask bench`.
//!
//! The bench examines the times at which admitted requests reach the server. Each of these times is
//! the time at which the kernel received the packet (SO_TIMESTAMPNS, socket(7)). The programs
//! decide about the request later, because the packet waits in a queue first, usually for a few
//! microseconds, and occasionally for a few hundred when the CPU is busy.

use std::{
    fmt, io,
    io::{IoSliceMut, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use limiter_tests::{
    Config, GUARDED, Lab, Limiter, avoid_midnight,
    bench::{self, Args, Target, Targets, quantile},
    request,
};
use nix::{
    cmsg_space,
    sys::{
        socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt},
        time::TimeSpec,
    },
};
use serde_json::{Value, json};

/// The number of clients of the customer. They share the customer's key, and send the next request
/// as soon as the last one is answered.
const CLIENTS: usize = 8;
const TIME: Duration = Duration::from_secs(10);
const QUICK_TIME: Duration = Duration::from_secs(3);
/// The maximum duration of the bench, which must not run past midnight UTC.
const BENCH: Duration = Duration::from_secs(120);

/// The rate limit of the bench in requests per second, which is one request per millisecond.
const RATE: usize = 1000;
const INTERVAL_NS: u64 = 1_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// The daily quota of the bench, and the number of refusals after which the bench stops trying to
/// exceed the quota.
const QUOTA: u64 = 1000;
const MAX_REFUSALS: u64 = 2000;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";

fn main() -> ExitCode {
    bench::main("precision", run)
}

struct Report {
    /// The times at which requests reached the server, in nanoseconds and in ascending order.
    times: Vec<u64>,
    asked: u64,
    took: Duration,
    /// The number of requests that the daily quota admitted, and the number that it refused.
    day: [u64; 2],
}

fn run(args: &Args) -> Report {
    avoid_midnight(BENCH);
    let lab = Lab::veth();
    let listener = lab
        .server()
        .enter(|| TcpListener::bind((lab.v4(), GUARDED)));
    let listener = listener.expect("listen");
    // The option is set on the listener, from which accepted connections inherit it. It is set
    // early, because the kernel records times only after a delay.
    setsockopt(&listener, sockopt::ReceiveTimestampns, &true).expect("ask for times");
    let config = Config::new(&lab)
        .tier("paced", "rate = \"1/ms\"\nburst = 1")
        .tier("daily", &format!("daily_quota = {QUOTA}"));
    let limiter = Limiter::start(&lab, &config);
    let paced = limiter.key_of_tier("paced", "paced");
    let daily = limiter.key_of_tier("daily", "daily");

    let server = Server::default();
    let address = listener.local_addr().expect("its address");
    let listener = &listener;
    let time = if args.quick { QUICK_TIME } else { TIME };
    thread::scope(|scope| {
        scope.spawn(|| server.serve(scope, listener));
        let _ends_also_when_this_fails = server.ends_with_this(address, &lab);
        let begun = Instant::now();
        let [served, refused] = flood(&lab, address, &paced, |_| begun.elapsed() >= time);
        let took = begun.elapsed();
        let mut times = std::mem::take(&mut *server.times.lock().expect("the times"));
        times.sort_unstable();
        assert!(
            refused > 0,
            "nothing was refused: {served} served in {took:?}"
        );
        assert_eq!(
            times.len() as u64,
            served,
            "responses, and requests that arrived"
        );
        let day = flood(&lab, address, &daily, |refused| refused >= MAX_REFUSALS);
        Report {
            times,
            asked: served + refused,
            took,
            day,
        }
    })
}

/// Sends requests until `enough` returns true for the number of refusals. Returns the number of
/// requests that were served, and the number of requests that were refused.
fn flood(
    lab: &Lab,
    address: SocketAddr,
    key: &str,
    enough: impl Fn(u64) -> bool + Sync,
) -> [u64; 2] {
    let (served, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let request = request("/", key);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !enough(refused.load(Relaxed)) {
                    let mut conn = lab.connect_to(address.ip(), address.port());
                    loop {
                        conn.send(&request);
                        let response = conn.try_response().expect("an answer");
                        if response.status != 200 {
                            refused.fetch_add(1, Relaxed);
                            break;
                        }
                        served.fetch_add(1, Relaxed);
                    }
                }
            });
        }
    });
    [served.into_inner(), refused.into_inner()]
}

/// A server that answers each request and records the time at which the request arrived.
#[derive(Default)]
struct Server {
    times: Mutex<Vec<u64>>,
    ended: AtomicBool,
}

/// A guard that stops the server when it is dropped.
struct End<'a>(&'a Server, SocketAddr, &'a Lab);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Relaxed);
        let _ = self.2.client().enter(|| TcpStream::connect(self.1));
    }
}

impl Server {
    fn ends_with_this<'a>(&'a self, address: SocketAddr, lab: &'a Lab) -> End<'a> {
        End(self, address, lab)
    }

    fn serve<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>, from: &TcpListener) {
        for stream in from.incoming() {
            if self.ended.load(Relaxed) {
                return;
            }
            let stream = stream.expect("a connection");
            // An error is ignored, because the programs end a connection after a refusal.
            scope.spawn(move || drop(self.answer(stream)));
        }
    }

    /// Answers the requests of one connection. Each read returns exactly one request, because a
    /// request fits into one segment, and a client waits for the response before it sends the next
    /// request.
    fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; 4096];
        loop {
            let mut space = cmsg_space!(TimeSpec);
            let mut into = [IoSliceMut::new(&mut buffer)];
            let message = recvmsg::<()>(
                stream.as_raw_fd(),
                &mut into,
                Some(&mut space),
                MsgFlags::empty(),
            )?;
            if message.bytes == 0 {
                return Ok(());
            }
            let came = message.cmsgs()?.find_map(|message| match message {
                ControlMessageOwned::ScmTimestampns(time) => Some(time),
                _ => None,
            });
            let came = came.expect("the kernel reports the time of arrival");
            let nanoseconds = came.tv_sec() * 1_000_000_000 + came.tv_nsec();
            let mut times = self.times.lock().expect("the times");
            times.push(nanoseconds.cast_unsigned());
            drop(times);
            stream.write_all(ANSWER)?;
        }
    }
}

impl Report {
    /// Returns the times between consecutive admitted requests, in nanoseconds and in ascending
    /// order.
    fn gaps(&self) -> Vec<f64> {
        let pairs = self.times.windows(2);
        let mut gaps: Vec<f64> = pairs.map(|pair| (pair[1] - pair[0]) as f64).collect();
        gaps.sort_unstable_by(f64::total_cmp);
        gaps
    }

    /// Returns the maximum number of requests that were admitted within any period of one second.
    fn most_in_a_second(&self) -> usize {
        let counts = self.times.iter().enumerate().map(|(first, begin)| {
            let rest = &self.times[first..];
            rest.partition_point(|time| time - begin < SECOND_NS)
        });
        counts.max().unwrap_or(0)
    }

    /// Returns the difference, in nanoseconds, between the interval of the rate limit and the
    /// shortest gap. The programs decide with exact intervals, so this difference is an error of
    /// the recorded times.
    fn early(&self) -> f64 {
        INTERVAL_NS as f64 - self.gaps().first().copied().unwrap_or(f64::NAN)
    }

    fn targets(&self) -> Targets {
        let gaps = self.gaps();
        let thousandth = quantile(&gaps, 0.001) / INTERVAL_NS as f64;
        let second = self.most_in_a_second() as f64;
        let day = self.day[0] as f64;
        Targets(vec![
            Target::at_least("gap of all but a thousandth, ms", 0.99, thousandth),
            Target::at_most("admitted in any second", RATE as f64 + 1.0, second),
            Target::at_most("admitted of a day's 1000, at most", QUOTA as f64, day),
            Target::at_least("admitted of a day's 1000, at least", QUOTA as f64, day),
        ])
    }

    fn figures(&self) -> [(&'static str, f64); 9] {
        let gaps = self.gaps();
        let seconds = self.took.as_secs_f64();
        [
            ("asked for, a second", self.asked as f64 / seconds),
            ("admitted, a second", self.times.len() as f64 / seconds),
            ("the most in any second", self.most_in_a_second() as f64),
            ("smallest gap, µs", quantile(&gaps, 0.0) / 1e3),
            (
                "gap of all but a thousandth, µs",
                quantile(&gaps, 0.001) / 1e3,
            ),
            ("median gap, µs", quantile(&gaps, 0.5) / 1e3),
            ("earliest, µs", self.early() / 1e3),
            ("admitted of a day's 1000", self.day[0] as f64),
            ("refused meanwhile", self.day[1] as f64),
        ]
    }
}

impl bench::Report for Report {
    fn json(&self) -> Value {
        let figures: serde_json::Map<String, Value> = self
            .figures()
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        json!({"figures": figures, "targets": self.targets().json()})
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nrate 1/ms, {CLIENTS} connections of one customer")?;
        for (name, value) in self.figures() {
            writeln!(f, "{name:62} {value:10.1}")?;
        }
        write!(f, "{}", self.targets())
    }
}

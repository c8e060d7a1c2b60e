// SPDX-License-Identifier: MIT OR Apache-2.0

//! The clients of the customers.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use limiter_tests::{
    Lab,
    bench::quantile,
    process,
    tools::{Load, Wrk},
};
use nix::unistd::gettid;
use socket2::{Domain, Socket, Type};

use crate::{
    cpus::{self, Accounts},
    peers::{self, PATH, Peer, Stage},
};

/// Header fields of a typical client library. They make a request about 400 bytes long.
const HEADERS: [&str; 6] = [
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) calls-sync/4.12.1 (+https://example.com/about)",
    "Accept: application/json, text/plain;q=0.9, */*;q=0.8",
    "Accept-Encoding: identity",
    "Accept-Language: en-GB,en;q=0.9",
    "X-Request-Id: 5b1ad7c3-9f60-4a0e-8f2b-6f8e7f3f3a11",
    "Cache-Control: no-cache",
];
const CLOSE: &str = "Connection: close";

/// The program that sends requests, and the way in which it uses connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// wrk, which reuses a connection for as long as the server permits.
    Wrk { connections: u32 },
    /// wrk, which asks the server to close the connection after each response.
    WrkNew { connections: u32 },
    /// Threads, each of which connects, sends a request, reads to the end, and connects again.
    Reconnecting { threads: u32 },
}

impl Client {
    pub fn name(self) -> String {
        match self {
            Self::Wrk { connections } => format!("keep-alive, {connections}"),
            Self::WrkNew { connections } => format!("a connection each, {connections}"),
            Self::Reconnecting { threads } => format!("reconnecting, {threads}"),
        }
    }
}

/// The results of a client that has sent requests for some seconds.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// The number of requests per second.
    pub rate: f64,
    /// The share of requests that were answered with 429, and the share of requests that failed.
    pub refused: f64,
    pub failed: f64,
    /// The latency in microseconds. wrk measures it from the start of a request, and
    /// [`Client::Reconnecting`] from the start of a connection.
    pub p50: f64,
    pub p99: f64,
    /// The CPU time per request in microseconds: on the servers' CPU, on the clients' CPU, and the
    /// part of the clients' CPU time that was spent on received packets.
    pub servers: f64,
    pub clients: f64,
    pub clients_packets: f64,
}

/// Makes `client` send requests to `peer` for the duration `time`.
pub fn run(stage: &Stage, peer: Peer, key: &str, client: Client, time: Duration) -> Sample {
    let (lab, port) = (stage.lab(peer), stage.port(peer));
    let before = Accounts::read();
    let answers = match client {
        Client::Wrk { connections } => wrk(lab, port, key, connections, time, &[]),
        Client::WrkNew { connections } => wrk(lab, port, key, connections, time, &[CLOSE]),
        Client::Reconnecting { threads } => reconnecting(lab, port, key, threads, time),
    };
    let after = Accounts::read();
    let all = answers.requests;
    let micros = |seconds: f64| seconds * 1e6 / all;
    let [servers, clients] = [cpus::SERVERS, cpus::CLIENTS].map(|cpu| after.since(&before, cpu));
    Sample {
        rate: all / answers.seconds,
        refused: answers.refused / all,
        failed: answers.failed / all,
        p50: answers.p50,
        p99: answers.p99,
        servers: micros(servers.total()),
        clients: micros(clients.total()),
        clients_packets: micros(clients.interrupts),
    }
}

struct Answers {
    requests: f64,
    seconds: f64,
    refused: f64,
    failed: f64,
    p50: f64,
    p99: f64,
}

fn wrk(
    lab: &Lab,
    port: u16,
    key: &str,
    connections: u32,
    time: Duration,
    more: &[&str],
) -> Answers {
    let mut command = lab.client().command("wrk");
    command.args(["-t1", "--latency", &format!("-c{connections}")]);
    command.arg(format!("-d{}s", time.as_secs()));
    let key = format!("X-Api-Key: {key}");
    for header in HEADERS.iter().chain(&[&*key]).chain(more) {
        command.args(["-H", header]);
    }
    let wrk = Wrk::parse(&process::succeed(command.arg(lab.url(port, PATH))));
    let micros = |percent| {
        wrk.latency(percent)
            .map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    };
    Answers {
        requests: wrk.requests as f64,
        seconds: time.as_secs_f64(),
        refused: wrk.refused as f64,
        failed: wrk.socket_errors as f64,
        p50: micros(50),
        p99: micros(99),
    }
}

/// Returns a request that carries the key `key`.
fn request(key: &str, connection: &str) -> Vec<u8> {
    let headers = HEADERS.join("\r\n");
    format!(
        "GET {PATH} HTTP/1.1\r\nHost: api.example.com\r\n{headers}\r\nX-Api-Key: {key}\r\n\
         Connection: {connection}\r\n\r\n"
    )
    .into_bytes()
}

/// The time limit for a response.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Sends one request on its own connection, which is closed after the response. Returns the status
/// of the response.
fn once(address: SocketAddr, request: &[u8], buffer: &mut [u8]) -> io::Result<u16> {
    exchange(&mut None, address, request, buffer)
}

fn status(answer: &[u8]) -> Option<u16> {
    let digits = answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    str::from_utf8(digits).ok()?.parse().ok()
}

fn reconnecting(lab: &Lab, port: u16, key: &str, threads: u32, time: Duration) -> Answers {
    let address = SocketAddr::new(lab.v4(), port);
    let request = request(key, "close");
    let ask = || {
        let (mut times, mut refused, mut failed) = (Vec::new(), 0, 0);
        let mut answer = vec![0; 16 << 10];
        let begun = Instant::now();
        while begun.elapsed() < time {
            let asked = Instant::now();
            match once(address, &request, &mut answer) {
                Ok(429) => refused += 1,
                Ok(_) => {}
                Err(_) => failed += 1,
            }
            times.push(asked.elapsed().as_secs_f64() * 1e6);
        }
        (times, refused, failed)
    };
    let all: Vec<_> = lab.client().enter(|| {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(ask)).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined.map(|all| all.expect("a customer")).collect()
        })
    });
    let mut times: Vec<f64> = all.iter().flat_map(|(times, ..)| times).copied().collect();
    times.sort_unstable_by(f64::total_cmp);
    Answers {
        requests: times.len() as f64,
        seconds: time.as_secs_f64(),
        refused: all.iter().map(|(_, refused, _)| f64::from(*refused)).sum(),
        failed: all.iter().map(|(.., failed)| f64::from(*failed)).sum(),
        p50: quantile(&times, 0.5),
        p99: quantile(&times, 0.99),
    }
}

/// The interval between the requests of the good customer.
const PACE: Duration = Duration::from_millis(2);

/// The results of the good customer, which sends a request every [`PACE`] on one connection.
#[derive(Debug, Clone, Copy)]
pub struct GoodCustomer {
    /// The latency in microseconds.
    pub p50: f64,
    pub p99: f64,
    /// The share of its requests that were answered with 200.
    pub served: f64,
}

/// Sends requests like a customer within its limits. The thread has priority on its CPU, because a
/// real customer runs on a machine of its own, where no other customer delays it.
pub fn good(stage: &Stage, peer: Peer, key: &str, time: Duration) -> GoodCustomer {
    let lab = stage.lab(peer);
    let address = SocketAddr::new(lab.v4(), stage.port(peer));
    let request = request(key, "keep-alive");
    let ask = || {
        set_realtime_priority();
        let (mut times, mut served) = (Vec::new(), 0);
        let mut stream = None;
        let mut buffer = vec![0; 16 << 10];
        let begun = Instant::now();
        let mut next = begun;
        while begun.elapsed() < time {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            // The latency is measured from the time at which the request was due. If a response is
            // late, the next request is sent late, and its latency has to include this delay.
            let asked = next;
            next += PACE;
            let got = exchange(&mut stream, address, &request, &mut buffer);
            if got.is_ok_and(|status| status == 200) {
                served += 1;
            } else {
                stream = None;
            }
            times.push(asked.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_unstable_by(f64::total_cmp);
        GoodCustomer {
            p50: quantile(&times, 0.5),
            p99: quantile(&times, 0.99),
            served: f64::from(served) / times.len() as f64,
        }
    };
    lab.client().enter(ask)
}

/// Sends one request on the open connection or on a new one, and returns the status of the
/// response.
fn exchange(
    stream: &mut Option<TcpStream>,
    address: SocketAddr,
    request: &[u8],
    buffer: &mut [u8],
) -> io::Result<u16> {
    let stream = match stream {
        Some(stream) => stream,
        None => {
            let new = TcpStream::connect_timeout(&address, TIMEOUT)?;
            new.set_nodelay(true)?;
            new.set_read_timeout(Some(TIMEOUT))?;
            stream.insert(new)
        }
    };
    stream.write_all(request)?;
    // These responses are shorter than a segment, so one read returns a whole response.
    let got = stream.read(buffer)?;
    status(&buffer[..got]).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Gives this thread real-time priority (sched(7)).
fn set_realtime_priority() {
    let thread = gettid().to_string();
    process::succeed(Command::new("chrt").args(["--fifo", "--pid", "10", &thread]));
}

/// A customer that sends many more requests than its limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// wrk, which reuses a connection for as long as the server permits.
    Keeping { connections: u32 },
    /// wrk, which asks the server to close the connection after each response.
    Reconnecting { connections: u32 },
    /// Threads, each of which connects from another address for each request.
    ManyAddresses { threads: u32 },
}

impl Flood {
    pub fn name(self) -> String {
        match self {
            Self::Keeping { connections } => format!("mixed: keep-alive, {connections}"),
            Self::Reconnecting { connections } => {
                format!("mixed: a connection each, {connections}")
            }
            Self::ManyAddresses { threads } => format!("mixed: many addresses, {threads}"),
        }
    }
}

/// Runs `meanwhile` during a flood with the key `key`. Returns the result of `meanwhile` and the
/// rate of the flood in requests per second.
pub fn flood<T>(
    stage: &Stage,
    peer: Peer,
    key: &str,
    flood: Flood,
    name: &str,
    meanwhile: impl FnOnce() -> T,
) -> (T, f64) {
    let (connections, close) = match flood {
        Flood::Keeping { connections } => (connections, None),
        Flood::Reconnecting { connections } => (connections, Some(CLOSE)),
        Flood::ManyAddresses { threads } => {
            return flood_from_many(stage, peer, key, threads, meanwhile);
        }
    };
    let lab = stage.lab(peer);
    let key = format!("X-Api-Key: {key}");
    let headers: Vec<&str> = HEADERS
        .iter()
        .copied()
        .chain([&*key])
        .chain(close)
        .collect();
    let begun = Instant::now();
    let load = Load::start(
        lab,
        name,
        &lab.url(stage.port(peer), PATH),
        connections,
        &headers,
    );
    let done = meanwhile();
    let wrk = load.finish();
    (done, wrk.requests as f64 / begun.elapsed().as_secs_f64())
}

/// Carries out [`Flood::ManyAddresses`].
fn flood_from_many<T>(
    stage: &Stage,
    peer: Peer,
    key: &str,
    threads: u32,
    meanwhile: impl FnOnce() -> T,
) -> (T, f64) {
    let lab = stage.lab(peer);
    let address = SocketAddr::new(lab.v4(), stage.port(peer));
    let request = request(key, "close");
    let sources: Vec<_> = peers::flood_addresses(lab).collect();
    let (stop, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    let ask = |first: u32| {
        let mut answer = vec![0; 16 << 10];
        let sources = sources.iter().cycle().skip(first as usize * 29);
        for source in sources {
            if stop.load(Relaxed) {
                return;
            }
            // A failure is a refusal as well, so only the number of attempts matters.
            let _answer = once_from(*source, address, &request, &mut answer);
            sent.fetch_add(1, Relaxed);
        }
    };
    let begun = Instant::now();
    let done = thread::scope(|scope| {
        for number in 0..threads {
            let ask = &ask;
            scope.spawn(move || lab.client().enter(|| ask(number)));
        }
        let done = meanwhile();
        stop.store(true, Relaxed);
        done
    });
    (
        done,
        f64::from(sent.into_inner()) / begun.elapsed().as_secs_f64(),
    )
}

/// Sends one request on its own connection from the address `source`, and returns the length of the
/// response.
fn once_from(
    source: Ipv4Addr,
    address: SocketAddr,
    request: &[u8],
    buffer: &mut [u8],
) -> io::Result<usize> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&address.into(), TIMEOUT)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(request)?;
    stream.read(buffer)
}

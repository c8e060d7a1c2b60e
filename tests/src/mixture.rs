// SPDX-License-Identifier: MIT OR Apache-2.0

//! Clients that send requests of all kinds and check every byte of every response.

use std::{
    fmt, iter,
    net::IpAddr,
    ops::AddAssign,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use crate::{Config, Conn, GUARDED, Lab, Limiter, Nginx, Response, clock, nginx::FILE_BYTES};

/// The maximum size of a request's body in bytes.
const LONGEST: u64 = 100_000;

/// The longest time that a response may take. A segment on loopback contains up to 64 KiB. Each
/// time that the programs cut such a segment, the client has to wait for its retransmission
/// timeout. The timeout doubles until a whole segment is acknowledged, so on a path that loses
/// packets, the waits can add up to more than half a minute.
const TIMEOUT: Duration = clock::TIMEOUT.saturating_mul(3);

/// A scope whose limits the clients do not reach.
pub const ROOMY: &str = "acme/web";
/// A scope whose quota is used up when the clients start.
pub const SPENT: &str = "acme/spent";
/// A scope with a rate that some of the clients' requests exceed.
pub const PACED: &str = "acme/paced";

/// Directives for nginx. By default, nginx closes a connection without a response if the client
/// delays a body for too long, and stores long bodies in files.
pub const NGINX: &str =
    "lingering_time 600s; lingering_timeout 600s; client_body_buffer_size 256k;";

/// Adds the tiers of [`SPENT`] and [`PACED`].
pub fn tiers(config: Config) -> Config {
    config
        .tier("spent", "daily_quota = 1")
        .tier("paced", "rate = \"20/s\"\nburst = 2")
}

/// The keys of the three scopes.
#[derive(Debug, Clone)]
pub struct Keys {
    pub roomy: String,
    pub spent: String,
    pub paced: String,
}

impl Keys {
    /// Creates the scopes and their keys in a daemon that has the [`tiers`]. The quota of [`SPENT`]
    /// is one request, which the caller must send before the clients start.
    pub fn make(limiter: &Limiter) -> Self {
        Self {
            roomy: limiter.key(ROOMY),
            spent: limiter.key_of_tier(SPENT, "spent"),
            paced: limiter.key_of_tier(PACED, "paced"),
        }
    }

    /// Returns keys that belong to no scope.
    pub fn none() -> Self {
        let key = |name: &str| format!("none-{name}");
        Self {
            roomy: key("roomy"),
            spent: key("spent"),
            paced: key("paced"),
        }
    }
}

/// The number of responses that the clients received, by kind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub roomy_served: u64,
    pub spent_refused: u64,
    pub paced_served: u64,
    pub paced_refused: u64,
    /// The number of refusals after which the connection went on, of those in the fields above.
    pub kept: u64,
}

impl Tally {
    pub fn requests(&self) -> u64 {
        self.roomy_served + self.spent_refused + self.paced_served + self.paced_refused
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.roomy_served += other.roomy_served;
        self.spent_refused += other.spent_refused;
        self.paced_served += other.paced_served;
        self.paced_refused += other.paced_refused;
        self.kept += other.kept;
    }
}

/// The clients and their common settings.
#[derive(Debug)]
pub struct Mixture<'a> {
    pub lab: &'a Lab,
    /// The server's addresses, which the clients use in turn.
    pub addresses: Vec<IpAddr>,
    pub keys: Keys,
    pub clients: usize,
    /// Whether the daemon refuses requests. The clients send the same requests in either case.
    pub limited: bool,
    /// The number of rounds that all clients together have completed.
    pub done: AtomicUsize,
}

impl<'a> Mixture<'a> {
    pub fn new(lab: &'a Lab, addresses: &[IpAddr], keys: Keys, clients: usize) -> Self {
        Self {
            lab,
            addresses: addresses.to_vec(),
            keys,
            clients,
            limited: true,
            done: AtomicUsize::new(0),
        }
    }

    /// Runs each client until `go_on` returns false. The argument of `go_on` is the number of
    /// rounds that the client has completed. nginx's gate must be open.
    ///
    /// # Panics
    /// Panics if a response is missing or wrong.
    #[track_caller]
    pub fn run(&self, go_on: impl Fn(usize) -> bool + Sync) -> Tally {
        let mut tally = Tally::default();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..self.clients)
                .map(|number| {
                    let go_on = &go_on;
                    scope.spawn(move || {
                        let mut client = Client::new(self, number);
                        for round in (0..).take_while(|round| go_on(*round)) {
                            client.act(round);
                            self.done.fetch_add(1, Ordering::SeqCst);
                        }
                        client.tally
                    })
                })
                .collect();
            for client in clients {
                tally += client.join().expect("no client failed");
            }
        });
        tally
    }
}

struct Client<'a> {
    mixture: &'a Mixture<'a>,
    number: usize,
    conn: Option<Conn>,
    random: Random,
    file: Vec<u8>,
    tally: Tally,
}

/// The response that a client expects.
enum Expected {
    Body(Vec<u8>),
    /// A head without a body, whose Content-Length has this value.
    Head(usize),
    /// A response with status 204.
    Nothing,
}

impl fmt::Debug for Expected {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(body) => write!(out, "{} bytes", body.len()),
            Self::Head(_) => write!(out, "a head"),
            Self::Nothing => write!(out, "nothing"),
        }
    }
}

impl<'a> Client<'a> {
    fn new(mixture: &'a Mixture<'a>, number: usize) -> Self {
        Self {
            mixture,
            number,
            conn: None,
            random: Random(number as u64 * 0x9e37_79b9 + 1),
            file: Nginx::file_content(),
            tally: Tally::default(),
        }
    }

    fn act(&mut self, round: usize) {
        match self.random.below(12) {
            0..6 => self.ask(1),
            6 | 7 => {
                let count = 2 + self.random.below(6);
                self.ask(count);
            }
            8 => self.send_last(),
            9 => self.send_refused(0, round),
            10 => {
                let before = 1 + self.random.below(3);
                self.send_refused(before, round);
            }
            _ => self.send_paced(round),
        }
        if self.random.below(4) == 0 {
            self.conn = None;
        }
    }

    /// Sends `count` requests at once and checks their responses.
    fn ask(&mut self, count: u64) {
        let (bytes, expected) = self.requests(count);
        let mut conn = self.connection();
        conn.send(&bytes);
        self.expect(&mut conn, "requests", &expected);
        self.conn = Some(conn);
    }

    /// Sends a last request and closes the sending half. The response must be short: nginx would
    /// not complete a long one, because it stops once it notices that the client has closed its
    /// sending half.
    fn send_last(&mut self) {
        let mut conn = self.connection();
        conn.send(&crate::request("/", &self.mixture.keys.roomy));
        conn.finish();
        let expected = Expected::Body(b"served\n".to_vec());
        self.expect(&mut conn, "a last request", &[expected]);
        conn.assert_closed();
    }

    /// Sends `before` requests that are served, then one that is refused, and then up to two more
    /// that are served, all at once. If the connection is closed after the refusal, the last
    /// requests are sent again on another one.
    fn send_refused(&mut self, before: u64, round: usize) {
        let (mut bytes, expected) = self.requests(before);
        let count = self.random.below(3);
        let (later, expected_later) = self.requests(count);
        let key = self.mixture.keys.spent.clone();
        let framing = self.random.below(3);
        let body = self.body();
        bytes.extend(match framing {
            0 => crate::request("/", &key),
            1 => post(&key, &body),
            _ => post_chunked(&key, &body, &mut self.random),
        });
        bytes.extend(&later);
        let mut conn = self.connection();
        // The client may receive the refusal and the end of the connection before it has sent all
        // bytes.
        let sent = conn.try_send(&bytes);
        self.expect(&mut conn, "before a refusal", &expected);
        let response = conn
            .try_response()
            .unwrap_or_else(|error| panic!("round {round}: {error}; sent: {sent:?}"));
        self.tally.spent_refused += 1;
        if self.mixture.limited {
            assert_refused(&response, "daily-quota");
            if !keeps(&response) {
                conn.assert_closed();
                conn = self.connection();
                conn.send(&later);
            } else {
                self.tally.kept += 1;
            }
        } else {
            assert_eq!(response.status, 200);
        }
        self.expect(&mut conn, "after a refusal", &expected_later);
        self.conn = Some(conn);
    }

    /// Sends a request that is either served or refused because it exceeds the rate.
    fn send_paced(&mut self, round: usize) {
        let mut conn = self.connection();
        conn.send(&crate::request("/", &self.mixture.keys.paced));
        let response = conn
            .try_response()
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
        if response.status == 429 {
            assert_refused(&response, "rate");
            self.tally.paced_refused += 1;
            if keeps(&response) {
                self.tally.kept += 1;
                self.conn = Some(conn);
            } else {
                conn.assert_closed();
            }
        } else {
            assert_eq!(
                (response.status, &response.body[..]),
                (200, &b"served\n"[..])
            );
            self.tally.paced_served += 1;
            self.conn = Some(conn);
        }
    }

    fn requests(&mut self, count: u64) -> (Vec<u8>, Vec<Expected>) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..count {
            let (request, answer) = self.request();
            bytes.extend(request);
            expected.push(answer);
        }
        (bytes, expected)
    }

    fn request(&mut self) -> (Vec<u8>, Expected) {
        let key = self.mixture.keys.roomy.clone();
        match self.random.below(10) {
            0..3 => (
                crate::request("/", &key),
                Expected::Body(b"served\n".to_vec()),
            ),
            3 | 4 => (
                crate::request(Nginx::FILE, &key),
                Expected::Body(self.file.clone()),
            ),
            5 => (
                [b"HEAD", &crate::request(Nginx::FILE, &key)[3..]].concat(),
                Expected::Head(FILE_BYTES),
            ),
            6 => (crate::request(Nginx::NONE, &key), Expected::Nothing),
            7 | 8 => {
                let body = self.body();
                (post(&key, &body), Expected::Body(body))
            }
            _ => {
                let body = self.body();
                (
                    post_chunked(&key, &body, &mut self.random),
                    Expected::Body(body),
                )
            }
        }
    }

    /// Returns a body that differs from the body of every other request.
    fn body(&mut self) -> Vec<u8> {
        // The length is shifted right by a random number of bits, which makes small bodies as
        // frequent as large ones.
        let length = self.random.below(LONGEST) >> self.random.below(12);
        let random = &mut self.random;
        iter::repeat_with(|| random.next().to_le_bytes())
            .flatten()
            .take(length as usize)
            .collect()
    }

    fn connection(&mut self) -> Conn {
        let addresses = &self.mixture.addresses;
        let address = addresses[self.number % addresses.len()];
        self.conn.take().unwrap_or_else(|| {
            let conn = self.mixture.lab.connect_to(address, GUARDED);
            conn.set_read_timeout(TIMEOUT);
            conn
        })
    }

    /// Reads and checks the responses that are expected, in the order of `all`; `what` describes
    /// the requests in messages.
    fn expect(&mut self, conn: &mut Conn, what: &str, all: &[Expected]) {
        for (number, expected) in all.iter().enumerate() {
            let response = match expected {
                Expected::Head(_) => conn.try_head_response(),
                _ => conn.try_response(),
            };
            let response = response.unwrap_or_else(|error| {
                panic!(
                    "{what}: answer {number} of {all:?} from {}: {error}",
                    conn.local()
                )
            });
            match expected {
                Expected::Body(body) => {
                    assert_eq!(response.status, 200, "{what}: {number} of {all:?}");
                    assert!(response.body == *body, "{what}: {number} of {all:?}");
                }
                Expected::Head(length) => {
                    assert_eq!(response.status, 200, "{what}: {number} of {all:?}");
                    assert_eq!(response.required("content-length"), length.to_string());
                }
                Expected::Nothing => {
                    assert_eq!(response.status, 204, "{what}: {number} of {all:?}");
                }
            }
            self.tally.roomy_served += 1;
        }
    }
}

/// Returns whether the connection goes on after a refusal.
fn keeps(response: &Response) -> bool {
    response.required("connection") == "keep-alive"
}

fn assert_refused(response: &Response, policy: &str) {
    assert_eq!(
        (response.status, response.violated()),
        (429, vec![policy.to_owned()])
    );
}

fn post_head(key: &str, framing: &str) -> Vec<u8> {
    let path = Nginx::ECHO;
    format!("POST {path} HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: {key}\r\n{framing}\r\n\r\n")
        .into_bytes()
}

fn post(key: &str, body: &[u8]) -> Vec<u8> {
    let head = post_head(key, &format!("Content-Length: {}", body.len()));
    [&head, body].concat()
}

fn post_chunked(key: &str, mut body: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = post_head(key, "Transfer-Encoding: chunked");
    while !body.is_empty() {
        let length = 1 + random.below(body.len() as u64) as usize;
        let (chunk, rest) = body.split_at(length);
        bytes.extend(format!("{length:x}\r\n").bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
        body = rest;
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

/// A random number generator, Marsaglia's xorshift64. Its state must not be 0.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

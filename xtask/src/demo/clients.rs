// SPDX-License-Identifier: MIT OR Apache-2.0

//! The customers. They use curl and Python, as real customers do.

use std::{collections::BTreeMap, fmt};

use limiter_tests::{
    GUARDED, Lab, Nginx, UNGUARDED, process,
    tools::{curl, python, python_command},
};

/// A program that sends one request after the other, with a pause after each response. It uses its
/// connections and its keys in turn. It reads each response to the end, and connects again after
/// the server has closed a connection.
const PACED: &str = r#"
import http.client, json, sys, time
host, count, pause, connections, keys = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]
DAY = 86400
def to_midnight(): return DAY - time.time() % DAY
pool = [http.client.HTTPConnection(host, timeout=30) for _ in range(connections)]
statuses, first_refused, wrong_waits, last_wait = {}, None, 0, None
for number in range(count):
    connection, key = pool[number % connections], keys[number % len(keys)]
    before = to_midnight()
    connection.request("GET", "/", headers={"X-Api-Key": key})
    response = connection.getresponse()
    response.read()
    after = to_midnight()
    statuses[response.status] = statuses.get(response.status, 0) + 1
    if response.status == 429:
        last_wait = int(response.headers["Retry-After"])
        if first_refused is None: first_refused = number
        if not after - 1 <= last_wait <= before + 1: wrong_waits += 1
    time.sleep(pause)
print(json.dumps({"statuses": statuses, "first_refused": first_refused, "wrong_waits": wrong_waits, "last_wait": last_wait}))
"#;

/// A program that sends requests to a slow resource, a few milliseconds apart and each on its own
/// connection. The program reads no response before it has sent all requests. All requests are
/// therefore in flight at once.
const AT_ONCE: &str = r#"
import http.client, json, sys, time
host, path, count, key = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
connections = []
for _ in range(count):
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("GET", path, headers={"X-Api-Key": key})
    connections.append(connection)
    time.sleep(0.003)
statuses = {}
for connection in connections:
    response = connection.getresponse()
    response.read()
    statuses[response.status] = statuses.get(response.status, 0) + 1
print(json.dumps({"statuses": statuses}))
"#;

/// A program that sends one request after the other on one connection, until some requests have
/// been admitted or one is refused. If it is patient, it comes back after the time that a refusal
/// names, and ends only when it is told to come back at midnight UTC. It prints the number of
/// admitted requests, and the last `Retry-After`.
const UNTIL_REFUSED: &str = r#"
import http.client, json, sys, time
host, most, patient, key = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "patient", sys.argv[4]
DAY = 86400
def to_midnight(): return DAY - time.time() % DAY
connection = http.client.HTTPConnection(host, timeout=30)
admitted, wait, used_up = 0, None, False
while admitted < most:
    before = to_midnight()
    connection.request("GET", "/", headers={"X-Api-Key": key})
    response = connection.getresponse()
    response.read()
    if response.status == 200:
        admitted += 1
        continue
    if response.status != 429: sys.exit(f"the status is {response.status}")
    wait = int(response.headers["Retry-After"])
    used_up = to_midnight() - 1 <= wait <= before + 1
    if used_up or not patient: break
    time.sleep(wait)
print(json.dumps({"admitted": admitted, "wait": wait, "used_up": used_up}))
"#;

/// The number of responses with each status.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Statuses(BTreeMap<String, u64>);

impl Statuses {
    pub fn of<const N: usize>(counts: [(u16, u64); N]) -> Self {
        Self(
            counts
                .into_iter()
                .map(|(status, count)| (status.to_string(), count))
                .collect(),
        )
    }

    fn parse(report: &serde_json::Value) -> Self {
        let counts = report["statuses"].as_object().into_iter().flatten();
        Self(
            counts
                .map(|(status, count)| (status.clone(), count.as_u64().unwrap_or_default()))
                .collect(),
        )
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self
            .0
            .iter()
            .map(|(status, count)| format!("{count} x {status}"))
            .collect();
        f.write_str(&parts.join(", "))
    }
}

/// The results that the paced customer reports.
pub struct Paced {
    pub statuses: Statuses,
    /// The number of requests before the first refused request.
    pub first_refused: Option<u64>,
    /// The number of refusals whose `Retry-After` does not lead to midnight UTC.
    pub wrong_waits: Option<u64>,
    /// The value of the last `Retry-After`, in seconds.
    pub last_wait: Option<u64>,
}

/// Sends `count` requests, with a pause of `pause_ms` after each response.
pub fn paced(lab: &Lab, keys: &[&str], count: u32, pause_ms: f64, connections: u32) -> Paced {
    let (host, count) = (lab.v4().to_string(), count.to_string());
    let (pause, connections) = ((pause_ms / 1000.0).to_string(), connections.to_string());
    let mut arguments = vec![host.as_str(), &count, &pause, &connections];
    arguments.extend(keys);
    let report = python(lab, PACED, &arguments);
    Paced {
        statuses: Statuses::parse(&report),
        first_refused: report["first_refused"].as_u64(),
        wrong_waits: report["wrong_waits"].as_u64(),
        last_wait: report["last_wait"].as_u64(),
    }
}

/// Sends `count` slow requests at once, and runs `meanwhile`, which must open the server's gate
/// (`Nginx::gate`). Until then, the server does not answer the requests.
pub fn at_once(lab: &Lab, key: &str, count: u32, meanwhile: impl FnOnce()) -> Statuses {
    let (host, count) = (lab.v4().to_string(), count.to_string());
    let mut command = python_command(lab, AT_ONCE);
    command.args([&host, Nginx::SLOW, &count, key]);
    let output = lab.file("at-once");
    let mut customer = process::Process::start("Python", &mut command, &output);
    meanwhile();
    customer.wait();
    // The log also contains the reports of earlier customers, so only the last line is used.
    let report = customer.log().lines().last().map(serde_json::from_str);
    Statuses::parse(&report.and_then(Result::ok).unwrap_or_default())
}

/// The time at which a customer ends.
#[derive(Clone, Copy)]
pub enum End {
    /// This number of requests has been admitted, or one has been refused.
    Admitted(u64),
    /// A request has been refused.
    Refused,
    /// A request has been refused until midnight UTC. The customer comes back after other refusals.
    UsedUp,
}

/// The results that a customer reports who asks until a request is refused.
pub struct UntilRefused {
    pub admitted: u64,
    /// The value of the last `Retry-After`, in seconds.
    pub wait: Option<u64>,
    /// Whether the last `Retry-After` leads to midnight UTC.
    pub is_used_up: bool,
}

/// Sends requests until `end`.
pub fn until_refused(lab: &Lab, key: &str, end: End) -> UntilRefused {
    /// More requests than any quota of the demo permits.
    const TOO_MANY: u64 = 10_000;
    let (most, patience) = match end {
        End::Admitted(most) => (most, "impatient"),
        End::Refused => (TOO_MANY, "impatient"),
        End::UsedUp => (TOO_MANY, "patient"),
    };
    let (host, most) = (lab.v4().to_string(), most.to_string());
    let report = python(lab, UNTIL_REFUSED, &[&host, &most, patience, key]);
    UntilRefused {
        admitted: report["admitted"].as_u64().unwrap_or_default(),
        wait: report["wait"].as_u64(),
        is_used_up: report["used_up"] == true,
    }
}

/// Returns the status that curl gets for one request, or its error message.
pub fn ask(lab: &Lab, port: u16, key: Option<&str>) -> String {
    let (url, header) = (
        lab.url(port, "/"),
        format!("X-Api-Key: {}", key.unwrap_or_default()),
    );
    let arguments = match key {
        Some(_) => vec!["-H", &header, &url],
        None => vec![url.as_str()],
    };
    let curl = curl(lab, &arguments);
    curl.response
        .map_or(curl.errors, |response| response.status.to_string())
}

/// Sends a request to the guarded port, and returns the status of the response.
pub fn ask_guarded(lab: &Lab, key: Option<&str>) -> String {
    ask(lab, GUARDED, key)
}

/// Sends a request to the unguarded port, and returns the status of the response.
pub fn ask_unguarded(lab: &Lab, key: Option<&str>) -> String {
    ask(lab, UNGUARDED, key)
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The daemon's metrics page, and a Prometheus server that reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{Config, Conn, Lab, Response, clock, process::Process};

/// The port of the metrics page in tests.
pub const PORT: u16 = 9191;
/// The port of Prometheus.
const PROMETHEUS_PORT: u16 = 9090;

/// Enables the metrics page in the daemon's namespace, with `lines` as additional lines in
/// `[metrics]`.
pub fn on_page(config: Config, lines: &str) -> Config {
    config.section(
        "metrics",
        &format!("listen = \"127.0.0.1:{PORT}\"\n{lines}\n"),
    )
}

/// The type and the help text of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    pub kind: String,
    pub help: String,
}

/// A page in the Prometheus text format.
#[derive(Debug, Clone)]
pub struct Page {
    pub text: String,
    /// The values of the samples. Each key is the name of a sample with its labels, exactly as on
    /// the page.
    pub samples: BTreeMap<String, f64>,
    pub about: BTreeMap<String, About>,
}

impl Page {
    /// Reads the page of a running daemon.
    #[track_caller]
    pub fn read(lab: &Lab) -> Self {
        let response = ask(lab, "/metrics", "");
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(
            response.required("content-type"),
            "text/plain; version=0.0.4; charset=utf-8"
        );
        Self::parse(String::from_utf8(response.body).expect("text"))
    }

    fn parse(text: String) -> Self {
        let mut samples = BTreeMap::new();
        let mut about = BTreeMap::new();
        let mut helps = BTreeMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a meaning");
                helps.insert(name.to_owned(), help.to_owned());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                let help = helps.get(name).cloned().unwrap_or_default();
                let kind = kind.to_owned();
                let before = about.insert(name.to_owned(), About { kind, help });
                assert!(before.is_none(), "{name} occurs twice");
            } else {
                let (sample, value) = line.rsplit_once(' ').expect("a value");
                let value = value.parse().expect("a number");
                let before = samples.insert(sample.to_owned(), value);
                assert!(before.is_none(), "{sample} occurs twice");
            }
        }
        Self {
            text,
            samples,
            about,
        }
    }

    /// Returns the value of `sample`, a name with its labels. The labels must be in the same order
    /// as on the page.
    #[track_caller]
    pub fn value(&self, sample: &str) -> f64 {
        let value = self.samples.get(sample);
        *value.unwrap_or_else(|| panic!("no {sample} in {}", self.text))
    }

    /// Returns the value of a sample, which must be an integer.
    #[track_caller]
    pub fn count(&self, sample: &str) -> u64 {
        let value = self.value(sample);
        assert!(value >= 0.0 && value.fract() == 0.0, "{sample} {value}");
        value as u64
    }

    /// Returns the value of a sample of `limiter_requests_total`.
    #[track_caller]
    pub fn requests(&self, tier: &str, verdict: &str, reason: &str) -> u64 {
        self.count(&format!(
            "limiter_requests_total{{tier=\"{tier}\",verdict=\"{verdict}\",reason=\"{reason}\"}}"
        ))
    }

    /// Returns the metric to which a sample belongs.
    #[track_caller]
    pub fn metric_of<'a>(&self, sample: &'a str) -> &'a str {
        let name = sample.split('{').next().unwrap_or(sample);
        if self.about.contains_key(name) {
            return name;
        }
        let metric = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|part| name.strip_suffix(part));
        let metric = metric.filter(|name| {
            let about = self.about.get(*name);
            about.is_some_and(|about| about.kind == "histogram")
        });
        metric.unwrap_or_else(|| panic!("{sample} has no type"))
    }

    /// Returns the names of a sample's labels.
    pub fn labels_of(sample: &str) -> BTreeSet<String> {
        let inner = sample.split_once('{').map_or("", |(_, inner)| inner);
        let parts: Vec<&str> = inner.split('"').collect();
        parts
            .chunks(2)
            .filter_map(|part| {
                let name = part[0].trim_matches([',', '=', '}']);
                (!name.is_empty()).then(|| name.to_owned())
            })
            .collect()
    }

    /// Returns the samples whose values must never decrease.
    pub fn counters(&self) -> impl Iterator<Item = (&str, f64)> {
        self.samples.iter().filter_map(|(sample, value)| {
            let metric = self.metric_of(sample);
            let counts =
                self.about[metric].kind == "counter" || metric == "limiter_store_write_seconds";
            counts.then_some((sample.as_str(), *value))
        })
    }

    /// Asserts that every counter of the page `earlier` is also on this page, and has not
    /// decreased. Counters for which `begin` returns true are exempt, because they may be missing
    /// or may have started again from zero.
    #[track_caller]
    pub fn assert_after(&self, earlier: &Self, begin: impl Fn(&str) -> bool) {
        for (sample, before) in earlier.counters() {
            let now = self.samples.get(sample);
            let kept = now.is_some_and(|now| *now >= before);
            assert!(
                kept || begin(sample),
                "{sample} was {before} and is {now:?}"
            );
        }
    }
}

/// Sends a request with the header lines `headers` to the page's port.
#[track_caller]
pub fn ask(lab: &Lab, path: &str, headers: &str) -> Response {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    Conn::open(lab.server(), address).ask(request.as_bytes())
}

/// Runs promtool on `input`. Returns whether promtool accepted the input, and promtool's output.
pub fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    use std::io::Write as _;
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start promtool");
    let mut stdin = child.stdin.take().expect("it is piped");
    // The write fails if promtool stops reading early. The caller checks promtool's output.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("promtool's end");
    let printed = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&printed).into_owned(),
    )
}

/// Returns the path of a file in `packaging`.
pub fn packaged(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../packaging")
        .join(path)
}

/// A real Prometheus server in the daemon's namespace, which reads the page and the packaged rules.
#[derive(Debug)]
pub struct Prometheus<'a> {
    lab: &'a Lab,
    _process: Process,
}

impl<'a> Prometheus<'a> {
    /// Starts Prometheus and waits until it answers.
    #[track_caller]
    pub fn start(lab: &'a Lab) -> Self {
        let directory = lab.file("prometheus");
        fs::create_dir(&directory).expect("Prometheus' directory");
        let rules = fs::canonicalize(packaged("prometheus/limiter.rules.yml")).expect("the rules");
        let config = directory.join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: 500ms\n  scrape_timeout: 500ms\n  evaluation_interval: 1s\nrule_files:\n  - {}\nscrape_configs:\n  - job_name: limiter\n    static_configs:\n      - targets: [\"127.0.0.1:{PORT}\"]\n",
            rules.display()
        );
        fs::write(&config, text).expect("Prometheus' configuration");
        let mut command = lab.server().command("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}"))
            .arg("--log.level=warn")
            .current_dir(&directory);
        let log = directory.join("log");
        let mut process = Process::start("prometheus", &mut command, &log);
        clock::eventually("Prometheus is ready", || {
            if let Some(status) = process.ended() {
                panic!("Prometheus ended ({status}): {}", process.log());
            }
            lab.listens(PROMETHEUS_PORT) && get(lab, "/-/ready").status == 200
        });
        Self {
            lab,
            _process: process,
        }
    }

    /// Returns the current result of a query.
    ///
    /// # Panics
    /// Panics if Prometheus rejects the query.
    #[track_caller]
    pub fn query(&self, query: &str) -> Vec<Value> {
        let response = get(self.lab, &format!("/api/v1/query?query={}", escaped(query)));
        let body: Value = serde_json::from_slice(&response.body).expect("JSON");
        assert_eq!(body["status"], "success", "{query}: {body}");
        let result = &body["data"]["result"];
        // Both possible results, a vector and a scalar, are JSON arrays.
        result.as_array().cloned().expect("an array")
    }

    /// Returns the name of each loaded rule, and whether its last evaluation succeeded.
    pub fn rules(&self) -> Vec<(String, bool)> {
        let response = get(self.lab, "/api/v1/rules");
        let body: Value = serde_json::from_slice(&response.body).expect("JSON");
        let groups = body["data"]["groups"].as_array().expect("groups");
        let rules = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().expect("rules"));
        rules
            .map(|rule| {
                let name = rule["name"].as_str().expect("a name").to_owned();
                (name, rule["health"] == "ok")
            })
            .collect()
    }
}

fn get(lab: &Lab, path: &str) -> Response {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PROMETHEUS_PORT));
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    Conn::open(lab.server(), address).ask(request.as_bytes())
}

/// Escapes a string for use in the query component of a URL (RFC 3986, section 2.1).
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

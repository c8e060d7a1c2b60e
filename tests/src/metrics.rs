//! The daemon's page of metrics, and Prometheus to read it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{Config, Conn, Lab, Response, clock, process::Process};

/// Where tests have the page.
pub const PORT: u16 = 9191;
/// Where Prometheus answers.
const PROMETHEUS_PORT: u16 = 9090;

/// With the page in the daemon's namespace, and these lines of `[metrics]` besides.
pub fn on_page(config: Config, lines: &str) -> Config {
    config.section(
        "metrics",
        &format!("listen = \"127.0.0.1:{PORT}\"\n{lines}\n"),
    )
}

/// A metric's type and meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    pub kind: String,
    pub help: String,
}

/// A page in Prometheus' text format.
#[derive(Debug, Clone)]
pub struct Page {
    pub text: String,
    /// Values by name and labels, as they stand there.
    pub samples: BTreeMap<String, f64>,
    pub about: BTreeMap<String, About>,
}

impl Page {
    /// The page of a daemon that answers.
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
                assert!(before.is_none(), "{name} comes twice");
            } else {
                let (sample, value) = line.rsplit_once(' ').expect("a value");
                let value = value.parse().expect("a number");
                let before = samples.insert(sample.to_owned(), value);
                assert!(before.is_none(), "{sample} comes twice");
            }
        }
        Self {
            text,
            samples,
            about,
        }
    }

    /// A sample's value, by its name and labels in the order that they have.
    #[track_caller]
    pub fn value(&self, sample: &str) -> f64 {
        let value = self.samples.get(sample);
        *value.unwrap_or_else(|| panic!("no {sample} in {}", self.text))
    }

    /// A value that is a count.
    #[track_caller]
    pub fn count(&self, sample: &str) -> u64 {
        let value = self.value(sample);
        assert!(value >= 0.0 && value.fract() == 0.0, "{sample} {value}");
        value as u64
    }

    /// `limiter_requests_total`.
    #[track_caller]
    pub fn requests(&self, tier: &str, verdict: &str, reason: &str) -> u64 {
        self.count(&format!(
            "limiter_requests_total{{tier=\"{tier}\",verdict=\"{verdict}\",reason=\"{reason}\"}}"
        ))
    }

    /// The metric that a sample is of.
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

    /// The names of a sample's labels.
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

    /// Samples whose values must not go back.
    pub fn counters(&self) -> impl Iterator<Item = (&str, f64)> {
        self.samples.iter().filter_map(|(sample, value)| {
            let metric = self.metric_of(sample);
            let counts =
                self.about[metric].kind == "counter" || metric == "limiter_store_write_seconds";
            counts.then_some((sample.as_str(), *value))
        })
    }

    /// Asserts that no counter is lower than on an earlier page, or gone; but for those that `begin` says
    /// have begun anew.
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

/// A request to the page's port, with these header lines.
#[track_caller]
pub fn ask(lab: &Lab, path: &str, headers: &str) -> Response {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    Conn::open(lab.server(), address).ask(request.as_bytes())
}

/// Runs promtool on `input`: whether it was content, and what it said.
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
    // It may have seen enough; what it says then is for the caller.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("promtool's end");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// What `packaging` has for operators.
pub fn packaged(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../packaging")
        .join(path)
}

/// A real Prometheus in the daemon's namespace that reads the page, and the packaged rules.
#[derive(Debug)]
pub struct Prometheus<'a> {
    lab: &'a Lab,
    _process: Process,
}

impl<'a> Prometheus<'a> {
    /// Starts it and waits until it answers.
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

    /// What a query comes to now.
    ///
    /// # Panics
    /// When Prometheus does not understand it.
    #[track_caller]
    pub fn query(&self, query: &str) -> Vec<Value> {
        let response = get(self.lab, &format!("/api/v1/query?query={}", escaped(query)));
        let body: Value = serde_json::from_slice(&response.body).expect("JSON");
        assert_eq!(body["status"], "success", "{query}: {body}");
        let result = &body["data"]["result"];
        // A vector, or one number.
        result.as_array().cloned().expect("an array")
    }

    /// The names of the rules that it has, and whether the last evaluation of each was fine.
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

/// For a query of a URL (RFC 3986, section 2.1).
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

//! The clients and client libraries that people use, as programs in `peers/`: each does a number
//! of requests and tells what came of every one, and the judgement is made here, the same for all.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    Lab, Response,
    process::{output, succeed},
    tools::{self, Wrk},
};

/// The interpreter that Debian's packages of Python modules are for. Another one may come before
/// it on the PATH.
pub const SYSTEM_PYTHON: &str = "/usr/bin/python3";

/// Bytes of an upload.
pub const UPLOAD_BYTES: usize = 3_000_000;

/// Longest that a client waits for an answer, unless a test says otherwise.
const PATIENCE_SECONDS: u32 = 30;

/// Longest that wrk runs, in seconds, where it does not come to the number of its answers.
const WRK_SECONDS: u32 = 60;

/// A client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Curl,
    /// curl that does not ask before an upload (`Expect: 100-continue`).
    CurlUnasked,
    Wrk,
    /// Python's `http.client`.
    HttpClient,
    /// Python's requests.
    Requests,
    /// Python's aiohttp.
    Aiohttp,
    /// Node's `http.Agent` with `keepAlive`.
    Agent,
    /// Node's `fetch`.
    Fetch,
    /// Java's `java.net.http.HttpClient`.
    Java,
    /// Go's `net/http`.
    Go,
}

/// What a client is to do: `count` requests, `workers` at a time.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    pub url: &'a str,
    pub key: &'a str,
    pub count: usize,
    pub workers: usize,
    /// A POST of [`UPLOAD_BYTES`] in place of a GET.
    pub upload: bool,
    /// How long the client waits for an answer.
    pub seconds: u32,
    /// What curl and requests are told to do when refused: to try that many times more.
    pub retries: Option<u32>,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// In the order of their ends, but for curl's errors, which come last.
    pub answers: Vec<Result<Response, String>>,
    /// Connections that the client's namespace has opened meanwhile.
    pub opened: u64,
}

impl Peer {
    /// Lets the client do the job in the client's namespace.
    ///
    /// # Panics
    /// When the program itself fails: what its library says about a request is no failure.
    #[track_caller]
    pub fn run(self, lab: &Lab, job: &Job<'_>) -> Report {
        let mut command = self.command(lab, job);
        let before = tools::opened(lab.client());
        let answers = match self {
            Self::Curl | Self::CurlUnasked => curl(&mut command),
            _ => lines(&mut command),
        };
        Report {
            answers,
            opened: tools::opened(lab.client()) - before,
        }
    }

    fn command(self, lab: &Lab, job: &Job<'_>) -> Command {
        let mut command = match self {
            Self::Curl => return curl_command(lab, job, &[]),
            Self::CurlUnasked => return curl_command(lab, job, &["-H", "Expect:"]),
            Self::Wrk => return wrk_command(lab, job),
            Self::HttpClient => script(lab, SYSTEM_PYTHON, "httpclient.py"),
            Self::Requests => script(lab, SYSTEM_PYTHON, "requests_session.py"),
            Self::Aiohttp => script(lab, SYSTEM_PYTHON, "aiohttp_session.py"),
            Self::Agent => script(lab, "node", "agent.js"),
            Self::Fetch => script(lab, "node", "fetch.js"),
            // A single file of source is compiled on the way.
            Self::Java => script(lab, "java", "Client.java"),
            Self::Go => lab.client().command(&go_build(lab)),
        };
        let (count, workers) = (job.count.to_string(), job.workers.to_string());
        command
            .args([job.url, job.key, &count, job.mode(), &workers])
            .arg(job.seconds.to_string())
            // Of two Python programs at once, each would write what it compiles.
            .env("PYTHONDONTWRITEBYTECODE", "1");
        if let Some(retries) = job.retries {
            command.env("RETRIES", retries.to_string());
        }
        command
    }
}

impl<'a> Job<'a> {
    /// GETs of `url` one after the other.
    pub fn gets(url: &'a str, key: &'a str, count: usize) -> Self {
        Self {
            url,
            key,
            count,
            workers: 1,
            upload: false,
            seconds: PATIENCE_SECONDS,
            retries: None,
        }
    }

    /// POSTs of [`UPLOAD_BYTES`] one after the other.
    pub fn uploads(url: &'a str, key: &'a str, count: usize) -> Self {
        Self {
            upload: true,
            ..Self::gets(url, key, count)
        }
    }

    pub fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    fn mode(&self) -> &'static str {
        if self.upload { "post3m" } else { "get" }
    }
}

impl Report {
    /// The statuses in the order of their ends; an error of the client is a failure.
    #[track_caller]
    pub fn statuses(&self) -> Vec<u16> {
        let status = |answer: &Result<Response, String>| match answer {
            Ok(response) => response.status,
            Err(error) => panic!("a client saw an error: {error}"),
        };
        self.answers.iter().map(status).collect()
    }

    /// Asserts that exactly `quota` requests were served, the first ones if they came one after the
    /// other, and that all else are whole refusals.
    #[track_caller]
    pub fn assert_served_then_refused(&self, quota: usize, in_order: bool) {
        let statuses = self.statuses();
        let served = statuses.iter().filter(|&&status| status == 200).count();
        assert_eq!(served, quota, "served");
        if in_order {
            let first = statuses.iter().take(quota);
            assert_eq!(
                first.filter(|&&status| status != 200).count(),
                0,
                "{statuses:?}"
            );
        }
        for refusal in self.responses().filter(|answer| answer.status != 200) {
            assert_whole(refusal, quota);
        }
    }

    pub fn responses(&self) -> impl Iterator<Item = &Response> {
        self.answers.iter().flatten()
    }

    /// What the client's library said where there was no response.
    pub fn errors(&self) -> Vec<&str> {
        let errors = self
            .answers
            .iter()
            .filter_map(|answer| answer.as_ref().err());
        errors.map(String::as_str).collect()
    }
}

/// Asserts that it is the whole refusal of a used up daily quota.
#[track_caller]
fn assert_whole(refusal: &Response, quota: usize) {
    assert_eq!(refusal.status, 429, "{refusal:?}");
    let number = |name: &str| -> u64 {
        let text = refusal.required(name).trim();
        text.parse().unwrap_or_else(|_| panic!("{name}: {text:?}"))
    };
    assert_eq!(number("content-length"), refusal.body.len() as u64);
    assert_eq!(refusal.violated(), ["daily-quota"]);
    let wait = number("retry-after");
    assert!((1..=86_400).contains(&wait), "{wait}");
    let policies = refusal.items("ratelimit-policy");
    let policy = policies.iter().find(|item| item.name == "daily-quota");
    assert_eq!(policy.expect("the policy").number("q"), quota as u64);
    let [left] = &refusal.items("ratelimit")[..] else {
        panic!("more than the limit that was hit: {refusal:?}");
    };
    assert_eq!((left.name.as_str(), left.number("r")), ("daily-quota", 0));
    assert_eq!(left.number("t"), wait);
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("peers")
        .join(name)
}

fn script(lab: &Lab, interpreter: &str, name: &str) -> Command {
    let mut command = lab.client().command(interpreter);
    command.arg(program(name));
    command
}

/// Builds the client in Go; what it is built from is on this machine.
#[track_caller]
fn go_build(lab: &Lab) -> String {
    let binary = lab.file("client-go");
    succeed(
        Command::new("go")
            .args(["build", "-o"])
            .args([&binary, &program("client.go")])
            .current_dir(lab.directory())
            .env("GO111MODULE", "off")
            .env("GOTOOLCHAIN", "local")
            .env("GOPROXY", "off")
            .env("CGO_ENABLED", "0")
            .env("GOPATH", lab.file("go"))
            .env("GOCACHE", lab.file("go-cache")),
    );
    binary.to_str().expect("a path in UTF-8").to_owned()
}

fn curl_command(lab: &Lab, job: &Job<'_>, arguments: &[&str]) -> Command {
    let mut command = tools::curl_command(lab, job.seconds);
    command.args(arguments);
    command.args(["-H", &format!("X-Api-Key: {}", job.key)]);
    if job.upload {
        let file = lab.file("upload");
        fs::write(&file, vec![b'x'; UPLOAD_BYTES]).expect("the upload");
        command
            .arg("--data-binary")
            .arg(format!("@{}", file.display()));
    }
    if let Some(retries) = job.retries {
        command.args(["--retry", &retries.to_string()]);
    }
    // One curl asks for all of them, one after the other.
    command.arg(format!("{}?[1-{}]", job.url, job.count));
    command
}

fn wrk_command(lab: &Lab, job: &Job<'_>) -> Command {
    let mut command = lab.client().command("wrk");
    command.args([
        "-t1",
        &format!("-c{}", job.workers),
        &format!("-d{WRK_SECONDS}s"),
        &format!("--timeout={}s", job.seconds),
        "-s",
    ]);
    command.arg(program("wrk.lua")).args([
        job.url,
        "--",
        job.key,
        &job.count.to_string(),
        job.mode(),
    ]);
    command
}

fn curl(command: &mut Command) -> Vec<Result<Response, String>> {
    let output = output(command);
    let mut rest = output.stdout;
    let mut answers = Vec::new();
    while let Some(response) = tools::take_response(&mut rest) {
        answers.push(Ok(response));
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = errors.lines().filter(|line| line.starts_with("curl: ("));
    answers.extend(said.map(|line| Err(line.to_owned())));
    answers
}

/// What the programs of `peers/` print: a line of JSON for each request.
#[track_caller]
fn lines(command: &mut Command) -> Vec<Result<Response, String>> {
    let text = succeed(command);
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let mut answers: Vec<_> = lines.map(answer).collect();
    let errors = Wrk::parse(&text).socket_errors;
    if errors > 0 {
        answers.push(Err(format!("{errors} socket errors")));
    }
    answers
}

#[track_caller]
fn answer(line: &str) -> Result<Response, String> {
    let line: Value = serde_json::from_str(line)
        .unwrap_or_else(|error| panic!("the client's line is not JSON ({error}): {line}"));
    if let Some(error) = line["error"].as_str() {
        return Err(error.to_owned());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let headers = line["headers"].as_array().into_iter().flatten();
    Ok(Response {
        status: line["status"]
            .as_u64()
            .and_then(|status| u16::try_from(status).ok())
            .unwrap_or_else(|| panic!("no status in {line}")),
        headers: headers
            .map(|header| (text(&header[0]), text(&header[1])))
            .collect(),
        body: text(&line["body"]).into_bytes(),
        interim: Vec::new(),
    })
}

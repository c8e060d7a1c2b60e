// SPDX-License-Identifier: MIT OR Apache-2.0

//! Common clients, and programs in `peers/` that use common client libraries. Each client sends a
//! number of requests and reports the result of each. The tests check all clients in the same way.

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

/// The size of an upload in bytes.
pub const UPLOAD_BYTES: usize = 3_000_000;

/// The number of seconds that a client waits for a response, unless a test sets a different one.
const TIMEOUT_SECONDS: u32 = 30;

/// The maximum running time of wrk in seconds, after which wrk ends even if it has received fewer
/// responses than the job requires.
const WRK_SECONDS: u32 = 60;

/// A client program or library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Curl,
    /// curl without `Expect: 100-continue` before an upload.
    CurlUnasked,
    Wrk,
    /// Python's `http.client`.
    HttpClient,
    /// The Python library `requests`.
    Requests,
    /// The Python library `aiohttp`.
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

/// The task of a client: to send `count` requests, of which at most `workers` are in progress at
/// the same time.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    pub url: &'a str,
    pub key: &'a str,
    pub count: usize,
    pub workers: usize,
    /// Whether to send POST requests with [`UPLOAD_BYTES`] instead of GET requests.
    pub upload: bool,
    /// The number of seconds that the client waits for a response.
    pub seconds: u32,
    /// The number of times that the client has to retry a refused request. Only curl and the Python
    /// library `requests` support this.
    pub retries: Option<u32>,
}

/// The results of a job.
#[derive(Debug)]
pub struct JobResult {
    /// The results in the order in which the requests ended. curl's errors are at the end of the
    /// list, because curl prints them to a different stream.
    pub answers: Vec<Result<Response, String>>,
    /// The number of connections that the client's namespace opened during the job.
    pub opened: u64,
}

impl Peer {
    /// Runs the client in the client's namespace.
    ///
    /// # Panics
    /// Panics if the program itself fails. If its library reports an error for a request, the error
    /// is a part of the results instead.
    #[track_caller]
    pub fn run(self, lab: &Lab, job: &Job<'_>) -> JobResult {
        let mut command = self.command(lab, job);
        let before = tools::connections_opened(lab.client());
        let answers = match self {
            Self::Curl | Self::CurlUnasked => curl(&mut command),
            _ => lines(&mut command),
        };
        JobResult {
            answers,
            opened: tools::connections_opened(lab.client()) - before,
        }
    }

    fn command(self, lab: &Lab, job: &Job<'_>) -> Command {
        let mut command = match self {
            Self::Curl => return curl_command(lab, job, &[]),
            Self::CurlUnasked => return curl_command(lab, job, &["-H", "Expect:"]),
            Self::Wrk => return wrk_command(lab, job),
            Self::HttpClient => script(lab, tools::PYTHON, "httpclient.py"),
            Self::Requests => script(lab, tools::PYTHON, "requests_session.py"),
            Self::Aiohttp => script(lab, tools::PYTHON, "aiohttp_session.py"),
            Self::Agent => script(lab, "node", "agent.js"),
            Self::Fetch => script(lab, "node", "fetch.js"),
            // The java command compiles a single source file and then runs it.
            Self::Java => script(lab, "java", "Client.java"),
            Self::Go => lab.client().command(&go_build(lab)),
        };
        let (count, workers) = (job.count.to_string(), job.workers.to_string());
        command
            .args([job.url, job.key, &count, job.mode(), &workers])
            .arg(job.seconds.to_string())
            // Without this variable, two Python programs that run at the same time could both write
            // the same compiled module.
            .env("PYTHONDONTWRITEBYTECODE", "1");
        if let Some(retries) = job.retries {
            command.env("RETRIES", retries.to_string());
        }
        command
    }
}

impl<'a> Job<'a> {
    /// Returns a job that sends GET requests for `url`, one after the other.
    pub fn gets(url: &'a str, key: &'a str, count: usize) -> Self {
        Self {
            url,
            key,
            count,
            workers: 1,
            upload: false,
            seconds: TIMEOUT_SECONDS,
            retries: None,
        }
    }

    /// Returns a job that sends POST requests with [`UPLOAD_BYTES`], one after the other.
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

impl JobResult {
    /// Returns the status codes in the order in which the requests ended. An error from the client
    /// fails the test.
    #[track_caller]
    pub fn statuses(&self) -> Vec<u16> {
        let status = |answer: &Result<Response, String>| match answer {
            Ok(response) => response.status,
            Err(error) => panic!("a client saw an error: {error}"),
        };
        self.answers.iter().map(status).collect()
    }

    /// Asserts that exactly `quota` requests were served and that all other requests got complete
    /// refusals. If `in_order` is true, the served requests must be the first ones.
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

    /// Returns the errors that the client's library reported instead of a response.
    pub fn errors(&self) -> Vec<&str> {
        let errors = self
            .answers
            .iter()
            .filter_map(|answer| answer.as_ref().err());
        errors.map(String::as_str).collect()
    }
}

/// Asserts that a response is a complete refusal because the daily quota has been used up.
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

/// Builds the Go client from its source on this machine.
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
    // One curl sends all requests, one after the other.
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
    let messages = errors.lines().filter(|line| line.starts_with("curl: ("));
    answers.extend(messages.map(|line| Err(line.to_owned())));
    answers
}

/// Parses the output of the programs in `peers/`. They print one line of JSON for each request.
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

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Common clients: curl, wrk and Python.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    Lab, Namespace, Response,
    http::Head,
    process::{Process, output, succeed},
};

/// Debian's Python, which finds the modules in Debian's packages. It is named by its path, because
/// the PATH may contain another Python before it.
pub const PYTHON: &str = "/usr/bin/python3";

/// The maximum running time of curl in seconds.
const CURL_SECONDS: u32 = 30;

/// The result of a curl command.
#[derive(Debug)]
pub struct Curl {
    /// curl's exit status. It is 0 if curl received a response.
    pub exit: i32,
    pub response: Option<Response>,
    pub errors: String,
}

/// Runs curl with `-i` in the client's namespace, and parses the response.
pub fn curl(lab: &Lab, arguments: &[&str]) -> Curl {
    let mut output = output(curl_command(lab, CURL_SECONDS).args(arguments));
    Curl {
        exit: output.status.code().unwrap_or(-1),
        response: take_response(&mut output.stdout),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Returns a command that runs curl with `-i` in the client's namespace, for at most `seconds`
/// seconds. The caller has to start it.
pub fn curl_command(lab: &Lab, seconds: u32) -> Command {
    let mut command = lab.client().command("curl");
    command.args(["-q", "-sS", "-i", "--noproxy", "*"]);
    command.args(["--max-time", &seconds.to_string()]);
    command
}

/// Removes a response, and any interim responses before it, from the start of curl's output. If the
/// response has no Content-Length, its body is everything that follows.
pub fn take_response(printed: &mut Vec<u8>) -> Option<Response> {
    let mut interim = Vec::new();
    loop {
        let head = Head::take(printed).ok()??;
        let status = head.status().ok()?;
        if status < 200 && status != 101 {
            interim.push(status);
            continue;
        }
        let length = head.content_length().ok()?.unwrap_or(usize::MAX);
        return Some(Response {
            status,
            headers: head.headers,
            body: printed.drain(..length.min(printed.len())).collect(),
            interim,
        });
    }
}

/// Returns the number of connections that a namespace has opened so far (`ActiveOpens` in RFC
/// 4022).
#[track_caller]
pub fn connections_opened(namespace: &Namespace) -> u64 {
    let path = "/proc/thread-self/net/snmp";
    let text = namespace
        .enter(|| fs::read_to_string(path))
        .expect("read the counters of TCP");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    names
        .split(' ')
        .zip(values.split(' '))
        .find_map(|(name, value)| (name == "ActiveOpens").then(|| value.parse().ok())?)
        .unwrap_or_else(|| panic!("no ActiveOpens in {path}: {text}"))
}

/// Runs curl with a key in `X-Api-Key`. A response must arrive.
#[track_caller]
pub fn curl_get(lab: &Lab, url: &str, key: &str) -> Response {
    let header = format!("X-Api-Key: {key}");
    let curl = curl(lab, &["-H", &header, url]);
    assert_eq!(curl.exit, 0, "{curl:?}");
    curl.response
        .expect("a response, as curl's exit status shows")
}

/// The summary that wrk prints.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Wrk {
    pub requests: u64,
    pub refused: u64,
    pub socket_errors: u64,
    pub text: String,
}

/// Runs wrk with one thread in the client's namespace.
#[track_caller]
pub fn wrk(lab: &Lab, url: &str, key: &str, connections: u32, seconds: u32) -> Wrk {
    let text = succeed(lab.client().command("wrk").args([
        "-t1",
        &format!("-c{connections}"),
        &format!("-d{seconds}s"),
        // A response that takes longer counts as an error.
        "--timeout=60s",
        "-H",
        &format!("X-Api-Key: {key}"),
        url,
    ]));
    Wrk::parse(&text)
}

/// A script for wrk. Its argument is the path of a file. Once the file exists, wrk sends no further
/// requests on its connections.
const STOP_SCRIPT: &str = r#"
local stop_file
function init(arguments)
    stop_file = arguments[1]
end
function delay()
    local file = stop_file and io.open(stop_file)
    if file then
        file:close()
        stop_file = nil
    end
    return stop_file and 0 or 3600000
end
"#;

/// The maximum running time of wrk in seconds, if the test does not end it earlier.
const WRK_SECONDS: u32 = 600;

/// A wrk process that runs until the test ends it.
#[derive(Debug)]
pub struct Load {
    wrk: Process,
    stop_file: PathBuf,
}

impl Load {
    /// Starts wrk with one thread in the client's namespace. The names of wrk's files contain
    /// `name`, and each request has the additional fields in `headers`.
    pub fn start(lab: &Lab, name: &str, url: &str, connections: u32, headers: &[&str]) -> Self {
        let script = lab.file(&format!("{name}.lua"));
        let stop_file = lab.file(&format!("{name}.stop"));
        fs::write(&script, STOP_SCRIPT).expect("write wrk's script");
        let mut command = lab.client().command("wrk");
        command.args(["-t1", "--timeout", &format!("{WRK_SECONDS}s")]);
        command.args([format!("-c{connections}"), format!("-d{WRK_SECONDS}s")]);
        for header in headers {
            command.args(["-H", header]);
        }
        command
            .arg("-s")
            .arg(script)
            .arg(url)
            .arg("--")
            .arg(&stop_file);
        let wrk = Process::start("wrk", &mut command, &lab.file(&format!("{name}.log")));
        Self { wrk, stop_file }
    }

    /// Makes wrk send no further requests. It still receives the responses to requests that it has
    /// already sent.
    pub fn stop_sending(&self) {
        fs::write(&self.stop_file, "").expect("stop wrk");
    }

    /// Ends wrk and returns its summary. No request is interrupted if [`Self::stop_sending`] was
    /// called and all responses have arrived since.
    #[track_caller]
    pub fn finish(mut self) -> Wrk {
        self.wrk.signal(Signal::SIGINT);
        let status = self.wrk.wait();
        assert!(
            status.success(),
            "wrk ended with {status}: {}",
            self.wrk.log()
        );
        Wrk::parse(&self.wrk.log())
    }
}

impl Wrk {
    /// Returns the given percentile of the latency. wrk reports it only if it ran with `--latency`.
    pub fn latency(&self, percent: u32) -> Option<Duration> {
        let name = format!("{percent}%");
        let mut lines = self.text.lines().map(str::split_whitespace);
        lines.find_map(|mut words| {
            let value = (words.next()? == name).then(|| words.next())??;
            let at = value.find(|c: char| c.is_ascii_alphabetic())?;
            let (number, unit) = value.split_at(at);
            let seconds = match unit {
                "us" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                _ => return None,
            };
            Some(Duration::from_secs_f64(
                number.parse::<f64>().ok()? * seconds,
            ))
        })
    }

    /// Parses wrk's output.
    pub fn parse(text: &str) -> Self {
        let mut summary = Self {
            text: text.to_owned(),
            ..Self::default()
        };
        for line in text.lines().map(str::trim) {
            if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses:") {
                summary.refused = count.trim().parse().unwrap_or_default();
            } else if let Some(errors) = line.strip_prefix("Socket errors:") {
                summary.socket_errors = errors
                    .split([' ', ','])
                    .filter_map(|word| word.parse::<u64>().ok())
                    .sum();
            } else if let Some((count, _)) = line.split_once(" requests in ") {
                summary.requests = count.trim().parse().unwrap_or_default();
            }
        }
        summary
    }
}

/// Runs a Python script in the client's namespace, and parses its JSON output.
#[track_caller]
pub fn python(lab: &Lab, script: &str, arguments: &[&str]) -> Value {
    let text = succeed(python_command(lab, script).args(arguments));
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("the script's output is not JSON ({error}): {text}"))
}

/// Returns a command that runs a Python script in the client's namespace and has not been started.
pub fn python_command(lab: &Lab, script: &str) -> Command {
    let mut command = lab.client().command("python3");
    command.args(["-c", script]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_summary_is_read() {
        let summary = Wrk::parse(
            "Running 1s test\n  7 requests in 1.00s, 2.23MB read\n  \
             Socket errors: connect 1, read 2, write 0, timeout 4\n  \
             Non-2xx or 3xx responses: 5\nRequests/sec: 7.0\n",
        );
        assert_eq!(
            (summary.requests, summary.refused, summary.socket_errors),
            (7, 5, 7)
        );
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The client of the control interface.

use std::{
    convert::Infallible,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    client::conn::http1,
    header::{CONNECTION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use nix::unistd::{Gid, Group};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{net::UnixStream, task::JoinHandle};

use super::{exit::Failure, terminal::warn};
use crate::{
    domain::plain::{self, Shown},
    files,
    protocol::{
        error::{ApiError, ProblemBody},
        fleet::Changed,
    },
};

/// The time limit for a response. It is long, because an import of a million keys takes a while.
const TIMEOUT: Duration = Duration::from_secs(600);

/// A client of the daemon that listens on a socket.
#[derive(Clone)]
pub(super) struct Client {
    socket: PathBuf,
    as_json: bool,
}

impl Client {
    /// Makes a client. With `as_json`, the strings in responses are kept unchanged for `--json`.
    /// Without `as_json`, invisible characters in these strings are escaped. The store may contain
    /// such characters if an older limiter or another program has written to it.
    pub(super) fn new(socket: &Path, as_json: bool) -> Self {
        Self {
            socket: socket.to_path_buf(),
            as_json,
        }
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, "application/json", Vec::new())
    }

    pub(super) fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).context("cannot write the request")?;
        self.change(method, path, body)
    }

    pub(super) fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.change(Method::POST, path, Vec::new())
    }

    /// Sends a request that may make a change. Warns about the hosts of a fleet that do not have
    /// the change yet.
    fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, Failure> {
        let changed: Changed<T> = self.ask(method, path, "application/json", body)?;
        changed.behind.iter().for_each(|text| warn(text));
        Ok(changed.value)
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<T, Failure> {
        self.run(self.exchange(method, path, content_type, Full::from(body)))
    }

    /// Waits for a response, and parses it.
    pub(super) fn run<T: DeserializeOwned>(
        &self,
        answer: impl Future<Output = Result<(StatusCode, Bytes), Failure>>,
    ) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let (status, body) = runtime.block_on(async {
            tokio::time::timeout(TIMEOUT, answer)
                .await
                .unwrap_or_else(|_elapsed| {
                    let seconds = TIMEOUT.as_secs();
                    Err(Failure::failed(format!(
                        "the daemon did not respond within {seconds} seconds"
                    )))
                })
        })?;
        self.read(status, &body)
    }

    /// Returns the value in the body of a successful response. For any other response, returns the
    /// error in its body.
    pub(super) fn read<T: DeserializeOwned>(
        &self,
        status: StatusCode,
        body: &[u8],
    ) -> Result<T, Failure> {
        if status.is_success() {
            let answer = if self.as_json {
                serde_json::from_slice(body)
            } else {
                shown(body)
            };
            return answer
                .context("the response of the daemon cannot be parsed: use a command and a daemon of the same version")
                .map_err(Failure::from);
        }
        match serde_json::from_slice::<ProblemBody>(body) {
            Ok(problem) => Err(ApiError {
                kind: problem.kind,
                message: problem.detail,
            }
            .into()),
            Err(_) => Err(Failure::failed(format!(
                "the server at {} is not limiter: it responded with {status}",
                self.socket.display()
            ))),
        }
    }

    /// Sends one request on its own connection, and returns the response.
    pub(super) async fn exchange(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Body<Data = Bytes, Error = Infallible> + Send + 'static,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let (response, connection) = self.begin(method, path, content_type, body).await?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .with_context(|| self.broken())?
            .to_bytes();
        connection.abort();
        Ok((status, body))
    }

    fn broken(&self) -> String {
        format!(
            "the daemon at {} closed the connection",
            self.socket.display()
        )
    }

    /// Sends one request, and returns the head of the response and the task that runs the
    /// connection. The body of the response can be read only while that task runs.
    pub(super) async fn begin(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Body<Data = Bytes, Error = Infallible> + Send + 'static,
    ) -> Result<(Response<Incoming>, JoinHandle<hyper::Result<()>>), Failure> {
        // The daemon's user could replace the socket with a symbolic link to the socket of another
        // service. Requests from root, which may contain keys, would then reach that service. A
        // link that belongs to neither root nor this user is therefore refused.
        files::refuse_foreign_link(&self.socket)
            .map_err(|error| Failure::failed(error.to_string()))?;
        let stream = connect(&self.socket).map_err(|error| self.no_daemon(&error))?;
        let broken = || self.broken();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .with_context(broken)?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "limiter")
            .header(CONNECTION, "close")
            .header(CONTENT_TYPE, content_type)
            .body(body)
            .context("cannot make the request")?;
        let response = sender.send_request(request).await.with_context(broken)?;
        Ok((response, connection))
    }

    /// Returns the name of the group that may use the socket.
    fn group(&self) -> Option<String> {
        let id = std::fs::metadata(&self.socket).ok()?.gid();
        let group = Group::from_gid(Gid::from_raw(id)).ok()?;
        group.map(|group| group.name)
    }

    fn no_daemon(&self, error: &io::Error) -> Failure {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                let group = self.group().filter(|group| group != "root");
                let or_member = group
                    .map(|group| format!(", or as a member of the group {group}"))
                    .unwrap_or_default();
                Failure::failed(format!(
                    "permission to use the control socket {socket} is denied: run this as root{or_member}"
                ))
            }
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Failure::Unreachable(format!(
                    "no daemon is listening at {socket}: start one with `limiter run`, or name its socket with --socket"
                ))
            }
            _ => Failure::Unreachable(format!("cannot connect to a daemon at {socket}: {error}")),
        }
    }
}

/// Connects with a blocking socket. If the queue of the daemon's socket is full, the kernel returns
/// an error for a non-blocking connect(2), but lets a blocking connect(2) wait
/// (`unix_stream_connect` in `net/unix/af_unix.c`). Blocking is harmless, because the process has
/// nothing else to do.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket.into())
}

/// Parses a response, and escapes the invisible characters in its strings.
pub(super) fn shown<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    let mut answer = serde_json::from_slice(body)?;
    show(&mut answer);
    serde_json::from_value(answer)
}

fn show(value: &mut Value) {
    match value {
        Value::String(text) => {
            if plain::check(text).is_err() {
                *text = Shown(text).to_string();
            }
        }
        Value::Array(values) => values.iter_mut().for_each(show),
        Value::Object(fields) => fields.values_mut().for_each(show),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Returns an empty body.
pub(super) fn empty() -> Full<Bytes> {
    Full::default()
}

/// The characters that are percent-encoded in a path segment or in a value of a query. These are
/// all characters except those that are `unreserved` in RFC 3986, section 2.3.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Returns a query with the fields that have a value.
pub(super) fn query(fields: &[(&str, Option<String>)]) -> String {
    let fields: Vec<String> = fields
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", escape(value.as_deref()?))))
        .collect();
    match fields.is_empty() {
        true => String::new(),
        false => format!("?{}", fields.join("&")),
    }
}

/// Percent-encodes a path segment or a value of a query.
pub(super) fn escape(part: &str) -> String {
    utf8_percent_encode(part, ENCODED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slash_of_a_scope_is_encoded() {
        assert_eq!(escape("acme/web"), "acme%2Fweb");
        assert_eq!(escape("k_1 ?"), "k_1%20%3F");
    }
}

//! The control interface's first client.

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
use serde::{Serialize, de::DeserializeOwned};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{net::UnixStream, task::JoinHandle};

use super::exit::Failure;
use crate::api::{ApiError, ProblemBody};

/// How long to wait for an answer. An import of a million keys takes its time.
const PATIENCE: Duration = Duration::from_secs(600);

/// A daemon, by its socket.
#[derive(Clone)]
pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_path_buf(),
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
        self.ask(method, path, "application/json", body)
    }

    pub(super) fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::POST, path, "application/json", Vec::new())
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

    /// Waits for an answer, and takes it apart.
    pub(super) fn run<T: DeserializeOwned>(
        &self,
        answer: impl Future<Output = Result<(StatusCode, Bytes), Failure>>,
    ) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let (status, body) = runtime.block_on(async {
            tokio::time::timeout(PATIENCE, answer)
                .await
                .unwrap_or_else(|_elapsed| {
                    let seconds = PATIENCE.as_secs();
                    Err(Failure::failed(format!(
                        "the daemon gave no answer in {seconds} seconds"
                    )))
                })
        })?;
        self.read(status, &body)
    }

    /// What an answer says.
    pub(super) fn read<T: DeserializeOwned>(
        &self,
        status: StatusCode,
        body: &[u8],
    ) -> Result<T, Failure> {
        if status.is_success() {
            return serde_json::from_slice(body)
                .context("the daemon's answer is not what this limiter expects: are both of one version?")
                .map_err(Failure::from);
        }
        match serde_json::from_slice::<ProblemBody>(body) {
            Ok(problem) => Err(ApiError {
                kind: problem.kind,
                message: problem.detail,
            }
            .into()),
            Err(_) => Err(Failure::failed(format!(
                "what answers at {} is not a limiter: it says {status}",
                self.socket.display()
            ))),
        }
    }

    /// One request and its answer, on a connection of their own.
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
        format!("the daemon at {} hung up", self.socket.display())
    }

    /// One request and the beginning of its answer; the rest comes as long as the task runs.
    pub(super) async fn begin(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Body<Data = Bytes, Error = Infallible> + Send + 'static,
    ) -> Result<(Response<Incoming>, JoinHandle<hyper::Result<()>>), Failure> {
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

    /// The group that may use the socket.
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
                    "no permission to use the control socket {socket}: run this as root{or_member}"
                ))
            }
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Failure::Unreachable(format!(
                    "no daemon answers at {socket}: start it with `limiter run`, or name its socket with --socket"
                ))
            }
            _ => Failure::Unreachable(format!("no daemon answers at {socket}: {error}")),
        }
    }
}

/// Connects, if need be after some who came before: without blocking the kernel would refuse while
/// the daemon has not taken those (`unix_stream_connect` in `net/unix/af_unix.c`). Nothing else is to
/// be done meanwhile.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket.into())
}

/// No body.
pub(super) fn empty() -> Full<Bytes> {
    Full::default()
}

/// A part of a path: everything but letters, digits and the harmless marks is escaped.
pub(super) fn escape(part: &str) -> String {
    let mut escaped = String::new();
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_in_a_scope_stays_within_its_part() {
        assert_eq!(escape("acme/web"), "acme%2Fweb");
        assert_eq!(escape("k_1 ?"), "k_1%20%3F");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! A real nginx with its own directory. Its access log shows which requests reached the server.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Instant,
};

use serde_json::Value;

use crate::{
    Conn, Gate, Lab, Namespace, clock,
    process::{self, Process},
};

/// The size of the static file at [`Nginx::FILE`] in bytes.
pub const FILE_BYTES: usize = 300_000;

/// An nginx in the lab's server namespace. It serves these paths:
/// - `/`: an immediate short response to any method; nginx sends it before it reads the request's
///   body,
/// - `/slow`: passed to the [`Gate`], and answered when the test releases it,
/// - `/read`: the same response as `/`, after the whole request body has been read,
/// - `/file`: a static file with an entity tag,
/// - `/none`: a response with status 204.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    prefix: PathBuf,
    gate: Gate,
    markers: AtomicU32,
}

/// A line of the access log, which describes a request that reached nginx.
#[derive(Debug, Clone, PartialEq)]
pub struct Access {
    /// The time at which the request ended, in seconds since the epoch, with millisecond precision.
    pub time: f64,
    pub port: u16,
    pub status: u16,
    pub connection: u64,
    pub method: String,
    pub path: String,
    pub api_key: String,
    pub authorization: String,
}

impl Nginx {
    pub const FILE: &'static str = "/file";
    pub const SLOW: &'static str = "/slow";
    /// A path below [`Self::SLOW`] at which the response contains the request's body, in chunks.
    pub const ECHO: &'static str = "/slow/echo";
    pub const NONE: &'static str = "/none";
    pub const READ: &'static str = "/read";

    /// Starts nginx on `ports` in both families, and waits until it answers.
    pub fn start(lab: &Lab, ports: &[u16]) -> Self {
        Self::start_with(lab, ports, "")
    }

    /// Does the same as [`Self::start`], with `directives` in addition. They come before the
    /// directives that every test uses.
    pub fn start_with(lab: &Lab, ports: &[u16], directives: &str) -> Self {
        let prefix = lab.file("nginx");
        fs::create_dir(&prefix).expect("nginx's directory");
        fs::write(prefix.join("file"), content(FILE_BYTES)).expect("nginx's file");
        fs::write(prefix.join("nginx.conf"), configuration(ports, directives))
            .expect("nginx's configuration");
        let gate = Gate::listen(&prefix.join("gate.sock"));
        let process = Self::launch(lab, &prefix);
        let mut nginx = Self {
            process,
            prefix,
            gate,
            markers: AtomicU32::new(0),
        };
        nginx.wait_until_ready();
        nginx
    }

    fn launch(lab: &Lab, prefix: &std::path::Path) -> Process {
        Process::start(
            "nginx",
            // nginx resolves the path of a Unix socket relative to its working directory, unlike
            // other paths, which it resolves relative to its prefix.
            lab.server()
                .command("nginx")
                .current_dir(prefix)
                .arg("-p")
                .arg(prefix)
                .args(["-c", "nginx.conf", "-e", "error.log"]),
            &prefix.join("output.log"),
        )
    }

    fn wait_until_ready(&mut self) {
        clock::eventually("nginx listens", || {
            assert!(
                self.process.ended().is_none(),
                "nginx ended: {}",
                self.errors()
            );
            UnixStream::connect(self.prefix.join("marker.sock")).is_ok()
        });
    }

    /// Returns the backend to which nginx passes requests for `/slow`.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills nginx as `kill -9` does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts nginx again after [`Nginx::kill`].
    pub fn start_again(&mut self, lab: &Lab) {
        self.process.kill();
        // A killed nginx leaves its socket file behind, and a new one cannot bind to the path while
        // that file exists.
        fs::remove_file(self.prefix.join("marker.sock")).expect("the marker's socket");
        self.process = Self::launch(lab, &self.prefix);
        self.wait_until_ready();
    }

    /// Returns the content of the error log.
    pub fn errors(&self) -> String {
        fs::read_to_string(self.prefix.join("error.log")).unwrap_or_default()
    }

    /// Returns all requests that have reached nginx and have been answered so far.
    ///
    /// nginx logs a request only after it has sent the response, so the log may lack a request
    /// whose response the client already has. This method therefore sends one more request, over a
    /// Unix socket, and waits until that request is in the log. All earlier requests are then in
    /// the log too, because nginx is one process with one event loop.
    pub fn log(&self) -> Vec<Access> {
        let number = self.markers.fetch_add(1, Ordering::Relaxed);
        let marker = format!("/marker-{number}-");
        let mut stream =
            UnixStream::connect(self.prefix.join("marker.sock")).expect("reach nginx's marker");
        write!(stream, "GET {marker} HTTP/1.0\r\n\r\n").expect("mark nginx's log");
        stream
            .read_to_end(&mut Vec::new())
            .expect("the marker's answer");
        let log = clock::eventually_some("the marker is in nginx's log", || {
            // A path may not be valid UTF-8.
            let log = fs::read(self.prefix.join("access.log")).ok()?;
            let log = String::from_utf8_lossy(&log).into_owned();
            log.contains(&marker).then_some(log)
        });
        let lines = log.lines().filter(|line| !line.contains("/marker-"));
        lines.map(Access::parse).collect()
    }

    /// Returns the number of complete requests with `key` in `X-Api-Key` that nginx has logged.
    /// Requests with status 400 are not counted, because nginx logs this status for incomplete and
    /// malformed requests. Tabs around the key are ignored, because nginx logs them as a part of
    /// the value.
    pub fn served(&self, key: &str) -> u64 {
        Self::served_in(&self.log(), key)
    }

    /// Does the same as [`Self::served`] for `log`, which the caller has already read.
    pub fn served_in(log: &[Access], key: &str) -> u64 {
        log.iter()
            .filter(|access| access.api_key.trim() == key && access.status != 400)
            .count() as u64
    }

    /// Returns the content of nginx's `/file`.
    pub fn file_content() -> Vec<u8> {
        content(FILE_BYTES)
    }

    /// Returns the lines of the kernel's socket table for the server's connections on `port`,
    /// without connections in TIME-WAIT.
    pub fn sockets(lab: &Lab, port: u16) -> Vec<String> {
        sockets(lab.server(), &format!("sport = :{port}"))
    }

    /// Waits until no connection to `port` exists at the server.
    #[track_caller]
    pub fn wait_until_no_sockets(lab: &Lab, port: u16) {
        none_left("the server's", || Self::sockets(lab, port));
    }

    /// Waits until no connection to `port` exists at the client.
    #[track_caller]
    pub fn wait_until_no_client_sockets(lab: &Lab, port: u16) {
        none_left("the client's", || {
            sockets(lab.client(), &format!("dport = :{port}"))
        });
    }
}

/// Waits until `list` returns no sockets.
#[track_caller]
fn none_left(whose: &str, list: impl Fn() -> Vec<String>) {
    let start = Instant::now();
    clock::eventually(&format!("{whose} sockets are gone"), || {
        let left = list();
        let late = start.elapsed() > clock::TIMEOUT / 2;
        // If the sockets remain for a long time, they are printed at intervals.
        if late && !left.is_empty() {
            println!("left of {whose} sockets: {left:#?}");
            thread::sleep(clock::TIMEOUT / 8);
        }
        left.is_empty()
    });
}

/// Returns the sockets that are in neither LISTEN nor TIME-WAIT.
fn sockets(namespace: &Namespace, filter: &str) -> Vec<String> {
    let listing = process::succeed(namespace.command("ss").args([
        "-Htano",
        "state",
        "connected",
        "exclude",
        "time-wait",
        filter,
    ]));
    listing.lines().map(str::to_owned).collect()
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- nginx's errors:\n{}", self.errors());
        }
    }
}

impl Access {
    fn parse(line: &str) -> Self {
        let line: Value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("nginx's log is not JSON ({error}): {line}"));
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| text(name).parse().unwrap_or_default();
        Self {
            time: text("time").parse().unwrap_or_default(),
            port: u16::try_from(number("port")).unwrap_or_default(),
            status: u16::try_from(number("status")).unwrap_or_default(),
            connection: number("connection"),
            method: text("method"),
            path: text("path"),
            api_key: text("api_key"),
            authorization: text("authorization"),
        }
    }
}

/// Returns `length` bytes without a repeating pattern, so that a comparison fails if a piece of
/// them is shifted or repeated.
fn content(length: usize) -> Vec<u8> {
    (0..length / 8 + 1)
        .flat_map(|number| format!("{number:07}\n").into_bytes())
        .take(length)
        .collect()
}

/// Returns nginx's configuration, with a single process. If nginx is killed, no worker survives,
/// and its log is in the order of events.
fn configuration(ports: &[u16], directives: &str) -> String {
    let any = |v6: bool, port: u16| match v6 {
        true => format!("listen [::]:{port} backlog=4096;"),
        false => format!(
            "listen {} backlog=4096;",
            SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
        ),
    };
    let listen: Vec<String> = ports
        .iter()
        .flat_map(|port| [any(false, *port), any(true, *port)])
        .collect();
    let log_fields = [
        ("time", "msec"),
        ("port", "server_port"),
        ("status", "status"),
        ("connection", "connection"),
        ("method", "request_method"),
        ("path", "request_uri"),
        ("api_key", "http_x_api_key"),
        ("authorization", "http_authorization"),
    ]
    .map(|(name, variable)| format!("\"{name}\":\"${variable}\""))
    .join(",");
    format!(
        r"daemon off;
master_process off;
pid nginx.pid;
error_log error.log warn;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    log_format lab escape=json '{{{log_fields}}}';
    access_log access.log lab;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    keepalive_requests 10000000;
    keepalive_timeout 600s;
    client_header_timeout 600s;
    client_body_timeout 600s;
    large_client_header_buffers 8 64k;
    client_max_body_size 64m;
    default_type text/plain;
    server {{
        {}
        {directives}
        listen unix:marker.sock;
        location / {{ return 200 'served\n'; }}
        location = {} {{ root .; }}
        location = {} {{ return 204; }}
        location = {} {{
            proxy_pass http://unix:marker.sock:/marker-read;
            proxy_set_header X-Api-Key '';
        }}
        location {} {{
            proxy_pass http://unix:gate.sock:;
            proxy_read_timeout 600s;
        }}
    }}
}}
",
        listen.join(" "),
        Nginx::FILE,
        Nginx::NONE,
        Nginx::READ,
        Nginx::SLOW,
    )
}

/// Opens `count` connections, each with a request that waits at the gate. Each request is sent only
/// after the previous one has reached the gate, so that no rate limit interferes.
pub fn hold(lab: &Lab, nginx: &Nginx, key: &str, count: usize) -> Vec<Conn> {
    let already = nginx.gate().waiting();
    (1..=count)
        .map(|number| {
            let mut conn = lab.connect(crate::GUARDED);
            conn.send(&crate::request(Nginx::SLOW, key));
            nginx.gate().wait_for(already + number);
            conn
        })
        .collect()
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reverse proxies in front of the guarded server. They run on their own host, which is the
//! client's namespace, or on the server's host if the lab has only one namespace.
//!
//! HAProxy and nginx have two servers: the guarded port, and as a backup the port to which no limit
//! applies. A refusal must not make a proxy take the guarded port out of service. If this happens
//! even briefly, the tests notice it, because the backup port then serves requests that should have
//! been refused.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{GUARDED, Lab, UNGUARDED, clock, process::Process};

/// The port of the proxies.
const PORT: u16 = 8080;

fn listener() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)
}

/// Returns the URL of `path` at the proxy, as seen from the client's namespace.
pub fn url(path: &str) -> String {
    format!("http://{}{path}", listener())
}

#[track_caller]
fn wait_until_it_listens(lab: &Lab, process: &mut Process) {
    clock::eventually("the proxy listens", || {
        if let Some(status) = process.ended() {
            panic!("the proxy ended ({status}): {}", process.log());
        }
        lab.client()
            .enter(|| TcpStream::connect(listener()).is_ok())
    });
}

/// HAProxy, which checks the health of the guarded port twice a second.
#[derive(Debug)]
pub struct Haproxy {
    process: Process,
    stats: PathBuf,
}

impl Haproxy {
    /// Starts HAProxy with `lines` added to its backend.
    #[track_caller]
    pub fn start(lab: &Lab, lines: &str) -> Self {
        let (config, stats) = (lab.file("haproxy.cfg"), lab.file("haproxy.sock"));
        let text = format!(
            "global
    stats socket {stats} mode 600 level admin
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend clients
    bind {listener}
    default_backend api
backend api
    retries 3
    option redispatch
    option httpchk GET /health
    {lines}
    timeout check 10s
    default-server check inter 500ms
    server guarded {guarded} observe layer7 error-limit 1 on-error mark-down
    server other {other} backup
",
            stats = stats.display(),
            listener = listener(),
            guarded = SocketAddr::new(lab.v4(), GUARDED),
            other = SocketAddr::new(lab.v4(), UNGUARDED),
        );
        fs::write(&config, text).expect("HAProxy's configuration");
        let mut command = lab.client().command("haproxy");
        command.args(["-db", "-f"]).arg(&config);
        let mut process = Process::start("HAProxy", &mut command, &lab.file("haproxy.log"));
        wait_until_it_listens(lab, &mut process);
        // HAProxy opens its stats socket last.
        clock::eventually("HAProxy's stats socket is there", || {
            UnixStream::connect(&stats).is_ok()
        });
        Self { process, stats }
    }

    /// Returns HAProxy's statistics for the server or frontend `name` of `proxy`, by column name.
    #[track_caller]
    pub fn row(&self, proxy: &str, name: &str) -> BTreeMap<String, String> {
        let mut stream = UnixStream::connect(&self.stats).expect("reach HAProxy's stats socket");
        stream.write_all(b"show stat\n").expect("ask HAProxy");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("HAProxy's answer");
        let mut lines = text.lines().map(|line| line.split(','));
        let names = lines.next().expect("the names of the columns");
        let names: Vec<&str> = names.map(|name| name.trim_start_matches("# ")).collect();
        lines
            .map(|values| {
                names
                    .iter()
                    .copied()
                    .zip(values)
                    .collect::<BTreeMap<_, _>>()
            })
            .find(|row| row.get("pxname") == Some(&proxy) && row.get("svname") == Some(&name))
            .unwrap_or_else(|| panic!("no {proxy}/{name} in {text}"))
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// Returns HAProxy's statistics for the guarded server, by column name.
    #[track_caller]
    pub fn guarded(&self) -> BTreeMap<String, String> {
        self.row("api", "guarded")
    }

    /// Waits until a health check has given the guarded server a status that begins with `status`.
    #[track_caller]
    pub fn wait_until(&self, status: &str) {
        clock::eventually(&format!("the guarded server is {status}"), || {
            let row = self.guarded();
            // HAProxy assumes that the server is up until the first check has been made. The
            // check's own status shows that there was one.
            row["status"].starts_with(status) && row["check_status"].starts_with("L7")
        });
    }

    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// nginx as a proxy with a pool of connections. A server is taken out of service after its first
/// failure.
#[derive(Debug)]
pub struct NginxProxy {
    prefix: PathBuf,
    _process: Process,
}

/// A line of the proxy's access log.
#[derive(Debug)]
pub struct ForwardedRequest {
    pub status: u16,
    /// The servers that the proxy tried, in order.
    pub servers: String,
    pub connection: u64,
}

impl NginxProxy {
    /// Starts nginx with `lines` added to its location.
    #[track_caller]
    pub fn start(lab: &Lab, lines: &str) -> Self {
        let prefix = lab.file("nginx-proxy");
        fs::create_dir(&prefix).expect("nginx's directory");
        let text = format!(
            r#"daemon off;
master_process off;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 1024; }}
http {{
    log_format lab escape=json
        '{{"status":$status,"servers":"$upstream_addr","connection":$connection}}';
    access_log access.log lab;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    keepalive_requests 10000000;
    client_max_body_size 64m;
    upstream api {{
        server {guarded} max_fails=1 fail_timeout=600s;
        server {other} backup;
        keepalive 16;
    }}
    server {{
        listen {listener};
        location / {{
            proxy_pass http://api;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            {lines}
        }}
    }}
}}
"#,
            guarded = SocketAddr::new(lab.v4(), GUARDED),
            other = SocketAddr::new(lab.v4(), UNGUARDED),
            listener = listener(),
        );
        fs::write(prefix.join("nginx.conf"), text).expect("nginx's configuration");
        let mut command = lab.client().command("nginx");
        command
            .arg("-p")
            .arg(&prefix)
            .args(["-c", "nginx.conf", "-e", "error.log"]);
        let log = prefix.join("output.log");
        let mut process = Process::start("nginx as proxy", &mut command, &log);
        wait_until_it_listens(lab, &mut process);
        Self {
            prefix,
            _process: process,
        }
    }

    /// Waits until the proxy has logged `count` requests, and returns all requests that it has
    /// logged.
    #[track_caller]
    pub fn passed(&self, count: usize) -> Vec<ForwardedRequest> {
        let path = self.prefix.join("access.log");
        // nginx writes the log line of a request only after it has sent the response.
        let text = clock::eventually_some("the nginx proxy has logged every request", || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            (text.lines().count() >= count).then_some(text)
        });
        text.lines().map(ForwardedRequest::parse).collect()
    }

    /// Returns the lines about the servers in the proxy's error log.
    pub fn complaints(&self) -> Vec<String> {
        let text = fs::read_to_string(self.prefix.join("error.log")).unwrap_or_default();
        let lines = text.lines().filter(|line| line.contains("upstream"));
        lines.map(str::to_owned).collect()
    }
}

impl ForwardedRequest {
    #[track_caller]
    fn parse(line: &str) -> Self {
        let line: Value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("nginx's log is not JSON ({error}): {line}"));
        Self {
            status: line["status"]
                .as_u64()
                .and_then(|status| u16::try_from(status).ok())
                .unwrap_or_default(),
            servers: line["servers"].as_str().unwrap_or_default().to_owned(),
            connection: line["connection"].as_u64().unwrap_or_default(),
        }
    }
}

/// Apache as a proxy with a pool of connections, in one process.
#[derive(Debug)]
pub struct Apache {
    _process: Process,
}

impl Apache {
    /// The number of threads, each of which handles one request at a time. The pool has no more
    /// connections than that.
    pub const THREADS: usize = 16;

    #[track_caller]
    pub fn start(lab: &Lab) -> Self {
        let directory = lab.file("apache");
        fs::create_dir(&directory).expect("Apache's directory");
        let modules: String = ["mpm_event", "authz_core", "proxy", "proxy_http"]
            .iter()
            .map(|name| {
                format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n")
            })
            .collect();
        let text = format!(
            r#"{modules}PidFile apache.pid
DefaultRuntimeDir .
ErrorLog error.log
User nobody
Group nogroup
ServerName lab
Listen {listener}
StartServers 1
ServerLimit 1
ThreadLimit {threads}
ThreadsPerChild {threads}
MaxRequestWorkers {threads}
KeepAlive On
MaxKeepAliveRequests 0
ProxyPass "/" "http://{guarded}/"
"#,
            listener = listener(),
            threads = Self::THREADS,
            guarded = SocketAddr::new(lab.v4(), GUARDED),
        );
        let config = directory.join("apache.conf");
        fs::write(&config, text).expect("Apache's configuration");
        let mut command = lab.client().command("apache2");
        command.arg("-d").arg(&directory).arg("-f").arg(&config);
        command.arg("-DFOREGROUND");
        let log = directory.join("output.log");
        let mut process = Process::start("Apache", &mut command, &log);
        wait_until_it_listens(lab, &mut process);
        Self { _process: process }
    }
}

/// Envoy as a proxy with a pool of connections, with one worker.
#[derive(Debug)]
pub struct Envoy {
    _process: Process,
}

impl Envoy {
    /// Returns the configuration of an Envoy that listens at `listener` and forwards all requests
    /// to `server`. `filters` are entries of `http_filters`, and `route` has entries of the route,
    /// all indented as they are here.
    pub fn config(listener: SocketAddr, server: SocketAddr, filters: &str, route: &str) -> String {
        const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";
        let address = |address: SocketAddr| {
            let (ip, port) = (address.ip(), address.port());
            format!("address: {{socket_address: {{address: {ip}, port_value: {port}}}}}")
        };
        format!(
            r#"static_resources:
  listeners:
  - {listener}
    tcp_backlog_size: 4096
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {FILTERS}.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: clients
          http_filters:
{filters}          - name: envoy.filters.http.router
            typed_config:
              "@type": {FILTERS}.http.router.v3.Router
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: /}}
                route: {{cluster: api}}
{route}  clusters:
  - name: api
    connect_timeout: 10s
    load_assignment:
      cluster_name: api
      endpoints: [{{lb_endpoints: [{{endpoint: {{{server}}}}}]}}]
"#,
            listener = address(listener),
            server = address(server),
        )
    }

    /// Starts the program `envoy`.
    #[track_caller]
    pub fn start(lab: &Lab, envoy: &Path) -> Self {
        let server = SocketAddr::new(lab.v4(), GUARDED);
        let text = Self::config(listener(), server, "", "");
        let config = lab.file("envoy.yaml");
        fs::write(&config, text).expect("Envoy's configuration");
        let mut command = lab.client().command(&envoy.to_string_lossy());
        command.args(["--concurrency", "1", "--disable-hot-restart", "-c"]);
        command.arg(&config);
        let mut process = Process::start("Envoy", &mut command, &lab.file("envoy.log"));
        wait_until_it_listens(lab, &mut process);
        Self { _process: process }
    }
}

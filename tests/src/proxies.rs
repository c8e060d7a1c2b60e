//! Reverse proxies in front of the guarded server: on a host of their own (the client's
//! namespace), or on the server's, where that is one.
//!
//! Each has two servers behind it: the guarded port, and as its backup the port that no limit
//! covers. A proxy that gives the first one up for a moment serves what should have been refused.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
};

use serde_json::Value;

use crate::{GUARDED, Lab, UNGUARDED, clock, process::Process};

/// Where they listen.
const PORT: u16 = 8080;

fn listener() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)
}

/// The proxy's own URL, for the client's namespace.
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

/// HAProxy with a health check of the guarded port twice a second.
#[derive(Debug)]
pub struct Haproxy {
    process: Process,
    stats: PathBuf,
}

impl Haproxy {
    /// Starts it, the lines of its backend completed by `lines`.
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
        // This one it opens last.
        clock::eventually("HAProxy's stats socket is there", || {
            UnixStream::connect(&stats).is_ok()
        });
        Self { process, stats }
    }

    /// The row of a frontend or server in its statistics, by the names of the columns.
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

    /// The row of the guarded server.
    #[track_caller]
    pub fn guarded(&self) -> BTreeMap<String, String> {
        self.row("api", "guarded")
    }

    /// Waits until the guarded server's status begins with `status` by a health check's word.
    #[track_caller]
    pub fn wait_until(&self, status: &str) {
        clock::eventually(&format!("the guarded server is {status}"), || {
            let row = self.guarded();
            // Before the first check it is taken to be up.
            row["status"].starts_with(status) && row["check_status"].starts_with("L7")
        });
    }

    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// nginx as a proxy with a pool of connections, which gives a server up at its first failure.
#[derive(Debug)]
pub struct NginxProxy {
    prefix: PathBuf,
    _process: Process,
}

/// A line of its access log.
#[derive(Debug)]
pub struct Passed {
    pub status: u16,
    /// The servers that it asked, in order.
    pub servers: String,
    pub connection: u64,
}

impl NginxProxy {
    /// Starts it, the lines of its location completed by `lines`.
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

    /// What it has passed on, once there are `count` requests.
    #[track_caller]
    pub fn passed(&self, count: usize) -> Vec<Passed> {
        let path = self.prefix.join("access.log");
        // It writes a line after the response has left.
        let text = clock::eventually_some("nginx as proxy has noted every request", || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            (text.lines().count() >= count).then_some(text)
        });
        text.lines().map(Passed::parse).collect()
    }

    /// What it has said about the servers.
    pub fn complaints(&self) -> Vec<String> {
        let text = fs::read_to_string(self.prefix.join("error.log")).unwrap_or_default();
        let lines = text.lines().filter(|line| line.contains("upstream"));
        lines.map(str::to_owned).collect()
    }
}

impl Passed {
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

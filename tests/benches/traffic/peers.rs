// SPDX-License-Identifier: MIT OR Apache-2.0

//! The peers that are compared: an API server alone, the limiter in front of it, and common
//! alternatives.
//!
//! All peers use the same API server, an nginx with one process and no log. They distinguish two
//! customers by their keys. One customer is never limited. The limit of the other customer is far
//! lower than the rate of its requests.

use std::{
    env,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, TcpStream},
    path::Path,
    process::Command,
};

use limiter_tests::{
    Config, GUARDED, Lab, Limiter, clock, lab::CLIENT_INTERFACE, process::Process, proxies::Envoy,
};

use crate::cpus::{self, Filler};

/// The keys of the two customers.
pub const WITHIN: &str = "3f9c1b7a5d2e48c0a6b4";
pub const OVER: &str = "71d0e4c2b85f4a1f9c3d";

/// The path of the requests, and the body of the API's responses.
pub const PATH: &str = "/v1/calls";
const ANSWER: &str = r#"{"calls":[],"next":null}"#;

/// The ports of the peers in the lab without a limiter.
const NGINX: u16 = 8001;
const NGINX_CLOSE: u16 = 8002;
const HAPROXY: u16 = 8003;
const ENVOY: u16 = 8004;

/// The environment variable with the path of Envoy's executable. `cargo xtask bench` sets it.
const ENVOY_VARIABLE: &str = "LIMITER_ENVOY";

/// The peers, in the order in which the tables list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    Bare,
    Limiter,
    /// The limiter with `on_limit = "close"` and `handshake = "pass"`.
    Closing,
    /// The limiter with `on_limit = "close"` and `handshake = "defer"`.
    Deferring,
    Nginx,
    NginxClose,
    Haproxy,
    Envoy,
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "nginx alone",
            Self::Limiter => "limiter",
            Self::Closing => "limiter, closing",
            Self::Deferring => "limiter, closing, deferring",
            Self::Nginx => "nginx limit_req, limit_conn",
            Self::NginxClose => "nginx limit_req, closing",
            Self::Haproxy => "HAProxy stick table",
            Self::Envoy => "Envoy local_ratelimit",
        }
    }
}

/// All running peers. Fields are dropped in the order of their declaration, so the processes end
/// before their namespace is removed.
pub struct Stage {
    guarded: Guarded,
    closing: Guarded,
    deferring: Guarded,
    _fillers: [Filler; 2],
    _haproxy: Process,
    envoy: Option<Process>,
    _nginx: Process,
    lab: Lab,
}

/// A lab with a limiter in front of its nginx.
struct Guarded {
    limiter: Limiter,
    _nginx: Process,
    lab: Lab,
}

impl Stage {
    /// Starts all peers on the servers' CPU.
    pub fn set() -> Self {
        cpus::bind_to_cpu(cpus::SERVERS);
        let lab = lab();
        let nginx = start_nginx(&lab);
        let haproxy = start_haproxy(&lab);
        let envoy = env::var_os(ENVOY_VARIABLE).map(|envoy| start_envoy(&lab, Path::new(&envoy)));
        if envoy.is_none() {
            println!("without Envoy: {ENVOY_VARIABLE} names none");
        }
        let stage = Self {
            guarded: Guarded::start(&[]),
            closing: Guarded::start(&["on_limit = \"close\"", "handshake = \"pass\""]),
            deferring: Guarded::start(&["on_limit = \"close\"", "handshake = \"defer\""]),
            _fillers: Filler::on_both(&lab),
            _haproxy: haproxy,
            envoy,
            _nginx: nginx,
            lab,
        };
        cpus::bind_to_cpu(cpus::CLIENTS);
        stage
    }

    /// Returns the peers of `wanted` that are available.
    pub fn present(&self, wanted: &[Peer]) -> Vec<Peer> {
        let mut peers = wanted.to_vec();
        peers.retain(|peer| *peer != Peer::Envoy || self.envoy.is_some());
        peers
    }

    /// Returns the lab of a peer.
    pub fn lab(&self, peer: Peer) -> &Lab {
        match peer {
            Peer::Limiter => &self.guarded.lab,
            Peer::Closing => &self.closing.lab,
            Peer::Deferring => &self.deferring.lab,
            _ => &self.lab,
        }
    }

    pub fn port(&self, peer: Peer) -> u16 {
        match peer {
            Peer::Bare | Peer::Limiter | Peer::Closing | Peer::Deferring => GUARDED,
            Peer::Nginx => NGINX,
            Peer::NginxClose => NGINX_CLOSE,
            Peer::Haproxy => HAPROXY,
            Peer::Envoy => ENVOY,
        }
    }
}

impl Guarded {
    /// Starts a lab with an nginx and a limiter. `policies` are lines of `[policy]`.
    fn start(policies: &[&str]) -> Self {
        let lab = lab();
        let nginx = start_nginx(&lab);
        let config = policies
            .iter()
            .fold(Config::new(&lab), |config, policy| config.policy(policy))
            .tier("within", "daily_quota = 1000000000")
            .tier("over", "rate = \"1/min\"\nburst = 1");
        let config = config.section(
            "tables",
            "flows = 262144\nscopes = 1024\nkeys = 4096\nunknown_keys = 256\n",
        );
        let limiter = Limiter::start(&lab, &config);
        for (scope, key) in [("within", WITHIN), ("over", OVER)] {
            limiter.done(&["scope", "add", scope, "--tier", scope]);
            let output = limiter.cli_with_input(&["key", "import", scope], &format!("{key}\n"));
            assert_eq!(output.code, 0, "{output:?}");
        }
        Self {
            limiter,
            _nginx: nginx,
            lab,
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let serious = |line: &&str| line.contains("WARN") || line.contains("ERROR");
        for guarded in [&self.guarded, &self.closing, &self.deferring] {
            for line in guarded.limiter.log().lines().filter(serious) {
                println!("the daemon logged: {line}");
            }
        }
    }
}

/// Returns a lab in which the clients do not run out of ports.
fn lab() -> Lab {
    let lab = Lab::veth();
    for namespace in [lab.client(), lab.server()] {
        namespace.set("net/ipv4/ip_local_port_range", "1024 65535");
        namespace.set("net/ipv4/tcp_max_syn_backlog", "4096");
        namespace.set("net/core/somaxconn", "4096");
        // The side that closes a connection first can reuse the port of the connection soon.
        namespace.set("net/ipv4/tcp_tw_reuse", "1");
    }
    for address in flood_addresses(&lab) {
        lab.client()
            .ip(&format!("addr add {address}/24 dev {}", CLIENT_INTERFACE));
    }
    cpus::steer(&lab);
    lab
}

/// Returns the client's addresses of a flood that has many of them.
pub fn flood_addresses(lab: &Lab) -> impl Iterator<Item = Ipv4Addr> {
    let IpAddr::V4(server) = lab.v4() else {
        unreachable!("an IPv4 address")
    };
    let [a, b, c, _] = server.octets();
    (20..=250).map(move |host| Ipv4Addr::new(a, b, c, host))
}

#[track_caller]
fn wait_until_it_listens(lab: &Lab, process: &mut Process, port: u16) {
    clock::eventually("the server listens", || {
        if let Some(status) = process.ended() {
            panic!("it ended ({status}): {}", process.log());
        }
        let address = (lab.v4(), port);
        lab.client().enter(|| TcpStream::connect(address).is_ok())
    });
}

/// Starts nginx with the API on the guarded port. nginx also serves the API on two other ports, on
/// which it applies its own limits.
fn start_nginx(lab: &Lab) -> Process {
    let directory = lab.file("api");
    fs::create_dir(&directory).expect("nginx's directory");
    fs::create_dir(directory.join("v1")).expect("the API's directory");
    fs::write(directory.join(PATH.trim_start_matches('/')), ANSWER).expect("the API's answer");
    let mut servers = format!("    server {{ listen {GUARDED}; root .; }}\n");
    for (port, then) in [(NGINX, ""), (NGINX_CLOSE, "keepalive_timeout 0;")] {
        write!(
            servers,
            r#"    server {{
        listen {port}; root .;
        limit_req_status 429; limit_conn_status 429;
        limit_req zone=over; limit_req zone=within burst=100000 nodelay;
        limit_conn connections 1000;
        error_page 429 @refused;
        location @refused {{ {then} return 429 '{{"title":"Too Many Requests"}}'; }}
    }}
"#
        )
        .expect("a string");
    }
    // Each of the two limits applies to one customer. For that limit, requests of the other
    // customer get an empty key, because nginx does not count requests with an empty key.
    let text = format!(
        "daemon off; master_process off; pid nginx.pid; error_log error.log crit;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; multi_accept on; }}
http {{
    access_log off; open_file_cache max=16;
    keepalive_requests 1000000000; keepalive_timeout 600s;
    default_type application/json;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    map $http_x_api_key $over {{ {OVER} $http_x_api_key; default ''; }}
    map $http_x_api_key $within {{ {OVER} ''; default $http_x_api_key; }}
    limit_req_zone $over zone=over:10m rate=1r/m;
    limit_req_zone $within zone=within:10m rate=1000000r/s;
    limit_conn_zone $http_x_api_key zone=connections:10m;
{servers}}}
"
    );
    fs::write(directory.join("nginx.conf"), text).expect("nginx's configuration");
    let mut command = lab.server().command("nginx");
    command.current_dir(&directory).arg("-p").arg(&directory);
    command.args(["-c", "nginx.conf", "-e", "error.log"]);
    start(lab, "nginx", &mut command, &directory, GUARDED)
}

fn start_haproxy(lab: &Lab) -> Process {
    let directory = lab.file("haproxy");
    fs::create_dir(&directory).expect("HAProxy's directory");
    let text = format!(
        "global
    nbthread 1
    maxconn 8192
defaults
    mode http
    timeout connect 10s
    timeout client 600s
    timeout server 60s
frontend clients
    bind :{HAPROXY} backlog 4096
    stick-table type string len 64 size 100k expire 1h store http_req_rate(60s),conn_cur
    http-request track-sc0 req.hdr(x-api-key)
    acl over req.hdr(x-api-key) {OVER}
    http-request deny deny_status 429 if over {{ sc_http_req_rate(0) gt 1 }}
    http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt 1000000000 }}
    http-request deny deny_status 429 if {{ sc_conn_cur(0) gt 1000 }}
    default_backend api
backend api
    server api 127.0.0.1:{GUARDED}
"
    );
    let config = directory.join("haproxy.cfg");
    fs::write(&config, text).expect("HAProxy's configuration");
    let mut command = lab.server().command("haproxy");
    command.args(["-db", "-f"]).arg(&config);
    start(lab, "HAProxy", &mut command, &directory, HAPROXY)
}

fn start_envoy(lab: &Lab, envoy: &Path) -> Process {
    let directory = lab.file("envoy");
    fs::create_dir(&directory).expect("Envoy's directory");
    let bucket = |tokens: u64, seconds: u64| {
        format!("{{max_tokens: {tokens}, tokens_per_fill: {tokens}, fill_interval: {seconds}s}}")
    };
    const LIMIT: &str = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3";
    let filters = format!(
        r#"          - name: envoy.filters.http.local_ratelimit
            typed_config:
              "@type": {LIMIT}.LocalRateLimit
              stat_prefix: limits
"#
    );
    let route = format!(
        r#"                typed_per_filter_config:
                  envoy.filters.http.local_ratelimit:
                    "@type": {LIMIT}.LocalRateLimit
                    stat_prefix: limits
                    filter_enabled: {{default_value: {{numerator: 100}}}}
                    filter_enforced: {{default_value: {{numerator: 100}}}}
                    token_bucket: {roomy}
                    rate_limits:
                    - actions: [{{request_headers: {{header_name: x-api-key, descriptor_key: key}}}}]
                    descriptors:
                    - {{entries: [{{key: key, value: {OVER}}}], token_bucket: {strict}}}
                    - {{entries: [{{key: key, value: {WITHIN}}}], token_bucket: {roomy}}}
"#,
        roomy = bucket(1_000_000_000, 1),
        strict = bucket(1, 3600),
    );
    let listener = (Ipv4Addr::UNSPECIFIED, ENVOY).into();
    let server = (Ipv4Addr::LOCALHOST, GUARDED).into();
    let text = Envoy::config(listener, server, &filters, &route);
    let config = directory.join("envoy.yaml");
    fs::write(&config, text).expect("Envoy's configuration");
    let program = envoy.to_str().expect("a path in UTF-8");
    let mut command = lab.server().command(program);
    command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "error"]);
    command.arg("-c").arg(&config);
    start(lab, "Envoy", &mut command, &directory, ENVOY)
}

fn start(lab: &Lab, name: &str, command: &mut Command, directory: &Path, port: u16) -> Process {
    let mut process = Process::start(name, command, &directory.join("output.log"));
    wait_until_it_listens(lab, &mut process, port);
    process
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The examples in `docs/NETWORKS.md`: load balancers, gateways and containers.

use limiter_tests::{Host, Lab, Namespace, Net, Nginx, avoid_midnight, pages::Example};

use crate::{
    TIME_BEFORE_MIDNIGHT,
    customer::{Certificate, NAME, Trial, customer, write_files},
};

const PAGE: &str = "NETWORKS.md";

/// Creates a lab in which the customer's namespace and the API's namespace are not connected. Each
/// test connects them through further namespaces.
fn apart() -> Lab {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    Lab::new(Net::Apart)
}

fn between(lab: &Lab, suffix: &str) -> Namespace {
    Namespace::new(&format!("{}{suffix}", lab.name()))
}

/// One end of a cable: its namespace, its interface and, if it has one, its address.
type End<'a> = (&'a Namespace, &'a str, Option<&'a str>);

fn join(one: End<'_>, other: End<'_>) {
    let (namespace, interface, _) = one;
    let peer = format!("{} netns {}", other.1, other.0.name());
    namespace.ip(&format!("link add {interface} type veth peer name {peer}"));
    for (namespace, interface, address) in [one, other] {
        if let Some(address) = address {
            namespace.ip(&format!("addr add {address} dev {interface}"));
        }
        namespace.ip(&format!("link set {interface} up"));
    }
}

/// Creates the host of a load balancer like those of cloud providers. The load balancer terminates
/// TLS, checks the health of the API, and uses a pool of HTTP/1.1 connections.
fn load_balancer(lab: &Lab, namespace: &Namespace, certificate: &Certificate, api: &str) -> Host {
    let mut host = Host::new(lab, namespace, "balancer");
    certificate.install(&host);
    let configuration = format!(
        "defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend customers
    bind :443 ssl crt /etc/ssl/{NAME}/haproxy.pem alpn h2,http/1.1
    default_backend api
backend api
    http-reuse always
    option httpchk GET /health
    option forwardfor
    server api {api} check inter 100ms fall 100 observe layer7 error-limit 10 on-error mark-down
"
    );
    host.write("/etc/haproxy/haproxy.cfg", &configuration);
    host.start(
        "haproxy -db -f /etc/haproxy/haproxy.cfg",
        &Host::listening(443),
    );
    host
}

#[test]
fn limiter_works_behind_a_load_balancer() {
    let lab = apart();
    let cloud = between(&lab, "b");
    join(
        (lab.client(), "eth0", Some("192.0.2.1/24")),
        (&cloud, "eth0", Some("192.0.2.2/24")),
    );
    join(
        (&cloud, "eth1", Some("10.0.0.1/24")),
        (lab.server(), "eth0", Some("10.0.0.2/24")),
    );
    let api = Nginx::start(&lab, &[80]);
    let certificate = Certificate::new(&lab);
    let mut host = Host::new(&lab, lab.server(), "host");
    let example = Example::of(PAGE, "balancer");
    write_files(&host, &example, None);
    host.start_limiter();
    let _balancer = load_balancer(&lab, &cloud, &certificate, "10.0.0.2:80");
    let mut customer = customer(&lab, lab.client(), &certificate, "192.0.2.2");
    let trial = Trial {
        limiter: &host,
        options: "",
        customer: &mut customer,
        api: &api,
        version: "2",
    };
    trial.run(example.run("operator"));
    assert!(
        host.count("/totals/missing_key") > 0,
        "health checks are seen, and pass"
    );
}

/// A customer, a load balancer, a gateway and the API, connected in this order. The gateway has the
/// configuration files of the example.
struct Gateway {
    customer: Host,
    host: Host,
    _balancer: Host,
    api: Nginx,
    _between: [Namespace; 2],
    _lab: Lab,
}

impl Gateway {
    #[track_caller]
    fn new(guarded: &str) -> Self {
        let lab = apart();
        let [edge, gateway] = ["b", "g"].map(|suffix| between(&lab, suffix));
        join(
            (lab.client(), "eth0", Some("192.0.2.1/24")),
            (&edge, "eth0", Some("192.0.2.2/24")),
        );
        join(
            (&edge, "eth1", Some("10.0.1.1/24")),
            (&gateway, "eth0", Some("10.0.1.2/24")),
        );
        join(
            (&gateway, "eth1", Some("10.0.2.1/24")),
            (lab.server(), "eth0", Some("10.0.2.2/24")),
        );
        edge.ip("route add 10.0.2.0/24 via 10.0.1.2");
        lab.server().ip("route add 10.0.1.0/24 via 10.0.2.1");
        gateway.set("net/ipv4/ip_forward", "1");
        let api = Nginx::start(&lab, &[80]);
        let certificate = Certificate::new(&lab);
        let mut host = Host::new(&lab, &gateway, "gateway");
        write_files(&host, &Example::of(PAGE, "gateway"), None);
        let run = format!("limiter run --interface {guarded}");
        host.start(&run, "limiter status");
        let balancer = load_balancer(&lab, &edge, &certificate, "10.0.2.2:80");
        let customer = customer(&lab, lab.client(), &certificate, "192.0.2.2");
        Self {
            customer,
            host,
            _balancer: balancer,
            api,
            _between: [edge, gateway],
            _lab: lab,
        }
    }
}

#[test]
fn limiter_works_on_a_gateway() {
    let mut setting = Gateway::new("eth0");
    let trial = Trial {
        limiter: &setting.host,
        options: "",
        customer: &mut setting.customer,
        api: &setting.api,
        version: "2",
    };
    trial.run(Example::of(PAGE, "gateway").run("operator"));
}

#[test]
fn a_gateway_guarded_where_requests_leave_limits_nothing() {
    let mut setting = Gateway::new("eth1");
    let example = Example::of(PAGE, "gateway");
    let key = crate::customer::key_in(&setting.host.sh(example.run("operator")).stdout);
    setting.customer.set_env("KEY", &key);
    let typed = Example::of("TERMINATORS.md", "terminators");
    let printed = setting.customer.sh(typed.run("customer")).stdout;
    assert_eq!(printed, "200 HTTP/2\n".repeat(4));
    assert_eq!(setting.host.usage("acme/web").used, 0);
    assert_eq!(setting.host.count("/coverage/inspected_bytes"), 0);
}

/// A customer, and a host with two containers on a bridge. One container is `tls`. The other one,
/// with the API, is the server's namespace of the lab.
struct Containers {
    customer: Host,
    host: Host,
    tls: Host,
    api: Nginx,
    _between: [Namespace; 2],
    lab: Lab,
}

impl Containers {
    #[track_caller]
    fn new() -> Self {
        let lab = apart();
        let [host, tls] = ["h", "t"].map(|suffix| between(&lab, suffix));
        join(
            (lab.client(), "eth0", Some("192.0.2.1/24")),
            (&host, "eth0", Some("192.0.2.2/24")),
        );
        host.ip("link add br0 type bridge");
        host.ip("addr add 10.0.3.1/24 dev br0");
        host.ip("link set br0 up");
        join(
            (&host, "veth-tls", None),
            (&tls, "eth0", Some("10.0.3.2/24")),
        );
        join(
            (&host, "veth-api", None),
            (lab.server(), "eth0", Some("10.0.3.3/24")),
        );
        for pair in ["veth-tls", "veth-api"] {
            host.ip(&format!("link set {pair} master br0"));
        }
        host.set("net/ipv4/ip_forward", "1");
        tls.ip("route add default via 10.0.3.1");
        lab.client().ip("route add 10.0.3.0/24 via 192.0.2.2");

        let api = Nginx::start(&lab, &[8080]);
        let certificate = Certificate::new(&lab);
        let example = Example::of(PAGE, "containers");
        let mut container = Host::new(&lab, &tls, "tls");
        certificate.install(&container);
        write_files(&container, &example, Some("tls"));
        container.start("nginx -g 'daemon off;'", &Host::listening(443));
        let on_host = Host::new(&lab, &host, "host");
        write_files(&on_host, &example, Some("host"));
        let customer = customer(&lab, lab.client(), &certificate, "10.0.3.2");
        Self {
            customer,
            host: on_host,
            tls: container,
            api,
            _between: [host, tls],
            lab,
        }
    }

    #[track_caller]
    fn assert_example_works(&mut self, example: &str, options: &str) {
        let trial = Trial {
            limiter: &self.host,
            options,
            customer: &mut self.customer,
            api: &self.api,
            version: "2",
        };
        trial.run(Example::of(PAGE, example).run("operator"));
        assert_eq!(self.tls.sh("cat /var/log/nginx/error.log").stdout, "");
    }
}

#[test]
fn limiter_works_at_the_host_end_of_a_container_veth() {
    let mut setting = Containers::new();
    setting.host.start_limiter();
    setting.assert_example_works("containers", "");
}

#[test]
fn limiter_works_in_the_namespace_of_a_container() {
    let mut setting = Containers::new();
    let pid = setting.host.start_container(setting.lab.server());
    let options = "--runtime-dir /run/limiter-api";
    setting.host.set_env("PID", &pid);
    let typed = Example::of(PAGE, "inside").run("daemon").to_owned();
    setting
        .host
        .start(&typed, &format!("limiter {options} status"));
    setting.assert_example_works("inside", options);
}

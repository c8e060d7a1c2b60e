// SPDX-License-Identifier: MIT OR Apache-2.0

//! A customer with a TLS client, and the assertions that every example has to pass.

use limiter_tests::{
    Host, Lab, Namespace, Nginx, eventually, http::Response, pages::Example, process,
};

/// The host name of the API. Customers connect to it, and the certificate contains it.
pub const NAME: &str = "api.example.com";
const CERTIFICATES: &str = "/etc/ssl/api.example.com";

/// A host with the API and the limiter, and a second host with a customer.
pub struct Setting {
    pub customer: Host,
    pub host: Host,
    pub api: Nginx,
    /// The lab that both hosts are in. It must not be dropped before the hosts.
    pub _lab: Lab,
}

/// A certificate for [`NAME`] and its private key, both in PEM.
pub struct Certificate {
    pub certificate: String,
    pub key: String,
}

impl Certificate {
    pub fn new(lab: &Lab) -> Self {
        let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| lab.file(name));
        process::succeed(
            std::process::Command::new("openssl")
                .args([
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:prime256v1",
                ])
                .args(["-nodes", "-days", "2", "-subj", &format!("/CN={NAME}")])
                .args(["-addext", &format!("subjectAltName=DNS:{NAME}"), "-keyout"])
                .arg(&key)
                .arg("-out")
                .arg(&certificate),
        );
        let [certificate, key] = [certificate, key]
            .map(|path| std::fs::read_to_string(path).expect("what openssl has written"));
        Self { certificate, key }
    }

    /// Writes the certificate and the private key to the files that the guide's configurations
    /// name.
    pub fn install(&self, host: &Host) {
        host.write(&format!("{CERTIFICATES}/fullchain.pem"), &self.certificate);
        host.write(&format!("{CERTIFICATES}/privkey.pem"), &self.key);
        let both = format!("{}{}", self.certificate, self.key);
        host.write(&format!("{CERTIFICATES}/haproxy.pem"), &both);
    }
}

/// Writes the files of `example` that are for the host `name`. If `name` is `None`, writes the
/// files that are for no particular host.
#[track_caller]
pub fn write_files(host: &Host, example: &Example, name: Option<&str>) {
    for (path, text) in example.files(name) {
        host.write(path, text);
    }
}

/// Returns the only key that is in the output of the operator's commands.
#[track_caller]
pub fn key_in(printed: &str) -> String {
    let mut keys = printed
        .split_whitespace()
        .filter(|word| word.starts_with("lmt_"));
    let key = keys.next().unwrap_or_else(|| panic!("no key in {printed}"));
    assert_eq!(keys.next(), None, "one key");
    key.to_owned()
}

/// Creates a host for a customer. On this host, curl trusts `certificate`, and [`NAME`] resolves to
/// `address`.
pub fn customer(
    lab: &Lab,
    namespace: &Namespace,
    certificate: &Certificate,
    address: &str,
) -> Host {
    let mut host = Host::new(lab, namespace, "customer");
    host.write("/etc/ssl/customer.pem", &certificate.certificate);
    host.set_env("CURL_CA_BUNDLE", "/etc/ssl/customer.pem");
    host.add_hosts_entry(NAME, address);
    host
}

/// A test of an example in the guide. The test runs the operator's commands and then the customer's
/// commands, and asserts that exactly the quota is served to the customer, and that another
/// customer is still served afterwards.
pub struct Trial<'a> {
    /// The host on which the limiter runs.
    pub limiter: &'a Host,
    /// The options that commands on that host need to reach the daemon.
    pub options: &'a str,
    /// The host on which the customer's commands of the guide run.
    pub customer: &'a mut Host,
    /// The nginx that serves the API.
    pub api: &'a Nginx,
    /// The HTTP version that curl must report for the customer's requests.
    pub version: &'a str,
}

impl Trial<'_> {
    #[track_caller]
    pub fn run(self, operator: &str) {
        let key = key_in(&self.limiter.sh(operator).stdout);
        let typed = Example::of("TERMINATORS.md", "terminators");
        self.customer.set_env("KEY", &key);
        let printed = self.customer.sh(typed.run("customer")).stdout;
        let version = self.version;
        let expected = [200, 200, 200, 429].map(|status| format!("{status} HTTP/{version}\n"));
        assert_eq!(printed, expected.concat());

        let refusal = self.customer.sh(&format!(
            "curl -sS -i -H 'X-Api-Key: {key}' https://{NAME}/"
        ));
        let mut refusal =
            refusal
                .stdout
                .replacen("HTTP/2 429 ", "HTTP/1.1 429 Too Many Requests", 1);
        let refusal = limiter_tests::tools::take_response(&mut refusal.split_off(0).into_bytes())
            .expect("a response");
        assert_refused_for_the_day(&refusal);

        self.command("scope add other");
        let other = self.command("key create other").trim().to_owned();
        let lines = "for n in $(seq 20); do curl -sS -o /dev/null -w '%{http_code} ' \
                     -H \"X-Api-Key: $OTHER\" https://api.example.com/; done";
        self.customer.set_env("OTHER", &other);
        assert_eq!(self.customer.sh(lines).stdout.trim(), ["200"; 20].join(" "));

        let usage = |scope: &str| {
            let json = self.command(&format!("usage {scope} --json"));
            limiter_tests::limiter::Usage::parse(&serde_json::from_str(&json).expect("JSON"))
        };
        let web = usage("acme/web");
        assert_eq!(
            (web.used, web.refused.daily_quota, web.refused.rate),
            (3, 2, 0)
        );
        assert_eq!(
            (usage("other").used, usage("other").refused.daily_quota),
            (20, 0)
        );
        let log = self.api.log();
        assert_eq!(
            (Nginx::served_in(&log, &key), Nginx::served_in(&log, &other)),
            (3, 20)
        );

        let status: serde_json::Value =
            serde_json::from_str(&self.command("status --json")).expect("JSON");
        for path in [
            "/totals/malformed",
            "/coverage/untracked_connections",
            "/coverage/http2",
        ] {
            assert_eq!(status.pointer(path), Some(&0.into()), "{path} in {status}");
        }
        eventually("nothing is in flight", || {
            ["acme/web", "other"]
                .iter()
                .all(|scope| usage(scope).in_flight == 0)
        });
    }

    #[track_caller]
    fn command(&self, words: &str) -> String {
        self.limiter
            .sh(&format!("limiter {} {words}", self.options))
            .stdout
    }
}

/// Asserts that a response is the limiter's refusal over the daily quota, with the fields that
/// customers need.
#[track_caller]
fn assert_refused_for_the_day(refusal: &Response) {
    assert_eq!(
        (refusal.status, refusal.violated()),
        (429, vec!["daily-quota".to_owned()])
    );
    assert!(
        refusal
            .required("ratelimit")
            .starts_with("\"daily-quota\";r=0;t="),
        "{refusal:?}"
    );
    let wait = refusal.required("retry-after").trim().parse::<u64>();
    assert!(wait.is_ok_and(|wait| wait <= 86_400), "{refusal:?}");
}

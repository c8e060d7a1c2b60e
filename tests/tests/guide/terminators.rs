// SPDX-License-Identifier: MIT OR Apache-2.0

//! The examples in `docs/TERMINATORS.md`. The TLS terminator and the API run on one host, and the
//! terminator reaches the API over `lo`.

use std::path::PathBuf;

use limiter_tests::{Host, Lab, Nginx, avoid_midnight, pages::Example, skip};

use crate::{
    TIME_BEFORE_MIDNIGHT,
    customer::{Certificate, Setting, Trial, customer, write_files},
};

const PAGE: &str = "TERMINATORS.md";
/// The port on which the API listens for the terminator.
const PORT: u16 = 8080;
impl Setting {
    #[track_caller]
    fn behind(terminator: &str) -> Self {
        avoid_midnight(TIME_BEFORE_MIDNIGHT);
        let lab = Lab::veth();
        let api = Nginx::start(&lab, &[PORT]);
        let certificate = Certificate::new(&lab);
        let mut host = Host::new(&lab, lab.server(), "host");
        certificate.install(&host);
        write_files(&host, &Example::of(PAGE, "terminators"), None);
        write_files(&host, &Example::of(PAGE, terminator), None);
        host.start_limiter();
        let customer = customer(&lab, lab.client(), &certificate, &lab.v4().to_string());
        Self {
            customer,
            host,
            api,
            _lab: lab,
        }
    }

    #[track_caller]
    fn start(&mut self, lines: &str) {
        self.host.start(lines, &Host::listening(443));
    }

    /// Asserts the result that the page promises, for a customer that uses the HTTP version
    /// `version`.
    #[track_caller]
    fn assert_example_works(&mut self, version: &str) {
        let trial = Trial {
            limiter: &self.host,
            options: "",
            customer: &mut self.customer,
            api: &self.api,
            version,
        };
        trial.run(Example::of(PAGE, "terminators").run("operator"));
    }
}

#[test]
fn limiter_works_behind_nginx() {
    let mut setting = Setting::behind("nginx");
    setting.start("nginx -g 'daemon off;'");
    setting.assert_example_works("2");
}

#[test]
fn limiter_works_behind_haproxy() {
    let mut setting = Setting::behind("haproxy");
    setting.start("haproxy -db -f /etc/haproxy/haproxy.cfg");
    setting.assert_example_works("2");
}

#[test]
fn limiter_works_behind_envoy() {
    // Debian has no Envoy package, so `cargo xtask test` provides the program.
    let Some(envoy) = std::env::var_os("LIMITER_ENVOY") else {
        return skip(
            "limiter_works_behind_envoy",
            "LIMITER_ENVOY names no Envoy, `cargo xtask test` sets it",
        );
    };
    let mut setting = Setting::behind("envoy");
    setting.host.provide("envoy", &PathBuf::from(envoy));
    setting.start("envoy -c /etc/envoy/envoy.yaml");
    setting.assert_example_works("2");
}

#[test]
fn limiter_works_behind_stunnel() {
    let mut setting = Setting::behind("stunnel");
    // stunnel moves to the background by default, so this command returns.
    setting.host.sh("stunnel /etc/stunnel/api.conf");
    setting.assert_example_works("1.1");
}

#[test]
fn proxy_protocol_is_answered_with_400() {
    let setting = Setting::behind("stunnel");
    let proxied = "sed -i 's/^connect.*/&\\nprotocol = proxy/' /etc/stunnel/api.conf; \
                   stunnel /etc/stunnel/api.conf";
    setting.host.sh(proxied);
    let asked = "curl -sS -o /dev/null -w '%{http_code}' https://api.example.com/";
    assert_eq!(setting.customer.sh(asked).stdout, "400");
    assert_eq!(setting.host.count("/totals/malformed"), 1);
    assert_eq!(setting.api.log(), []);
}

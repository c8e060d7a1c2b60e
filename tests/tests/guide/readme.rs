// SPDX-License-Identifier: MIT OR Apache-2.0

//! The first limited request, as the README describes it.

use limiter_tests::{Host, Lab, avoid_midnight, pages::Example};

use crate::{TIME_BEFORE_MIDNIGHT, customer::write_files};

#[test]
fn the_first_limited_request_is_limited() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let lab = Lab::loopback();
    let mut host = Host::new(&lab, lab.server(), "host");
    let example = Example::of("README.md", "readme");
    write_files(&host, &example, None);
    host.start(example.run("api"), &Host::listening(8080));
    host.start(example.run("daemon"), "limiter status");
    let printed = host.sh(example.run("first")).stdout;
    assert!(printed.contains("\n200\n200\n429\n"), "{printed}");
    let usage = host.usage("acme/web");
    assert_eq!((usage.used, usage.refused.daily_quota), (2, 1));
    let output = host.sh(example.run("why")).stdout;
    assert!(
        output.contains("daily quota") && output.contains("\"scope\": \"acme/web\""),
        "{output}"
    );
    host.sh(example.run("out"));
    let open = "curl -sS -o /dev/null -w '%{http_code}' -H 'X-Api-Key: x' http://127.0.0.1:8080/";
    assert_eq!(host.sh(open).stdout, "200");
}

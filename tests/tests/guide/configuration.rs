// SPDX-License-Identifier: MIT OR Apache-2.0

//! The file in `docs/CONFIGURATION.md` has all entries with their defaults, and the commands on
//! that page work.

use limiter_tests::{Host, Lab, pages::Example};

use crate::customer::write_files;

const PAGE: &str = "CONFIGURATION.md";

#[test]
fn documented_file_has_the_default_values() {
    let lab = Lab::loopback();
    let host = Host::new(&lab, lab.server(), "host");
    let example = Example::of(PAGE, "configuration");
    write_files(&host, &example, None);
    let checked = host.sh("limiter check --json").json();
    let text = example.files(None)[0].1;
    let attach: String = text.lines().take(3).flat_map(|line| [line, "\n"]).collect();
    host.write("/etc/limiter/limiter.toml", &attach);
    assert_eq!(checked, host.sh("limiter check --json").json());
    assert_eq!(checked["warnings"], serde_json::json!([]));
}

#[test]
fn documented_key_and_record_commands_work() {
    let lab = Lab::loopback();
    let mut host = Host::new(&lab, lab.server(), "host");
    let example = Example::of(PAGE, "configuration");
    write_files(&host, &example, None);
    host.start_limiter();
    host.set_env("OLD", "a-key-that-a-customer-has");
    let many = "printf 'scope,key\\nbeta/shop,another-key-of-old\\n' > keys.csv";
    let printed = host
        .sh(&format!("cd /run; {many}; {}", example.run("keys")))
        .stdout;
    assert!(!printed.contains("a-key-that-a-customer-has"), "{printed}");
    let keys = |scope: &str| host.sh(&format!("limiter key list {scope} --json")).json();
    assert_eq!(keys("acme/web").as_array().map(Vec::len), Some(2));
    assert_eq!(keys("beta/shop").as_array().map(Vec::len), Some(1));
    let record = host.sh(example.run("record")).stdout;
    assert!(record.contains("acme/web"), "{record}");
}

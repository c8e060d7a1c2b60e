// SPDX-License-Identifier: MIT OR Apache-2.0

//! The hooks to which the programs are attached: TCX if the kernel supports it (since 6.6), and
//! clsact on every kernel.

use limiter_tests::{Config, Lab, Limiter, Rig, kernel, limiter::exit, neighbour, process, vm};

/// Asserts that the limits are enforced with this `hook` setting: over each family, three requests
/// of a customer are served and all others are refused. Also asserts that the daemon reports this
/// `mechanism`.
fn limits_at(hook: &str, mechanism: &str) {
    let rig = Rig::veth(|config| {
        let lines = format!("interfaces = [\"s0\"]\nports = [80]\nhook = {hook:?}\n");
        config
            .attach_lines(&lines)
            .tier("profile", "daily_quota = 3")
    });
    let status = rig.limiter.status();
    let attached = status["attached"].as_array().expect("a list");
    let mechanisms: Vec<_> = attached
        .iter()
        .map(|entry| entry["mechanism"].as_str().expect("a word"))
        .collect();
    assert_eq!(mechanisms, [mechanism; 2], "{hook}");
    assert_eq!(filters(&rig), usize::from(mechanism == "clsact"), "{hook}");
    if kernel::has_tcx() {
        let [ingress, egress] = neighbour::links(rig.lab.server(), "s0");
        let links = usize::from(mechanism == "tcx");
        assert_eq!([ingress.len(), egress.len()], [links; 2], "{hook}");
    }
    for address in rig.lab.addresses() {
        let scope = if address.is_ipv4() {
            "acme/v4"
        } else {
            "acme/v6"
        };
        let key = rig.limiter.key(scope);
        let statuses = [(); 5].map(|()| rig.get_from(address, &key).status);
        assert_eq!(statuses, [200, 200, 200, 429, 429], "{hook}, {address}");
        rig.assert_charged_as_served(scope, &key, 3);
        assert_eq!(rig.limiter.usage(scope).refused.daily_quota, 2);
        println!("{hook:?} takes {mechanism}: {address} {statuses:?}");
    }
}

/// Returns the number of the limiter's clsact filters that tc lists at ingress.
fn filters(rig: &Rig) -> usize {
    let mut tc = rig.lab.server().command("tc");
    let listing = process::succeed(tc.args(["filter", "show", "dev", "s0", "ingress"]));
    listing.matches(" direct-action ").count()
}

#[test]
fn auto_uses_the_newest_hook_of_the_kernel() {
    vm::require_vm();
    limits_at("auto", if kernel::has_tcx() { "tcx" } else { "clsact" });
}

#[test]
fn clsact_works_on_every_kernel() {
    vm::require_vm();
    limits_at("clsact", "clsact");
}

#[test]
fn tcx_is_used_if_configured_or_reported_as_missing() {
    vm::require_vm();
    if kernel::has_tcx() {
        return limits_at("tcx", "tcx");
    }
    let lab = Lab::veth();
    let lines = "interfaces = [\"s0\"]\nports = [80]\nhook = \"tcx\"\n";
    let mut limiter = Limiter::prepare(&lab, "limiter", &Config::new(&lab).attach_lines(lines));
    limiter.launch(&[]);
    assert_eq!(limiter.wait_for_end(), Some(exit::FAILED));
    let log = limiter.log();
    println!("{}", log.lines().last().unwrap_or_default());
    assert!(log.contains("6.6") && log.contains("clsact"), "{log}");
    assert!(!limiter.pin_dir().exists(), "something is pinned");
}

//! How the programs get to the packets: TCX where the kernel has it (since 6.6), clsact everywhere.

use limiter_tests::{Rig, neighbour, process, vm};

/// Three requests of a customer are served over each family and the others refused, at the hooks that
/// are asked for; `mechanism` is what must have been taken.
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
    if has_tcx() {
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

/// Our filters of clsact that tc sees at ingress.
fn filters(rig: &Rig) -> usize {
    let mut tc = rig.lab.server().command("tc");
    let listing = process::succeed(tc.args(["filter", "show", "dev", "s0", "ingress"]));
    listing.matches("limiter_ingress").count()
}

fn has_tcx() -> bool {
    vm::kernel() >= (6, 6)
}

#[test]
fn the_newest_that_the_kernel_has_is_taken() {
    vm::require();
    limits_at("auto", if has_tcx() { "tcx" } else { "clsact" });
}

#[test]
fn clsact_does_on_every_kernel() {
    vm::require();
    limits_at("clsact", "clsact");
}

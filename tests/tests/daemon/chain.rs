// SPDX-License-Identifier: MIT OR Apache-2.0

//! Programs and filters of other owners may end the chain before packets reach the limiter's
//! programs, or the limiter's programs may be removed. The daemon then brings the limits back into
//! force without an operator, and reports each problem that it cannot repair.

use std::{fs, process::Command};

use limiter_common::abi::ABI_VERSION;
use limiter_tests::{
    Config, GUARDED, Lab, Limiter, Nginx, Place, Stopper, eventually, kernel,
    limiter::{self, Output, exit},
    neighbour, process, skip,
};
use serde_json::Value;

/// A u32 filter that matches every packet and ends the chain (`TC_ACT_OK`). The limiter's own
/// filters are BPF filters.
const PASS_ALL_FILTER: &str = "protocol all u32 match u32 0 0 classid 1:1";

/// A host with the scope `acme/probe`, which has a quota of zero. The responses to requests of this
/// scope show whether the limits are in force.
struct Host {
    limiter: Limiter,
    _nginx: Nginx,
    probe: String,
    lab: Lab,
}

fn config(lab: &Lab, lines: &str) -> Config {
    let lines = format!("interfaces = [\"s0\"]\nports = [{GUARDED}]\n{lines}\n");
    Config::new(lab)
        .attach_lines(&lines)
        .tier("never", "daily_quota = 0")
}

impl Host {
    /// Creates a host with the lines `lines` in the section `[attach]` of its configuration. The
    /// function `prepare` runs before the daemon starts.
    fn new<T>(lines: &str, prepare: impl FnOnce(&Lab) -> T) -> (Self, T) {
        let lab = Lab::veth();
        let nginx = Nginx::start(&lab, &[GUARDED]);
        let prepared = prepare(&lab);
        let limiter = Limiter::start(&lab, &config(&lab, lines));
        let probe = limiter.key_of_tier("acme/probe", "never");
        let host = Self {
            limiter,
            _nginx: nginx,
            probe,
            lab,
        };
        (host, prepared)
    }

    fn status(&self) -> u16 {
        self.lab.connect(GUARDED).get("/", &self.probe).status
    }

    fn wait_for_limits(&self, after: &str) {
        // A connection that is opened before the limits are in force again is untracked, and its
        // first request may be answered with a reset. An error here is therefore no failure.
        eventually(&format!("limits are in force again: {after}"), || {
            let mut conn = self.lab.connect(GUARDED);
            conn.try_get("/", &self.probe)
                .is_ok_and(|response| response.status == 429)
        });
        // The limiter's programs must be attached at both hooks, and no part of the daemon may
        // report a problem.
        eventually(&format!("all is well again: {after}"), || {
            let status = self.limiter.status();
            let attached = status["attached"].as_array().expect("a list");
            attached.len() == 2 && status["health"] == Value::Array(Vec::new())
        });
    }

    /// Waits until the daemon reports a problem with `part`, and returns the message of the report.
    fn wait_for_problem(&self, part: &str) -> String {
        limiter_tests::eventually_some(&format!("{part} is not well"), || {
            let status = self.limiter.status();
            let health = status["health"].as_array().expect("a list");
            let problem = health.iter().find(|problem| problem["part"] == part)?;
            Some(problem["message"].as_str().expect("a text").to_owned())
        })
    }

    fn tc(&self, words: &str) -> String {
        tc(&self.lab, words)
    }

    /// Deletes the clsact qdisc together with the limiter's filters, and adds a clsact qdisc
    /// without filters.
    fn replace_clsact(&self) {
        self.tc("qdisc del dev s0 clsact");
        // This command fails if the daemon has already added the qdisc again, so its result is
        // ignored.
        let words = ["qdisc", "add", "dev", "s0", "clsact"];
        process::output(self.lab.server().command("tc").args(words));
    }

    /// Returns the programs and filters that come before the limiter's program at `hook`, as
    /// `limiter status` lists them.
    fn before(&self, hook: &str) -> Vec<Value> {
        let status = self.limiter.status();
        let attached = status["attached"].as_array().expect("a list");
        let attached = attached.iter().find(|attached| attached["hook"] == hook);
        let before = attached.expect("it is attached")["before"].clone();
        before.as_array().expect("a list").clone()
    }
}

fn tc(lab: &Lab, words: &str) -> String {
    process::succeed(lab.server().command("tc").args(words.split_whitespace()))
}

#[test]
fn limiter_runs_before_tcx_programs_that_end_the_chain() {
    if !kernel::has_tcx() {
        let name = "limiter_runs_before_tcx_programs_that_end_the_chain";
        return skip(name, "the kernel has no TCX");
    }
    let earlier = |lab: &Lab| Stopper::at(lab, "s0", Place::First);
    let (mut host, _first) = Host::new("hook = \"tcx\"", earlier);
    assert_eq!(host.status(), 429);
    host.wait_for_limits("one was there before");
    let first_is_ours = |host: &Host| {
        let links = neighbour::links(host.lab.server(), "s0");
        links.iter().all(|hook| {
            let ours = hook
                .iter()
                .filter(|program| program.name.starts_with("limiter_"));
            hook[0].name.starts_with("limiter_") && ours.count() == 1
        })
    };
    assert!(first_is_ours(&host));
    let second = Stopper::at(&host.lab, "s0", Place::First);
    host.wait_for_limits("one came later");
    let third = Stopper::at(&host.lab, "s0", Place::Before("limiter_"));
    host.wait_for_limits("one came before ours");
    eventually("ours are first", || first_is_ours(&host));
    // A daemon also repairs an order that changed before it started.
    host.limiter.kill();
    let fourth = Stopper::at(&host.lab, "s0", Place::First);
    host.limiter.run(&[]);
    assert_eq!(host.status(), 429);
    assert!(first_is_ours(&host));
    // The pins are renamed so that they look as if a daemon had died while it was moving its
    // programs. The ingress link gets its temporary name, under which the next daemon finds it. The
    // egress link gets a name that no daemon uses.
    host.limiter.kill();
    let links = host.limiter.pin_dir().join("links");
    fs::rename(links.join("s0-ingress"), links.join("%2fs0-ingress")).expect("rename a pin");
    fs::rename(links.join("s0-egress"), links.join("aside")).expect("rename a pin");
    host.limiter.run(&[]);
    fs::remove_file(links.join("aside")).expect("remove a pin");
    eventually("ours are there once", || first_is_ours(&host));
    host.wait_for_limits("after a death");
    // The repairs have not detached the programs of other owners.
    let links = neighbour::links(host.lab.server(), "s0");
    for stopper in [&second, &third, &fourth] {
        assert!(
            links
                .iter()
                .all(|hook| hook.iter().any(|at| at.id == stopper.id()))
        );
    }
}

#[test]
fn order_last_stays_behind_other_programs_and_reports_them() {
    let (hook, place) = match kernel::has_tcx() {
        true => ("tcx", Place::First),
        false => ("clsact", Place::Filter(1)),
    };
    let lines = format!("hook = {hook:?}\norder = \"last\"");
    let (mut host, stopper) = Host::new(&lines, |lab| Stopper::at(lab, "s0", place));
    assert_eq!(host.status(), 200);
    let before = host.before("ingress");
    assert_eq!(before.len(), 1, "{before:?}");
    assert_eq!(before[0]["program_id"], stopper.id());
    assert_eq!(host.limiter.status()["health"], Value::Array(Vec::new()));
    // The default order is `first`, so the programs of the next daemon come first.
    host.limiter.terminate();
    let first = config(&host.lab, &format!("hook = {hook:?}"));
    host.limiter.write_config(&first.to_string());
    host.limiter.run(&[]);
    assert_eq!(host.status(), 429);
    assert!(host.before("ingress").is_empty() && host.before("egress").is_empty());
}

#[test]
fn filters_that_end_the_chain_run_after_the_limiter_or_are_reported() {
    let earlier = |lab: &Lab| {
        let stopper = Stopper::at(lab, "s0", Place::Filter(1));
        tc(
            lab,
            &format!("filter add dev s0 ingress prio 7 {PASS_ALL_FILTER}"),
        );
        stopper
    };
    let (host, _stopper) = Host::new("hook = \"clsact\"", earlier);
    assert_eq!(host.status(), 429);
    host.wait_for_limits("there before");
    let _later = Stopper::at(&host.lab, "s0", Place::Filter(1));
    host.wait_for_limits("newer ones of a priority are first");
    for hook in ["ingress", "egress"] {
        eventually(&format!("our filter is the first at {hook}"), || {
            let listed = host.tc(&format!("filter show dev s0 {hook}"));
            let ours = listed.lines().filter(|line| line.contains(" limiter_"));
            let first = listed.lines().find(|line| line.contains("direct-action"));
            ours.count() == 1 && first.is_some_and(|line| line.contains(" limiter_"))
        });
    }
    // The kernel does not allow the limiter to place its filter before a filter of another kind
    // that has the first priority, or before a TCX program. The daemon therefore only reports such
    // a filter or program.
    host.replace_clsact();
    let mut both = host.lab.server().command("sh");
    let lines = format!(
        "until tc filter add dev s0 ingress prio 1 {PASS_ALL_FILTER} 2>/dev/null; do \
         tc filter del dev s0 ingress; done"
    );
    process::succeed(both.args(["-c", &lines]));
    let message = host.wait_for_problem("chain");
    assert!(
        message.contains("s0 (ingress)") && message.contains("u32"),
        "{message}"
    );
    let before = host.before("ingress");
    assert_eq!(
        (&before[0]["name"], &before[0]["priority"]),
        (&"u32".into(), &1.into())
    );
    assert!(host.before("egress").is_empty());
    host.tc("filter del dev s0 ingress prio 1");
    host.wait_for_limits("it has gone");
    if kernel::has_tcx() {
        let stopper = Stopper::at(&host.lab, "s0", Place::First);
        let message = host.wait_for_problem("chain");
        assert!(
            message.contains("TCX") && message.contains("stopper"),
            "{message}"
        );
        assert_eq!(host.before("egress")[0]["program_id"], stopper.id());
        drop(stopper);
        host.wait_for_limits("the TCX program has gone");
    }
}

#[test]
fn removed_clsact_filters_are_attached_again() {
    let (host, ()) = Host::new("hook = \"clsact\"", |_| ());
    for words in [
        "filter del dev s0 ingress",
        "filter del dev s0 egress",
        "filter del dev s0 ingress prio 1",
        "filter del dev s0 egress prio 1",
        "qdisc del dev s0 clsact",
    ] {
        host.tc(words);
        host.wait_for_limits(words);
    }
    host.replace_clsact();
    host.wait_for_limits("another qdisc");
    for state in ["down", "up"] {
        host.lab.server().ip(&format!("link set s0 {state}"));
    }
    host.lab.address_ends_again();
    host.wait_for_limits("down and up");
    drop(host);
    if !kernel::has_tcx() {
        return;
    }
    let (host, ()) = Host::new("hook = \"tcx\"", |_| ());
    let links = host.limiter.pin_dir().join("links");
    fs::remove_file(links.join("s0-ingress")).expect("the pin");
    host.wait_for_limits("one pin");
    fs::remove_dir_all(&links).expect("the pins");
    host.wait_for_limits("all pins");
    let map = host.limiter.pin_dir().join(format!("v{ABI_VERSION}/STATE"));
    let aside = host.limiter.pin_dir().join("aside");
    fs::rename(&map, &aside).expect("take a pin away");
    assert!(host.wait_for_problem("maps").contains("STATE"));
    fs::rename(&aside, &map).expect("put it back");
    host.wait_for_limits("a map's pin");
    // The interface is moved to another namespace and then back.
    let away = host.lab.client().name();
    host.lab.server().ip(&format!("link set s0 netns {away}"));
    let message = host.wait_for_problem("interfaces");
    assert!(message.contains("waiting for s0"), "{message}");
    let server = host.lab.server().name();
    host.lab.client().ip(&format!("link set s0 netns {server}"));
    host.lab.address_ends_again();
    host.wait_for_limits("away and back");
}

#[test]
fn ingress_qdisc_is_reported_and_its_interface_is_not_called_limited() {
    let lab = Lab::veth();
    tc(&lab, "qdisc add dev s0 ingress");
    let mut refused = Limiter::prepare(&lab, "refused", &config(&lab, "hook = \"clsact\""));
    refused.launch(&[]);
    assert_eq!(refused.wait_for_end(), Some(exit::FAILED));
    let log = refused.log();
    for words in ["s0", "qdisc `ingress`", "tc qdisc del dev s0 ingress"] {
        assert!(log.contains(words), "no {words:?} in {log}");
    }
    assert!(!log.contains("ready"), "{log}");
    assert_eq!(tc(&lab, "filter show dev s0 ingress"), "");
    drop((refused, lab));

    let (host, ()) = Host::new("hook = \"clsact\"", |_| ());
    let mut both = host.lab.server().command("sh");
    let lines =
        "until tc qdisc add dev s0 ingress 2>/dev/null; do tc qdisc del dev s0 clsact; done";
    process::succeed(both.args(["-c", lines]));
    let message = host.wait_for_problem("attach");
    assert!(message.contains("qdisc `ingress`"), "{message}");
    let status = host.limiter.status();
    assert_eq!(status["attached"], Value::Array(Vec::new()));
    let missing = status["missing"].as_array().expect("a list");
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert!(
        missing[0]["reason"]
            .as_str()
            .is_some_and(|why| why.contains("ingress"))
    );
    host.tc("qdisc del dev s0 ingress");
    host.wait_for_limits("it has gone");
    // TCX programs need no clsact qdisc, so they work on an interface with an ingress qdisc.
    if kernel::has_tcx() {
        let (host, ()) = Host::new("hook = \"auto\"", |lab| {
            tc(lab, "qdisc add dev s0 ingress");
            tc(
                lab,
                &format!("filter add dev s0 ingress prio 1 {PASS_ALL_FILTER}"),
            );
        });
        assert_eq!(host.status(), 429);
        host.wait_for_limits("beside an ingress qdisc");
    }
}

/// Returns a command that starts a daemon in a mount namespace of its own. The shell commands in
/// `mounts` run in this namespace before the daemon starts, and `more` is appended to the daemon's
/// command line.
fn in_private_mounts(limiter: &Limiter, lab: &Lab, mounts: &str, more: &str) -> Command {
    let mut command = lab.server().command("unshare");
    let run = format!(
        "{mounts}\n{} run -c {} --state-dir {} --runtime-dir {} --pin-dir /sys/fs/bpf/limiter {more}",
        limiter::binary(),
        limiter.config_path().display(),
        limiter.state_dir().display(),
        limiter.runtime_dir().display(),
    );
    command
        .args(["--mount", "--propagation", "private", "sh", "-euc", &run])
        .env_remove("LIMITER_SOCKET");
    command
}

#[test]
fn pins_in_private_mounts_require_the_private_mounts_option() {
    let lab = Lab::veth();
    let limiter = Limiter::prepare(&lab, "limiter", &config(&lab, ""));
    // In the second case, the BPF file system is hidden, as it is under `ip netns exec`, and the
    // daemon mounts another one.
    let hidden = "mount -t tmpfs tmpfs /sys/fs/bpf";
    for mounts in ["mount -t bpf bpf /sys/fs/bpf", hidden] {
        let mounts = format!("{mounts}\nexec \\");
        let mut command = in_private_mounts(&limiter, &lab, &mounts, "");
        let output = Output::from(process::output(&mut command));
        output.assert_fails(
            exit::FAILED,
            &[
                "/sys/fs/bpf/limiter",
                "end with this process",
                "--private-mounts",
            ],
        );
        assert!(!output.stderr.contains("ready"), "{output:?}");
    }
    let log = lab.file("private.log");
    let more = "--private-mounts";
    let mounts = format!("{hidden}\nexec \\");
    let mut command = in_private_mounts(&limiter, &lab, &mounts, more);
    let mut daemon = process::Process::start("a private daemon", &mut command, &log);
    eventually("it answers", || limiter.cli(&["status"]).code == exit::DONE);
    let status = limiter.status();
    assert_eq!(status["health"], Value::Array(Vec::new()), "{status}");
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    daemon.wait();
    let log = daemon.log();
    assert!(log.contains("limits end with it"), "{log}");
    assert!(!log.contains("limits stay in force"), "{log}");
    if kernel::has_tcx() {
        eventually("nothing is left of it", || {
            neighbour::links(lab.server(), "s0")
                .iter()
                .all(Vec::is_empty)
        });
    }
    // This time, a shell shares the daemon's mount namespace. The mounts therefore exist until both
    // have ended, and the daemon reports this.
    let mounts = "mount -t bpf bpf /sys/fs/bpf";
    let mut command = in_private_mounts(&limiter, &lab, mounts, "& wait");
    let log = lab.file("companion.log");
    let shell = process::Process::start("a shell", &mut command, &log);
    eventually("it answers", || limiter.cli(&["status"]).code == exit::DONE);
    assert!(shell.log().contains("limits end with the last of them"));
    limiter.done(&["detach"]);
}

#[test]
fn pins_in_a_copy_of_the_host_mounts_are_accepted() {
    let lab = Lab::veth();
    let limiter = Limiter::prepare(&lab, "limiter", &config(&lab, ""));
    let log = lab.file("copy.log");
    let command = in_private_mounts(&limiter, &lab, "true", "");
    let pins = limiter.pin_dir().display().to_string();
    let line = command
        .get_args()
        .last()
        .expect("the lines")
        .to_string_lossy()
        .replace("/sys/fs/bpf/limiter", &pins);
    let mut command = lab.server().command("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-euc", &line])
        .env_remove("LIMITER_SOCKET");
    let _daemon = process::Process::start("a daemon", &mut command, &log);
    eventually("it answers", || limiter.cli(&["status"]).code == exit::DONE);
    let status = limiter.status();
    assert_eq!(status["health"], Value::Array(Vec::new()), "{status}");
    limiter.done(&["detach"]);
}

#[test]
fn missing_capabilities_are_named() {
    let lab = Lab::veth();
    let limiter = Limiter::prepare(&lab, "limiter", &config(&lab, ""));
    for (kept, missing, there) in [
        (
            "-all",
            &["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"][..],
            &[][..],
        ),
        (
            "-all,+net_admin",
            &["CAP_BPF", "CAP_PERFMON"],
            &["CAP_NET_ADMIN"],
        ),
        (
            "-all,+bpf,+perfmon",
            &["CAP_NET_ADMIN"],
            &["CAP_BPF", "CAP_PERFMON"],
        ),
    ] {
        let mut command = lab.server().command("setpriv");
        command
            .args(["--bounding-set", kept, limiter::binary(), "run", "-c"])
            .arg(limiter.config_path())
            .arg("--state-dir")
            .arg(limiter.state_dir())
            .env_remove("LIMITER_SOCKET");
        let output = Output::from(process::output(&mut command));
        output.assert_fails(exit::FAILED, missing);
        output.assert_fails(exit::FAILED, &["AmbientCapabilities="]);
        for name in there {
            assert!(!output.stderr.contains(name), "{output:?}");
        }
        assert!(!limiter.state_dir().exists());
    }
}

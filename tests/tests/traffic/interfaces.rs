// SPDX-License-Identifier: MIT OR Apache-2.0

//! Interfaces are removed, created again and renamed. The limits come back into force on them
//! without any action by an operator.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
    time::Duration,
};

use limiter_tests::{
    Config, GUARDED, Lab, Limiter, Net, Nginx, Place, Rig, Stopper, avoid_midnight, eventually,
    kernel, limiter::exit, neighbour, skip,
};

/// Each test starts at least this long before midnight UTC. It takes much less time, so all of its
/// requests are counted on one day.
const TIME_BEFORE_MIDNIGHT: Duration = Duration::from_secs(60);

/// The index with which the server's interface is created each time.
const INDEX: u32 = 4711;

/// Creates the cable between the client and the server of a [`Net::Apart`] lab.
fn plug(lab: &Lab) {
    let client = lab.client().name();
    lab.server().ip(&format!(
        "link add s0 index {INDEX} type veth peer name c0 netns {client}"
    ));
    lab.address_ends();
}

fn unplug(lab: &Lab) {
    lab.server().ip("link del s0");
}

/// A host on which the server's interface has the same index each time it is created. The scope
/// `acme/probe` has a daily quota of zero, and therefore the responses to its requests show whether
/// the limits are in force.
struct Host {
    limiter: Limiter,
    nginx: Nginx,
    key: String,
    probe: String,
    lab: Lab,
}

impl Host {
    fn new(hook: &str) -> Self {
        let lab = Lab::new(Net::Apart);
        plug(&lab);
        let lines = format!("interfaces = [\"s*\"]\nports = [{GUARDED}]\nhook = {hook:?}\n");
        let config = Config::new(&lab)
            .attach_lines(&lines)
            .tier("profile", "daily_quota = 4")
            .tier("never", "daily_quota = 0");
        let nginx = Nginx::start(&lab, &[GUARDED]);
        let limiter = Limiter::start(&lab, &config);
        Self {
            key: limiter.key("acme/web"),
            probe: limiter.key_of_tier("acme/probe", "never"),
            limiter,
            nginx,
            lab,
        }
    }

    fn status(&self, key: &str) -> u16 {
        self.lab.connect(GUARDED).get("/", key).status
    }

    fn wait_for_limits(&self) {
        // A connection that was opened without limits is reset if limiter sees only its request.
        eventually("limits are in force again", || {
            let response = self.lab.connect(GUARDED).try_get("/", &self.probe);
            response.is_ok_and(|response| response.status == 429)
        });
    }

    /// Asserts that the quota is used up, and that exactly as many requests were served as the
    /// quota permits.
    fn assert_used_up(&self) {
        assert_eq!(self.status(&self.key), 429);
        let used = self.limiter.usage("acme/web").used;
        assert_eq!((self.nginx.served(&self.key), used), (4, 4));
        let health = self.limiter.status()["health"].clone();
        assert!(health.as_array().is_some_and(Vec::is_empty), "{health}");
    }
}

#[test]
fn new_interface_with_the_same_name_and_index_is_attached() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    for hook in kernel::hooks() {
        let host = Host::new(hook);
        let mut open = host.lab.connect(GUARDED);
        assert_eq!(open.get("/", &host.key).status, 200);
        assert_eq!(host.status(&host.key), 200);
        // Between two of the daemon's checks of the interfaces, the interface is replaced by an
        // interface with the same name and index.
        unplug(&host.lab);
        plug(&host.lab);
        host.wait_for_limits();
        // The connection has outlived the interface, and the programs still follow it.
        assert_eq!(open.get("/", &host.key).status, 200, "{hook}");
        assert_eq!(host.status(&host.key), 200, "{hook}");
        assert_eq!(open.get("/", &host.key).status, 429, "{hook}");
        host.assert_used_up();
    }
}

#[test]
fn interface_recreated_without_a_daemon_is_attached_by_the_next_one() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    for hook in kernel::hooks() {
        let mut host = Host::new(hook);
        assert_eq!([host.status(&host.key), host.status(&host.key)], [200; 2]);
        host.limiter.kill();
        unplug(&host.lab);
        plug(&host.lab);
        host.limiter.run(&[]);
        assert_eq!([host.status(&host.key), host.status(&host.key)], [200; 2]);
        host.assert_used_up();
    }
}

#[test]
fn removed_clsact_qdisc_is_attached_again() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let host = Host::new("clsact");
    assert_eq!(host.status(&host.key), 200);
    let mut tc = host.lab.server().command("tc");
    limiter_tests::process::succeed(tc.args(["qdisc", "del", "dev", "s0", "clsact"]));
    host.wait_for_limits();
    let statuses = [(); 3].map(|()| host.status(&host.key));
    assert_eq!(statuses, [200; 3]);
    host.assert_used_up();
}

#[test]
fn renamed_interface_stays_attached_and_misses_no_request() {
    if !kernel::has_tcx() {
        let name = "renamed_interface_stays_attached_and_misses_no_request";
        return skip(name, "the kernel has no TCX, whose programs are looked at");
    }
    let mut rig = Rig::veth(|config| config.interfaces(&["s*", "other*"]));
    let key = rig.limiter.key("acme/web");
    let rename = |lab: &Lab, from: &str, to: &str| {
        lab.server().ip(&format!("link set {from} name {to}"));
    };
    let attached = |limiter: &Limiter| -> Vec<String> {
        let status = limiter.status();
        let attached = status["attached"].as_array().expect("a list").iter();
        attached
            .map(|entry| entry["interface"].as_str().expect("a name").to_owned())
            .collect()
    };
    let programs = |rig: &Rig, name: &str| neighbour::links(rig.lab.server(), name);
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = programs(&rig, "s0");
    thread::scope(|threads| {
        let ask = || {
            let mut conn = rig.lab.connect(GUARDED);
            while !stop.load(SeqCst) {
                let response = conn.get("/", &key);
                assert_eq!(response.status, 200, "{response:?}");
                if asked.fetch_add(1, SeqCst) % 5 == 0 {
                    conn = rig.lab.connect(GUARDED);
                }
            }
        };
        let clients: Vec<_> = (0..3).map(|_| threads.spawn(ask)).collect();
        for (from, to) in [("s0", "s1"), ("s1", "other"), ("other", "s0")] {
            rename(&rig.lab, from, to);
            eventually("the new name is known", || {
                attached(&rig.limiter) == [to, to]
            });
            assert_eq!(programs(&rig, to), before, "{to}");
        }
        stop.store(true, SeqCst);
        for client in clients {
            client.join().expect("a client");
        }
    });
    let asked = asked.into_inner();
    rig.assert_charged_as_served("acme/web", &key, asked);
    assert_eq!(rig.limiter.count("/coverage/untracked_connections"), 0);
    // The next daemon finds an interface that was renamed while no daemon was running.
    rig.limiter.kill();
    rename(&rig.lab, "s0", "s9");
    rig.limiter.run(&[]);
    assert_eq!(attached(&rig.limiter), ["s9", "s9"]);
    let [ingress, egress] = programs(&rig, "s9");
    assert_eq!((ingress.len(), egress.len()), (1, 1), "both are there once");
    assert_eq!(rig.get(&key).status, 200);
    rig.assert_charged_as_served("acme/web", &key, asked + 1);
    // The limiter detaches from an interface whose new name does not match the configuration.
    rename(&rig.lab, "s9", "t0");
    eventually("the interface is released", || {
        attached(&rig.limiter).is_empty()
    });
    let [ingress, egress] = programs(&rig, "t0");
    assert_eq!((ingress.len(), egress.len()), (0, 0), "something is left");
    rig.assert_charged_as_served("acme/web", &key, asked + 1);
}

#[test]
fn leftover_filters_on_unconfigured_interfaces_are_removed() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut host = Host::new("clsact");
    assert_eq!(host.status(&host.probe), 429);
    host.limiter.kill();
    let lines = format!("interfaces = [\"lo\"]\nports = [{GUARDED}]\nhook = \"clsact\"\n");
    let config = Config::new(&host.lab)
        .attach_lines(&lines)
        .tier("never", "daily_quota = 0");
    host.limiter.write_config(&config.to_string());
    host.limiter.run(&[]);
    assert_eq!(host.status(&host.probe), 200);
}

#[test]
fn interfaces_are_found_by_alternative_names() {
    let rig = Rig::veth(|config| config.interfaces(&["s0"]));
    rig.lab
        .server()
        .ip("link property add dev s0 altname the-way-to-the-customers");
    let attached = |limiter: &Limiter| {
        let status = limiter.status();
        let attached = status["attached"].as_array().expect("a list").clone();
        attached
            .iter()
            .map(|entry| entry["interface"].clone())
            .collect::<Vec<_>>()
    };
    let config = rig.limiter.config_path().display().to_string();
    for name in ["the-way-to-the-customers", "*customers", "the-way-*"] {
        let arguments = ["check", "-c", &config, "--interface", name];
        let checked = rig.limiter.json(&arguments);
        assert_eq!(checked["interfaces"], serde_json::json!(["s0"]), "{name}");
    }
    for (name, hint) in [
        ("s0@if2", "write `s0`"),
        ("any", "write `*`"),
        ("the-way-to-the-customer", "`the-way-to-the-customers`"),
    ] {
        let arguments = ["check", "-c", &config, "--interface", name];
        let output = rig.limiter.cli(&arguments);
        output.assert_fails(exit::USAGE, &[name, hint]);
    }
    let text = fs::read_to_string(&config).expect("the configuration");
    let text = text.replace("\"s0\"", "\"the-way-*\"");
    rig.limiter.write_config(&text);
    rig.limiter.done(&["reload"]);
    assert_eq!(attached(&rig.limiter), ["s0", "s0"]);
    rig.lab
        .server()
        .ip("link property del dev s0 altname the-way-to-the-customers");
    eventually("the interface is released", || {
        attached(&rig.limiter).is_empty()
    });
}

#[test]
fn many_interfaces_are_attached_faster_than_one_by_one() {
    if !kernel::has_tcx() {
        let name = "many_interfaces_are_attached_faster_than_one_by_one";
        return skip(name, "the kernel has no TCX, whose links take long");
    }
    const MANY: u32 = 300;
    let setting = std::path::Path::new("/sys/kernel/rcu_expedited");
    let is_slow = fs::read_to_string(setting).is_ok_and(|text| text.trim() == "0");
    let lab = Lab::veth();
    let lines: String = (0..MANY / 2)
        .map(|pair| format!("link add m{pair} type veth peer name n{pair}\n"))
        .collect();
    let batch = lab.file("batch");
    fs::write(&batch, lines).expect("write the batch");
    let mut ip = lab.server().command("ip");
    limiter_tests::process::succeed(ip.arg("-batch").arg(&batch));
    // The time for one operation on a link is the mean over several attempts.
    let time_of_one = || {
        let tries = 8;
        let begin = std::time::Instant::now();
        for _ in 0..tries {
            drop(Stopper::at(&lab, "s0", Place::Last));
        }
        // Each attempt attaches two links and detaches them again, which are four operations.
        begin.elapsed() / (4 * tries)
    };
    let before = time_of_one();
    let mut limiter = Limiter::start(&lab, &Config::new(&lab));
    limiter.kill();
    let config = Config::new(&lab).interfaces(&["s0", "m*", "n*"]);
    limiter.write_config(&config.to_string());
    let begin = std::time::Instant::now();
    limiter.run(&[]);
    let all = begin.elapsed();
    let attached = limiter.status()["attached"].as_array().map(Vec::len);
    assert_eq!(attached, Some(2 * MANY as usize + 2));
    // The machine may have been busier at one of the two times.
    let one = before.max(time_of_one());
    println!("{all:?} for all, {one:?} for one link");
    // The comparison is meaningful only if the RCU grace periods of this kernel are long by
    // default.
    if is_slow && one > Duration::from_millis(4) {
        assert!(all < one * MANY, "{all:?}, and one takes {one:?}");
    }
    // Another daemon may have changed the setting for a moment.
    eventually("the setting is as it was", || {
        let after = fs::read_to_string(setting).unwrap_or_default();
        (after.trim() == "0") == is_slow
    });
}

/// When a host starts, its interfaces appear in any order, and therefore an interface that the
/// configuration names may still be missing when the daemon starts.
#[test]
fn missing_named_interface_is_waited_for() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let lab = Lab::new(Net::Apart);
    lab.server().ip("link add here0 type bridge");
    let config = Config::new(&lab)
        .attach_lines(&format!(
            "interfaces = [\"here0\", \"s0\"]\nports = [{GUARDED}]\n"
        ))
        .tier("never", "daily_quota = 0");
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let limiter = Limiter::start(&lab, &config);
    let probe = limiter.key_of_tier("acme/probe", "never");
    let health = || limiter.status()["health"].clone();
    let attached = || limiter.status()["attached"].to_string();
    assert_eq!(
        (
            health()[0]["part"].as_str(),
            health()[0]["message"].as_str()
        ),
        (
            Some("interfaces"),
            Some("waiting for s0: limits are in force there within seconds after it appears")
        )
    );
    assert!(
        limiter.log().contains("there is no interface `s0`"),
        "{}",
        limiter.log()
    );
    assert!(
        attached().contains("here0") && !attached().contains("s0"),
        "{}",
        attached()
    );
    // A reload succeeds although this interface is still missing. A reload that adds another
    // missing interface fails, because the added name may be a mistake.
    let reloaded = limiter.cli(&["reload"]);
    assert_eq!(reloaded.code, exit::DONE, "{reloaded:?}");
    let text = fs::read_to_string(limiter.config_path()).expect("the configuration");
    limiter.write_config(&text.replace("\"s0\"", "\"s0\", \"here1\""));
    let words = ["there is no interface `here1`", "did you mean `here0`?"];
    limiter.cli(&["reload"]).assert_fails(exit::USAGE, &words);
    let config = limiter.config_path().display().to_string();
    limiter
        .cli(&["check", "-c", &config])
        .assert_fails(exit::USAGE, &["`s0`", "`here1`"]);
    limiter.write_config(&text);

    plug(&lab);
    eventually("limits are in force on it", || {
        // A connection that was opened just before is reset.
        let response = lab.connect(GUARDED).try_get("/", &probe);
        response.is_ok_and(|response| response.status == 429)
    });
    eventually("nothing is waited for", || {
        health().as_array().is_some_and(Vec::is_empty)
    });
    let served = nginx.served(&probe);
    assert_eq!(lab.connect(GUARDED).get("/", &probe).status, 429);
    assert_eq!(nginx.served(&probe), served);
}

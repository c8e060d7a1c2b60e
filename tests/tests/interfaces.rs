//! Interfaces that go, come back, and get other names: limits are in force on them again by themselves.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
    time::Duration,
};

use limiter_tests::{
    Config, GUARDED, Lab, Limiter, Net, Nginx, Rig, avoid_midnight, eventually, kernel, neighbour,
    skip,
};

/// A test about one day's count is over long before this.
const TEST: Duration = Duration::from_secs(60);

/// The index of the server's interface, each time that it comes.
const INDEX: u32 = 4711;

/// Joins the ends of a lab that is [`Net::Apart`].
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

/// A host whose interface has the same index whenever it comes, and a scope that is never served.
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
        eventually("limits are in force again", || {
            self.status(&self.probe) == 429
        });
    }

    /// The quota was used once, and not more.
    fn assert_used_up(&self) {
        assert_eq!(self.status(&self.key), 429);
        let used = self.limiter.usage("acme/web").used;
        assert_eq!((self.nginx.served(&self.key), used), (4, 4));
        let health = self.limiter.status()["health"].clone();
        assert!(health.as_array().is_some_and(Vec::is_empty), "{health}");
    }
}

#[test]
fn another_one_with_the_name_and_the_index_of_one_that_has_gone_is_attached_to() {
    avoid_midnight(TEST);
    for hook in kernel::hooks() {
        let host = Host::new(hook);
        let mut open = host.lab.connect(GUARDED);
        assert_eq!(open.get("/", &host.key).status, 200);
        assert_eq!(host.status(&host.key), 200);
        // Between two looks: by name and index it is the same.
        unplug(&host.lab);
        plug(&host.lab);
        host.wait_for_limits();
        // A connection that outlived it is known.
        assert_eq!(open.get("/", &host.key).status, 200, "{hook}");
        assert_eq!(host.status(&host.key), 200, "{hook}");
        assert_eq!(open.get("/", &host.key).status, 429, "{hook}");
        host.assert_used_up();
    }
}

#[test]
fn one_that_comes_back_while_no_daemon_runs_is_attached_to_by_the_next_one() {
    avoid_midnight(TEST);
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
fn what_others_take_off_is_put_on_again() {
    avoid_midnight(TEST);
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
fn under_another_name_it_is_the_same_one_and_no_request_is_missed() {
    if !kernel::has_tcx() {
        let name = "under_another_name_it_is_the_same_one_and_no_request_is_missed";
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
    // Also while no daemon runs.
    rig.limiter.kill();
    rename(&rig.lab, "s0", "s9");
    rig.limiter.run(&[]);
    assert_eq!(attached(&rig.limiter), ["s9", "s9"]);
    let [ingress, egress] = programs(&rig, "s9");
    assert_eq!((ingress.len(), egress.len()), (1, 1), "both are there once");
    assert_eq!(rig.get(&key).status, 200);
    rig.assert_charged_as_served("acme/web", &key, asked + 1);
    // Under a name that is not meant it is left alone.
    rename(&rig.lab, "s9", "t0");
    eventually("it is let go", || attached(&rig.limiter).is_empty());
    let [ingress, egress] = programs(&rig, "t0");
    assert_eq!((ingress.len(), egress.len()), (0, 0), "something is left");
    rig.assert_charged_as_served("acme/web", &key, asked + 1);
}

#[test]
fn filters_that_an_earlier_daemon_left_where_they_are_not_meant_any_more_go() {
    avoid_midnight(TEST);
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

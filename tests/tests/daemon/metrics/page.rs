// SPDX-License-Identifier: MIT OR Apache-2.0

//! The metrics page itself: its clients, its formats, and the information that it must not contain.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
};

use limiter_tests::{
    Config, Conn, GUARDED, Lab, Limiter, Nginx, Rig, UNGUARDED, eventually,
    limiter::exit,
    metrics::{PORT, Page, ask, on_page},
};

#[test]
fn metrics_page_is_off_by_default_and_public_only_if_allowed() {
    let (mut limiter, lab) = Limiter::idle();
    assert!(!lab.listens(PORT), "off by default");
    let config = |lines: &str| {
        Config::published(&lab)
            .small_tables()
            .section("metrics", lines)
            .to_string()
    };
    // A new address takes effect only at a restart, and the output of `reload` states this.
    let listen = format!("listen = \"127.0.0.1:{PORT}\"\n");
    limiter.write_config(&config(&listen));
    let output = limiter.cli(&["reload"]);
    assert_eq!(output.code, exit::DONE, "{output:?}");
    assert!(
        output
            .stderr
            .contains("[metrics] has changed: that takes a restart"),
        "{output:?}"
    );
    assert!(!lab.listens(PORT));
    limiter.terminate();
    limiter.run(&[]);
    assert_eq!(ask(&lab, "/metrics", "").status, 200);
    assert_eq!(ask(&lab, "/", "").status, 404);
    assert_eq!(
        ask(&lab, "/v1/status", "").status,
        404,
        "nothing else is there"
    );

    // If other hosts can reach the address, the configuration must permit this with `allow_remote`.
    let remote = format!("listen = \"0.0.0.0:{PORT}\"\n");
    limiter.terminate();
    limiter.write_config(&config(&remote));
    limiter.launch(&[]);
    assert_eq!(limiter.wait_for_end(), Some(exit::USAGE));
    let log = limiter.log();
    for word in [
        "metrics.listen",
        "reachable from other hosts",
        "allow_remote = true",
    ] {
        assert!(log.contains(word), "no {word} in {log}");
    }
    limiter.write_config(&config(&format!("{remote}allow_remote = true\n")));
    limiter.run(&[]);
    assert_eq!(ask(&lab, "/metrics", "").status, 200);

    // Another process already listens on this port, so the daemon does not start.
    limiter.terminate();
    let (socket, address) = lab.server().enter(|| {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = std::net::TcpListener::bind(any).expect("a port");
        let address = socket.local_addr().expect("its address");
        (socket, address)
    });
    limiter.write_config(&config(&format!("listen = \"{address}\"\n")));
    limiter.launch(&[]);
    assert_eq!(limiter.wait_for_end(), Some(exit::FAILED));
    let log = limiter.log();
    for word in [
        &format!("cannot listen for metrics on {address}"),
        "use another port",
    ] {
        assert!(log.contains(word), "no {word} in {log}");
    }
    drop(socket);
    limiter.run(&[]);
}

#[test]
fn metrics_page_supports_openmetrics_and_many_idle_readers() {
    let rig = Rig::veth(|config| on_page(config, ""));
    let response = ask(
        &rig.lab,
        "/metrics",
        "Accept: application/openmetrics-text;version=1.0.0;q=0.9,text/plain;q=0.5\r\n",
    );
    assert_eq!(
        response.required("content-type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let text = String::from_utf8(response.body).expect("text");
    assert!(
        text.contains("# UNIT limiter_inspected_bytes bytes\n"),
        "{text}"
    );
    assert!(text.ends_with("# EOF\n"), "{text}");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let descriptors = || {
        let open = fs::read_dir(format!("/proc/{}/fd", rig.limiter.pid()));
        open.expect("the daemon's descriptors").count()
    };
    let before = descriptors();
    let hanging: Vec<Conn> = (0..200)
        .map(|number| {
            let mut conn = Conn::open(rig.lab.server(), address);
            let part = if number % 2 == 0 {
                "GET /met"
            } else {
                "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
            };
            conn.send(part.as_bytes());
            conn
        })
        .collect();
    Page::read(&rig.lab);
    rig.limiter.done(&["status"]);
    // The daemon keeps at most 32 connections open, as the documentation states. The requests of
    // this test take up to four more descriptors.
    eventually("the other connections are closed", || {
        descriptors() <= before + 32 + 4
    });
    drop(hanging);
}

#[test]
fn only_the_top_scopes_are_named_and_no_unknown_keys() {
    let lines = "top_scopes = 4";
    let rig = Rig::veth(|config| {
        on_page(config, lines)
            .policy("unknown_key = \"tier:guest\"")
            .tier("guest", "daily_quota = 5")
            .tier("profile", "daily_quota = 100")
    });
    let keys: Vec<String> = (0..8)
        .map(|number| rig.limiter.key(&format!("acme/p{number}")))
        .collect();
    let few = Page::read(&rig.lab).samples.len();
    for key in &keys {
        assert_eq!(rig.get(key).status, 200);
    }
    for number in 0..6 {
        assert_eq!(rig.statuses(&format!("unknown-{number}"), 5), [200; 5]);
    }
    eventually("the scopes of the unknown keys are known", || {
        rig.limiter.count("/unknown_scopes") == 6
    });
    let page = Page::read(&rig.lab);
    assert_eq!(
        page.count("limiter_table_entries{table=\"unknown_keys\"}"),
        6
    );
    assert_eq!(page.requests("guest", "admitted", ""), 30);
    assert!(!page.text.contains("unknown/"), "{}", page.text);
    let named = |name: &str| {
        let samples = page.samples.keys();
        samples.filter(|sample| sample.starts_with(name)).count()
    };
    assert_eq!(named("limiter_top_scope_quota_used_ratio"), 4);
    assert_eq!(named("limiter_top_scope_used_requests"), 4);
    assert_eq!(named("limiter_top_scope_refused_requests"), 0);
    assert_eq!(page.samples.len(), few + 8);
}

#[test]
fn program_run_time_is_measured_only_if_configured() {
    let mut rig = Rig::veth(|config| on_page(config, ""));
    let key = rig.limiter.key("acme/web");
    rig.get(&key);
    assert!(!Page::read(&rig.lab).text.contains("limiter_program_"));
    rig.limiter.terminate();
    let config = on_page(Config::new(&rig.lab), "program_time = true");
    rig.limiter.write_config(&config.to_string());
    rig.limiter.run(&[]);
    let runs = |page: &Page, program: &str| {
        let of = |name: &str| {
            page.value(&format!(
                "limiter_program_{name}_total{{program=\"{program}\"}}"
            ))
        };
        (of("runs"), of("run_seconds"))
    };
    let before = Page::read(&rig.lab);
    assert_eq!(rig.get(&key).status, 200);
    let after = Page::read(&rig.lab);
    for program in ["limiter_ingress", "limiter_egress"] {
        let (before, after) = (runs(&before, program), runs(&after, program));
        assert!(after.0 >= before.0 + 3.0, "{program} {before:?} {after:?}");
        let each = (after.1 - before.1) / (after.0 - before.0);
        assert!(each > 0.0 && each < 0.1, "{program} {before:?} {after:?}");
    }
}

#[test]
fn unwritable_store_is_shown_on_the_page() {
    let lab = Lab::veth();
    let _nginx = Nginx::start(&lab, &[GUARDED, UNGUARDED]);
    let config = on_page(Config::new(&lab), "").tier("profile", "daily_quota = 1000");
    let limiter = Limiter::start(&lab, &config);
    let key = limiter.key("acme/web");
    let failures = "limiter_store_write_failures_total";
    let before = Page::read(&lab);
    assert_eq!(before.count(failures), 0);
    assert!(before.count("limiter_store_write_seconds_count") > 0);
    lab.connect(GUARDED).get("/", &key);
    eventually("the store has allowed more", || {
        Page::read(&lab).count("limiter_allowance_requests{tier=\"profile\"}") > 0
    });
    // While another program has locked the store, the daemon cannot write to it.
    let store =
        rusqlite::Connection::open(limiter.state_dir().join("limiter.db")).expect("the store");
    store.execute_batch("BEGIN IMMEDIATE").expect("hold it");
    lab.connect(GUARDED).get("/", &key);
    eventually("the page reports the problem", || {
        let page = Page::read(&lab);
        page.value("limiter_health{part=\"store\"}") == 0.0 && page.count(failures) > 0
    });
    store.execute_batch("ROLLBACK").expect("let it go");
    eventually("the page reports the end of the problem", || {
        Page::read(&lab).value("limiter_health{part=\"store\"}") == 1.0
    });
    Page::read(&lab).assert_after(&before, |_| false);
}

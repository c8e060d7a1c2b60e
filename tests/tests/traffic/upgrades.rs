// SPDX-License-Identifier: MIT OR Apache-2.0

//! CONNECT, Upgrade and HTTP/2, with servers that accept them and with servers that do not. No
//! request avoids the limits, and all clients still work.

use std::{fs, path::Path, process::Command};

use limiter_tests::{
    Config, Conn, GUARDED, Lab, Limiter, Net, clock,
    peers::{Job, Peer},
    process::{Process, succeed},
    request,
    scripted::Scripted,
    tools,
};

/// The daily quota of `acme/web`.
const QUOTA: u64 = 4;

fn peer(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("peers")
        .join(name);
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// A server that listens before the daemon starts, a limiter, and a key of `acme/web`, whose daily
/// quota is [`QUOTA`].
struct GuardedServer {
    limiter: Limiter,
    server: Process,
    lab: Lab,
    key: String,
}

impl GuardedServer {
    #[track_caller]
    fn by(net: Net, policy: &str, command: impl FnOnce(&Lab) -> Command) -> Self {
        let lab = Lab::new(net);
        let mut server = Process::start("server", &mut command(&lab), &lab.file("server.log"));
        clock::eventually("the server listens", || {
            assert!(server.ended().is_none(), "{}", server.log());
            Conn::try_open(lab.client(), (lab.v4(), GUARDED).into()).is_ok()
        });
        let tier = format!("daily_quota = {QUOTA}");
        let config = Config::new(&lab).tier("profile", &tier).policy(policy);
        let limiter = Limiter::start(&lab, &config);
        let key = limiter.key("acme/web");
        Self {
            limiter,
            server,
            lab,
            key,
        }
    }

    fn used(&self) -> u64 {
        self.limiter.usage("acme/web").used
    }

    fn coverage(&self, name: &str) -> u64 {
        self.limiter.count(&format!("/coverage/{name}"))
    }
}

fn java(lab: &Lab) -> Command {
    let mut command = lab.server().command("java");
    command.arg(peer("Server.java")).arg(GUARDED.to_string());
    command
}

#[test]
fn connect_to_a_server_that_continues_with_http_is_refused() {
    let rig = GuardedServer::by(Net::Veth, "connect = \"reject\"", java);
    let connect = |method: &str| {
        format!(
            "{method} / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {}\r\n\r\n",
            rig.key
        )
        .into_bytes()
    };
    let behind = request("/", &rig.key).repeat(8);
    let served = || rig.server.log().lines().count() as u64;
    for method in ["CONNECT", "connect"] {
        let mut conn = rig.lab.connect(GUARDED);
        conn.send(&[connect(method), behind.clone()].concat());
        let response = conn.response();
        assert_eq!(response.status, 405, "{response:?}");
        assert!(response.required("allow").contains("GET"), "{response:?}");
        assert_eq!(response.problem()["status"], 405);
        conn.assert_closed();
    }
    assert_eq!((served(), rig.used()), (0, 0));
    // On this connection, the CONNECT follows a request that the server answers.
    let mut conn = rig.lab.connect(GUARDED);
    conn.send(&[request("/", &rig.key), connect("CONNECT"), behind].concat());
    assert_eq!(conn.response().status, 200);
    assert_eq!(conn.response().status, 405);
    assert_eq!((served(), rig.used()), (1, 1));
    assert_eq!(rig.coverage("connect_refused"), 3);
    assert_eq!(rig.coverage("tunnels"), 0);
    clock::eventually("the reason is reported", || {
        let events = rig.limiter.json(&["events"]);
        let events = events.as_array().expect("events");
        events.iter().any(|event| event["reason"] == "connect")
    });
    drop(rig);

    // If the policy permits CONNECT, the connection becomes a tunnel and is counted as a tunnel.
    let rig = GuardedServer::by(Net::Veth, "connect = \"pass\"", java);
    let mut conn = rig.lab.connect(GUARDED);
    conn.send(
        format!(
            "CONNECT / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {}\r\n\r\n",
            rig.key
        )
        .as_bytes(),
    );
    assert_eq!(conn.response().status, 200);
    assert_eq!((rig.used(), rig.coverage("tunnels")), (1, 1));
    conn.send(&request("/", &rig.key));
    assert_eq!(conn.response().status, 200);
    assert!(rig.coverage("tunnel_bytes") > 0);
    assert_eq!(rig.used(), 1);
}

/// Returns a command that starts lighttpd, which accepts `Upgrade: h2c` and HTTP/2 with prior
/// knowledge.
fn lighttpd(lab: &Lab) -> Command {
    let (root, config) = (lab.file("root"), lab.file("lighttpd.conf"));
    fs::create_dir(&root).expect("a directory");
    fs::write(root.join("index.html"), "hello").expect("a page");
    let text = format!(
        "server.document-root = {root:?}\nserver.port = {GUARDED}\nindex-file.names = (\"index.html\")\n\
         mimetype.assign = (\"\" => \"text/html\")\n"
    );
    fs::write(&config, text).expect("lighttpd's configuration");
    let mut command = lab.server().command("lighttpd");
    command.arg("-D").arg("-f").arg(config);
    command
}

#[test]
fn http2_offer_to_a_server_that_supports_it_stays_limited() {
    for net in [Net::Veth, Net::VethNoOffload, Net::Loopback] {
        let rig = GuardedServer::by(net, "on_limit = \"close\"", lighttpd);
        let url = rig.lab.url(GUARDED, "/");
        let header = format!("X-Api-Key: {}", rig.key);
        // Java's client offers the upgrade in its first request by default.
        let report = Peer::Java.run(&rig.lab, &Job::gets(&url, &rig.key, 2));
        assert_eq!(report.statuses(), [200, 200], "{net:?}");
        let declined = rig.coverage("offers_declined");
        assert!(declined > 0, "{net:?}");
        // curl offers the upgrade on each connection, also in a HEAD request, to which lighttpd
        // would respond with a 101 as well.
        let curl = |options: &[&str]| {
            let all = [&["--http2", "-H", &header], options, &[&url]].concat();
            tools::curl(&rig.lab, &all)
        };
        for (options, status) in [(&["-I"] as &[&str], 200), (&[], 200), (&[], 429)] {
            let answer = curl(options);
            assert_eq!(answer.exit, 0, "{answer:?}");
            assert_eq!(answer.response.expect("an answer").status, status);
        }
        assert_eq!((rig.used(), rig.coverage("http2")), (QUOTA, 0), "{net:?}");
        assert_eq!(rig.coverage("offers_declined"), declined + 2, "{net:?}");
        let known = curl(&["--http2-prior-knowledge"]);
        assert_ne!(known.exit, 0, "{known:?}");
        assert_eq!(rig.coverage("http2"), 1, "{net:?}");
        assert_eq!(rig.coverage("tunnels"), 0, "{net:?}");
    }
}

#[test]
fn split_http2_offer_ends_the_connection_when_accepted() {
    let rig = GuardedServer::by(Net::Veth, "on_limit = \"close\"", lighttpd);
    let request = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {}\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        rig.key
    );
    let at = request.find("h2c").expect("the offer");
    let mut conn = rig.lab.connect(GUARDED);
    conn.send_pieces([&request.as_bytes()[..at + 2], &request.as_bytes()[at + 2..]]);
    let error = conn.rest().expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!((rig.used(), rig.coverage("http2")), (1, 1));
    clock::eventually("the slot is free", || {
        let usage = rig.limiter.usage("acme/web");
        (usage.in_flight, usage.connections) == (0, 0)
    });
    drop((conn, rig));

    // If HTTP/2 is permitted, the connection becomes a tunnel.
    let rig = GuardedServer::by(Net::Veth, "http2 = \"pass\"", lighttpd);
    let mut conn = rig.lab.connect(GUARDED);
    conn.send(request.as_bytes());
    assert_eq!(conn.response().status, 101);
    assert_eq!(
        (rig.coverage("tunnels"), rig.coverage("offers_declined")),
        (1, 0)
    );
}

#[test]
fn websocket_is_a_tunnel_on_a_used_connection() {
    let rig = GuardedServer::by(Net::Veth, "on_limit = \"close\"", |lab| {
        let mut command = lab.server().command(tools::PYTHON);
        command
            .arg(peer("websocket.py"))
            .args(["serve", &GUARDED.to_string()]);
        command
    });
    let url = rig.lab.url(GUARDED, "/");
    let mut talk = rig.lab.client().command(tools::PYTHON);
    let printed = succeed(
        talk.arg(peer("websocket.py"))
            .args(["talk", &url, &rig.key]),
    );
    let each = "200 hello\n'one'\n'GET / HTTP/1.1\\r\\n\\r\\n'\n";
    assert_eq!(printed, each.repeat(2));
    assert_eq!((rig.used(), rig.coverage("tunnels")), (4, 2));
    assert_eq!(rig.coverage("upgrades_reset"), 0);
}

/// A body that looks like a response with status 101. Some servers (waitress, cheroot, uWSGI) send
/// the body of a response to HEAD, and the application controls its content.
const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn body_of_a_response_to_head_opens_no_tunnel() {
    let rig = Scripted::serving(
        |config| config.tier("profile", &format!("daily_quota = {QUOTA}")),
        |mut conn| {
            while let Ok(head) = conn.head() {
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                    SWITCH.len()
                );
                conn.send(answer.as_bytes());
                // `TCP_NODELAY` is set. The head has therefore already been sent, and the body is
                // sent in a segment of its own.
                if head.line.starts_with("HEAD") {
                    conn.send(SWITCH.as_bytes());
                } else {
                    conn.send("x".repeat(SWITCH.len()).as_bytes());
                }
            }
        },
    );
    let head = format!(
        "HEAD / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {}\r\n\r\n",
        rig.key
    );
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let upgrade = String::from_utf8(request("/", &rig.key)).expect("text");
    let upgrade = upgrade.replace("\r\n\r\n", &format!("\r\n{fields}"));
    // The client sends the upgrade either together with the HEAD request, or after the response to
    // the HEAD request has arrived.
    for together in [true, false] {
        let mut conn = rig.lab.connect(GUARDED);
        if together {
            conn.send(format!("{head}{upgrade}").repeat(2).as_bytes());
        } else {
            conn.send(head.as_bytes());
            assert_eq!(conn.head_response().status, 200);
            conn.take(SWITCH.len()).expect("the body");
            conn.send(upgrade.as_bytes());
        }
        let error = conn.rest().expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(rig.limiter.count("/coverage/tunnels"), 0);
    }
    rig.assert_used(2, "two HEADs");
    assert_eq!(rig.limiter.count("/coverage/upgrades_reset"), 2);
    // On a connection with such a response to HEAD, requests without an upgrade are still served,
    // and the limits apply to them.
    let mut conn = rig.lab.connect(GUARDED);
    conn.send(head.as_bytes());
    assert_eq!(conn.head_response().status, 200);
    conn.take(SWITCH.len()).expect("the body");
    assert_eq!(conn.get("/", &rig.key).status, 200);
    assert_eq!(conn.get("/", &rig.key).status, 429);
}

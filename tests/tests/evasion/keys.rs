// SPDX-License-Identifier: MIT OR Apache-2.0

//! Keys in all places where applications look for them. No server serves a customer whose quota is
//! used up, whatever else the request contains.

use std::{fs, process::Command};

use limiter_tests::{
    Config, Conn, GUARDED, Lab, Limiter, Response, UNGUARDED, clock, process::Process,
};

/// An application that looks for a key in `X-Api-Key`, in `Authorization` (Bearer and Basic), and
/// in the trailers, as many applications do. Its response lists the values that the application has
/// found.
const NODE: &str = r#"
const find = (request) => {
    const key = request.headers["x-api-key"];
    const [scheme, value] = (request.headers.authorization || "").split(" ");
    if ((scheme || "").toLowerCase() === "bearer") return [value, key];
    if ((scheme || "").toLowerCase() === "basic")
        return [Buffer.from(value, "base64").toString().split(":")[0], value, key];
    return [key, request.trailers["x-api-key"]];
};
for (const port of process.argv.slice(1)) {
    require("http").createServer({ maxHeaderSize: 65536 }, (request, response) => {
        request.resume().on("end", () => response.end("found " + find(request).join(" ")));
    }).listen(Number(port));
}
"#;

/// A CGI script that receives the field `X-Api-Key` in an environment variable (RFC 3875, section
/// 4.1.18).
const CGI: &str = r#"found="found $HTTP_X_API_KEY"
printf 'Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s' ${#found} "$found"
"#;

#[track_caller]
fn started(lab: &Lab, name: &str, command: &mut Command) -> Process {
    let process = Process::start(name, command, &lab.file(&format!("{name}.log")));
    clock::eventually("the server listens", || {
        [GUARDED, UNGUARDED]
            .iter()
            .all(|port| Conn::try_open(lab.client(), (lab.v4(), *port).into()).is_ok())
    });
    process
}

fn node(lab: &Lab) -> Process {
    let ports = [GUARDED, UNGUARDED].map(|port| port.to_string());
    started(
        lab,
        "node",
        lab.server().command("node").args(["-e", NODE]).args(ports),
    )
}

/// Starts lighttpd. It passes fields on to a CGI script under changed names, in which `_` replaces
/// every byte that is neither a letter nor a digit.
fn lighttpd(lab: &Lab) -> Process {
    let (root, config) = (lab.file("root"), lab.file("lighttpd.conf"));
    fs::create_dir(&root).expect("its documents");
    fs::write(root.join("key.cgi"), CGI).expect("the script");
    let text = format!(
        "server.modules = (\"mod_cgi\")\n\
         server.document-root = \"{root}\"\n\
         server.bind = \"{address}\"\n\
         server.port = {GUARDED}\n\
         $SERVER[\"socket\"] == \"{address}:{UNGUARDED}\" {{ }}\n\
         index-file.names = (\"key.cgi\")\n\
         cgi.assign = (\".cgi\" => \"/bin/sh\")\n",
        root = root.display(),
        address = lab.v4(),
    );
    fs::write(&config, text).expect("its configuration");
    started(
        lab,
        "lighttpd",
        lab.server()
            .command("lighttpd")
            .arg("-D")
            .arg("-f")
            .arg(&config),
    )
}

#[track_caller]
fn ask(lab: &Lab, port: u16, fields: &str) -> Response {
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n");
    lab.connect(port).ask(request.as_bytes())
}

fn text(response: &Response) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

/// Two customers. The quota of one of them is used up.
struct Customers {
    limiter: Limiter,
    spent: String,
    good: String,
}

fn customers(lab: &Lab, configure: impl FnOnce(Config) -> Config) -> Customers {
    let config = Config::new(lab).tier("profile", "daily_quota = 0");
    let limiter = Limiter::start(lab, &configure(config));
    let (spent, good) = (limiter.key("acme/spent"), limiter.key("good"));
    Customers {
        limiter,
        spent,
        good,
    }
}

/// Encodes a string in Base64 with the program `base64` of the system.
fn base64(lab: &Lab, text: &str) -> String {
    let file = lab.file("plain");
    fs::write(&file, text).expect("a file");
    let encoded = limiter_tests::process::succeed(Command::new("base64").arg("-w0").arg(&file));
    encoded.trim_end().to_owned()
}

#[test]
fn fields_before_an_exhausted_key_do_not_hide_it() {
    let long = "j".repeat(6000);
    for policy in ["reject", "pass", "tier:profile"] {
        let lab = Lab::veth();
        let _node = node(&lab);
        let customers = customers(&lab, |config| {
            config
                .sources(r#"["header:x-api-key", "bearer", "basic", "basic-user"]"#)
                .policy(&format!("unknown_key = \"{policy}\""))
        });
        for (key, expected) in [(&customers.spent, 429), (&customers.good, 200)] {
            let credentials = |password| base64(&lab, &format!("{key}:{password}"));
            for fields in [
                format!("X-Api-Key: junk\r\nAuthorization: Bearer {key}"),
                format!("X-Api-Key: {long}\r\nAuthorization: Bearer {key}"),
                format!("Authorization: Basic {}", credentials("any")),
                format!("Authorization: Basic {}", credentials(&long)),
            ] {
                let seen = ask(&lab, UNGUARDED, &fields);
                assert!(
                    text(&seen).contains(key),
                    "the application finds it: {seen:?}"
                );
                let status = ask(&lab, GUARDED, &fields).status;
                assert_eq!(status, expected, "{policy}: {fields}");
            }
        }
        let limiter = &customers.limiter;
        assert_eq!(
            limiter.usage("acme/spent").refused.daily_quota,
            4,
            "{policy}"
        );
        assert_eq!(limiter.usage("good").used, 4, "{policy}");
        assert_eq!(limiter.count("/totals/unknown_key"), 0, "{policy}");
    }
}

#[test]
fn field_name_that_a_server_folds_hides_no_key() {
    let lab = Lab::veth();
    let _lighttpd = lighttpd(&lab);
    let Customers {
        limiter,
        spent,
        good,
    } = customers(&lab, |config| config);
    for name in ["X-Api-Key", "X.Api.Key", "x_api-key", "X~Api!KEY"] {
        let (spent_field, good_field) = (format!("{name}: {spent}"), format!("{name}: {good}"));
        let seen = ask(&lab, UNGUARDED, &spent_field);
        assert_eq!(text(&seen), format!("found {spent}"), "{name}");
        assert_eq!(ask(&lab, GUARDED, &spent_field).status, 429, "{name}");
        assert_eq!(ask(&lab, GUARDED, &good_field).status, 200, "{name}");
    }
    assert_eq!(limiter.usage("good").used, 4);
    // Some servers find the one key and some the other, so a request with both keys is malformed.
    let two = format!("X-Api-Key: {good}\r\nX.Api.Key: {spent}");
    assert_eq!(ask(&lab, GUARDED, &two).status, 400);
}

#[test]
fn a_key_in_trailers_reaches_no_application() {
    let lab = Lab::veth();
    let _node = node(&lab);
    let Customers { limiter, spent, .. } = customers(&lab, |config| config);
    let request = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\nX-Api-Key: {spent}\r\n\r\n"
    );
    let seen = lab.connect(UNGUARDED).ask(request.as_bytes());
    assert!(text(&seen).contains(&spent), "{seen:?}");
    let mut conn = lab.connect(GUARDED);
    conn.send(request.as_bytes());
    assert!(
        conn.try_response().is_err(),
        "the connection ends without a response"
    );
    assert_eq!(limiter.count("/totals/malformed"), 1);
}

#[test]
fn a_long_token_is_an_unknown_key_and_the_connection_stays_limited() {
    for (policy, expected) in [("pass", 200), ("reject", 401), ("tier:profile", 429)] {
        let lab = Lab::veth();
        let _node = node(&lab);
        let Customers {
            limiter,
            spent,
            good,
        } = customers(&lab, |config| {
            config
                .policy(&format!("unknown_key = \"{policy}\""))
                .policy("malformed = \"pass\"")
        });
        for length in [129, 1000, 9000] {
            let token = "t".repeat(length);
            let mut conn = lab.connect(GUARDED);
            let mut ask = |fields: &str| {
                let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n");
                conn.ask(request.as_bytes()).status
            };
            let beside = format!("Authorization: Bearer {token}\r\nX-Api-Key: {good}");
            assert_eq!(ask(&beside), 200, "{policy}: {length} beside a key");
            assert_eq!(
                ask(&format!("Authorization: Bearer {token}")),
                expected,
                "{length}"
            );
            if expected == 200 {
                assert_eq!(
                    ask(&format!("X-Api-Key: {spent}")),
                    429,
                    "{length}: inspected still"
                );
            }
        }
        if policy == "tier:profile" {
            // Even a token of this length belongs to a scope, and `key check` reports the scope.
            clock::eventually("its scope is known", || {
                let token = "t".repeat(9000);
                let checked = limiter.cli_with_input(&["key", "check", "--json"], &token);
                checked.json()["unknown_scope"].is_string()
            });
        }
        assert_eq!(limiter.usage("good").used, 3);
        assert_eq!(limiter.count("/totals/malformed"), 0);
        assert_eq!(limiter.count("/totals/unknown_key"), 3, "{policy}");
    }
}

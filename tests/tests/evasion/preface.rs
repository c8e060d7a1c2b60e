// SPDX-License-Identifier: MIT OR Apache-2.0

//! A connection that begins with the HTTP/2 preface passes if the policy permits it, and is then no
//! longer inspected. An HTTP/1.x server serves no request on such a connection.

use std::process::Command;

use limiter_tests::{Config, Conn, GUARDED, Lab, Limiter, clock, process::Process, request};

/// Servers that print a line for each request that they have served.
const PYTHON: &str = r#"
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        print("served", self.path, flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_PRI = do_SM = do_GET
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
"#;
const NODE: &str = r#"
require("http").createServer((request, response) => {
    console.log("served " + request.url);
    response.end();
}).listen(Number(process.argv[1]));
"#;

/// Byte sequences that follow the preface or replace it.
const BEGINNINGS: [&str; 6] = [
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\n",
    "PRI * HTTP/2.0\r\n",
    "PRI * HTTP/2.0\r\nHost: x\r\n\r\n",
    "PRI * HTTP/2.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
    "PRI * HTTP/2.0\n\n",
];

fn server(lab: &Lab, name: &str, command: &mut Command) -> Process {
    let process = Process::start(
        name,
        command.arg(GUARDED.to_string()),
        &lab.file(&format!("{name}.log")),
    );
    clock::eventually("the server listens", || {
        Conn::try_open(lab.client(), (lab.v4(), GUARDED).into()).is_ok()
    });
    process
}

#[test]
fn nothing_is_served_behind_an_http2_preface() {
    for (name, program, flag, script) in [
        ("python", "python3", "-c", PYTHON),
        ("node", "node", "-e", NODE),
    ] {
        let lab = Lab::veth();
        let process = server(
            &lab,
            name,
            lab.server().command(program).args([flag, script]),
        );
        let limiter = Limiter::start(&lab, &Config::new(&lab).policy("http2 = \"pass\""));
        let key = limiter.key("acme/web");
        for beginning in BEGINNINGS {
            let mut conn = lab.connect(GUARDED);
            let bytes = [beginning.as_bytes(), &request("/behind", &key).repeat(3)].concat();
            conn.send(&bytes);
            conn.finish();
            // The server may end the connection with a FIN or with a reset.
            let _ = conn.rest();
            // Only the complete preface counts as HTTP/2. All other beginnings are malformed.
            assert_eq!(limiter.count("/coverage/http2"), 1, "{name}: {beginning:?}");
        }
        let served = || process.log().matches("served /behind").count() as u64;
        assert_eq!((served(), limiter.usage("acme/web").used), (0, 0), "{name}");
        assert_eq!(lab.connect(GUARDED).get("/behind", &key).status, 200);
        clock::eventually("the server logs what it serves", || served() == 1);
        assert_eq!(limiter.usage("acme/web").used, 1, "{name}");
    }
}

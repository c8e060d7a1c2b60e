// SPDX-License-Identifier: MIT OR Apache-2.0

//! schemathesis checks that the control interface conforms to `docs/openapi.json`.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use limiter_tests::{
    Lab, Limiter, eventually, long,
    process::{Process, output},
    skip,
};

/// The port on which socat accepts connections and forwards them to the control socket, for
/// programs that cannot use a Unix socket. The limiter does not guard this port.
const PORT: u16 = 8080;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Starts a process that forwards connections to [`PORT`] on the server's loopback address to the
/// control socket, and returns the process.
fn forward(lab: &Lab, limiter: &Limiter) -> Process {
    let mut command = lab.server().command("socat");
    command
        .arg(format!(
            "TCP-LISTEN:{PORT},bind=127.0.0.1,fork,reuseaddr,backlog=100"
        ))
        .arg(format!("UNIX-CONNECT:{}", limiter.socket().display()));
    let forwarder = Process::start("socat", &mut command, &lab.file("socat.log"));
    eventually("socat listens", || lab.listens(PORT));
    forwarder
}

#[test]
fn control_interface_matches_its_openapi_document() {
    let Some(schemathesis) = env::var_os("LIMITER_SCHEMATHESIS") else {
        return skip(
            "control_interface_matches_its_openapi_document",
            "LIMITER_SCHEMATHESIS names no schemathesis, `cargo xtask test` sets it",
        );
    };
    let (limiter, lab) = Limiter::idle();
    limiter.scope("acme");
    let _forwarder = forward(&lab, &limiter);
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{}", lab.server().name()))
        .arg(schemathesis)
        .arg("--config-file")
        .arg(repository().join("tests/schemathesis/schemathesis.toml"))
        .arg("run")
        .arg(repository().join("docs/openapi.json"))
        .arg("--url")
        .arg(format!("http://127.0.0.1:{PORT}"))
        // This operation ends the daemon, and is covered by a test of its own.
        .args(["--exclude-path", "/v1/detach"])
        .current_dir(lab.directory());
    if long() {
        command.args(["--max-time", "900"]);
    } else {
        // The seed is fixed, so each run sends the same requests.
        command.args(["--seed", "1", "--max-examples", "30"]);
    }
    let run = output(&mut command);
    let output = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success(),
        "{output}{}",
        String::from_utf8_lossy(&run.stderr)
    );
    // None of the requests has caused a panic or another problem in the daemon.
    let log = limiter.log();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(limiter.status()["health"], serde_json::json!([]));
}

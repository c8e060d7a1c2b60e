//! The control interface, held against its document (`docs/openapi.json`) by schemathesis.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use limiter_tests::{
    Lab, Limiter, eventually, long,
    process::{Process, output},
};

/// Where socat lets programs to the control socket that know TCP only; no limit covers it.
const PORT: u16 = 8080;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn schemathesis() -> PathBuf {
    env::var_os("LIMITER_SCHEMATHESIS").map_or_else(|| "schemathesis".into(), PathBuf::from)
}

/// The control socket on a port of the lab's own loopback, for as long as it is there.
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
fn the_control_interface_is_as_its_document_says() {
    let (limiter, lab) = Limiter::idle();
    limiter.scope("acme");
    let _forwarder = forward(&lab, &limiter);
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{}", lab.server().name()))
        .arg(schemathesis())
        .arg("--config-file")
        .arg(repository().join("tests/schemathesis/schemathesis.toml"))
        .arg("run")
        .arg(repository().join("docs/openapi.json"))
        .arg("--url")
        .arg(format!("http://127.0.0.1:{PORT}"))
        // It would end the daemon; a test of its own asks for it.
        .args(["--exclude-path", "/v1/detach"])
        .current_dir(lab.directory());
    if long() {
        command.args(["--max-time", "900"]);
    } else {
        // The same requests each time.
        command.args(["--seed", "1", "--max-examples", "30"]);
    }
    let run = output(&mut command);
    let told = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success(),
        "{told}{}",
        String::from_utf8_lossy(&run.stderr)
    );
    // It did ask, and the daemon is well.
    let log = limiter.log();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(limiter.status()["health"], serde_json::json!([]));
}

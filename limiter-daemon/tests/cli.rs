// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests the exit statuses and the messages of commands. The tests need neither root nor a daemon.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use std::{
    fs::File,
    io::Read as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use nix::pty::{Winsize, openpty};

fn limiter(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_limiter"))
        .args(arguments)
        .env_remove("LIMITER_SOCKET")
        .env_remove("RUST_LOG")
        .env_remove("JOURNAL_STREAM")
        .output()
        .unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limiter.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (directory, path)
}

#[test]
fn check_shows_the_effective_settings_of_a_valid_configuration() {
    let (_directory, path) = file("[attach]\ninterfaces = [\"lo\"]\nports = [80]\n");
    let output = limiter(&["check", "-c", &path]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("is valid"));
    assert!(stdout(&output).contains("profile"));
    let output = limiter(&["check", "-c", &path, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(json["guarded_ports"], serde_json::json!([80]));
    assert_eq!(json["tiers"][1]["limits"]["daily_quota"], 1000);
    assert_eq!(
        json["tiers"][1]["limits"]["connections"],
        serde_json::Value::Null
    );
    assert_eq!(json["policy"]["unknown_key"], "pass");
    assert_eq!(json["healing"]["recount_interval"], "30s");
    assert_eq!(json["accounting"]["ahead"], 10_000);
    assert_eq!(json["accounting"]["unattended"], "pass");
    assert_eq!(json["history"]["keep"], "400d");
    assert_eq!(
        json["control"],
        serde_json::json!({"group": "limiter", "admin_group": "limiter-admin"})
    );
}

#[test]
fn an_invalid_configuration_exits_with_2_and_names_every_place() {
    let text = "[attach]\ninterfaces = [\"lo\", \"nope0\"]\nports = [80]\n";
    let (_directory, path) = file(text);
    let output = limiter(&["check", "-c", &path]);
    assert_eq!(status(&output), 2);
    assert!(stderr(&output).contains(&format!("{path}:2:21: there is no interface `nope0`")));
    let (_directory, path) = file(&format!(
        "{}[policy]\nmode = \"x\"\n[tier.gold]\n",
        text.replace(", \"nope0\"", "")
    ));
    let output = limiter(&["check", "-c", &path]);
    assert_eq!(status(&output), 2);
    let message = stderr(&output);
    assert_eq!(message.lines().count(), 2, "{message}");
    assert!(message.contains(":5:8: `policy.mode = \"x\"`"), "{message}");
    assert!(
        message.contains("unknown section `tier` (did you mean `tiers`"),
        "{message}"
    );
    let output = limiter(&["run", "-c", &path]);
    assert_eq!(status(&output), 2, "{}", stderr(&output));
}

#[test]
fn a_named_file_must_exist() {
    for command in ["check", "run"] {
        let output = limiter(&[command, "-c", "/nonexistent/limiter.toml"]);
        assert_eq!(status(&output), 2);
        assert!(
            stderr(&output).contains("/nonexistent/limiter.toml"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn flags_can_replace_a_missing_default_file() {
    if Path::new("/etc/limiter/limiter.toml").exists() {
        eprintln!("skipped: this host has a configuration");
        return;
    }
    let output = limiter(&["check", "--interface", "lo", "--port", "8080"]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let output = limiter(&["check"]);
    assert_eq!(status(&output), 2);
    assert!(stderr(&output).contains("-c FILE"), "{}", stderr(&output));
    for (flag, value, missing) in [
        ("--interface", "lo", "--port"),
        ("--port", "80", "--interface"),
    ] {
        let output = limiter(&["run", flag, value]);
        assert_eq!(status(&output), 2);
        let message = stderr(&output);
        assert!(message.contains(&format!("; add {missing}")), "{message}");
    }
}

#[test]
fn a_glob_that_matches_nothing_is_only_a_warning() {
    let (_directory, path) = file("[attach]\ninterfaces = [\"lo\", \"nope*\"]\nports = [80]\n");
    let output = limiter(&["check", "-c", &path]);
    assert_eq!(status(&output), 0);
    assert!(
        stderr(&output).contains("no interface matches `nope*` now"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn without_a_daemon_commands_exit_with_3() {
    for arguments in [
        vec!["status"],
        vec!["usage", "--json"],
        vec!["scope", "add", "acme"],
        vec!["key", "list"],
        vec!["reload"],
        vec!["tier", "list"],
    ] {
        let output =
            limiter(&[&arguments[..], &["--socket", "/nonexistent/limiter.sock"]].concat());
        assert_eq!(status(&output), 3, "{arguments:?}");
        assert!(
            stderr(&output).contains("/nonexistent/limiter.sock"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn usage_errors_exit_with_2() {
    for arguments in [
        vec!["nonsense"],
        vec!["scope", "add", "a b"],
        vec!["scope", "add", ".."],
        vec!["scope", "show", "acme/."],
        vec!["limits", "set", "acme", "--note", "x"],
        vec!["limits", "set", "acme", "--rate", "fast", "--note", "x"],
        vec!["reset", "acme"],
    ] {
        let output = limiter(&arguments);
        assert_eq!(status(&output), 2, "{arguments:?}");
    }
}

#[test]
fn detach_succeeds_if_nothing_is_attached() {
    let output = limiter(&[
        "detach",
        "--socket",
        "/nonexistent/limiter.sock",
        "--pin-dir",
        "/nonexistent/pins",
    ]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("nothing"), "{}", stdout(&output));
}

#[test]
fn completions_and_help_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        let output = limiter(&["completions", shell]);
        assert_eq!(status(&output), 0);
        assert!(stdout(&output).contains("limiter"));
    }
    assert_eq!(status(&limiter(&["--help"])), 0);
    assert_eq!(status(&limiter(&["--version"])), 0);
}

#[test]
fn a_runtime_directory_determines_the_socket_regardless_of_the_environment() {
    let output = Command::new(env!("CARGO_BIN_EXE_limiter"))
        .args(["status", "--runtime-dir", "/nonexistent/other"])
        .env("LIMITER_SOCKET", "/nonexistent/env.sock")
        .output()
        .unwrap();
    assert_eq!(status(&output), 3);
    let message = stderr(&output);
    assert!(
        message.contains("/nonexistent/other/limiter.sock"),
        "{message}"
    );
}

#[test]
fn a_start_without_its_directories_or_its_socket_pins_nothing() {
    let (directory, config) = file("[attach]\ninterfaces = [\"lo\"]\nports = [80]\n");
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("file"), "").unwrap();
    let _other = std::os::unix::net::UnixListener::bind(at("live.sock")).unwrap();
    let (run, pins) = (at("run"), at("pins"));
    for (state, socket, wanted) in [
        (at("file"), at("a.sock"), "is not a directory"),
        (at("state"), at("file/a.sock"), "is not a directory"),
        (at("state"), at("live.sock"), "another daemon listens there"),
    ] {
        let output = limiter(&[
            "run",
            "-c",
            &config,
            "--state-dir",
            &state,
            "--runtime-dir",
            &run,
            "--pin-dir",
            &pins,
            "--socket",
            &socket,
        ]);
        let message = stderr(&output);
        assert_eq!(status(&output), 1, "{message}");
        assert_eq!(message.matches(wanted).count(), 1, "{message}");
        assert!(!Path::new(&pins).exists());
    }
}

/// Returns the output of a command on a terminal with `columns` columns.
fn on_terminal(columns: u16, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let size = Winsize {
        ws_row: 24,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let terminal = openpty(&size, None).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_limiter"))
        .args(arguments)
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(terminal.slave)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut printed = Vec::new();
    // The read ends with EIO when no process has the other end of the terminal open any more.
    let _eio = File::from(terminal.master).read_to_end(&mut printed);
    assert!(child.wait().unwrap().success());
    String::from_utf8(printed).unwrap()
}

#[test]
fn a_terminal_gets_colours_and_fitting_tables_and_a_pipe_gets_the_whole_text() {
    let (_directory, path) = file(
        "[attach]\ninterfaces = [\"lo\"]\nports = [80]\n[tiers.a-tier-with-a-rather-long-name]\nmode = \"observe\"\n",
    );
    let check = ["check", "-c", &path];
    // The table is at the end of the output.
    let table = |text: &str| -> Vec<String> {
        let lines: Vec<String> = text
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect();
        let head = lines
            .iter()
            .position(|line| line.contains("QUOTA"))
            .unwrap();
        lines[head..].to_vec()
    };
    let narrow = table(&on_terminal(60, &check, &[("NO_COLOR", "1")]));
    assert!(
        narrow.iter().all(|line| line.chars().count() <= 60),
        "{narrow:?}"
    );
    assert!(narrow.iter().any(|line| line.contains('…')), "{narrow:?}");
    let colourful = on_terminal(200, &check, &[]);
    assert!(
        colourful.contains("\u{1b}[1mTIER\u{1b}[0m"),
        "{colourful:?}"
    );
    assert!(
        colourful.contains("\u{1b}[33mobserve\u{1b}[0m"),
        "{colourful:?}"
    );
    let piped = stdout(&limiter(&check));
    let plain = on_terminal(200, &check, &[("NO_COLOR", "1")]).replace("\r\n", "\n");
    assert_eq!(plain, piped);
    assert!(piped.contains("a-tier-with-a-rather-long-name"));
    assert!(!piped.contains('\u{1b}') && !piped.contains('…'));
}

#[test]
fn likely_mistakes_are_warnings_on_standard_error_and_in_json() {
    let (_directory, path) = file("[attach]\ninterfaces = [\"lo\"]\nports = [443]\n");
    let output = limiter(&["check", "-c", &path]);
    assert_eq!(status(&output), 0);
    assert!(stderr(&output).contains("warning: port 443 usually carries TLS"));
    assert!(!stdout(&output).contains("TLS"));
    let json = stdout(&limiter(&["check", "-c", &path, "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["warnings"][0].as_str().unwrap().contains("port 443"));
}

#[test]
fn errors_suggest_the_nearest_word() {
    for (arguments, wanted) in [
        (&["stauts"][..], "'status'"),
        (&["key", "crate", "acme"], "'create'"),
        (&["usage", "--dat", "2026-11-24"], "'--date'"),
        (
            &["limits", "set", "a", "--daily-qouta", "5", "--note", "x"],
            "'--daily-quota'",
        ),
        (
            &["scope", "mode", "acme", "obsrve", "--note", "x"],
            "'observe'",
        ),
        (&["completions", "bsh"], "'bash'"),
    ] {
        let output = limiter(arguments);
        assert_eq!(status(&output), 2);
        assert!(stderr(&output).contains(wanted), "{}", stderr(&output));
    }
}

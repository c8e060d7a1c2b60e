// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

fn parses(line: &str) -> bool {
    Cli::try_parse_from(line.split(' ')).is_ok()
}

#[test]
fn all_documented_commands_are_accepted() {
    for line in [
        "limiter run -c f.toml --interface eth0 --interface lo --port 80 --port 81 --state-dir a --runtime-dir b --pin-dir c --detach-on-exit",
        "limiter check -c f.toml",
        "limiter status --json",
        "limiter --json status",
        "limiter scope add acme/web --tier gold",
        "limiter scope remove acme --with-keys",
        "limiter scope mode acme observe --note trial",
        "limiter scope mode acme tier --note over",
        "limiter key import acme",
        "limiter key import --csv keys.csv",
        "limiter key list acme/web --json",
        "limiter key check --json",
        "limiter limits set acme --daily-quota unlimited --rate 5/ms --note sync",
        "limiter limits set acme --burst 5 --until 7d --note sync",
        "limiter limits clear acme --note over",
        "limiter usage acme --date 2026-01-31",
        "limiter usage --date yesterday",
        "limiter key import --csv -",
        "limiter reset acme --note typo --socket /tmp/s",
        "limiter tier list",
        "limiter audit --since 7d --limit 5 --json",
        "limiter audit acme/web",
        "limiter explain acme/web --json",
        "limiter events",
        "limiter events --follow --limit 0 --json",
        "limiter top",
        "limiter top --by in_flight --filter acme",
        "limiter status --runtime-dir /run/other",
        "limiter --runtime-dir /run/other run",
        "limiter completions bash",
    ] {
        assert!(parses(line), "{line}");
    }
}

#[test]
fn invalid_commands_are_refused() {
    for line in [
        "limiter",
        "limiter run --port 70000",
        "limiter scope add a/b/c",
        "limiter key import",
        "limiter key import acme the-key-itself",
        "limiter key check the-key-itself",
        "limiter scope mode acme observe",
        "limiter scope mode acme lenient --note x",
        "limiter key import acme --csv keys.csv",
        "limiter limits set acme --note nothing",
        "limiter limits set acme --burst 5",
        "limiter limits set acme --rate 5 --note x",
        "limiter reset acme",
        "limiter usage --date tomorrow",
        "limiter audit --limit 0",
        "limiter explain",
        "limiter events --limit 1001",
        "limiter top --by colour",
        "limiter audit --since tomorrow",
    ] {
        assert!(!parses(line), "{line}");
    }
}

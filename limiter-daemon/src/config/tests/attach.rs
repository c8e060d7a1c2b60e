// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the section `[attach]`: interfaces, ports, command-line options, and mistakes.

use super::*;
use crate::kernel::interfaces;

#[test]
fn mistakes_in_attach_are_reported() {
    for (text, wanted) in [
        ("", "f.toml: `attach.interfaces` is missing or empty"),
        (
            "[attach]\nports = [80]\n",
            "f.toml:1:1: `attach.interfaces` is missing or empty: give at least one, like `interfaces = [\"eth0\"]`",
        ),
        (
            "[attach]\ninterfaces = []\nports = [80]\n",
            "`attach.interfaces` is missing or empty",
        ),
        (
            "[attach]\ninterfaces = [\"lo\"]\n",
            "`attach.ports` is missing or empty",
        ),
        (
            "[attach]\ninterfaces = [\"lo\"]\nports = [0]\n",
            "f.toml:3:10: `attach.ports[0] = 0` is not a port: give a number from 1 to 65535",
        ),
        (
            "[attach]\ninterfaces = [\"lo\"]\nports = [65536]\n",
            "`attach.ports[0] = 65536` is not a port",
        ),
        (
            "[attach]\ninterfaces = [\"lo\"]\nports = [80, 80]\n",
            "f.toml:3:14: `attach.ports[1]`: the port 80 is given twice",
        ),
        (
            "[attach]\ninterfaces = [\"lo\"]\nports = [\"80\"]\n",
            "must be a whole number, not a string",
        ),
        (
            "[attach]\ninterfaces = \"lo\"\nports = [80]\n",
            "`attach.interfaces` must be an array",
        ),
        (
            "[attach]\ninterfaces = [\"\"]\nports = [80]\n",
            "the name of an interface is empty",
        ),
        (
            "[attach]\ninterfaces = [\"lo\", \"lo\"]\nports = [80]\n",
            "the interface lo is given twice",
        ),
        (
            &format!(
                "[attach]\ninterfaces = [\"{}\"]\nports = [80]\n",
                "x".repeat(128)
            ),
            "at most 127 bytes",
        ),
        ("[attach]\norder = \"frist\"\n", "first"),
        (
            "[attach]\ninterfaces = [\"e[0\"]\nports = [80]\n",
            "`e[0` is not a valid glob",
        ),
        ("[attach\n", "f.toml:1:"),
        (
            "[attach]\nports = [80]\nports = [81]\n",
            "`ports` is given twice: keep one of them",
        ),
    ] {
        let messages = problems(text);
        assert!(
            messages.iter().any(|line| line.contains(wanted)),
            "{text}\nwanted {wanted}\nmessages {messages:#?}"
        );
    }
}

#[test]
fn the_command_line_takes_precedence_over_the_file() {
    let overlay = Overlay {
        interfaces: vec!["lo".to_owned(), "veth*".to_owned()],
        ports: vec![8080],
        ..Overlay::default()
    };
    let config = Config::parse(ATTACH, None, &overlay).unwrap();
    assert_eq!(config.attach.ports, [8080]);
    assert_eq!(config.attach.interfaces[1].text, "veth*");
    let alone = Config::parse("", None, &overlay).unwrap();
    assert_eq!(alone.attach, config.attach);
}

#[test]
fn names_must_exist_and_globs_may_match_nothing() {
    let interface = |name: &str, index| crate::kernel::netdev::Interface {
        name: name.to_owned(),
        alternative_names: match name {
            "eth0" => vec!["uplink-of-the-first-rack".to_owned()],
            _ => Vec::new(),
        },
        index,
        link_layer: crate::kernel::netdev::LinkLayer::Ethernet,
    };
    let present = [interface("eth0", 2), interface("lo", 1)];
    let text = "[attach]\ninterfaces = [\"lo\", \"eth*\", \"veth*\", \"eht0\"]\nports = [80]\n";
    let config = parse(text).unwrap();
    let found = interfaces::resolve(&config.attach, &present);
    assert_eq!(found.interfaces, present);
    assert_eq!(
        found.warnings[0].to_string(),
        "f.toml:2:29: no interface matches `veth*` now"
    );
    assert_eq!(
        found.problems[0].to_string(),
        "f.toml:2:38: there is no interface `eht0` (did you mean `eth0`?); interfaces here are eth0 (also uplink-of-the-first-rack), lo"
    );
    for (written, wanted) in [
        ("uplink-of-the-first-rack", None),
        ("uplink*", None),
        (
            "eth0@if7",
            Some("`@if7` is not a part of its name, write `eth0`"),
        ),
        ("eth0:", Some("write `eth0`")),
        ("eth0:1", Some("write `eth0`")),
        ("any", Some("write `*` for all interfaces")),
        ("all", Some("write `*`")),
        ("2", Some("that is its index, write `eth0`")),
        (
            "uplink-of-the-first-rak",
            Some("did you mean `uplink-of-the-first-rack`?"),
        ),
    ] {
        let text = format!("[attach]\ninterfaces = [\"eth0\", {written:?}]\nports = [80]\n");
        let found = interfaces::resolve(&parse(&text).unwrap().attach, &present);
        // A second name of the same interface must not add another entry.
        assert_eq!(found.interfaces, present[..1], "{written}");
        let message = found.problems.first().map(ToString::to_string);
        assert_eq!(
            message.is_some(),
            wanted.is_some(),
            "{written}: {message:?}"
        );
        let message = message.unwrap_or_default();
        assert!(message.contains(wanted.unwrap_or_default()), "{message}");
    }
}

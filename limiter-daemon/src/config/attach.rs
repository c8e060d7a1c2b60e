// SPDX-License-Identifier: MIT OR Apache-2.0

//! The section `[attach]`, with the interfaces and the server ports.

use super::{
    Overlay,
    document::{Document, Section},
};

/// The kind of hook that the programs are attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachHook {
    /// TCX links if the kernel supports them, and filters of a clsact qdisc otherwise.
    Auto,
    /// TCX links.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

/// The place of limiter's programs among other programs and filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Before all other programs, as far as the kernel permits. If another program is later
    /// attached in front of limiter's programs, limiter's programs are moved in front of it.
    First,
    /// After all programs that are attached already. Limiter's programs are not moved when other
    /// programs are attached later.
    Last,
}

/// The interfaces and ports whose traffic is limited.
#[derive(Debug, Clone, PartialEq)]
pub struct Attach {
    /// The names and globs of the interfaces. There is at least one.
    pub interfaces: Vec<InterfacePattern>,
    /// The guarded ports of servers. There is at least one. None is 0, and none appears twice.
    pub ports: Vec<u16>,
    /// See [`AttachHook`].
    pub hook: AttachHook,
    /// See [`Order`].
    pub order: Order,
}

/// The name of an interface, or a glob for such names.
#[derive(Debug, Clone, PartialEq)]
pub struct InterfacePattern {
    /// The text as it was written.
    pub text: String,
    /// The glob, or `None` for a literal name.
    pub glob: Option<glob::Pattern>,
    /// The place where the text was written, for error messages.
    pub origin: Origin,
}

/// The place of a setting, which is a line of the file or a command-line option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(pub String);

/// The maximum length of an alternative name in bytes, which is `ALTIFNAMSIZ` without the
/// terminating NUL (`include/uapi/linux/if.h`). Other names have at most 15 bytes.
const MAX_INTERFACE_NAME: usize = 127;

const HOOKS: [(&str, AttachHook); 3] = [
    ("auto", AttachHook::Auto),
    ("tcx", AttachHook::Tcx),
    ("clsact", AttachHook::Clsact),
];

const ORDERS: [(&str, Order); 2] = [("first", Order::First), ("last", Order::Last)];

impl Attach {
    pub(super) fn read<'a>(
        document: &mut Document<'a>,
        root: &Section<'a>,
        overlay: &Overlay,
    ) -> Self {
        let section = document.section(root, "attach");
        if let Some(section) = &section {
            document.known(section, &["interfaces", "ports", "hook", "order"]);
        }
        Self {
            interfaces: read_interfaces(document, section.as_ref(), overlay),
            ports: read_ports(document, section.as_ref(), overlay),
            hook: section
                .as_ref()
                .and_then(|section| document.choice(section, "hook", &HOOKS))
                .unwrap_or(AttachHook::Auto),
            order: section
                .as_ref()
                .and_then(|section| document.choice(section, "order", &ORDERS))
                .unwrap_or(Order::First),
        }
    }
}

fn read_interfaces<'a>(
    document: &mut Document<'a>,
    section: Option<&Section<'a>>,
    overlay: &Overlay,
) -> Vec<InterfacePattern> {
    let mut patterns: Vec<InterfacePattern> = Vec::new();
    let entries = section.and_then(|section| document.array(section, "interfaces"));
    let none_listed = entries.as_ref().is_none_or(Vec::is_empty);
    for entry in entries.unwrap_or_default() {
        let Some(text) = document.text_of(&entry) else {
            continue;
        };
        let origin = Origin(document.at(entry.span.start));
        match InterfacePattern::parse(&text, origin) {
            Ok(pattern) if patterns.iter().any(|other| other.text == pattern.text) => {
                document.problem(
                    &entry.span,
                    format!("`{}`: the interface {text} is given twice", entry.path),
                );
            }
            Ok(pattern) => patterns.push(pattern),
            Err(why) => document.problem(&entry.span, format!("`{}`: {why}", entry.path)),
        }
    }
    if !overlay.interfaces.is_empty() {
        patterns.clear();
        for text in &overlay.interfaces {
            match InterfacePattern::parse(text, Origin("--interface".to_owned())) {
                Ok(pattern) if patterns.iter().any(|other| other.text == pattern.text) => {}
                Ok(pattern) => patterns.push(pattern),
                Err(why) => document.command_line_problem(format!("--interface: {why}")),
            }
        }
    } else if none_listed {
        missing(
            document,
            section,
            "interfaces",
            "interfaces = [\"eth0\"]",
            "--interface eth0",
        );
    }
    patterns
}

fn read_ports<'a>(
    document: &mut Document<'a>,
    section: Option<&Section<'a>>,
    overlay: &Overlay,
) -> Vec<u16> {
    let mut ports: Vec<u16> = Vec::new();
    let entries = section.and_then(|section| document.array(section, "ports"));
    let none_listed = entries.as_ref().is_none_or(Vec::is_empty);
    for entry in entries.unwrap_or_default() {
        let Some(number) = document.number_of(&entry) else {
            continue;
        };
        match u16::try_from(number) {
            Ok(0) | Err(_) => {
                document.problem(
                    &entry.span,
                    format!(
                        "`{} = {number}` is not a port: give a number from 1 to 65535",
                        entry.path
                    ),
                );
            }
            Ok(port) if ports.contains(&port) => {
                document.problem(
                    &entry.span,
                    format!("`{}`: the port {port} is given twice", entry.path),
                );
            }
            Ok(port) => ports.push(port),
        }
    }
    if !overlay.ports.is_empty() {
        ports.clear();
        for &port in &overlay.ports {
            if port == 0 {
                document
                    .command_line_problem("--port 0 is not a port: give a number from 1 to 65535");
            } else if !ports.contains(&port) {
                ports.push(port);
            }
        }
    } else if none_listed {
        missing(document, section, "ports", "ports = [80]", "--port 80");
    }
    ports
}

fn missing(
    document: &mut Document<'_>,
    section: Option<&Section<'_>>,
    name: &str,
    example: &str,
    flag: &str,
) {
    let span = section.map_or(0..0, |section| section.span.clone());
    document.problem(
        &span,
        format!("`attach.{name}` is missing or empty: give at least one, like `{example}` under [attach] or `{flag}` on the command line"),
    );
}

impl InterfacePattern {
    fn parse(text: &str, origin: Origin) -> Result<Self, String> {
        if text.is_empty() {
            return Err(
                "the name of an interface is empty: write a name like \"eth0\" or a glob like \"veth*\""
                    .to_owned(),
            );
        }
        if text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '/')
        {
            return Err(format!(
                "`{text}` is not the name of an interface: write a name without white space and slashes"
            ));
        }
        if text.contains(['*', '?', '[']) {
            let glob = glob::Pattern::new(text)
                .map_err(|error| format!("`{text}` is not a valid glob: {}", error.msg))?;
            return Ok(Self {
                text: text.to_owned(),
                glob: Some(glob),
                origin,
            });
        }
        if text.len() > MAX_INTERFACE_NAME {
            return Err(format!(
                "`{text}` is not the name of an interface: a name has at most {MAX_INTERFACE_NAME} bytes"
            ));
        }
        Ok(Self {
            text: text.to_owned(),
            glob: None,
            origin,
        })
    }
}

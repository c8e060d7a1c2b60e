//! `[attach]`: which interfaces and which server ports.

use super::{
    Overlay,
    document::{Document, Section},
};

/// How programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachHook {
    /// TCX links where the kernel has them, clsact before.
    Auto,
    /// TCX links.
    Tcx,
    /// Filters of the clsact qdisc.
    Clsact,
}

/// Where traffic is limited.
#[derive(Debug, Clone, PartialEq)]
pub struct Attach {
    /// Interfaces by name or glob; never empty.
    pub interfaces: Vec<InterfacePattern>,
    /// Guarded server ports, each once, none 0; never empty.
    pub ports: Vec<u16>,
    /// See [`AttachHook`].
    pub hook: AttachHook,
}

/// An interface's name, or a glob over names.
#[derive(Debug, Clone, PartialEq)]
pub struct InterfacePattern {
    /// As written.
    pub text: String,
    /// `None` for a literal name.
    pub glob: Option<glob::Pattern>,
    /// Where it was said, for errors.
    pub origin: Origin,
}

/// Where a setting was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(pub String);

/// `IFNAMSIZ` less the closing NUL (`include/uapi/linux/if.h`).
const MAX_INTERFACE_NAME: usize = 15;

const HOOKS: [(&str, AttachHook); 3] = [
    ("auto", AttachHook::Auto),
    ("tcx", AttachHook::Tcx),
    ("clsact", AttachHook::Clsact),
];

impl Attach {
    pub(super) fn read<'a>(
        document: &mut Document<'a>,
        root: &Section<'a>,
        overlay: &Overlay,
    ) -> Self {
        let section = document.section(root, "attach");
        if let Some(section) = &section {
            document.known(section, &["interfaces", "ports", "hook"]);
        }
        Self {
            interfaces: read_interfaces(document, section.as_ref(), overlay),
            ports: read_ports(document, section.as_ref(), overlay),
            hook: section
                .as_ref()
                .and_then(|section| document.choice(section, "hook", &HOOKS))
                .unwrap_or(AttachHook::Auto),
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
                    format!("`{} = {number}` is not a port: from 1 to 65535", entry.path),
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
                document.command_line_problem("--port 0 is not a port: from 1 to 65535");
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
        format!("`attach.{name}` names none: give at least one, like `{example}` under [attach], or {flag}"),
    );
}

impl InterfacePattern {
    fn parse(text: &str, origin: Origin) -> Result<Self, String> {
        if text.is_empty() {
            return Err(
                "an interface's name is empty: write one like \"eth0\" or a glob like \"veth*\""
                    .to_owned(),
            );
        }
        if text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '/')
        {
            return Err(format!(
                "`{text}` is not an interface's name: no white space and no slash"
            ));
        }
        if text.contains(['*', '?', '[']) {
            let glob = glob::Pattern::new(text)
                .map_err(|error| format!("`{text}` is not a glob: {}", error.msg))?;
            return Ok(Self {
                text: text.to_owned(),
                glob: Some(glob),
                origin,
            });
        }
        if text.len() > MAX_INTERFACE_NAME {
            return Err(format!(
                "`{text}` is not an interface's name: at most {MAX_INTERFACE_NAME} bytes"
            ));
        }
        Ok(Self {
            text: text.to_owned(),
            glob: None,
            origin,
        })
    }

    /// Whether an interface called `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        self.glob
            .as_ref()
            .map_or(self.text == name, |glob| glob.matches(name))
    }
}

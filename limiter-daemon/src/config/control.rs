// SPDX-License-Identifier: MIT OR Apache-2.0

//! The section `[control]`, which states who may use the control socket.

use super::document::{Document, Section};

/// The maximum length of a group's name in bytes (groupadd(8)).
const MAX_NAME: usize = 32;

/// The section `[control]`. If the groups do not exist, only root and the daemon's own user may use
/// the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// The group of the socket. Its members may send requests that change nothing.
    pub group: String,
    /// The group whose members may also send requests that make changes. They have to be members of
    /// `group` too, because that group can open the socket.
    pub admin_group: String,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            group: "limiter".to_owned(),
            admin_group: "limiter-admin".to_owned(),
        }
    }
}

impl Control {
    pub(super) fn read<'a>(document: &mut Document<'a>, root: &Section<'a>) -> Self {
        let base = Self::default();
        let Some(section) = document.section(root, "control") else {
            return base;
        };
        document.known(&section, &["group", "admin_group"]);
        let mut group = |name: &str, default: String| {
            let Some((text, entry)) = document.string(&section, name) else {
                return default;
            };
            if is_group(&text) {
                return text;
            }
            let message = format!(
                "`{} = \"{text}\"` is not the name of a group: write 1 to {MAX_NAME} letters, digits, dots, underscores or hyphens, which are not a number",
                entry.path
            );
            document.problem(&entry.span, message);
            default
        };
        Self {
            group: group("group", base.group),
            admin_group: group("admin_group", base.admin_group),
        }
    }
}

/// Returns whether `text` can be the name of a group. Numbers are excluded, because some tools
/// treat a number as the id of a group, and others treat it as the name.
fn is_group(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !text.bytes().all(|b| b.is_ascii_digit())
        && !text.starts_with('-')
}

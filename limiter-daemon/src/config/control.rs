//! `[control]`: who may use the control socket.

use super::document::{Document, Section};

/// Longest name of a group (`useradd(8)`: 32).
const MAX_NAME: usize = 32;

/// The whole section. Groups need not exist: then root alone may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// The socket's group: its members may read.
    pub group: String,
    /// Members may make changes too.
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
                "`{} = \"{text}\"` is not a group's name: 1 to {MAX_NAME} letters, digits, dots, underscores or hyphens, not a number",
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

/// Whether a group can have that name. A number would be taken for its id by some tools and for
/// its name by others.
fn is_group(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !text.bytes().all(|b| b.is_ascii_digit())
        && !text.starts_with('-')
}

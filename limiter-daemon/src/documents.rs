// SPDX-License-Identifier: MIT OR Apache-2.0

//! Compares the documents that are generated from the code with those in the repository.

use std::{env, fs, path::Path};

use serde_json::Value;

use crate::domain::plain::escaped_json;

/// The environment variable that causes documents to be written rather than compared.
const WRITE: &str = "LIMITER_WRITE_DOCS";

/// Asserts that the content of the file `docs/NAME` is `value`.
pub(crate) fn assert_committed(name: &str, value: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name);
    let mut text = escaped_json(&serde_json::to_string_pretty(value).unwrap());
    text.push('\n');
    if env::var_os(WRITE).is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text,
        "docs/{name} differs from what the code generates: run `{WRITE}=1 cargo test -p limiter-daemon` to update it"
    );
}

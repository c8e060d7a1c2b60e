//! Documents in the repository that are made from the code.

use std::{env, fs, path::Path};

use serde_json::Value;

/// Set: documents are written anew instead of compared.
const WRITE: &str = "LIMITER_WRITE_DOCS";

/// Asserts that `docs/NAME` is `value`.
pub(crate) fn assert_committed(name: &str, value: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name);
    let mut text = serde_json::to_string_pretty(value).unwrap();
    text.push('\n');
    if env::var_os(WRITE).is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text,
        "docs/{name} is not what this code makes: `{WRITE}=1 cargo test -p limiter-daemon` writes it anew"
    );
}

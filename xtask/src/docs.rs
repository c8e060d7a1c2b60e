// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask docs`: builds the book from `docs/`, and checks its links.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, ensure};

use crate::{
    context::Context,
    links::{self, Book},
    process, tools,
};

/// The directory of the pages, and the documents outside that directory that link to the pages.
const SOURCE: &str = "docs";
const OUTSIDE: [&str; 5] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
];

pub fn run(context: &Context) -> anyhow::Result<()> {
    let output = context.target_dir().join("book");
    process::output(
        Command::new(tools::mdbook()?)
            .arg("build")
            .arg(context.root())
            .arg("--dest-dir")
            .arg(&output),
    )?;
    let book = Book::read(&output)?;
    let mut wrong = book.broken();
    for page in pages(&context.root().join(SOURCE))? {
        if !book.has(&links::html_of(&page)) {
            wrong.push(format!(
                "{SOURCE}/{page} is not a chapter: add it to {SOURCE}/SUMMARY.md"
            ));
        }
    }
    for document in OUTSIDE {
        let path = context.root().join(document);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        for link in links::in_markdown(&text) {
            if !target_exists(context.root(), &book, link) {
                wrong.push(format!("{document}: the target of {link} does not exist"));
            }
        }
    }
    ensure!(wrong.is_empty(), "in the documents:\n{}", wrong.join("\n"));
    println!("{}", output.join("index.html").display());
    Ok(())
}

/// Returns the names of the pages. Each page must be a chapter of the book.
fn pages(directory: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    let shown = directory.display();
    for entry in fs::read_dir(directory).with_context(|| format!("read {shown}"))? {
        let name = entry.with_context(|| format!("read {shown}"))?.file_name();
        let name = name.to_string_lossy().into_owned();
        if name.ends_with(".md") && name != "SUMMARY.md" {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Returns whether the target of a link in a document outside the book exists. The target may be a
/// page, a heading of a page, or another file.
fn target_exists(root: &Path, book: &Book, link: &str) -> bool {
    if links::is_external(link) {
        return true;
    }
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    match path
        .strip_prefix("docs/")
        .filter(|page| page.ends_with(".md"))
    {
        Some(page) => book.has_heading(&links::html_of(page), heading),
        None => heading.is_empty() && root.join(path).exists(),
    }
}

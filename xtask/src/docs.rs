//! `cargo xtask docs`: the book of `docs/`, built and its links followed.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, bail};

use crate::{
    cache,
    context::Context,
    links::{self, Book},
    process,
};

/// The pages' directory, and documents beside it that lead into it.
const SOURCE: &str = "docs";
const OUTSIDE: [&str; 3] = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"];

pub fn run(context: &Context, args: &[String]) -> anyhow::Result<()> {
    if let Some(unknown) = args.first() {
        bail!("docs takes no arguments, and {unknown:?} is one");
    }
    let output = context.target_dir().join("book");
    process::output(
        Command::new(cache::mdbook()?)
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
                "{SOURCE}/{page} is no chapter: add it to {SOURCE}/SUMMARY.md"
            ));
        }
    }
    for document in OUTSIDE {
        let path = context.root().join(document);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        for link in links::in_markdown(&text) {
            if !leads_somewhere(context.root(), &book, link) {
                wrong.push(format!("{document}: {link} leads nowhere"));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("in the documents:\n{}", wrong.join("\n"));
    }
    println!("{}", output.join("index.html").display());
    Ok(())
}

/// The names of the pages, of which each is to be a chapter.
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

/// Whether a link of a document beside the pages leads to a page, a heading of one, or a file.
fn leads_somewhere(root: &Path, book: &Book, link: &str) -> bool {
    if links::is_elsewhere(link) {
        return true;
    }
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    match path
        .strip_prefix("docs/")
        .filter(|page| page.ends_with(".md"))
    {
        Some(page) => book.leads_to(&links::html_of(page), heading),
        None => heading.is_empty() && root.join(path).exists(),
    }
}

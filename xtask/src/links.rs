// SPDX-License-Identifier: MIT OR Apache-2.0

//! Checks the links of the book. Links to other sites are not checked, because that would need the
//! network.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// The chapters in the directory that mdbook has written.
#[derive(Debug, Default)]
pub struct Book {
    directory: PathBuf,
    pages: BTreeMap<String, Page>,
}

#[derive(Debug)]
struct Page {
    ids: BTreeSet<String>,
    links: Vec<String>,
}

impl Page {
    fn parse(html: &str) -> Self {
        Self {
            ids: attributes(html, "id").map(str::to_owned).collect(),
            links: ["href", "src"]
                .into_iter()
                .flat_map(|name| attributes(html, name))
                .map(str::to_owned)
                .collect(),
        }
    }
}

/// Returns the name of the page that mdbook makes from a chapter.
pub fn html_of(page: &str) -> String {
    match page {
        "README.md" => "index.html".to_owned(),
        _ => page.replace(".md", ".html"),
    }
}

/// Returns whether a link leads to another site.
pub fn is_external(link: &str) -> bool {
    link.contains(':')
}

impl Book {
    /// Reads the pages of a book from the directory that mdbook has written.
    ///
    /// # Errors
    /// Returns an error if a page cannot be read.
    pub fn read(directory: &Path) -> anyhow::Result<Self> {
        let mut book = Self {
            directory: directory.to_owned(),
            pages: BTreeMap::new(),
        };
        let shown = directory.display();
        for entry in fs::read_dir(directory).with_context(|| format!("read {shown}"))? {
            let path = entry.with_context(|| format!("read {shown}"))?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            // The links of the error page are not checked, because they are relative to the root of
            // a site.
            if name.ends_with(".html") && name != "404.html" {
                let html = fs::read_to_string(&path)
                    .with_context(|| format!("read {}", path.display()))?;
                book.pages.insert(name, Page::parse(&html));
            }
        }
        Ok(book)
    }

    /// Returns whether the book has the page `page`.
    pub fn has(&self, page: &str) -> bool {
        self.pages.contains_key(page)
    }

    /// Returns whether the page exists and has the heading. An empty heading stands for the page
    /// itself.
    pub fn has_heading(&self, page: &str, heading: &str) -> bool {
        self.pages
            .get(page)
            .is_some_and(|page| heading.is_empty() || page.ids.contains(heading))
    }

    /// Returns the links whose target does not exist, each with the page that contains it.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (name, page) in &self.pages {
            for link in page.links.iter().filter(|link| !is_external(link)) {
                let (path, heading) = link.split_once('#').unwrap_or((link, ""));
                let target = if path.is_empty() { name } else { path };
                let exists = if target.ends_with(".html") {
                    self.has_heading(target, heading)
                } else {
                    heading.is_empty() && self.directory.join(target).exists()
                };
                if !exists {
                    broken.push(format!("{name}: the target of {link} does not exist"));
                }
            }
        }
        broken
    }
}

/// Returns the values of an attribute in HTML that mdbook has written. mdbook encloses the values
/// in double quotes, and escapes double quotes in text.
fn attributes<'a>(html: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let start = format!(" {name}=\"");
    let mut rest = html;
    std::iter::from_fn(move || {
        let (value, after) = rest.split_once(&start)?.1.split_once('"')?;
        rest = after;
        Some(value)
    })
}

/// Returns the targets of inline links in Markdown.
pub fn in_markdown(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(pages: [(&str, &str); 2]) -> Book {
        Book {
            directory: PathBuf::from("/does-not-exist"),
            pages: pages
                .into_iter()
                .map(|(name, html)| (name.to_owned(), Page::parse(html)))
                .collect(),
        }
    }

    #[test]
    fn links_to_existing_pages_and_headings_are_right() {
        let book = book([
            (
                "a.html",
                "<a href=\"b.html#x\">x</a> <a href=\"https://example.com/\">y</a>",
            ),
            (
                "b.html",
                "<h2 id=\"x\">X</h2> <a class=\"z\" href=\"#x\">x</a>",
            ),
        ]);
        assert_eq!(book.broken(), [""; 0]);
    }

    #[test]
    fn links_without_a_target_are_found() {
        let book = book([
            (
                "a.html",
                "<a href=\"c.html\">c</a> <a href=\"b.html#y\">y</a> <img src=\"d.png\">",
            ),
            ("b.html", "<h2 id=\"x\">X</h2>"),
        ]);
        let expected = ["c.html", "b.html#y", "d.png"];
        assert_eq!(
            book.broken(),
            expected.map(|link| format!("a.html: the target of {link} does not exist"))
        );
    }

    #[test]
    fn the_targets_in_markdown_stand_in_parentheses_after_brackets() {
        let links: Vec<&str> = in_markdown("[a](b.md#c), not (this), `x`, [d](e)").collect();
        assert_eq!(links, ["b.md#c", "e"]);
    }
}

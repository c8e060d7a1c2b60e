// SPDX-License-Identifier: MIT OR Apache-2.0

//! `limiter key import --csv`, and its progress bar.

use std::{
    convert::Infallible,
    fs,
    io::{self, IsTerminal as _, Read as _},
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{self, Poll},
    time::Duration,
};

use anyhow::Context as _;
use hyper::{
    Method,
    body::{Body, Bytes, Frame, SizeHint},
};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use super::{
    client::{Client, empty},
    exit::Failure,
    keys,
};
use crate::protocol::views::{ImportPhase, ImportView, Imported};

/// The path of the import. The client sends the file with POST, and requests the progress with GET.
const PATH: &str = "/v1/keys/import-csv";
/// The number of bytes that are written to the socket at a time.
const PIECE: usize = 256 * 1024;
/// The time between two requests for the progress.
const LOOK: Duration = Duration::from_millis(100);

/// The file name that means standard input.
const STDIN: &str = "-";

fn read(file: &Path) -> io::Result<Vec<u8>> {
    if file != Path::new(STDIN) {
        return fs::read(file);
    }
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;
    Ok(text)
}

pub(super) fn import(client: &Client, file: &Path, json: bool) -> Result<(), Failure> {
    let text = read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let body = CountedBody::new(text);
    let pending = PendingImport {
        sent: Arc::clone(&body.sent),
        all: body.rest.len() as u64,
    };
    let bar = Bar::on_terminal(json);
    let imported: Imported = client.run(async {
        let answer = client.exchange(Method::POST, PATH, "text/csv", body);
        let Some(bar) = &bar else {
            return answer.await;
        };
        tokio::select! {
            answer = answer => answer,
            never = pending.show(client, bar) => match never {},
        }
    })?;
    // The bar is removed before the result is printed.
    drop(bar);
    keys::imported(&imported, json)
}

/// A body that is sent in pieces, and that counts the bytes that have been sent.
struct CountedBody {
    rest: Bytes,
    sent: Arc<AtomicU64>,
}

impl CountedBody {
    fn new(text: Vec<u8>) -> Self {
        Self {
            rest: Bytes::from(text),
            sent: Arc::default(),
        }
    }
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let piece = self.rest.len().min(PIECE);
        self.sent.fetch_add(piece as u64, Relaxed);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// An import request that waits for its response.
struct PendingImport {
    sent: Arc<AtomicU64>,
    all: u64,
}

impl PendingImport {
    /// Shows how much of the file has been sent. After all of the file has been sent, shows the
    /// daemon's progress. This future never completes.
    async fn show(&self, client: &Client, bar: &Bar) -> Infallible {
        loop {
            let sent = self.sent.load(Relaxed);
            if sent < self.all {
                bar.show("sending", sent, self.all);
            } else if let Some(view) = progress(client).await {
                let what = match view.phase {
                    ImportPhase::Reading => "checking",
                    ImportPhase::Storing => "storing",
                    ImportPhase::Entering => "entering",
                    ImportPhase::Committing => "committing",
                };
                bar.show(what, view.done, view.total);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Returns the daemon's progress, or `None` if it cannot be read. A failure to read the progress
/// must not make the import fail.
async fn progress(client: &Client) -> Option<ImportView> {
    let answer = client.exchange(Method::GET, PATH, "application/json", empty());
    let (_, body) = answer.await.ok()?;
    serde_json::from_slice(&body).ok()?
}

/// The progress bar on standard error.
struct Bar(ProgressBar);

impl Bar {
    /// Makes a bar if standard error is a terminal and `--json` is not given.
    fn on_terminal(json: bool) -> Option<Self> {
        if json || !io::stderr().is_terminal() {
            return None;
        }
        let style = ProgressStyle::with_template("{msg:>10} [{bar:40}] {percent:>3}%")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(0)
            .with_style(style.progress_chars("=> "))
            .with_finish(ProgressFinish::AndClear);
        Some(Self(bar))
    }

    /// Shows that `done` of `total` units of work in the phase `what` are complete. A `total` of 0
    /// means that the phase does not report its progress. The bar is then full.
    fn show(&self, what: &'static str, done: u64, total: u64) {
        let (done, total) = if total == 0 { (1, 1) } else { (done, total) };
        self.0.set_length(total);
        self.0.set_position(done);
        self.0.set_message(what);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn a_counted_body_is_whole_and_counts_the_bytes_sent() {
        let text: Vec<u8> = (0..=255).cycle().take(3 * PIECE + 5).collect();
        let body = CountedBody::new(text.clone());
        let (sent, length) = (Arc::clone(&body.sent), body.size_hint().exact());
        assert_eq!((sent.load(Relaxed), length), (0, Some(text.len() as u64)));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let whole = runtime.block_on(body.collect()).unwrap().to_bytes();
        assert!(whole == text);
        assert_eq!(sent.load(Relaxed), text.len() as u64);
    }
}

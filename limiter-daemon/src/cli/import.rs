//! `limiter key import --csv`, and how far it is.

use std::{
    convert::Infallible,
    fs,
    io::{self, IsTerminal as _},
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
    render,
};
use crate::api::{ImportPhase, ImportView, Imported};

/// Where files of keys go, and where to ask how far the one at work is.
const PATH: &str = "/v1/keys/import-csv";
/// Bytes that are handed to the socket at a time.
const PIECE: usize = 256 * 1024;
/// Between two looks at the progress.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn import(client: &Client, file: &Path, json: bool) -> Result<(), Failure> {
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let body = Counted::new(text);
    let watched = Watched {
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
            never = watched.show(client, bar) => match never {},
        }
    })?;
    // Off the screen before anything else is on it.
    drop(bar);
    render::imported(&imported, json)
}

/// A body that goes out in pieces and counts them.
struct Counted {
    rest: Bytes,
    sent: Arc<AtomicU64>,
}

impl Counted {
    fn new(text: Vec<u8>) -> Self {
        Self {
            rest: Bytes::from(text),
            sent: Arc::default(),
        }
    }
}

impl Body for Counted {
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

/// An import whose answer has not come yet.
struct Watched {
    sent: Arc<AtomicU64>,
    all: u64,
}

impl Watched {
    /// Shows what has been sent, then what the daemon says of it, for as long as it is let.
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

/// A daemon that does not say how far it is, or not in time, is no reason to fail.
async fn progress(client: &Client) -> Option<ImportView> {
    let answer = client.exchange(Method::GET, PATH, "application/json", empty());
    let (_, body) = answer.await.ok()?;
    serde_json::from_slice(&body).ok()?
}

/// The bar, on standard error.
struct Bar(ProgressBar);

impl Bar {
    /// One for people who are looking: nothing for `--json`, and nothing in a file.
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

    /// Shows that so much is done; a `total` of 0 says that nothing is left to be counted.
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
    fn a_counted_body_is_whole_and_knows_what_has_gone_out() {
        let text: Vec<u8> = (0..=255).cycle().take(3 * PIECE + 5).collect();
        let body = Counted::new(text.clone());
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

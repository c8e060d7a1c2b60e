// SPDX-License-Identifier: MIT OR Apache-2.0

//! `limiter top`: the busiest scopes, live.

mod screen;

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::Context as _;
use crossterm::event::{Event, EventStream};
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::Method;
use ratatui::DefaultTerminal;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    args::TopArgs,
    client::{Client, empty, escape},
    exit::Failure,
    render::json,
    terminal,
};
use crate::protocol::insight::{TopColumn, TopView};
use screen::{Next, Screen};

/// The time between two requests to the daemon.
const EVERY: Duration = Duration::from_secs(1);
/// The time limit for a response, after which the screen reports that the daemon has not responded.
const TIMEOUT: Duration = Duration::from_secs(3);

/// A request that waits for its response.
type PendingRequest = JoinHandle<Result<TopView, Failure>>;

pub(super) fn top(client: Client, args: &TopArgs, as_json: bool) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let path = path(args.by, &args.filter, 50);
    if as_json {
        return json(&runtime.block_on(ask(client, path))?);
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "`limiter top` needs a terminal: use `limiter top --json` to print the figures once, or `limiter usage` for all scopes"
                .to_owned(),
        ));
    }
    // The first request is sent before anything is drawn. If the daemon cannot be reached, the
    // command therefore fails in the same way as other commands.
    let first = runtime.block_on(ask(client.clone(), path))?;
    let mut screen = Screen::new(args.by, args.filter.clone(), terminal::has_colours());
    screen.take(first);
    // From here on, even a panic restores the terminal.
    let terminal = ratatui::try_init().context("cannot draw on this terminal")?;
    let done = runtime.block_on(run(terminal, screen, &client));
    ratatui::restore();
    done
}

async fn run(
    mut terminal: DefaultTerminal,
    mut screen: Screen,
    client: &Client,
) -> Result<(), Failure> {
    let on = |kind| signal(kind).context("cannot wait for signals");
    let mut terminate = on(SignalKind::terminate())?;
    let mut interrupt = on(SignalKind::interrupt())?;
    let mut hangup = on(SignalKind::hangup())?;
    let mut events = EventStream::new();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked: Option<PendingRequest> = None;
    loop {
        // Only cells that have changed are written to the terminal.
        terminal
            .draw(|frame| screen.draw(frame))
            .context("cannot draw")?;
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            event = events.next() => {
                let next = match event {
                    Some(Ok(Event::Key(key))) => screen.key(key),
                    // The event may report a new size of the terminal, which takes effect when the
                    // screen is drawn again.
                    Some(Ok(_)) => Next::Draw,
                    Some(Err(_)) | None => Next::Quit,
                };
                match next {
                    Next::Quit => return Ok(()),
                    Next::Ask => ticks.reset_immediately(),
                    Next::Draw => continue,
                }
                if let Some(outdated) = asked.take() {
                    outdated.abort();
                }
            }
            _ = ticks.tick(), if asked.is_none() && !screen.is_paused() => {
                let rows = terminal.size().context("cannot draw")?.height;
                let path = path(screen.by(), screen.filter(), rows.into());
                asked = Some(tokio::spawn(ask(client.clone(), path)));
            }
            answer = answer(&mut asked) => {
                asked = None;
                match answer? {
                    Ok(view) if !screen.is_paused() => screen.take(view),
                    Ok(_late) => {}
                    Err(failure) => screen.note_failure(&failure),
                }
            }
        }
    }
}

/// Returns the daemon's response to the pending request. Waits forever if there is none.
async fn answer(asked: &mut Option<PendingRequest>) -> anyhow::Result<Result<TopView, Failure>> {
    match asked {
        Some(asked) => Ok(asked.await?),
        None => std::future::pending().await,
    }
}

fn path(by: TopColumn, filter: &str, limit: usize) -> String {
    let by = serde_json::to_value(by).unwrap_or_default();
    let by = by.as_str().unwrap_or_default().to_owned();
    format!("/v1/top?by={by}&limit={limit}&filter={}", escape(filter))
}

async fn ask(client: Client, path: String) -> Result<TopView, Failure> {
    let exchange = async {
        let asked = client.begin(Method::GET, &path, "application/json", empty());
        let (response, connection) = asked.await?;
        let status = response.status();
        let body = response.into_body().collect().await;
        connection.abort();
        let body = body.context("the daemon closed the connection")?;
        client.read(status, &body.to_bytes())
    };
    timeout(TIMEOUT, exchange).await.unwrap_or_else(|_| {
        let seconds = TIMEOUT.as_secs();
        Err(Failure::Unreachable(format!(
            "the daemon did not respond within {seconds} seconds"
        )))
    })
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The recurring tasks of a host in a fleet: calls for leases, heartbeats, and announcements.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use limiter_fleet::client::{Announcement, Client, Error};
use tokio::time::MissedTickBehavior;

use super::{describe::HostText, hosts::differences, link::FleetLink, sync::sync};
use crate::engine::{pulse::TICK, shared::Shared, state::Engine};

/// The largest number of calls that are sent at once. Sending them takes a fraction of a second.
const CALLS: usize = 20_000;
/// The time after which the task that sends calls looks for more, in any case.
const LOOK: Duration = Duration::from_secs(1);
/// The number of heartbeats from one list of the hosts to the next.
const HOSTS_EVERY: u64 = 2;
/// The number of heartbeats from one description of the servers to the next.
const SERVERS_EVERY: u64 = 10;
/// The difference of clocks from which on it is a problem.
const CLOCK_LIMIT_MS: i64 = 1_000;
/// The time without announcements after which the connection for them is made again.
const QUIET: Duration = Duration::from_secs(10);
/// The time between two looks for the result of the first heartbeat.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// The longest time for which the daemon goes on giving back leases when it ends.
const GIVE_BACK_TIME: Duration = Duration::from_secs(2);

/// Sends calls for leases, until the daemon ends.
pub(crate) async fn exchange(shared: Arc<Shared>, link: Arc<FleetLink>) {
    let mut client = link.another();
    // The first heartbeat shows whether this is the engine of this host's fleet.
    while !link.news().is_known() {
        tokio::time::sleep(FIRST_LOOK).await;
    }
    loop {
        send_due_calls(&shared, &link, &mut client).await;
        let state = with(&shared, |engine| {
            (engine.next_fleet_call(), engine.fleet_notification())
        });
        let (next, woken) = state.await.unwrap_or_default();
        let latest = Instant::now() + LOOK;
        let next = next.map_or(latest, |next| next.min(latest));
        let woken = async {
            match &woken {
                Some(woken) => woken.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            () = woken => {}
        }
    }
}

/// Sends the calls that are due, and records their results.
async fn send_due_calls(shared: &Arc<Shared>, link: &Arc<FleetLink>, client: &mut Client) {
    loop {
        let calls = with(shared, |engine| engine.fleet_calls(CALLS)).await;
        let Some(calls) = calls.filter(|calls| !calls.is_empty()) else {
            return;
        };
        let began = Instant::now();
        let (results, error) = client.lease(&calls).await;
        let seconds = began.elapsed().as_secs_f64();
        let unconfirmed = match &error {
            Some(Error::Unconfirmed(_)) => {
                results.iter().filter(|result| result.is_err()).count() as u64
            }
            _ => 0,
        };
        if let Some(error) = error {
            log::debug!("fleet: {error}");
        }
        let host = link.identity().id.clone();
        let noted = with(shared, move |engine| {
            engine.note_exchange(seconds, unconfirmed);
            let (recalls, noted) = engine.note_results(&calls, results, &host);
            if let Err(error) = noted {
                engine.note_health("store", Some(error.message));
            }
            recalls
        });
        let recalls = noted.await.unwrap_or_default();
        if !recalls.is_empty()
            && let Err(error) = client.recall(&recalls).await
        {
            // The engine asks for the recall again.
            log::debug!("fleet: a recall could not be sent: {error}");
        }
    }
}

/// Gives back all leases, because the daemon ends.
pub(crate) async fn give_back(shared: &Arc<Shared>) {
    let Some(link) = shared.fleet() else { return };
    let given = with(shared, Engine::give_back).await;
    if let Some(Err(error)) = given {
        log::error!("cannot give back leases: {}", error.message);
        return;
    }
    let mut client = link.another();
    let until = Instant::now() + GIVE_BACK_TIME;
    let give = async {
        while with(shared, Engine::has_fleet_calls).await == Some(true) && Instant::now() < until {
            send_due_calls(shared, &link, &mut client).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(GIVE_BACK_TIME, give).await.is_err() {
        log::warn!(
            "the engine does not answer: the part of the leases that this host has not used stays leased today"
        );
    }
}

/// Sends a heartbeat each second, until the daemon ends.
pub(crate) async fn beats(shared: Arc<Shared>, link: Arc<FleetLink>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count = 0u64;
    loop {
        ticks.tick().await;
        // A heartbeat names the incarnation of one server only, and none if the engine is empty.
        let is_partial = link.is_cluster() || link.news().is_empty;
        if (is_partial || count.is_multiple_of(SERVERS_EVERY)) && link.describe().await {
            with(&shared, Engine::report_leases).await;
        }
        beat(&shared, &link, count.is_multiple_of(HOSTS_EVERY)).await;
        // The health of the daemon has the error.
        let _synced = sync(&shared, &link).await;
        count += 1;
    }
}

/// Sends a heartbeat, or looks for a fleet if this host belongs to none.
pub(crate) async fn beat(shared: &Arc<Shared>, link: &Arc<FleetLink>, wants_hosts: bool) {
    let state = with(shared, |engine| {
        (engine.fleet_id(), engine.configuration_digest())
    });
    let Some((fleet, own)) = state.await else {
        return;
    };
    let Some(fleet) = fleet else {
        super::join::look(shared, link).await;
        return;
    };
    let text = HostText::of(shared, link).await;
    let sent_at = Utc::now();
    let known = link.news().recalls.upto();
    let beat = link.beat(&fleet, &text, known, wants_hosts).await;
    let now = Utc::now();
    let mut problem = None;
    let reports;
    let mut recalls = Vec::new();
    let mut suspended = None;
    let mut sentences = Vec::new();
    let answered = {
        let mut news = link.news();
        match &beat {
            Ok(beat) => {
                reports = news.incarnation != beat.incarnation;
                news.incarnation.clone_from(&beat.incarnation);
                news.is_empty = false;
                news.version = beat.version;
                news.answered_at = Some(now);
                news.sent_at = Some(sent_at);
                news.clock_ms = difference(sent_at, now, beat.time);
                recalls = news.recalls.note_answer(known, beat.recall, &beat.recalls);
                if wants_hosts {
                    sentences = differences(
                        (&news.hosts, news.listed_at),
                        (&beat.hosts, beat.time),
                        &own,
                    );
                    news.hosts.clone_from(&beat.hosts);
                    news.listed_at = beat.time;
                }
                if news.clock_ms.abs() > CLOCK_LIMIT_MS {
                    problem = Some(clock_problem(news.clock_ms));
                }
                true
            }
            Err(error) => {
                problem = Some(error.to_string());
                suspended = suspends(error).then(|| error.to_string());
                // An engine that has lost its registry still grants leases. It does not know those
                // of this host.
                let is_empty = matches!(error, Error::NoFleet);
                reports = is_empty && !news.is_empty;
                news.is_empty = is_empty;
                is_empty
            }
        }
    };
    link.news().problem = beat.as_ref().err().map(ToString::to_string);
    let hosts = beat
        .ok()
        .filter(|_| wants_hosts)
        .map(|beat| beat.hosts.len());
    let host = link.identity().id.clone();
    for sentence in sentences {
        log::info!("fleet: {sentence}");
        shared.events().add_health(format!("fleet: {sentence}"));
    }
    with(shared, move |engine| {
        engine.note_beat(answered, suspended);
        if let Some(hosts) = hosts {
            engine.set_fleet_hosts(hosts as u64);
        }
        if reports {
            engine.report_leases();
        }
        if let Err(error) = engine.note_recalls(&recalls, &host) {
            problem.get_or_insert(error.message);
        }
        let problem = problem.or_else(|| engine.unconfirmed_problem(Instant::now()));
        engine.note_health("fleet", problem);
    })
    .await;
}

/// Returns whether this host must not use its leases after an error.
fn suspends(error: &Error) -> bool {
    matches!(error, Error::OtherFleet(_) | Error::Duplicate)
}

/// Returns the time by which this host's clock is ahead of the engine's, in milliseconds. The
/// engine read its clock between `sent_at` and `answered_at`.
fn difference(sent_at: DateTime<Utc>, answered_at: DateTime<Utc>, engine: Duration) -> i64 {
    let engine = i64::try_from(engine.as_millis()).unwrap_or(i64::MAX);
    let middle = (sent_at.timestamp_millis() + answered_at.timestamp_millis()) / 2;
    middle - engine
}

fn clock_problem(clock_ms: i64) -> String {
    let way = if clock_ms > 0 { "ahead of" } else { "behind" };
    format!(
        "the clock of this host is {} ms {way} that of the engine: days begin at different times",
        clock_ms.abs()
    )
}

/// Follows the announcements, until the daemon ends.
pub(crate) async fn listen(shared: Arc<Shared>, link: Arc<FleetLink>) {
    let mut client = link.another();
    let mut has_missed = false;
    loop {
        match client.subscribe().await {
            Ok(mut announcements) => {
                // The announcement that a server learns which leases there are may have been
                // missed.
                if std::mem::take(&mut has_missed) {
                    with(&shared, Engine::report_leases).await;
                }
                // A connection to a server that was cut off does not end, so it is made again.
                while let Ok(next) = tokio::time::timeout(QUIET, announcements.next()).await {
                    let Some(announcement) = next else {
                        has_missed = true;
                        break;
                    };
                    follow(&shared, &link, announcement).await;
                }
            }
            Err(error) => {
                log::debug!("fleet: no announcements: {error}");
                has_missed = true;
            }
        }
        if has_missed {
            tokio::time::sleep(TICK).await;
        }
    }
}

async fn follow(shared: &Arc<Shared>, link: &Arc<FleetLink>, announcement: Announcement) {
    match announcement {
        Announcement::Recall(recall) => {
            if !link.news().recalls.note(recall.number) {
                return;
            }
            let (host, text) = (link.identity().id.clone(), recall.text);
            with(shared, move |engine| {
                if let Err(error) = engine.note_recalls(&[text], &host) {
                    engine.note_health("store", Some(error.message));
                }
            })
            .await;
        }
        Announcement::Claimed(_) => {
            with(shared, Engine::report_leases).await;
        }
        Announcement::Rate(scope) => {
            with(shared, move |engine| engine.note_announced_rate(&scope)).await;
        }
        Announcement::Changed(version) => {
            {
                let mut news = link.news();
                news.version = news.version.max(version);
            }
            // The health of the daemon has the error.
            let _synced = sync(shared, link).await;
            // The host that made the change waits for this heartbeat.
            beat(shared, link, false).await;
        }
    }
}

/// Runs `work` with the engine on a thread that may block. Returns `None` if it panicked.
pub(super) async fn with<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&mut Engine) -> T + Send + 'static,
) -> Option<T> {
    let shared = Arc::clone(shared);
    let done = tokio::task::spawn_blocking(move || work(&mut shared.engine())).await;
    done.inspect_err(|error| log::error!("fleet: {error}")).ok()
}

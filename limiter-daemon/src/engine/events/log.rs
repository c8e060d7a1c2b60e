// SPDX-License-Identifier: MIT OR Apache-2.0

//! The log of events. It keeps the latest events in memory, and passes each new one to all
//! followers.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

use crate::{
    domain::scope::ScopeName,
    engine::caller::Caller,
    protocol::events::{EventKind, EventView},
};

/// The number of events that the log keeps.
const MAX_EVENTS: usize = 1000;
/// The maximum number of events by which a follower can lag behind without missing any.
const MAX_LAG: usize = 1024;
/// The maximum number of followers at the same time.
const MAX_FOLLOWERS: usize = 64;

/// The log of events.
pub struct EventLog {
    inner: Mutex<Inner>,
    permits: Arc<Semaphore>,
}

struct Inner {
    next: u64,
    kept: VecDeque<Arc<EventView>>,
    /// The channel to the followers, or `None` once the daemon is about to end.
    live: Option<broadcast::Sender<Arc<EventView>>>,
}

/// The events for one follower.
pub struct Following {
    /// The kept events, in ascending order of time.
    pub recent: Vec<Arc<EventView>>,
    /// The receiver of the events after those in `recent`.
    pub live: broadcast::Receiver<Arc<EventView>>,
    /// The permit of the follower. There are [`MAX_FOLLOWERS`] permits, and dropping this one makes
    /// room for another follower.
    pub permit: OwnedSemaphorePermit,
}

/// An event to be added to the log.
pub(crate) struct NewEvent {
    pub(crate) at: DateTime<Utc>,
    pub(crate) kind: EventKind,
    pub(crate) scope: Option<ScopeName>,
    pub(crate) key: Option<String>,
    pub(crate) client: Option<(IpAddr, u16)>,
    pub(crate) reason: Option<&'static str>,
    pub(crate) action: Option<&'static str>,
    pub(crate) count: u64,
    pub(crate) message: Option<String>,
}

impl NewEvent {
    /// Returns an event that has only a message and the present time.
    fn with_message(kind: EventKind, message: String) -> Self {
        Self {
            at: Utc::now(),
            kind,
            scope: None,
            key: None,
            client: None,
            reason: None,
            action: None,
            count: 1,
            message: Some(message),
        }
    }
}

impl Default for EventLog {
    fn default() -> Self {
        // The sequence number of the first event is the current time in microseconds. Since a
        // daemon adds fewer than one event per microsecond, a later daemon starts with a higher
        // sequence number than any event of this daemon has.
        let first = u64::try_from(Utc::now().timestamp_micros()).unwrap_or(1);
        Self {
            inner: Mutex::new(Inner {
                next: first,
                kept: VecDeque::new(),
                live: Some(broadcast::channel(MAX_LAG).0),
            }),
            permits: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
        }
    }
}

impl EventLog {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No panic can leave the log inconsistent, so a poisoned lock is still usable.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, event: NewEvent) {
        let mut inner = self.lock();
        let view = Arc::new(EventView {
            id: inner.next,
            at: event.at,
            kind: event.kind,
            scope: event.scope,
            key: event.key,
            client: event.client.map(|(address, _)| address),
            client_port: event.client.map(|(_, port)| port),
            reason: event.reason.map(str::to_owned),
            action: event.action.map(str::to_owned),
            count: event.count,
            message: event.message,
        });
        inner.next += 1;
        if inner.kept.len() >= MAX_EVENTS {
            inner.kept.pop_front();
        }
        inner.kept.push_back(Arc::clone(&view));
        if let Some(live) = &inner.live {
            // An error means only that there are no followers.
            let _no_followers = live.send(view);
        }
    }

    /// Adds an event of the daemon itself.
    pub fn add_message(&self, message: impl Into<String>) {
        self.add(NewEvent::with_message(EventKind::Daemon, message.into()));
    }

    /// Adds an event about the health of a part of the daemon.
    pub(crate) fn add_health(&self, message: String) {
        self.add(NewEvent::with_message(EventKind::Health, message));
    }

    /// Adds an event about a change that is in the store and in force, and also writes the change
    /// to the daemon's own log.
    pub(crate) fn add_change(
        &self,
        caller: &Caller,
        action: &'static str,
        scope: Option<&ScopeName>,
        key: Option<&str>,
        message: impl std::fmt::Display,
    ) {
        let message = format!("{}: {message}", caller.who);
        log::info!("{message}");
        self.add(NewEvent {
            scope: scope.cloned(),
            key: key.map(str::to_owned),
            action: Some(action),
            ..NewEvent::with_message(EventKind::Change, message)
        });
    }

    /// Returns the last `limit` kept events whose sequence numbers are greater than `after`, in
    /// ascending order of time.
    pub fn recent(&self, limit: usize, after: u64) -> Vec<Arc<EventView>> {
        self.lock().recent(limit, after)
    }

    /// Returns the same events as [`Self::recent`], and a receiver of all later events. Returns
    /// `None` if the daemon is about to end or there are too many followers.
    pub fn follow(&self, limit: usize, after: u64) -> Option<Following> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let inner = self.lock();
        Some(Following {
            recent: inner.recent(limit, after),
            live: inner.live.as_ref()?.subscribe(),
            permit,
        })
    }

    /// Ends the streams of all followers after they have read all events.
    pub fn close(&self) {
        self.lock().live = None;
    }
}

impl Inner {
    fn recent(&self, limit: usize, after: u64) -> Vec<Arc<EventView>> {
        let newer = self.kept.iter().filter(|event| event.id > after);
        let mut recent: Vec<_> = newer.rev().take(limit).cloned().collect();
        recent.reverse();
        recent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add_messages(log: &EventLog, count: usize) {
        (0..count).for_each(|number| log.add_message(number.to_string()));
    }

    fn messages(events: &[Arc<EventView>]) -> Vec<&str> {
        let messages = events.iter().map(|event| event.message.as_deref());
        messages.map(Option::unwrap).collect()
    }

    #[test]
    fn the_latest_events_are_kept_and_no_more() {
        let log = EventLog::default();
        add_messages(&log, MAX_EVENTS + 5);
        let kept = log.recent(usize::MAX, 0);
        assert_eq!(kept.len(), MAX_EVENTS);
        assert_eq!(kept[0].message.as_deref(), Some("5"));
        assert_eq!(messages(&log.recent(2, 0)), ["1003", "1004"]);
        let after = log.recent(usize::MAX, kept[MAX_EVENTS - 2].id);
        assert_eq!(messages(&after), ["1004"]);
    }

    #[test]
    fn event_numbers_increase_across_daemons() {
        let (first, second) = (EventLog::default(), EventLog::default());
        add_messages(&first, 1);
        let now = Utc::now().timestamp_micros();
        while Utc::now().timestamp_micros() <= now + 1 {
            std::hint::spin_loop();
        }
        let second_later = EventLog::default();
        add_messages(&second, 1);
        add_messages(&second_later, 1);
        assert!(second_later.recent(1, 0)[0].id > first.recent(1, 0)[0].id);
    }

    #[tokio::test]
    async fn a_follower_gets_each_event_once_and_learns_how_many_it_missed() {
        use broadcast::error::RecvError;
        let log = EventLog::default();
        add_messages(&log, 3);
        let mut following = log.follow(2, 0).unwrap();
        assert_eq!(messages(&following.recent), ["1", "2"]);
        add_messages(&log, MAX_LAG + 7);
        let lagged = following.live.recv().await;
        assert!(matches!(lagged, Err(RecvError::Lagged(7))), "{lagged:?}");
        for number in 7..MAX_LAG + 7 {
            let event = following.live.recv().await.unwrap();
            assert_eq!(event.message, Some(number.to_string()));
        }
        log.close();
        let end = following.live.recv().await;
        assert!(matches!(end, Err(RecvError::Closed)), "{end:?}");
        assert!(log.follow(0, 0).is_none());
    }

    #[test]
    fn the_number_of_followers_is_limited_until_one_leaves() {
        let log = EventLog::default();
        let mut permits: Vec<_> = (0..MAX_FOLLOWERS)
            .map(|_| log.follow(0, 0).unwrap())
            .collect();
        assert!(log.follow(0, 0).is_none());
        permits.pop();
        assert!(log.follow(0, 0).is_some());
    }
}

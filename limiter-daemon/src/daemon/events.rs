//! What happened: the latest events are kept in memory, and told to whoever follows.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

use super::engine::{Caller, Engine};
use crate::{
    api::{EventKind, EventView},
    scope::ScopeName,
};

/// Events that are kept.
const KEPT: usize = 1000;
/// Events that one who follows may be behind before it misses some.
const BEHIND: usize = 1024;
/// How many can follow at once.
const FOLLOWERS: usize = 64;

/// The latest events.
pub struct EventLog {
    inner: Mutex<Inner>,
    places: Arc<Semaphore>,
}

struct Inner {
    next: u64,
    kept: VecDeque<Arc<EventView>>,
    /// `None` when the daemon is about to end.
    live: Option<broadcast::Sender<Arc<EventView>>>,
}

/// What one who follows gets.
pub struct Following {
    /// Of the past, the oldest first.
    pub recent: Vec<Arc<EventView>>,
    /// From then on.
    pub live: broadcast::Receiver<Arc<EventView>>,
    /// One of the places that there are.
    pub place: OwnedSemaphorePermit,
}

/// An event to tell.
pub(super) struct NewEvent {
    pub(super) at: DateTime<Utc>,
    pub(super) kind: EventKind,
    pub(super) scope: Option<ScopeName>,
    pub(super) key: Option<String>,
    pub(super) client: Option<(IpAddr, u16)>,
    pub(super) reason: Option<&'static str>,
    pub(super) action: Option<&'static str>,
    pub(super) count: u64,
    pub(super) message: Option<String>,
}

impl NewEvent {
    /// Something that happened now, in words.
    fn said(kind: EventKind, message: String) -> Self {
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
        // As those of a daemon that has begun later: microseconds pass faster than events.
        let first = u64::try_from(Utc::now().timestamp_micros()).unwrap_or(1);
        Self {
            inner: Mutex::new(Inner {
                next: first,
                kept: VecDeque::new(),
                live: Some(broadcast::channel(BEHIND).0),
            }),
            places: Arc::new(Semaphore::new(FOLLOWERS)),
        }
    }
}

impl EventLog {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that is done under it can leave it half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, event: NewEvent) {
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
        if inner.kept.len() >= KEPT {
            inner.kept.pop_front();
        }
        inner.kept.push_back(Arc::clone(&view));
        if let Some(live) = &inner.live {
            // An error says that nobody follows.
            let _nobody = live.send(view);
        }
    }

    /// Tells of the daemon itself.
    pub fn say(&self, message: impl Into<String>) {
        self.tell(NewEvent::said(EventKind::Daemon, message.into()));
    }

    /// The last `limit` events of those that are kept and whose numbers are above `after`, the oldest
    /// first.
    pub fn recent(&self, limit: usize, after: u64) -> Vec<Arc<EventView>> {
        self.lock().recent(limit, after)
    }

    /// The same, and all that comes then. `None`: the daemon is about to end, or too many follow.
    pub fn follow(&self, limit: usize, after: u64) -> Option<Following> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let inner = self.lock();
        Some(Following {
            recent: inner.recent(limit, after),
            live: inner.live.as_ref()?.subscribe(),
            place,
        })
    }

    /// Lets all that follow go, once they have read what there is.
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

impl Engine {
    /// Tells of a change that is on record and in force, in the log and as an event.
    pub(super) fn tell_change(
        &self,
        caller: &Caller,
        action: &'static str,
        scope: Option<&ScopeName>,
        key: Option<&str>,
        what: impl std::fmt::Display,
    ) {
        let message = format!("{}: {what}", caller.who);
        log::info!("{message}");
        self.events.tell(NewEvent {
            scope: scope.cloned(),
            key: key.map(str::to_owned),
            action: Some(action),
            ..NewEvent::said(EventKind::Change, message)
        });
    }

    /// Tells of a part of the daemon.
    pub(super) fn tell_health(&self, message: String) {
        self.events.tell(NewEvent::said(EventKind::Health, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(log: &EventLog, count: usize) {
        (0..count).for_each(|number| log.say(number.to_string()));
    }

    fn messages(events: &[Arc<EventView>]) -> Vec<&str> {
        let messages = events.iter().map(|event| event.message.as_deref());
        messages.map(Option::unwrap).collect()
    }

    #[test]
    fn the_latest_events_are_kept_and_no_more() {
        let log = EventLog::default();
        said(&log, KEPT + 5);
        let kept = log.recent(usize::MAX, 0);
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].message.as_deref(), Some("5"));
        assert_eq!(messages(&log.recent(2, 0)), ["1003", "1004"]);
        let after = log.recent(usize::MAX, kept[KEPT - 2].id);
        assert_eq!(messages(&after), ["1004"]);
    }

    #[test]
    fn numbers_go_on_over_daemons() {
        let (first, second) = (EventLog::default(), EventLog::default());
        said(&first, 1);
        let now = Utc::now().timestamp_micros();
        while Utc::now().timestamp_micros() <= now + 1 {
            std::hint::spin_loop();
        }
        let second_later = EventLog::default();
        said(&second, 1);
        said(&second_later, 1);
        assert!(second_later.recent(1, 0)[0].id > first.recent(1, 0)[0].id);
    }

    #[tokio::test]
    async fn who_follows_sees_each_once_and_who_is_slow_is_told_what_it_missed() {
        use broadcast::error::RecvError;
        let log = EventLog::default();
        said(&log, 3);
        let mut following = log.follow(2, 0).unwrap();
        assert_eq!(messages(&following.recent), ["1", "2"]);
        said(&log, BEHIND + 7);
        let lagged = following.live.recv().await;
        assert!(matches!(lagged, Err(RecvError::Lagged(7))), "{lagged:?}");
        for number in 7..BEHIND + 7 {
            let event = following.live.recv().await.unwrap();
            assert_eq!(event.message, Some(number.to_string()));
        }
        log.close();
        let end = following.live.recv().await;
        assert!(matches!(end, Err(RecvError::Closed)), "{end:?}");
        assert!(log.follow(0, 0).is_none());
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let log = EventLog::default();
        let mut places: Vec<_> = (0..FOLLOWERS).map(|_| log.follow(0, 0).unwrap()).collect();
        assert!(log.follow(0, 0).is_none());
        places.pop();
        assert!(log.follow(0, 0).is_some());
    }
}

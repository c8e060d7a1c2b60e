// SPDX-License-Identifier: MIT OR Apache-2.0

//! The requests of all hosts on days that have ended. The engine has them for two days, and each
//! host copies them to its store.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use limiter_common::day::Day;
use limiter_fleet::client::{Client, Error};

use super::{link::FleetLink, tasks::with};
use crate::{
    engine::{shared::Shared, state::Engine, time::day_of},
    protocol::error::ApiError,
};

/// The number of days that the engine still has after they have ended.
const DAYS: u32 = 2;
/// The time after midnight at which the first hosts copy the day that has ended. By then, the hosts
/// have reported their last requests.
const AFTER_MIDNIGHT: TimeDelta = TimeDelta::minutes(1);
/// The time within which the hosts copy that day one after the other.
const SPREAD_S: u32 = 3_600;
/// The longest time from one copy to the next one. A host that was cut off at midnight reports its
/// last requests later.
const AT_MOST: TimeDelta = TimeDelta::hours(6);
/// The time after which a copy that has failed is made again.
const RETRY: Duration = Duration::from_secs(60);
/// The time between two looks for the result of the first heartbeat.
const FIRST_LOOK: Duration = Duration::from_millis(500);
/// The number of scopes that are written to the store at once.
const SCOPES: usize = 500;

/// Copies the days that have ended, until the daemon ends.
pub(crate) async fn copy(shared: Arc<Shared>, link: Arc<FleetLink>) {
    let mut client = link.another();
    let delay = delay(&link.identity().id);
    loop {
        while !link.news().is_known() {
            tokio::time::sleep(FIRST_LOOK).await;
        }
        let now = Utc::now();
        let wait = match copy_days(&shared, &mut client, day_of(now)).await {
            Ok(()) => (next_copy(now, delay) - now).to_std().unwrap_or(RETRY),
            Err(error) => {
                log::debug!("fleet: the usage of past days is not copied: {error}");
                RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Returns the time after [`AFTER_MIDNIGHT`] at which a host makes its copy, so that not all hosts
/// make it at once. The id of a host consists of random hexadecimal digits.
fn delay(host: &str) -> TimeDelta {
    let random = host
        .get(..8)
        .and_then(|digits| u32::from_str_radix(digits, 16).ok());
    TimeDelta::seconds(i64::from(random.unwrap_or(0) % SPREAD_S))
}

/// Returns the time of the next copy.
fn next_copy(now: DateTime<Utc>, delay: TimeDelta) -> DateTime<Utc> {
    let of_today = now.date_naive().and_time(NaiveTime::MIN).and_utc() + AFTER_MIDNIGHT + delay;
    let at_midnight = match of_today > now {
        true => of_today,
        false => of_today + TimeDelta::days(1),
    };
    at_midnight.min(now + AT_MOST)
}

async fn copy_days(shared: &Arc<Shared>, client: &mut Client, today: Day) -> Result<(), Error> {
    for before in 1..=DAYS {
        let day = Day(today.0.saturating_sub(before));
        let names = with(shared, move |engine| engine.shared_scopes_on(day)).await;
        let names: Vec<String> = names.unwrap_or_default().into_iter().collect();
        for names in names.chunks(SCOPES) {
            let mut usage = Vec::new();
            for name in names {
                let account = client.account(name, day).await?;
                if account.hosts > 0 {
                    usage.push((name.clone(), account.used));
                }
            }
            let noted = with(shared, move |engine| engine.note_fleet_usage(day, &usage)).await;
            if let Some(Err(error)) = noted {
                log::warn!(
                    "fleet: the usage of a past day is not stored: {}",
                    error.message
                );
            }
        }
    }
    Ok(())
}

impl Engine {
    /// Returns the names of the scopes that may have shared their quotas on a past day.
    fn shared_scopes_on(&self, day: Day) -> BTreeSet<String> {
        let is_member = self
            .fleet
            .as_ref()
            .is_some_and(|member| member.suspended.is_none());
        if !is_member {
            return BTreeSet::new();
        };
        let present = self
            .scopes
            .iter()
            .filter(|scope| scope.shared_bounds().is_some());
        let mut names: BTreeSet<String> =
            present.map(|scope| scope.record.name.to_string()).collect();
        let stored = self.store.usage_on(day).unwrap_or_default();
        names.extend(stored.into_iter().map(|(name, _)| name));
        names
    }

    /// Stores the numbers of requests that all hosts have admitted on a past day, each with the
    /// name of its scope.
    pub(crate) fn note_fleet_usage(
        &mut self,
        day: Day,
        usage: &[(String, u64)],
    ) -> Result<(), ApiError> {
        self.store.change(|store| {
            usage
                .iter()
                .try_for_each(|(scope, used)| store.raise_fleet_usage(scope, day, *used))
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> DateTime<Utc> {
        time.parse().unwrap()
    }

    #[test]
    fn a_day_is_copied_soon_after_it_has_ended() {
        let delay = delay("000007080123");
        assert_eq!(delay, TimeDelta::minutes(30));
        for (now, next) in [
            ("2026-11-24T00:00:10Z", "2026-11-24T00:31:00Z"),
            ("2026-11-24T00:31:00Z", "2026-11-24T06:31:00Z"),
            ("2026-11-24T12:00:00Z", "2026-11-24T18:00:00Z"),
            ("2026-11-24T21:00:00Z", "2026-11-25T00:31:00Z"),
        ] {
            assert_eq!(next_copy(at(now), delay), at(next), "{now}");
        }
    }
}

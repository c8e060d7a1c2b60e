// SPDX-License-Identifier: MIT OR Apache-2.0

//! The usage of a scope by all hosts of a fleet.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, NaiveDate, Utc};
use limiter_common::day::Day;
use limiter_fleet::{Account, client::Error};

use super::{
    calls::{Demand, RecallText},
    link::FleetLink,
};
use crate::{
    domain::scope::ScopeName,
    engine::{shared::Shared, time::day_of},
    protocol::{error::ApiError, views::UsageView},
};

/// The longest time for which the counts of the other hosts are awaited.
const COUNTS: Duration = Duration::from_millis(500);
/// The time between two looks at the account. If nothing changes within it, the counts are
/// complete.
const LOOK: Duration = Duration::from_millis(100);

impl Shared {
    /// Returns the usage of a scope. In a fleet, the usage of today is that of all hosts, which are
    /// asked for their counts first.
    ///
    /// # Errors
    /// Returns an error if there is no such scope, or if the day has not begun or is no longer
    /// kept.
    pub(crate) async fn usage_of(
        self: &Arc<Self>,
        name: ScopeName,
        date: Option<NaiveDate>,
        now: DateTime<Utc>,
    ) -> Result<UsageView, ApiError> {
        let scope = name.clone();
        let (mut view, is_shared) = self
            .with(move |engine| {
                let view = engine.usage_of(&scope, date, now)?;
                let shares = engine.scopes.get(&scope);
                let shares = shares.is_some_and(|scope| scope.shared_bounds().is_some());
                Ok((view, shares))
            })
            .await?;
        let is_today = date.is_none_or(|date| date == now.date_naive());
        let Some(link) = self.fleet().filter(|_| is_shared && is_today) else {
            return Ok(view);
        };
        // Without an answer of the engine, the view is that of this host.
        if link.news().is_up(now)
            && let Ok(account) = self.collect(&link, &name, day_of(now)).await
        {
            let host_used = view.used;
            view.host_used = Some(host_used);
            view.used = account.used.max(host_used);
            view.leased = Some(account.leased.max(view.used));
            view.remaining = view
                .daily_quota
                .map(|quota| quota.saturating_sub(view.used));
        }
        Ok(view)
    }

    /// Asks all hosts for their counts, and returns the account of the engine.
    async fn collect(
        self: &Arc<Self>,
        link: &Arc<FleetLink>,
        name: &ScopeName,
        day: Day,
    ) -> Result<Account, Error> {
        let text = RecallText {
            host: String::new(),
            day,
            demand: Demand::Counts,
            scope: name.clone(),
        };
        let text = text.to_string();
        link.client().await.recall(&[text]).await?;
        let until = Instant::now() + COUNTS;
        let mut account = link.client().await.account(name.as_str(), day).await?;
        loop {
            tokio::time::sleep(LOOK).await;
            let next = link.client().await.account(name.as_str(), day).await?;
            if next == account || Instant::now() >= until {
                return Ok(next);
            }
            account = next;
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The handlers of `limiter explain`, `limiter limits try` and `limiter top`.

use axum::extract::State;
use chrono::Utc;

use super::extract::{Answer, App, Part, QueryOf, answer};
use crate::{
    domain::bound::{Bound, DAILY_QUOTA},
    engine::counts::trial::Trial,
    protocol::{
        insight::{ExplainView, TopQuery, TopView},
        trial::{TrialQuery, TrialView},
    },
};

pub(super) async fn explain(State(shared): App, Part(object): Part<String>) -> Answer<ExplainView> {
    answer(&shared, move |engine| engine.explain(&object)).await
}

pub(super) async fn top(State(shared): App, QueryOf(query): QueryOf<TopQuery>) -> Answer<TopView> {
    answer(&shared, move |engine| Ok(engine.top(&query, Utc::now()))).await
}

pub(super) async fn trial(
    State(shared): App,
    QueryOf(query): QueryOf<TrialQuery>,
) -> Answer<TrialView> {
    answer(&shared, move |engine| {
        let quota = query.daily_quota.map(Bound::limit);
        if let Some(Some(quota)) = quota {
            DAILY_QUOTA.check(quota)?;
        }
        let trial = Trial {
            scope: query.scope,
            tier: query.tier,
            daily_quota: quota,
            days: query.days,
        };
        engine.try_quota(trial, Utc::now())
    })
    .await
}

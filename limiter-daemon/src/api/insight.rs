// SPDX-License-Identifier: MIT OR Apache-2.0

//! The handlers of `limiter explain` and `limiter top`.

use axum::extract::State;
use chrono::Utc;

use super::extract::{Answer, App, Part, QueryOf, answer};
use crate::protocol::insight::{ExplainView, TopQuery, TopView};

pub(super) async fn explain(State(shared): App, Part(object): Part<String>) -> Answer<ExplainView> {
    answer(&shared, move |engine| engine.explain(&object)).await
}

pub(super) async fn top(State(shared): App, QueryOf(query): QueryOf<TopQuery>) -> Answer<TopView> {
    answer(&shared, move |engine| Ok(engine.top(&query, Utc::now()))).await
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The handlers of the routes below `/v1/fleet`.

use axum::{Json, extract::State};
use chrono::Utc;

use super::extract::{Answer, App, Body, Part, Sender, caller};
use crate::protocol::{
    fleet::{FleetView, JoinFleet},
    views::Report,
};

pub(super) async fn status(State(shared): App) -> Answer<FleetView> {
    shared.fleet_status(Utc::now()).await.map(Json)
}

pub(super) async fn init(State(shared): App, from: Sender) -> Answer<Report> {
    shared.init_fleet(caller(&from)).await.map(Json)
}

pub(super) async fn join(
    State(shared): App,
    from: Sender,
    Body(body): Body<JoinFleet>,
) -> Answer<Report> {
    shared.join_fleet(body, caller(&from)).await.map(Json)
}

pub(super) async fn leave(State(shared): App, from: Sender) -> Answer<Report> {
    shared.leave_fleet(caller(&from)).await.map(Json)
}

pub(super) async fn seed(State(shared): App, from: Sender) -> Answer<Report> {
    shared.seed_fleet(caller(&from)).await.map(Json)
}

pub(super) async fn forget(
    State(shared): App,
    from: Sender,
    Part(host): Part<String>,
) -> Answer<Report> {
    shared.forget_host(&host, &caller(&from)).await.map(Json)
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests the HTTP scanner as its callers use it: segments go in, and events come out.

mod agreement;
mod chunked;
mod connection;
mod drive;
mod hostile;
mod hyper;
mod limits;
mod model;
mod real_parser;
mod replies;
mod responses;
mod segments;
mod sources;
mod splits;
mod upgrades;
mod wild;

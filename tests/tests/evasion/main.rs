// SPDX-License-Identifier: MIT OR Apache-2.0

//! Clients that try to evade their limits. Whatever a client sends, the server serves only requests
//! that the limiter has parsed and charged.

mod agreement;
mod bodies;
mod http;
mod ip;
mod keys;
mod links;
mod lost;
mod multipath;
mod numbers;
mod order;
mod preface;
mod receiver;
mod responses;
mod split;
mod table;

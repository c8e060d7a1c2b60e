// SPDX-License-Identifier: MIT OR Apache-2.0

//! Requests, responses and connections of real clients and servers. Admitted requests are served
//! completely and counted, and all other requests are refused in an orderly way.

mod admission;
mod attach;
mod clients;
mod coverage;
mod deferred;
mod disorder;
mod disorder_tool;
mod flood;
mod forwarded;
mod identify;
mod interfaces;
mod lab;
mod path_mtu;
mod policies;
mod proxies;
mod refusal;
mod responses;
mod streams;
mod upgrades;

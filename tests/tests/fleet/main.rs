// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of `limiter-fleet` with Redis and Valkey servers.

mod client;
mod clusters;
mod leases;
mod rates;
mod registry;
mod scripts;
mod sentinels;
mod support;

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The counts and limits of scopes. They are exact across midnight, across restarts and across
//! changes of keys, limits and tables. The counts of requests in flight and of connections return
//! to zero when the traffic stops.

mod explain;
mod healing;
mod history;
mod in_flight;
mod leaks;
mod midnight;
mod quota;
mod rotation;
mod scale;
mod tables;
mod takeover;
mod unknown_keys;

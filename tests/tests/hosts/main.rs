// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of several hosts with daemons that share daily quotas and rates through an engine. Each
//! host has a server of its own, whose access log shows the requests that were admitted.

mod clusters;
mod faults;
mod membership;
mod midnight;
mod outages;
mod rates;
mod registry;
mod secured;
mod sentinels;
mod sequences;
mod shared;
mod support;

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests that run the kernel programs on one packet at a time (`limiter_tests::program`).

mod allowances;
mod bodies;
mod cuts;
mod deferred;
mod ends;
mod handshake;
mod icmp;
mod idle;
mod instructions;
mod invalid_segments;
mod kept;
mod keys;
mod leases;
mod limits;
mod links;
mod long;
mod merged_segments;
mod numbers;
mod offers;
mod packets;
mod policies;
mod refusal_reports;
mod refusals;
mod replays;
mod requests;
mod responses;
mod shapes;
mod smaller_segments;
mod support;
mod suspicious;
mod sweeps;
mod switch;
mod table;
mod tombs;
mod unfinished;
mod untracked;
mod upgrades;
mod verifier;

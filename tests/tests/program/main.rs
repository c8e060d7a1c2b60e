// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests that run the kernel programs on one packet at a time (`limiter_tests::program`).

mod allowances;
mod bodies;
mod cuts;
mod deferred;
mod doubts;
mod ends;
mod handshake;
mod idle;
mod instructions;
mod kept;
mod keys;
mod limits;
mod links;
mod long;
mod numbers;
mod offers;
mod packets;
mod parts;
mod pieces;
mod policies;
mod refusals;
mod replays;
mod requests;
mod responses;
mod shapes;
mod support;
mod suspicious;
mod sweeps;
mod switch;
mod table;
mod told;
mod tombs;
mod untracked;
mod upgrades;
mod verifier;

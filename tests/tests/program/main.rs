//! The kernel programs by themselves, a packet at a time (`limiter_tests::program`).

mod bodies;
mod cuts;
mod handshake;
mod packets;
mod refusals;
mod replays;
mod requests;
mod responses;
mod support;
mod suspicious;

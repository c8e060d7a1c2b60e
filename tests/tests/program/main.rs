//! The kernel programs by themselves, a packet at a time (`limiter_tests::program`).

mod bodies;
mod cuts;
mod ends;
mod handshake;
mod limits;
mod packets;
mod policies;
mod refusals;
mod replays;
mod requests;
mod responses;
mod shapes;
mod support;
mod suspicious;
mod table;
mod tombs;

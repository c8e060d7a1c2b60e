//! The kernel programs by themselves, a packet at a time (`limiter_tests::program`).

mod allowances;
mod bodies;
mod cuts;
mod deferred;
mod doubts;
mod ends;
mod handshake;
mod idle;
mod limits;
mod packets;
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

//! The HTTP scanner, as its callers use it: segments in, events out.

mod chunked;
mod drive;
mod hostile;
mod limits;
mod model;
mod real_parser;
mod responses;
mod segments;
mod sources;
mod splits;

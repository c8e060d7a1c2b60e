//! The HTTP scanner, as its callers use it: segments in, events out.

mod agreement;
mod chunked;
mod drive;
mod hostile;
mod hyper;
mod limits;
mod model;
mod real_parser;
mod replies;
mod responses;
mod segments;
mod sources;
mod splits;
mod wild;

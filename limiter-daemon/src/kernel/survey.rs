// SPDX-License-Identifier: MIT OR Apache-2.0

//! The data about interfaces that is read once for an operation on all attachments.

use std::time::Instant;

use super::{
    KernelError,
    clsact::{self, Qdiscs},
    error::list_error,
    rtnl::Route,
};

/// The data that is requested from the kernel once for all interfaces instead of once for each
/// interface, and the socket for further requests.
pub(super) struct Survey {
    pub(super) route: Route,
    pub(super) qdiscs: Qdiscs,
    pub(super) now: Instant,
}

impl Survey {
    pub(super) fn new() -> Result<Self, KernelError> {
        let failed = list_error("qdiscs of the network interfaces");
        let mut route = Route::open().map_err(&failed)?;
        let qdiscs = clsact::qdiscs(&mut route).map_err(&failed)?;
        Ok(Self {
            route,
            qdiscs,
            now: Instant::now(),
        })
    }
}

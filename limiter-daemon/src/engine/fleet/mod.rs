// SPDX-License-Identifier: MIT OR Apache-2.0

//! The host's part in a fleet, whose hosts share daily quotas.

pub(crate) mod bounds;
pub(crate) mod calls;
pub(crate) mod leases;
pub(crate) mod member;

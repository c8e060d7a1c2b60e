// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs the kernel programs without a network: `BPF_PROG_TEST_RUN` passes them one packet at a
//! time. A test then checks the verdict, the packet after the run, the additional packets that the
//! programs sent, and the maps.
//!
//! [`Programs`] loads the object and fills the maps as a daemon would. A [`Talk`] is a connection
//! whose segments a test makes, and a [`Shape`] determines the headers around the segments.
//!
//! The following cases are impossible in a test run, and are covered by tests with real traffic:
//! packets of more than about 3.7 KiB, payload outside the linear part of the packet, checksums
//! left to the device, and two CPUs at the same time.

pub(crate) mod bpffs;
mod link;
mod maps;
mod object;
mod pinned;
mod programs;
mod rules;
mod run;
mod talk;
mod test_run;

pub use maps::{Maps, Plain, find, get, set};
pub use object::{Object, Tables};
pub use pinned::{PinnedState, SwitchPhase, pinned_keys, switch_phase};
pub use programs::Programs;
pub use rules::{KEY_FIELD, OWN_MARK, config, digest, no_limits, text};
pub use run::{Extras, Hook, RunResult, Verdict};
pub use talk::Talk;

pub use crate::packet::{
    ACK, DecodedSegment, Ends, Extension, FIN, Fragment, NetworkHeader, PSH, RST, SYN, Segment,
    Shape, URG, checksum::mend_ip_checksum, timestamp,
};

//! The kernel programs by themselves: `BPF_PROG_TEST_RUN` gives them one packet at a time, and what
//! they did is looked at from outside: the verdict, the packet as it left, packets that they sent
//! besides, and the maps.
//!
//! [`Programs`] loads the object and fills the maps as a daemon would, without one; a [`Talk`] is a
//! connection whose segments a test words; [`Shape`] says how they are wrapped.
//!
//! What this cannot show (packets of more than about 3.7 KiB, payload outside the linear part,
//! checksums left to the device, two CPUs at once) the tests with real traffic do.

mod bpffs;
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
pub use pinned::{PinnedState, Switched, pinned_keys, switched};
pub use programs::Programs;
pub use rules::{KEY_FIELD, config, digest, no_limits, text};
pub use run::{Extras, Hook, Ran, Verdict};
pub use talk::Talk;

pub use crate::packet::{
    ACK, Decoded, Ends, Extension, FIN, Fragment, Net, PSH, RST, SYN, Segment, Shape, URG,
    checksum::mend_ip_checksum, timestamp,
};

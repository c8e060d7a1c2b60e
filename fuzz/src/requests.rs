// SPDX-License-Identifier: MIT OR Apache-2.0

//! The HTTP scanner on requests. Its results must not depend on how the stream is cut into
//! segments.

use crate::{
    drive::{self, Direction},
    splits,
};

/// Scans the bytes that a client sends.
///
/// # Panics
/// Panics if two ways to cut the stream lead to different results, or if an invariant of the
/// scanner is broken.
pub fn check(bytes: &[u8]) {
    let whole = drive::requests(bytes);
    for cuts in splits::of(bytes) {
        let mut direction = Direction::requests(drive::rules());
        let events = direction.cut(bytes, &cuts);
        assert_eq!(events, whole, "cut at {cuts:?}");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The HTTP scanner on responses. Its results must not depend on how the stream is cut into
//! segments.

use crate::{drive::Direction, splits};

/// Scans the bytes that a server sends. The first byte of the input determines the methods of the
/// four requests that the server answers, with two bits for each method.
///
/// # Panics
/// Panics if two ways to cut the stream lead to different results, or if an invariant of the
/// scanner is broken.
pub fn check(input: &[u8]) {
    let Some((methods, bytes)) = input.split_first() else {
        return;
    };
    let methods = [0, 2, 4, 6].map(|shift| u32::from(methods >> shift & 3));
    let mut whole = Direction::responses(&methods);
    whole.cut(bytes, &[]);
    for cuts in splits::of(bytes) {
        let mut direction = Direction::responses(&methods);
        assert_eq!(
            direction.cut(bytes, &cuts),
            whole.seen,
            "{methods:?}, cut at {cuts:?}"
        );
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Compares the scanner with httparse. If httparse finds a request, the scanner must find a request
//! of the same length with the same key, or must refuse the bytes.

use httparse::{EMPTY_HEADER, Status};
use limiter_common::siphash::siphash128;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::agreement::folded;
use crate::drive::{Event, SECRET, requests};
use crate::model::{mutated, request, write};

/// Returns the length in bytes of the first head, and its keys in `X-Api-Key`, as httparse reads
/// them.
fn parse(bytes: &[u8]) -> Option<(u64, Vec<Vec<u8>>)> {
    let mut headers = [EMPTY_HEADER; 200];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(Status::Complete(length)) = request.parse(bytes) else {
        return None;
    };
    let keys = request
        .headers
        .iter()
        .filter(|field| folded(field.name) == "x-api-key");
    let keys = keys.map(|field| field.value.trim_ascii_end().to_vec());
    Some((length as u64, keys.filter(|key| !key.is_empty()).collect()))
}

fn agree(bytes: &[u8], refusal: bool) -> Result<(), TestCaseError> {
    let Some((length, keys)) = parse(bytes) else {
        return Ok(());
    };
    let seen = requests(bytes);
    match seen.first() {
        Some(Event::Malformed) if refusal => {}
        Some(Event::Head { to, key, .. }) => {
            prop_assert_eq!(*to, length);
            if let Some(first) = keys.first() {
                prop_assert_eq!(*key, Some((1, siphash128(SECRET, first))));
                prop_assert!(keys.iter().all(|key| key == first), "two keys passed");
            } else {
                prop_assert_ne!(key.map(|(rank, _)| rank), Some(1));
            }
        }
        other => prop_assert!(false, "httparse: {length}, we: {other:?}"),
    }
    Ok(())
}

proptest! {
    #[test]
    fn well_formed_requests_end_where_httparse_says(request in request()) {
        let (bytes, _) = write(&[request]);
        // httparse refuses some bytes in a target that no client should send. `agree` does not
        // compare requests that httparse refuses.
        agree(&bytes, false)?;
    }

    #[test]
    fn mutated_requests_end_where_httparse_says_or_are_refused(bytes in mutated()) {
        agree(&bytes, true)?;
    }

    #[test]
    fn pipelined_requests_are_those_that_httparse_finds(list in vec(request(), 1..4)) {
        let (bytes, _) = write(&list);
        for seen in requests(&bytes) {
            if let Event::Head { from, to, .. } = seen
                && let Some((length, _)) = parse(&bytes[from as usize..])
            {
                prop_assert_eq!(to - from, length);
            }
        }
    }
}

#[test]
fn httparse_finds_a_request_with_its_key() {
    let (length, keys) = parse(b"GET / HTTP/1.1\r\nX-API-KEY:  k \r\n\r\nrest").unwrap();
    assert_eq!((length, keys), (34, vec![b"k".to_vec()]));
}

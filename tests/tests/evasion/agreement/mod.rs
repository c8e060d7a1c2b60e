// SPDX-License-Identifier: MIT OR Apache-2.0

//! Agreement with real parsers, without a network. If the scanner admits a stream and a parser
//! finds a request in the stream, the scanner must have found the same request with the same key.
//!
//! The streams and the rule are those of limiter-common's own tests, which compare the scanner with
//! hyper. The following command runs more cases with a different seed: `LIMITER_CASES=1000000
//! LIMITER_SEED=7 cargo xtask test agreement`.

#[path = "../../../../limiter-common/tests/http/drive.rs"]
#[expect(dead_code, reason = "the scanner's own tests use more of it")]
mod drive;
mod live;
mod peers;
#[path = "../../../../limiter-common/tests/http/agreement.rs"]
mod rule;
#[path = "../../../../limiter-common/tests/http/wild.rs"]
mod wild;

use std::{cell::RefCell, collections::BTreeMap};

use proptest::collection::vec;
use proptest::test_runner::TestCaseError;

use self::{peers::Peer, wild::Stream};

/// The number of cases, which `LIMITER_CASES` and `LIMITER_LONG` can change ([`wild::runner`]).
const CASES: u32 = 800;
/// The number of streams that are sent to the parsers together.
const BATCH: usize = 8;

#[test]
fn requests_that_python_and_node_serve_are_seen_with_their_keys() {
    let peers = RefCell::new([Peer::python(), Peer::node()]);
    // The number of compared requests for each parser. The numbers show that every parser was used.
    let agreed = RefCell::new(BTreeMap::new());
    let mut runner = wild::runner(CASES);
    let result = runner.run(&vec(wild::stream(), BATCH), |streams| {
        let mut peers = peers.borrow_mut();
        for peer in &mut *peers {
            for Stream(bytes) in &streams {
                peer.ask(bytes);
            }
        }
        let mut result = Ok(());
        for peer in &mut *peers {
            for Stream(bytes) in &streams {
                for (parser, requests) in peer.answer() {
                    match rule::check(bytes, &requests) {
                        Ok(count) => *agreed.borrow_mut().entry(parser).or_insert(0) += count,
                        Err(text) => result = Err(TestCaseError::fail(format!("{parser}: {text}"))),
                    }
                }
            }
        }
        result
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let agreed = agreed.into_inner();
    println!("requests that were compared: {agreed:?}");
    let few = BATCH * runner.config().cases as usize / 4;
    assert!(
        agreed.len() == 4 && agreed.values().all(|count| *count > few),
        "{agreed:?}"
    );
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Requests to the control interface.

use limiter_daemon::fuzzing;

/// Sends a request. The first line of the input is a method, a space and a path. The other lines
/// are the body.
///
/// # Panics
/// Panics if the status of the response is neither 200 nor that of a client error, or if an error
/// response has no body.
pub fn check(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n');
    let (line, body) = input.split_at(end.unwrap_or(input.len()));
    let body = body.strip_prefix(b"\n").unwrap_or_default();
    let Some((method, path)) = std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.split_once(' '))
    else {
        return;
    };
    let Some((status, response)) = fuzzing::control(method, path, body) else {
        return;
    };
    match status {
        200 => {}
        400..=499 => assert!(!response.is_empty(), "status {status} without a reason"),
        _ => panic!("status {status}: {}", String::from_utf8_lossy(&response)),
    }
}

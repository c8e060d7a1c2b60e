// SPDX-License-Identifier: MIT OR Apache-2.0

//! Writes the packets of typical connections to a directory, as the first inputs of the fuzz target
//! `packets`.

use std::{env, error::Error, fs, path::PathBuf};

use limiter_fuzz::packets::{KEY, Record};
use limiter_tests::program::{Extension, FIN, RST, Segment, Shape, Talk};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = PathBuf::from(
        env::args_os()
            .nth(1)
            .ok_or("the argument is missing: a directory for the inputs")?,
    );
    fs::create_dir_all(&directory)?;
    for (number, shape) in shapes().into_iter().enumerate() {
        for timestamps in [false, true] {
            let mut talk = Talk::new(shape.clone());
            talk.timestamps = timestamps;
            let mut input = Vec::new();
            for (to_server, segment) in connection(&mut talk) {
                let frame = talk.shape.wrap(&talk.ends, to_server, &segment);
                Record::new(to_server, talk.shape.ethernet, frame).write(&mut input);
            }
            fs::write(directory.join(format!("{number}-{timestamps}")), input)?;
        }
    }
    Ok(())
}

fn shapes() -> Vec<Shape> {
    vec![
        Shape::v4(),
        Shape::v6(),
        Shape::v4().bare(),
        Shape::v6().bare(),
        Shape::v4().tagged(1),
        Shape::v6().tagged(2),
        Shape::v4_with(vec![1, 1, 1, 0]),
        Shape::v4_fragment(0, true),
        Shape::v4_fragment(64, false),
        Shape::v6_with(vec![Extension::options(0, 1)]),
        Shape::v6_with(vec![Extension::options(60, 1), Extension::authentication()]),
    ]
}

/// Returns the segments of a connection with three requests. The second request is sent in two
/// segments, and the first of these is retransmitted. The third request is sent while the second
/// one is in flight, and is the only one without a response.
fn connection(talk: &mut Talk) -> Vec<(bool, Segment)> {
    let request = format!("GET / HTTP/1.1\r\nX-Api-Key: {KEY}\r\n\r\n");
    let (first, second) = request.split_at(20);
    let response = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let mut segments = vec![(true, talk.syn()), (false, talk.syn_ack())];
    segments.push((true, talk.client(b"")));
    segments.push((true, client(talk, &request)));
    segments.push((false, server(talk, response)));
    let second_start = talk.asked;
    segments.push((true, client(talk, first)));
    segments.push((true, talk.client_at(second_start, first.as_bytes())));
    segments.push((true, client(talk, second)));
    segments.push((true, client(talk, &request)));
    segments.push((false, server(talk, response)));
    segments.push((true, talk.client(b"").with_flags(FIN)));
    segments.push((false, talk.server(b"").with_flags(RST)));
    segments
}

fn client(talk: &mut Talk, payload: &str) -> Segment {
    let segment = talk.client(payload.as_bytes());
    talk.asked += len(payload);
    segment
}

fn server(talk: &mut Talk, payload: &str) -> Segment {
    talk.server_acked = talk.asked;
    let segment = talk.server(payload.as_bytes());
    talk.answered += len(payload);
    segment
}

fn len(payload: &str) -> u32 {
    u32::try_from(payload.len()).unwrap_or_default()
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Real parsers in separate processes, which read streams from pipes.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use limiter_tests::tools;
use serde_json::Value;

use super::rule::{Fields, ParsedRequest};

/// A process with one or more parsers. Dropping this value ends it.
pub struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Peer {
    /// Starts Python's h11 and http.server.
    pub fn python() -> Self {
        Self::start(
            Command::new(tools::PYTHON)
                .arg("-c")
                .arg(include_str!("../../../peers/python_parsers.py")),
        )
    }

    /// Starts Node's server in strict and in lenient mode.
    pub fn node() -> Self {
        Self::start(
            Command::new("node")
                .arg("-e")
                .arg(include_str!("../../../peers/node_parser.js")),
        )
    }

    fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        // A thread reads the answers as they arrive. Otherwise, this process and the child could
        // wait for each other.
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            input,
            answers,
        }
    }

    /// Sends a stream to the parsers.
    pub fn ask(&mut self, bytes: &[u8]) {
        let mut line: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        line.push('\n');
        let input = self.input.as_mut().expect("only dropping takes it");
        input
            .write_all(line.as_bytes())
            .expect("the parsers listen");
    }

    /// Returns the requests that each parser found in the next stream.
    pub fn answer(&mut self) -> Vec<(String, Vec<ParsedRequest>)> {
        let line = self.answers.recv().expect("the parsers answer");
        let answer: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let parsers = answer.as_object().expect("an object by parser");
        let seen = parsers.iter().map(|(parser, requests)| {
            let requests = requests.as_array().expect("a list").iter();
            (parser.clone(), requests.map(asked).collect())
        });
        seen.collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The process ends when its input ends.
        self.input = None;
        let _ = self.child.wait();
    }
}

fn asked(request: &Value) -> ParsedRequest {
    ParsedRequest {
        end: request["end"].as_u64().expect("a number") as usize,
        fields: fields(&request["fields"]),
    }
}

/// Parses fields in the format that all scripts print: pairs of strings, in which each character
/// stands for one byte.
pub fn fields(pairs: &Value) -> Fields {
    let bytes = |text: &Value| -> Vec<u8> {
        let text = text.as_str().expect("a text").chars();
        text.map(|char| u8::try_from(char).expect("a byte as ISO 8859-1 has it"))
            .collect()
    };
    let pairs = pairs.as_array().expect("fields").iter();
    pairs
        .map(|pair| (bytes(&pair[0]), bytes(&pair[1])))
        .collect()
}

//! Real parsers in processes of their own, which are asked over pipes.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use limiter_tests::tools;
use serde_json::Value;

use crate::agreement::{Asked, Fields};

/// A process that has parsers in it; gone when dropped.
pub struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Peer {
    /// Python's h11 and http.server.
    pub fn python() -> Self {
        Self::start(
            Command::new(tools::PYTHON)
                .arg("-c")
                .arg(include_str!("../../peers/python_parsers.py")),
        )
    }

    /// Node's server, strict and lenient.
    pub fn node() -> Self {
        Self::start(
            Command::new("node")
                .arg("-e")
                .arg(include_str!("../../peers/node_parser.js")),
        )
    }

    fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        // Read as they come, so that neither side waits for the other to read.
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

    /// Gives it a stream.
    pub fn ask(&mut self, bytes: &[u8]) {
        let mut line: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        line.push('\n');
        let input = self.input.as_mut().expect("taken when dropped only");
        input
            .write_all(line.as_bytes())
            .expect("the parsers listen");
    }

    /// By parser, what is seen in the next of the streams that it was given.
    pub fn answer(&mut self) -> Vec<(String, Vec<Asked>)> {
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
        // The end of its input is the end of it.
        self.input = None;
        let _ = self.child.wait();
    }
}

fn asked(request: &Value) -> Asked {
    Asked {
        end: request["end"].as_u64().expect("a number") as usize,
        fields: fields(&request["fields"]),
    }
}

/// Fields as all scripts write them: pairs of texts, whose characters are the bytes.
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

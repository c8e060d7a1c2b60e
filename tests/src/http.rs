// SPDX-License-Identifier: MIT OR Apache-2.0

//! A minimal HTTP/1.1 implementation for tests that send exact bytes and check exact responses. A
//! library would correct the requests and hide errors in the responses.

use std::io::{self, ErrorKind};

use serde_json::Value;

/// A response, exactly as it was received.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The status codes of the interim (1xx) responses that preceded this response.
    pub interim: Vec<u16>,
}

impl Response {
    /// Removes a final response with a Content-Length, and any interim responses before it, from
    /// the start of `bytes`. Returns `None` while the final response is incomplete.
    pub fn take(bytes: &mut Vec<u8>) -> io::Result<Option<Self>> {
        let mut rest = bytes.clone();
        let mut interim = Vec::new();
        while let Some(head) = Head::take(&mut rest)? {
            let status = head.status()?;
            if status < 200 && status != 101 {
                interim.push(status);
                continue;
            }
            let length = head.content_length()?.unwrap_or(0);
            if rest.len() < length {
                return Ok(None);
            }
            *bytes = rest.split_off(length);
            return Ok(Some(Self {
                status,
                headers: head.headers,
                body: rest,
                interim,
            }));
        }
        Ok(None)
    }

    /// Returns the value of a header, which must not occur more than once.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self
            .headers
            .iter()
            .filter(|(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str());
        let value = values.next();
        assert!(values.next().is_none(), "{name} occurs twice: {self:?}");
        value
    }

    /// Returns the value of a header that must be present.
    #[track_caller]
    pub fn required(&self, name: &str) -> &str {
        self.header(name)
            .unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    /// Parses the body as a problem report (RFC 9457).
    #[track_caller]
    pub fn problem(&self) -> Value {
        assert_eq!(self.required("content-type"), "application/problem+json");
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("body is not JSON ({error}): {self:?}"))
    }

    /// Returns the sorted names of the policies that a 429 response reports as violated.
    #[track_caller]
    pub fn violated(&self) -> Vec<String> {
        let problem = self.problem();
        let mut policies: Vec<String> = problem["violated-policies"]
            .as_array()
            .unwrap_or_else(|| panic!("no violated-policies in {problem}"))
            .iter()
            .map(|policy| policy.as_str().expect("a policy's name").to_owned())
            .collect();
        policies.sort_unstable();
        policies
    }

    /// Parses a structured field that is a list of named items (`RateLimit`, `RateLimit-Policy`).
    #[track_caller]
    pub fn items(&self, name: &str) -> Vec<Item> {
        let text = self.required(name);
        parse_items(text).unwrap_or_else(|| panic!("{name} is not a structured field: {text}"))
    }
}

/// Returns a GET request for `path` with `key` in `X-Api-Key`.
pub fn request(path: &str, key: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: {key}\r\n\r\n").into_bytes()
}

/// A string item of an RFC 9651 list, with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub name: String,
    pub parameters: Vec<(String, String)>,
}

impl Item {
    #[track_caller]
    pub fn number(&self, parameter: &str) -> u64 {
        self.get(parameter)
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("no number {parameter} in {self:?}"))
    }

    pub fn get(&self, parameter: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(name, _)| name == parameter)
            .map(|(_, value)| value.as_str())
    }
}

/// Parses the part of RFC 9651 that the rate limit fields use: lists of strings with parameters
/// that are integers or strings. A string parameter is returned with its quotes, so that a test can
/// distinguish `w=1` from `w="1"`.
fn parse_items(text: &str) -> Option<Vec<Item>> {
    text.split(',')
        .map(|item| parse_item(item.trim()))
        .collect()
}

fn parse_item(text: &str) -> Option<Item> {
    let (name, mut rest) = text.strip_prefix('"')?.split_once('"')?;
    let mut parameters = Vec::new();
    while !rest.is_empty() {
        let parameter = rest.strip_prefix(';')?.trim_start_matches(' ');
        let end = parameter.find(';').unwrap_or(parameter.len());
        let (key, value) = parameter[..end].split_once('=')?;
        let string = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
        if key.is_empty() || !(string || value.parse::<i64>().is_ok()) {
            return None;
        }
        parameters.push((key.to_owned(), value.to_owned()));
        rest = &parameter[end..];
    }
    Some(Item {
        name: name.to_owned(),
        parameters,
    })
}

/// The head of a message: its first line and headers.
#[derive(Debug, Clone)]
pub struct Head {
    pub line: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Removes a head from the start of `bytes`. Returns `None` while the head is incomplete.
    pub fn take(bytes: &mut Vec<u8>) -> io::Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Ok(None);
        };
        let text = String::from_utf8(bytes.drain(..end + 4).take(end).collect())
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .map(|line| {
                let (name, value) = line.split_once(':').ok_or_else(|| bad(line))?;
                Ok((name.to_owned(), value.trim().to_owned()))
            })
            .collect::<io::Result<_>>()?;
        Ok(Some(Self { line, headers }))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Returns the status of a response's head.
    pub fn status(&self) -> io::Result<u16> {
        self.line
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.get(2..5)?.parse().ok())
            .ok_or_else(|| bad(&self.line))
    }

    pub fn chunked(&self) -> bool {
        self.get("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }

    pub fn content_length(&self) -> io::Result<Option<usize>> {
        self.get("content-length")
            .map(|value| value.parse().map_err(|_| bad(value)))
            .transpose()
    }
}

/// Returns an error for `text`, which was received where HTTP was expected.
pub fn bad(text: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("not HTTP: {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structured_fields_are_read_with_their_parameters() {
        let items = parse_items(r#""daily-quota";r=0;t=5, "concurrency";qu="concurrent-requests""#)
            .expect("a list");
        assert_eq!(items[0].name, "daily-quota");
        assert_eq!((items[0].number("r"), items[0].number("t")), (0, 5));
        assert_eq!(items[1].get("qu"), Some(r#""concurrent-requests""#));
    }

    #[test]
    fn invalid_structured_fields_are_rejected() {
        for text in [
            "",
            "rate;q=1",
            r#""rate";q"#,
            r#""rate" q=1"#,
            r#""rate";q=x"#,
        ] {
            assert_eq!(parse_items(text), None, "{text}");
        }
    }
}

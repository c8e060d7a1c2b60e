// SPDX-License-Identifier: MIT OR Apache-2.0

//! The prepared responses that the kernel programs send.
//!
//! Their fields follow draft-ietf-httpapi-ratelimit-headers-10 and RFC 9457. A number that is known
//! only when a request is refused has a slot of eight bytes, which is filled with digits followed
//! by spaces. White space at the end of a field line is not part of its value (RFC 9110, section
//! 5.5), and a structured field may end in spaces (RFC 9651, section 4.2). If connections can go on
//! after a refusal, the value of `Connection` is `keep-alive`, which is as long as five spaces and
//! `close`. The kernel programs write the latter if they close the connection nevertheless.

use limiter_common::abi::{MAX_TEXT, Text, reason};

use crate::domain::limits::Limits;

/// The initial contents of a slot. If an unfilled slot were ever sent, it would state one second,
/// which does no harm.
const SLOT: &str = "1       ";

/// The maximum size of the status line and fields in bytes, including the blank line.
const MAX_HEAD: usize = 768;

/// The reason why a request is refused. The values are those of [`limiter_common::abi::reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Refusal {
    /// The scope's requests come faster than its rate allows.
    Rate = reason::RATE,
    /// The scope has too many requests in flight.
    Concurrency = reason::CONCURRENCY,
    /// The scope has too many open connections.
    Connections = reason::CONNECTIONS,
    /// The daily quota of the scope is used up.
    DailyQuota = reason::DAILY_QUOTA,
    /// The request has no key.
    MissingKey = reason::MISSING_KEY,
    /// The key is not registered.
    UnknownKey = reason::UNKNOWN_KEY,
    /// The key is disabled or revoked.
    DisabledKey = reason::DISABLED_KEY,
    /// The stream is not HTTP/1.x, or servers may interpret it in different ways.
    Malformed = reason::MALFORMED,
    /// The method is CONNECT.
    Connect = reason::CONNECT,
}

impl Refusal {
    /// The reasons that depend on the limits of a scope.
    pub const LIMITS: [Self; 4] = [
        Self::Rate,
        Self::Concurrency,
        Self::Connections,
        Self::DailyQuota,
    ];
    /// The reasons that concern no scope.
    pub const COMMON: [Self; 5] = [
        Self::MissingKey,
        Self::UnknownKey,
        Self::DisabledKey,
        Self::Malformed,
        Self::Connect,
    ];

    /// Returns the number by which the kernel programs identify the reason.
    pub fn reason(self) -> u32 {
        self as u32
    }
}

/// The problem type of draft-ietf-httpapi-ratelimit-headers-10, section 5.1.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";
const QUOTA_EXCEEDED_TITLE: &str =
    "Request cannot be satisfied as assigned quota has been exceeded";

/// Returns the response to a request that exceeds one of a scope's limits. `keeps` states whether
/// the connection can go on after it.
pub fn over_limit(refusal: Refusal, limits: &Limits, keeps: bool) -> Text {
    let policies = policies(limits);
    // For the rate and the quota, the kernel programs know the time at which requests pass again,
    // and fill in the time. For requests in flight and connections, this time is unknown, and one
    // second is a reasonable guess.
    let (policy, timed) = match refusal {
        Refusal::Rate => ("rate", true),
        Refusal::Concurrency => ("concurrency", false),
        Refusal::Connections => ("connections", false),
        _ => ("daily-quota", true),
    };
    let mut head = Head::new("429 Too Many Requests");
    if timed {
        head.slotted("Retry-After: ");
    } else {
        head.line("Retry-After: 1");
    }
    if !policies.is_empty() {
        head.line(&format!("RateLimit-Policy: {}", policies.join(", ")));
    }
    if timed {
        head.slotted(&format!("RateLimit: \"{policy}\";r=0;t="));
    } else {
        head.line(&format!("RateLimit: \"{policy}\";r=0"));
    }
    let body = format!(
        "{{\"type\":\"{QUOTA_EXCEEDED}\",\"title\":\"{QUOTA_EXCEEDED_TITLE}\",\"status\":429,\"violated-policies\":[\"{policy}\"]}}"
    );
    head.finish(&body, keeps)
}

/// Returns the response to a request that is refused for a reason that concerns no scope. `keeps`
/// states whether the connection can go on after it, if the reason allows that.
pub fn common(refusal: Refusal, keeps: bool) -> Text {
    let (status, code, title, field) = match refusal {
        Refusal::MissingKey => (
            "401 Unauthorized",
            401,
            "The request carries no API key",
            Some("WWW-Authenticate: Bearer realm=\"api\""),
        ),
        Refusal::DisabledKey => (
            "401 Unauthorized",
            401,
            "The API key is disabled",
            Some("WWW-Authenticate: Bearer realm=\"api\", error=\"invalid_token\""),
        ),
        Refusal::Malformed => (
            "400 Bad Request",
            400,
            "The request is not well-formed HTTP/1.1",
            None,
        ),
        Refusal::Connect => (
            "405 Method Not Allowed",
            405,
            "CONNECT is not allowed",
            // The field is required (RFC 9110, section 15.5.6). It lists the methods that no policy
            // refuses.
            Some("Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ),
        _ => (
            "401 Unauthorized",
            401,
            "The API key is not known",
            Some("WWW-Authenticate: Bearer realm=\"api\", error=\"invalid_token\""),
        ),
    };
    let mut head = Head::new(status);
    if let Some(field) = field {
        head.line(field);
    }
    // The type `about:blank` means that the status code alone describes the problem (RFC 9457,
    // section 4.2.1).
    let body = format!("{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{code}}}");
    // The end of a malformed request is not known, and servers differ in what follows CONNECT.
    let keeps = keeps && !matches!(refusal, Refusal::Malformed | Refusal::Connect);
    head.finish(&body, keeps)
}

/// Returns the items of the `RateLimit-Policy` field, one for each limit of the scope.
fn policies(limits: &Limits) -> Vec<String> {
    let mut items = Vec::new();
    if let Some(rate) = limits.rate {
        let advertised = rate.advertised();
        items.push(format!(
            "\"rate\";q={};w={}",
            advertised.quota, advertised.window_s
        ));
    }
    if let Some(concurrency) = limits.concurrency {
        items.push(format!(
            "\"concurrency\";q={concurrency};qu=\"concurrent-requests\""
        ));
    }
    if let Some(connections) = limits.connections {
        // The registry of the draft has no unit for connections, and its default unit, requests,
        // would be wrong. A client that does not know this unit ignores the policy.
        items.push(format!(
            "\"connections\";q={connections};qu=\"connections\""
        ));
    }
    if let Some(quota) = limits.daily_quota {
        items.push(format!("\"daily-quota\";q={quota};w=86400"));
    }
    items
}

/// A response head while it is being built.
struct Head {
    text: String,
    slots: Vec<usize>,
}

impl Head {
    fn new(status: &str) -> Self {
        Self {
            text: format!("HTTP/1.1 {status}\r\n"),
            slots: Vec::new(),
        }
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push_str("\r\n");
    }

    fn slotted(&mut self, start: &str) {
        self.text.push_str(start);
        self.slots.push(self.text.len());
        self.line(SLOT);
    }

    /// Completes the response. `keeps` states whether the connection can go on after it.
    fn finish(mut self, body: &str, keeps: bool) -> Text {
        self.line("Cache-Control: no-store");
        self.line("Content-Type: application/problem+json");
        self.line(&format!("Content-Length: {}", body.len()));
        let mut connection_at = 0;
        if keeps {
            let name = "Connection: ";
            connection_at = narrow(self.text.len() + name.len());
            self.line(&format!("{name}keep-alive"));
        } else {
            self.line("Connection: close");
        }
        self.line("");
        let head_len = self.text.len();
        self.text.push_str(body);
        // The length of every part is bounded. The test `texts_fit_with_the_longest_of_everything`
        // tries the longest value of each part.
        debug_assert!(head_len <= MAX_HEAD && self.text.len() <= MAX_TEXT);
        let mut bytes = [0; MAX_TEXT + 8];
        let len = self.text.len().min(MAX_TEXT);
        bytes[..len].copy_from_slice(&self.text.as_bytes()[..len]);
        let slot = |index: usize| self.slots.get(index).map_or(0, |at| narrow(*at));
        Text {
            head_len: narrow(head_len.min(len)),
            len: narrow(len),
            retry_after_at: slot(0),
            reset_after_at: slot(1),
            connection_at,
            reserved: 0,
            bytes,
        }
    }
}

/// Converts an offset, which is at most [`MAX_TEXT`], to the type that the kernel uses.
fn narrow(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use sfv::{BareItem, FieldType as _, ListEntry};

    use super::*;

    const LIMITS: Limits = Limits {
        daily_quota: Some(1000),
        rate: None,
        burst: 1,
        concurrency: Some(20),
        connections: None,
    };

    fn bytes(text: &Text) -> Vec<u8> {
        text.bytes[..text.len as usize].to_vec()
    }

    /// Fills the slots as the kernel programs do.
    fn filled(mut text: Text, retry: &[u8; 8], reset: &[u8; 8]) -> Vec<u8> {
        for (at, digits) in [(text.retry_after_at, retry), (text.reset_after_at, reset)] {
            if at > 0 {
                text.bytes[at as usize..at as usize + 8].copy_from_slice(digits);
            }
        }
        bytes(&text)
    }

    fn parsed(response: &[u8]) -> (u16, Vec<(String, String)>, serde_json::Value) {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut fields);
        let end = head.parse(response).unwrap().unwrap();
        let fields: Vec<(String, String)> = head
            .headers
            .iter()
            .map(|field| {
                let value = std::str::from_utf8(field.value).unwrap().trim_end();
                (field.name.to_ascii_lowercase(), value.to_owned())
            })
            .collect();
        let body: serde_json::Value = serde_json::from_slice(&response[end..]).unwrap();
        let length = value(&fields, "content-length").unwrap();
        assert_eq!(length.parse::<usize>().unwrap(), response.len() - end);
        (head.code.unwrap(), fields, body)
    }

    fn value<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
        fields
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    }

    #[test]
    fn the_quota_response_says_when_to_come_back() {
        let limits = Limits {
            rate: "1/ms".parse().ok(),
            ..LIMITS
        };
        let text = over_limit(Refusal::DailyQuota, &limits, true);
        let (status, fields, body) = parsed(&filled(text, b"86399   ", b"86399   "));
        assert_eq!(status, 429);
        assert_eq!(value(&fields, "retry-after"), Some("86399"));
        assert_eq!(
            value(&fields, "ratelimit"),
            Some("\"daily-quota\";r=0;t=86399")
        );
        assert_eq!(
            value(&fields, "ratelimit-policy"),
            Some(
                "\"rate\";q=1000;w=1, \"concurrency\";q=20;qu=\"concurrent-requests\", \"daily-quota\";q=1000;w=86400"
            )
        );
        assert_eq!(value(&fields, "cache-control"), Some("no-store"));
        assert_eq!(value(&fields, "connection"), Some("keep-alive"));
        let at = text.connection_at as usize;
        assert_eq!(&text.bytes[at..at + 12], b"keep-alive\r\n");
        assert_eq!(
            value(&fields, "content-type"),
            Some("application/problem+json")
        );
        assert_eq!(
            body["violated-policies"],
            serde_json::json!(["daily-quota"])
        );
        assert_eq!(body["status"], 429);
    }

    #[test]
    fn every_response_is_http_with_structured_fields() {
        let limits = Limits {
            rate: "3/10ms".parse().ok(),
            connections: Some(5),
            ..LIMITS
        };
        for refusal in Refusal::LIMITS {
            let text = over_limit(refusal, &limits, true);
            let (status, fields, body) = parsed(&filled(text, b"2       ", b"99999999"));
            assert_eq!(status, 429, "{refusal:?}");
            for name in ["ratelimit", "ratelimit-policy"] {
                let list = sfv::Parser::new(value(&fields, name).unwrap())
                    .parse::<sfv::List>()
                    .unwrap_or_else(|error| panic!("{refusal:?} {name}: {error}"));
                assert!(!list.is_empty());
                for entry in &list {
                    let ListEntry::Item(item) = entry else {
                        panic!("{name} holds a list")
                    };
                    assert!(matches!(item.bare_item, BareItem::String(_)), "{name}");
                }
                assert!(list.serialize().is_some());
            }
            let policy = body["violated-policies"][0].as_str().unwrap();
            assert!(
                value(&fields, "ratelimit")
                    .unwrap()
                    .starts_with(&format!("\"{policy}\""))
            );
            assert!(
                value(&fields, "retry-after")
                    .unwrap()
                    .parse::<u32>()
                    .is_ok()
            );
        }
        for (refusal, status) in [
            (Refusal::MissingKey, 401),
            (Refusal::UnknownKey, 401),
            (Refusal::DisabledKey, 401),
            (Refusal::Malformed, 400),
            (Refusal::Connect, 405),
        ] {
            let (code, fields, body) = parsed(&bytes(&common(refusal, true)));
            assert_eq!(code, status, "{refusal:?}");
            assert_eq!(value(&fields, "www-authenticate").is_some(), status == 401);
            assert_eq!(value(&fields, "allow").is_some(), status == 405);
            let connection = if status == 401 { "keep-alive" } else { "close" };
            assert_eq!(value(&fields, "connection"), Some(connection));
            assert_eq!(body["status"], status);
        }
    }

    #[test]
    fn an_unlimited_policy_is_not_advertised() {
        let limits = Limits {
            daily_quota: None,
            concurrency: None,
            ..LIMITS
        };
        let text = over_limit(Refusal::Rate, &limits, false);
        let (_, fields, _) = parsed(&bytes(&text));
        assert_eq!(value(&fields, "ratelimit-policy"), None);
        assert_eq!(value(&fields, "connection"), Some("close"));
        assert_eq!(text.connection_at, 0);
    }

    #[test]
    fn texts_fit_with_the_longest_of_everything() {
        let limits = Limits {
            daily_quota: Some(crate::domain::bound::MAX_DAILY_QUOTA),
            rate: "999983/86399999ms".parse().ok(),
            burst: 1,
            concurrency: Some(crate::domain::bound::MAX_CONCURRENT),
            connections: Some(crate::domain::bound::MAX_CONCURRENT),
        };
        for text in Refusal::LIMITS
            .map(|refusal| over_limit(refusal, &limits, true))
            .iter()
            .chain(&Refusal::COMMON.map(|refusal| common(refusal, true)))
        {
            assert!(text.head_len as usize <= MAX_HEAD);
            assert!(text.len as usize <= MAX_TEXT);
            assert!(
                text.bytes[text.len as usize..]
                    .iter()
                    .all(|byte| *byte == 0)
            );
        }
    }

    #[test]
    fn slots_are_eight_bytes_before_the_line_ends() {
        let text = over_limit(Refusal::Rate, &LIMITS, false);
        for at in [text.retry_after_at as usize, text.reset_after_at as usize] {
            assert_eq!(&text.bytes[at..at + 10], b"1       \r\n");
        }
    }
}

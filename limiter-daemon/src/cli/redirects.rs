// SPDX-License-Identifier: MIT OR Apache-2.0

//! Netfilter rules that redirect requests to another port. The kernel programs see packets before
//! these rules apply, so the port to which clients connect has to be guarded.

use std::{collections::BTreeMap, ops::RangeInclusive, process::Command};

use serde_json::{Value, json};

/// The commands that list rules, each with the function that reads its output. Rules that were made
/// with `iptables` are read with the commands of `iptables`, because nft does not show the port to
/// which such a rule redirects.
const SOURCES: [(&[&str], Reader); 5] = [
    (&["nft", "-n", "-j", "list", "ruleset"], of_nft),
    (&["iptables-save", "-t", "nat"], of_iptables),
    (&["ip6tables-save", "-t", "nat"], of_iptables),
    (&["iptables-legacy-save", "-t", "nat"], of_iptables),
    (&["ip6tables-legacy-save", "-t", "nat"], of_iptables),
];

type Reader = fn(&str) -> Vec<Redirect>;

/// A rule that redirects packets for some ports to another port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Redirect {
    from: Vec<RangeInclusive<u16>>,
    to: u16,
    /// The location of the rule, for messages.
    rule: String,
}

/// Returns all redirecting rules of this network namespace that can be read.
pub(super) fn find() -> Vec<Redirect> {
    let mut found: Vec<Redirect> = Vec::new();
    for (words, read) in SOURCES {
        let Some((program, arguments)) = words.split_first() else {
            continue;
        };
        // The `sbin` directories may be missing from an operator's PATH.
        let paths = [
            (*program).to_owned(),
            format!("/usr/sbin/{program}"),
            format!("/sbin/{program}"),
        ];
        let outputs = paths
            .iter()
            .map(|path| Command::new(path).args(arguments).output());
        let Some(output) = outputs.filter_map(Result::ok).next() else {
            continue;
        };
        for redirect in read(&String::from_utf8_lossy(&output.stdout)) {
            let is_same = |known: &Redirect| known.from == redirect.from && known.to == redirect.to;
            if !found.iter().any(is_same) {
                found.push(redirect);
            }
        }
    }
    found
}

/// Returns a warning for each rule that redirects an unguarded port to a guarded one.
pub(super) fn warnings<'a>(
    guarded: &'a [u16],
    redirects: &'a [Redirect],
) -> impl Iterator<Item = String> + 'a {
    redirects.iter().filter_map(|redirect| {
        let Redirect { from, to, rule } = redirect;
        if !guarded.contains(to) {
            return None;
        }
        let mut ports = from.iter().cloned().flatten();
        ports.find(|port| !guarded.contains(port))?;
        let ports: Vec<String> = from.iter().map(ports_text).collect();
        let ports = ports.join(", ");
        Some(format!(
            "{rule} redirects port {ports} to the guarded port {to}, but the programs see the packets \
             before that, with port {ports}, which is not guarded: guard the port that customers connect to"
        ))
    })
}

fn ports_text(ports: &RangeInclusive<u16>) -> String {
    let (first, last) = (ports.start(), ports.end());
    if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    }
}

/// Reads the output of `nft -n -j list ruleset` (libnftables-json(5)).
fn of_nft(text: &str) -> Vec<Redirect> {
    let Ok(listed) = serde_json::from_str::<Value>(text) else {
        return Vec::new();
    };
    let objects = listed.pointer("/nftables").and_then(Value::as_array);
    let objects = objects.map(Vec::as_slice).unwrap_or_default();
    let qualified = |of: &Value, chain: &str| {
        let word = |name: &str| of.get(name).and_then(Value::as_str).unwrap_or_default();
        format!("{} {} {}", word("family"), word("table"), word(chain))
    };
    let mut hooks = BTreeMap::new();
    for chain in objects.iter().filter_map(|object| object.get("chain")) {
        let hook = chain.get("hook").and_then(Value::as_str);
        hooks.insert(qualified(chain, "name"), hook.unwrap_or_default());
    }
    let kinds = ["set", "map"];
    let named = |object| kinds.iter().find_map(|kind| Value::get(object, kind));
    let sets: Sets<'_> = objects
        .iter()
        .filter_map(named)
        .filter_map(|set| Some((qualified(set, "name"), set.get("elem")?)))
        .collect();
    let mut found = Vec::new();
    for rule in objects.iter().filter_map(|object| object.get("rule")) {
        let chain = qualified(rule, "chain");
        // Chains at the output hook are skipped. They see only packets that this host sends itself,
        // and redirect them before they reach an interface.
        if hooks.get(&chain) == Some(&"output") {
            continue;
        }
        let expressions = rule.get("expr").and_then(Value::as_array);
        // A set belongs to the same table as the rule that refers to it.
        let resolve = |value: &Value| -> Value {
            let name = value.as_str().and_then(|name| name.strip_prefix('@'));
            let name = name.map(|name| qualified(rule, "") + name);
            let set = name.and_then(|name| sets.get(&name).copied());
            set.map_or_else(|| value.clone(), |elements| json!({ "set": elements }))
        };
        found.extend(of_expressions(
            expressions.map(Vec::as_slice).unwrap_or_default(),
            &format!("nftables ({chain})"),
            &resolve,
        ));
    }
    found
}

/// The elements of named sets and maps, by family, table and name.
type Sets<'a> = BTreeMap<String, &'a Value>;

fn of_expressions(
    expressions: &[Value],
    rule: &str,
    resolve: &dyn Fn(&Value) -> Value,
) -> Vec<Redirect> {
    let mut from = vec![1..=u16::MAX];
    for expression in expressions {
        let Some(matched) = expression.get("match") else {
            continue;
        };
        let field = matched.pointer("/left/payload/field");
        let is_other = matched.get("op").and_then(Value::as_str) == Some("!=");
        if field.and_then(Value::as_str) == Some("dport") && !is_other {
            from = matched
                .get("right")
                .map(|right| ports(&resolve(right)))
                .unwrap_or_default();
        }
    }
    let mut found = Vec::new();
    let mut add = |from, to: Option<&Value>| {
        if let Some(to) = to.and_then(port) {
            found.push(Redirect {
                from,
                to,
                rule: rule.to_owned(),
            });
        }
    };
    for expression in expressions {
        let named = |name| expression.get(name).and_then(|target| target.get("port"));
        let target = named("redirect")
            .or_else(|| named("dnat"))
            .or_else(|| named("tproxy"));
        add(from.clone(), target);
        // The target may be a map, as in the rule `redirect to : tcp dport map { 80 : 8080 }`.
        let pairs = target.and_then(|target| target.pointer("/map/data"));
        let pairs = pairs.map(resolve).unwrap_or_default();
        let pairs = pairs.get("set").and_then(Value::as_array);
        for pair in pairs.map(Vec::as_slice).unwrap_or_default() {
            add(pair.get(0).map(ports).unwrap_or_default(), pair.get(1));
        }
    }
    found
}

fn port(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok()
}

/// Parses a port, a range of ports, or a set of ports and ranges.
fn ports(value: &Value) -> Vec<RangeInclusive<u16>> {
    if let Some(port) = port(value) {
        return vec![port..=port];
    }
    if let Some(range) = value.get("range")
        && let (Some(first), Some(last)) =
            (range.get(0).and_then(port), range.get(1).and_then(port))
    {
        return vec![first..=last];
    }
    let all = value.get("set").and_then(Value::as_array);
    let all = all.map(Vec::as_slice).unwrap_or_default();
    all.iter().flat_map(ports).collect()
}

/// Reads the output of `iptables-save -t nat` (iptables-extensions(8)).
fn of_iptables(text: &str) -> Vec<Redirect> {
    let mut found = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            words.get(at + 1).copied()
        };
        let (Some(chain), Some(target)) = (after("-A"), after("-j")) else {
            continue;
        };
        let to = match target {
            "REDIRECT" => after("--to-ports"),
            "DNAT" => after("--to-destination").and_then(|to| to.rsplit_once(':').map(|to| to.1)),
            _ => None,
        };
        // A rule may redirect to a range of ports. Only the first port of the range is compared
        // with the guarded ports.
        let to = to.and_then(|to| to.split('-').next()?.parse().ok());
        let Some(to) = to.filter(|_| chain != "OUTPUT") else {
            continue;
        };
        let from = after("--dport").or_else(|| after("--dports"));
        let from = match from {
            Some(from) if !line.contains("! --dport") => {
                from.split(',').filter_map(range).collect()
            }
            _ => vec![1..=u16::MAX],
        };
        found.push(Redirect {
            from,
            to,
            rule: format!("iptables (nat {chain})"),
        });
    }
    found
}

/// Parses a port or a range of ports, like `80` or `80:90`.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warned(guarded: &[u16], redirects: &[Redirect]) -> Vec<String> {
        warnings(guarded, redirects).collect()
    }

    #[track_caller]
    fn assert_warned(guarded: u16, found: &[Redirect], wanted: Option<&str>) {
        let warned = warned(&[guarded], found);
        assert_eq!(warned.len(), wanted.iter().len(), "{guarded}: {warned:?}");
        let wanted = wanted.unwrap_or_default();
        assert!(warned.concat().contains(wanted), "{warned:?}");
    }

    #[test]
    fn rules_of_iptables_are_read() {
        let text = "\
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080
-A PREROUTING -p tcp -m multiport --dports 81,90:99 -j REDIRECT --to-ports 8081
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 82 -j DNAT --to-destination 172.17.0.2:8082
-A DOCKER -p tcp -m tcp --dport 83 -j DNAT --to-destination [fd00::2]:8083
-A OUTPUT -p tcp -m tcp --dport 84 -j REDIRECT --to-ports 8084
-A PREROUTING -d 192.0.2.1/32 -p tcp -j DNAT --to-destination 10.0.0.1
-A POSTROUTING -j MASQUERADE
COMMIT
";
        let found = of_iptables(text);
        for (guarded, wanted) in [
            (8080, Some("port 80 to")),
            (8081, Some("port 81, 90-99 to")),
            (8082, Some("port 82 to")),
            (8083, Some("port 83 to")),
            (8084, None),
            (80, None),
        ] {
            assert_warned(guarded, &found, wanted);
        }
        assert!(warned(&[80, 8080], &found).is_empty());
    }

    #[test]
    fn rules_of_nftables_are_read() {
        let text = r#"{"nftables": [{"metainfo": {"json_schema_version": 1}},
{"chain": {"family": "ip", "table": "t", "name": "pre", "hook": "prerouting"}},
{"chain": {"family": "ip", "table": "t", "name": "out", "hook": "output"}},
{"rule": {"family": "ip", "table": "t", "chain": "pre", "expr": [
  {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 80}},
  {"redirect": {"port": 8080}}]}},
{"rule": {"family": "ip", "table": "t", "chain": "out", "expr": [{"redirect": {"port": 8081}}]}},
{"rule": {"family": "ip", "table": "t", "chain": "pre", "expr": [
  {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}},
   "right": {"set": [82, {"range": [90, 99]}]}}},
  {"counter": {"packets": 0, "bytes": 0}}, {"dnat": {"addr": "10.0.0.1", "port": 8082}}]}},
{"rule": {"family": "ip", "table": "t", "chain": "pre", "expr": [{"redirect": {"port":
  {"map": {"key": {"payload": {"protocol": "tcp", "field": "dport"}}, "data": {"set": [[83, 8083]]}}}}}]}},
{"rule": {"family": "ip", "table": "t", "chain": "pre", "expr": [{"redirect": null}, {"accept": null}]}},
{"set": {"family": "ip", "table": "t", "name": "web", "elem": [85, 86]}},
{"rule": {"family": "ip", "table": "t", "chain": "pre", "expr": [
  {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": "@web"}},
  {"redirect": {"port": 8085}}]}},
{"rule": {"family": "ip", "table": "t", "chain": "pre", "expr": [{"tproxy": {"port": 8084}}]}}]}"#;
        let found = of_nft(text);
        for (guarded, wanted) in [
            (8080, Some("nftables (ip t pre) redirects port 80 to")),
            (8081, None),
            (8082, Some("port 82, 90-99 to")),
            (8083, Some("port 83 to")),
            (8084, Some("port 1-65535 to")),
            (8085, Some("port 85, 86 to")),
            (80, None),
        ] {
            assert_warned(guarded, &found, wanted);
        }
        assert_eq!(of_nft("not JSON"), []);
    }
}

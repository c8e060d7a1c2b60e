// SPDX-License-Identifier: MIT OR Apache-2.0

//! The metrics page and the packaged files. Every metric is documented, every alert fires when it
//! should, and every panel of the dashboard has data.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    process::Command,
};

use limiter_tests::{
    Rig, avoid_midnight, eventually,
    metrics::{About, Page, Prometheus, packaged, promtool},
    process, skip,
};
use serde_json::Value;

use super::{Scopes, TIME_BEFORE_MIDNIGHT, ask_without_scope, every_reason};

/// Returns a metrics page with a sample of every metric, and the rig that serves it.
fn full() -> (Rig, Page) {
    let rig = Rig::veth(every_reason);
    Scopes::make(&rig.limiter).ask_too_much(&rig);
    ask_without_scope(&rig);
    eventually("all parts were looked at", || {
        let page = Page::read(&rig.lab);
        page.samples
            .contains_key("limiter_health{part=\"recount\"}")
    });
    let page = Page::read(&rig.lab);
    (rig, page)
}

#[test]
fn promtool_accepts_the_metrics_page() {
    let (_rig, page) = full();
    let (content, printed) = promtool(&["check", "metrics"], &page.text);
    assert!(content && printed.is_empty(), "{printed}");
    // promtool reports a mistake in this page, which shows that it would also have reported a
    // mistake in the first page.
    let (content, printed) = promtool(&["check", "metrics"], "limiter_x_total 1\n");
    assert!(!content && printed.contains("no help text"), "{printed}");
}

/// Returns the rows of the table `| name | type | labels | meaning |` in `docs/METRICS.md`.
fn documented() -> BTreeMap<String, (About, BTreeSet<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/METRICS.md");
    let text = fs::read_to_string(path).expect("docs/METRICS.md");
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `limiter_")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, help] = cells[..] else {
            panic!("not four cells: {line}");
        };
        let labels = labels.split(", ").map(|label| label.trim_matches('`'));
        let labels = labels.filter(|label| !label.is_empty()).map(str::to_owned);
        let about = About {
            kind: kind.to_owned(),
            help: help.to_owned(),
        };
        let before = rows.insert(name.trim_matches('`').to_owned(), (about, labels.collect()));
        assert!(before.is_none(), "{name} occurs twice");
    }
    rows
}

#[test]
fn every_metric_matches_its_documentation() {
    let (_rig, page) = full();
    let mut labels: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for sample in page.samples.keys() {
        let mut names = Page::labels_of(sample);
        names.remove("le");
        let of = labels
            .entry(page.metric_of(sample))
            .or_insert_with(|| names.clone());
        assert_eq!(*of, names, "{sample}");
    }
    let documented = documented();
    for (name, about) in &page.about {
        let row = documented.get(name);
        let (as_written, labels_written) =
            row.unwrap_or_else(|| panic!("docs/METRICS.md has no `{name}` ({about:?})"));
        assert_eq!(about, as_written, "{name}");
        assert_eq!(labels[name.as_str()], *labels_written, "{name}");
        assert!(!about.help.is_empty(), "{name}");
    }
    for name in documented.keys() {
        assert!(page.about.contains_key(name), "the page has no {name}");
    }
}

#[test]
fn alert_rules_pass_their_promtool_tests() {
    let rules = packaged("prometheus/limiter.rules.yml");
    let tests = packaged("prometheus/limiter.rules.test.yml");
    let (content, printed) = promtool(&["check", "rules", &rules.display().to_string()], "");
    assert!(content, "{printed}");
    let (content, printed) = promtool(&["test", "rules", &tests.display().to_string()], "");
    assert!(content, "{printed}");
    // For each alert, the rule tests must contain a case in which it fires.
    let rules = fs::read_to_string(rules).expect("the rules");
    let tests = fs::read_to_string(tests).expect("their tests");
    let alerts: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(alerts.len() >= 10, "{alerts:?}");
    for alert in alerts {
        let fires = tests.contains(&format!("alertname=\"{alert}\""))
            || tests.contains(&format!("alertname: {alert}\n"));
        assert!(fires, "no test has {alert} firing");
    }
}

/// Returns the words in `text` that look like names of metrics and are not documented.
fn undocumented_in(text: &str) -> Vec<String> {
    let known = documented();
    let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    text.split(word)
        .filter(|word| word.starts_with("limiter_"))
        .filter(|word| {
            let parts = ["", "_bucket", "_sum", "_count"];
            !parts.iter().any(|part| {
                let name = word.strip_suffix(part);
                name.is_some_and(|name| known.contains_key(name))
            })
        })
        .map(str::to_owned)
        .collect()
}

/// Returns the queries of a dashboard, each with the title of its panel.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().expect("a query");
            found.push((title.to_owned(), query.to_owned()));
        }
    }
    found
}

#[test]
fn rules_and_dashboard_name_existing_metrics() {
    for file in [
        "prometheus/limiter.rules.yml",
        "prometheus/limiter.rules.test.yml",
    ] {
        let text = fs::read_to_string(packaged(file)).expect("the rules");
        assert_eq!(undocumented_in(&text), Vec::<String>::new(), "{file}");
    }
    for (title, query) in queries(&dashboard()) {
        assert_eq!(undocumented_in(&query), Vec::<String>::new(), "{title}");
    }
}

fn dashboard() -> Value {
    let text = fs::read_to_string(packaged("grafana/limiter.json")).expect("the dashboard");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn dashboard_panels_are_complete_and_do_not_overlap() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "limiter");
    assert!(
        dashboard["schemaVersion"]
            .as_u64()
            .is_some_and(|version| version >= 36)
    );
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}");
        let at = |name: &str| panel["gridPos"][name].as_u64().expect("a place");
        let (x, y, w, h) = (at("x"), at("y"), at("w"), at("h"));
        assert!(x + w <= 24, "{title} is too wide");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} overlaps another");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(
            panel["description"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{title}"
        );
        let mut refs = BTreeSet::new();
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert!(refs.insert(target["refId"].to_string()), "{title}");
        }
    }
}

#[test]
fn grafana_knows_every_field_of_the_dashboard() {
    let Some(python) = env::var_os("LIMITER_GRAFANA") else {
        return skip(
            "grafana_knows_every_field_of_the_dashboard",
            "LIMITER_GRAFANA names no Python with Grafana's types, `cargo xtask test` sets it",
        );
    };
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/read.py");
    let mut command = Command::new(python);
    command.arg(reader).arg(packaged("grafana/limiter.json"));
    process::succeed(&mut command);
}

#[test]
fn a_real_prometheus_has_data_for_every_query_of_the_dashboard() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let rig = Rig::veth(every_reason);
    let prometheus = Prometheus::start(&rig.lab);
    let scopes = Scopes::make(&rig.limiter);
    eventually("a page was read before there was traffic", || {
        !prometheus.query("limiter_requests_total").is_empty()
    });
    scopes.ask_too_much(&rig);
    ask_without_scope(&rig);
    let queries: Vec<(String, String)> = queries(&dashboard())
        .into_iter()
        .map(|(title, query)| {
            let query = query
                .replace("$__rate_interval", "1m")
                .replace("$job", "limiter")
                .replace("$instance", ".*");
            assert!(!query.contains('$'), "{title}: {query}");
            (title, query)
        })
        .collect();
    assert!(queries.len() > 20, "{queries:?}");
    for (title, query) in &queries {
        eventually(&format!("data for {title}: {query}"), || {
            let result = prometheus.query(query);
            !result.is_empty() && result.iter().all(is_a_number)
        });
    }
    // The data of a query could be wrong, so the test also checks the value that one query returns.
    let refused = "sum(limiter_requests_total{verdict=\"refused\", tier!=\"\"})";
    eventually("Prometheus has all of it", || {
        let result = prometheus.query(refused);
        result
            .first()
            .is_some_and(|series| series["value"][1] == "8")
    });
    // Prometheus has evaluated all rules without an error, and no critical alert fires.
    eventually("the rules were evaluated", || {
        let rules = prometheus.rules();
        rules.len() >= 10 && rules.iter().all(|(_, well)| *well)
    });
    let alerts = prometheus.query("ALERTS{severity=\"critical\"}");
    assert!(alerts.is_empty(), "{alerts:?}");
}

fn is_a_number(sample: &Value) -> bool {
    let value = sample["value"][1].as_str().expect("a value");
    value.parse::<f64>().is_ok_and(f64::is_finite)
}

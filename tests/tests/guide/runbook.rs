// SPDX-License-Identifier: MIT OR Apache-2.0

//! The commands in `docs/RUNBOOK.md` and `docs/RESPONSES.md` work, and print the output that these
//! pages show.

use limiter_tests::{
    GUARDED, Host, Lab, Nginx, avoid_midnight,
    pages::{Example, transcript},
};

use crate::{
    TIME_BEFORE_MIDNIGHT,
    customer::{NAME, Setting},
};

impl Setting {
    #[track_caller]
    fn with_policy(policy: &str) -> Self {
        avoid_midnight(TIME_BEFORE_MIDNIGHT);
        let lab = Lab::veth();
        let api = Nginx::start(&lab, &[GUARDED]);
        let mut host = Host::new(&lab, lab.server(), "host");
        let configuration = format!(
            "[attach]\ninterfaces = [{:?}]\nports = [{GUARDED}]\n[policy]\n{policy}",
            lab.interface()
        );
        host.write("/etc/limiter/limiter.toml", &configuration);
        host.start_limiter();
        let customer = Host::new(&lab, lab.client(), "customer");
        customer.add_hosts_entry(NAME, &lab.v4().to_string());
        Self {
            customer,
            host,
            api,
            _lab: lab,
        }
    }

    /// Sends a request with `key`, and returns the status of the response.
    #[track_caller]
    fn asks(&mut self, key: &str) -> u16 {
        let lines = format!(
            "curl -sS -o /dev/null -w '%{{http_code}}' -H 'X-Api-Key: {key}' http://{NAME}/"
        );
        let printed = self.customer.sh(&lines).stdout;
        printed
            .parse()
            .unwrap_or_else(|_| panic!("curl printed {printed}"))
    }

    /// Returns the id of the only active key of `scope`.
    #[track_caller]
    fn id(&self, scope: &str) -> String {
        let keys = self
            .host
            .sh(&format!("limiter key list {scope} --json"))
            .json();
        let active: Vec<&str> = keys
            .as_array()
            .expect("an array")
            .iter()
            .filter(|key| key["state"] == "active")
            .map(|key| key["id"].as_str().expect("an id"))
            .collect();
        assert_eq!(active.len(), 1, "{keys}");
        active[0].to_owned()
    }
}

#[test]
fn transcripts_match_the_output_of_curl() {
    let mut setting = Setting::with_policy("missing_key = \"reject\"\nunknown_key = \"reject\"\n");
    let host = &setting.host;
    host.sh("limiter scope add acme/web");
    host.sh("limiter limits set acme/web --daily-quota 1 --note 'as in the transcript'");
    let key = host.key("acme/web");
    host.sh("limiter scope add gone");
    let disabled = host.key("gone");
    host.sh(&format!("limiter key disable {}", setting.id("gone")));
    setting.customer.set_env("KEY", &key);
    setting.customer.set_env("DISABLED", &disabled);
    let example = Example::of("RESPONSES.md", "responses");
    for run in example.runs() {
        for (command, expected) in transcript(example.run(run)) {
            let printed = setting.customer.sh(&command).stdout;
            assert_eq!(
                without_times(&printed),
                without_times(&expected),
                "{command}"
            );
        }
    }
    assert_eq!(
        setting.api.log().len(),
        1,
        "refused requests did not reach the server"
    );
}

/// Returns the lines of `text` without trailing spaces, and with a placeholder in place of the
/// number of seconds until midnight.
fn without_times(text: &str) -> Vec<String> {
    let masked = |line: &str| {
        let line = line.trim_end();
        for start in ["Retry-After: ", "RateLimit: \"daily-quota\";r=0;t="] {
            if let Some(seconds) = line.strip_prefix(start) {
                assert!(
                    seconds
                        .parse::<u32>()
                        .is_ok_and(|s| (1..=86_400).contains(&s)),
                    "{line}"
                );
                return format!("{start}SECONDS");
            }
        }
        line.to_owned()
    };
    text.trim_end().lines().map(masked).collect()
}

#[test]
fn every_block_of_the_runbook_works() {
    let mut setting = Setting::with_policy("unknown_key = \"reject\"\n");
    let book = Example::of("RUNBOOK.md", "runbook");
    let mut todo = book.runs();
    let mut run = |setting: &Setting, name: &str| {
        let next = todo.iter().position(|left| *left == name);
        todo.remove(next.unwrap_or_else(|| panic!("{name} is not in the runbook, or ran already")));
        setting.host.sh(book.run(name)).stdout
    };
    setting.host.sh("limiter scope add acme/web");
    setting
        .host
        .sh("limiter limits set acme/web --daily-quota 1 --note 'a small customer'");
    let key = setting.host.key("acme/web");
    setting.host.set_env("KEY", &key);
    assert_eq!([setting.asks(&key), setting.asks(&key)], [200, 429]);

    let output = run(&setting, "complains");
    assert!(
        output.contains("would be refused with 429: daily quota"),
        "{output}"
    );
    assert!(run(&setting, "whose").contains("acme/web"));
    run(&setting, "more");
    assert_eq!(setting.asks(&key), 200);
    let usage = setting.host.usage("acme/web");
    assert_eq!(
        (usage.used, usage.daily_quota),
        (2, Some(5000)),
        "today's count stays"
    );
    assert!(run(&setting, "try").contains("would have been refused"));
    assert!(run(&setting, "again").contains("ticket 4711"));
    let usage = setting.host.usage("acme/web");
    assert_eq!((usage.used, usage.daily_quota), (0, Some(1000)));
    run(&setting, "observe");
    run(&setting, "midnight");

    let id = setting.id("acme/web");
    setting.host.set_env("ID", &id);
    let new = crate::customer::key_in(&run(&setting, "leaked"));
    assert_eq!([setting.asks(&key), setting.asks(&new)], [401, 200]);
    assert_ne!(setting.id("acme/web"), id);
    let key = new;

    let since =
        |setting: &Setting| setting.host.sh("limiter status --json").json()["since"].clone();
    let before = since(&setting);
    setting.host.kill_last();
    assert_eq!(setting.asks(&key), 200, "while no daemon runs");
    setting.host.start_limiter();
    run(&setting, "upgrade");
    assert_eq!(
        since(&setting),
        before,
        "limits were in force all the while"
    );
    run(&setting, "reload");

    run(&setting, "backup");
    assert_eq!(setting.asks(&key), 200);
    setting.host.kill_last();
    setting.host.sh("limiter detach; rm -r /var/lib/limiter");
    run(&setting, "restore");
    setting.host.start_limiter();
    assert_eq!(
        setting.asks(&key),
        200,
        "the key is known after the loss of the host"
    );
    assert_eq!(setting.asks("nobodys"), 401);

    run(&setting, "clock");
    assert_eq!(setting.host.usage("acme/web").used, 0);
    run(&setting, "disk");
    run(&setting, "flood");
    assert!(run(&setting, "passes").contains("inspected_bytes"));
    assert!(run(&setting, "chain").contains("BEHIND"));
    assert!(run(&setting, "alert").contains("\"health\": []"));
    let output = run(&setting, "leaves");
    for word in ["revoked permanently", "acme/web (removed)"] {
        assert!(output.contains(word), "no {word} in {output}");
    }
    assert_eq!(setting.asks(&key), 401);
    run(&setting, "out");
    assert_eq!(setting.asks("nobodys"), 200, "nothing is limited any more");
    assert_eq!(todo, [""; 0], "all commands were run");
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The examples at the end of `--help`. A test parses each line that begins with `limiter`.

pub(super) const LIMITER: &str = "\
Examples:
  limiter check                          # check the configuration
  limiter status                         # attachments, totals, health
  limiter scope add acme/web             # a profile: 1,000 requests a day
  limiter key create acme/web            # prints a new key, only this once
  limiter usage acme/web --json          # used, left and refused, for programs
  limiter explain acme/web               # would a request be admitted now?
  limiter top                            # the busiest scopes, live";

pub(super) const RUN: &str = "\
Examples:
  limiter run                            # with /etc/limiter/limiter.toml
  limiter run --interface lo --port 8080 # without a file
  limiter run -c other.toml --state-dir /var/lib/other --runtime-dir /run/other --pin-dir /sys/fs/bpf/other";

pub(super) const CHECK: &str = "\
Examples:
  limiter check
  limiter check -c new.toml              # before it is installed
  limiter check --json                   # `warnings` has likely mistakes";

pub(super) const STATUS: &str = "\
Examples:
  limiter status
  limiter status --json                  # `health` is empty if everything works
  limiter --socket /run/other/limiter.sock status";

pub(super) const SCOPE: &str = "\
Examples:
  limiter scope add acme/web
  limiter scope list";

pub(super) const SCOPE_ADD: &str = "\
Examples:
  limiter scope add acme                 # an account: 10,000 requests a day
  limiter scope add acme/web             # a profile: 1,000
  limiter scope add acme/bulk --tier gold";

pub(super) const SCOPE_LIST: &str = "\
Examples:
  limiter scope list
  limiter scope list --json";

pub(super) const SCOPE_SHOW: &str = "\
Examples:
  limiter scope show acme/web
  limiter scope show acme/web --json";

pub(super) const SCOPE_MODE: &str = "\
Examples:
  limiter scope mode acme/web observe --note \"trial until Friday\"
  limiter scope mode acme/web tier --note \"trial is over\"";

pub(super) const SCOPE_SET: &str = "\
Examples:
  limiter scope set acme/web --tier gold --note \"contract 17\"";

pub(super) const SCOPE_REMOVE: &str = "\
Examples:
  limiter scope remove acme/web
  limiter scope remove acme/web --with-keys";

pub(super) const KEY: &str = "\
Examples:
  limiter key create acme/web
  limiter key list acme/web";

pub(super) const KEY_CREATE: &str = "\
Examples:
  limiter key create acme/web
  limiter key create acme/web --label \"build server\" --until 90d
  limiter key create acme/web > web.key  # only the key goes to standard output";

pub(super) const KEY_IMPORT: &str = "\
Examples:
  limiter key import acme/web < web.key
  limiter key import acme/web --label old < web.key
  limiter key import --csv keys.csv      # scope,key and optionally label,tier
  limiter key import --csv - < keys.csv";

pub(super) const KEY_CHECK: &str = "\
Examples:
  limiter key check < web.key
  limiter key check --json < web.key";

pub(super) const KEY_LIST: &str = "\
Examples:
  limiter key list
  limiter key list acme/web --json
  limiter key list --removed             # keys that were revoked with their scopes";

pub(super) const KEY_DISABLE: &str = "\
Examples:
  limiter key disable k_7qm2xw4dza";

pub(super) const KEY_ENABLE: &str = "\
Examples:
  limiter key enable k_7qm2xw4dza";

pub(super) const KEY_REVOKE: &str = "\
Examples:
  limiter key revoke k_7qm2xw4dza --note \"leaked\"
  limiter key revoke k_7qm2xw4dza --at 7d --note \"rotated\"";

pub(super) const LIMITS: &str = "\
Examples:
  limiter limits set acme/web --daily-quota 5000 --note \"syncs 300 profiles\"
  limiter limits clear acme/web --note \"back to normal\"";

pub(super) const LIMITS_SET: &str = "\
Examples:
  limiter limits set acme/web --daily-quota 5000 --note \"syncs 300 profiles\"
  limiter limits set acme --rate 5/ms --burst 10 --until 7d --note \"migration\"
  limiter limits set acme --rate 5/ms --until never --note \"for good\"
  limiter limits set acme --daily-quota unlimited --until 2099-01-01 --note \"contract 17\"";

pub(super) const LIMITS_CLEAR: &str = "\
Examples:
  limiter limits clear acme/web --note \"back to normal\"
  limiter limits clear acme --burst --rate --note \"the migration is over\"";

pub(super) const LIMITS_TRY: &str = "\
Examples:
  limiter limits try acme/web --daily-quota 500
  limiter limits try acme/web --tier gold --days 30
  limiter limits try --tier profile --daily-quota 800";

pub(super) const USAGE: &str = "\
Examples:
  limiter usage                          # all scopes, today
  limiter usage acme/web
  limiter usage acme/web --date 2026-11-24
  limiter usage --date yesterday
  limiter usage --json";

pub(super) const RESET: &str = "\
Examples:
  limiter reset acme/web --note \"their client ran wild\"";

pub(super) const TIER: &str = "\
Examples:
  limiter tier list";

pub(super) const TIER_LIST: &str = "\
Examples:
  limiter tier list
  limiter tier list --json";

pub(super) const AUDIT: &str = "\
Examples:
  limiter audit --since 7d
  limiter audit acme/web
  limiter audit --limit 1000 --json";

pub(super) const EXPLAIN: &str = "\
Examples:
  limiter explain acme/web
  limiter explain k_7qm2xw4dza           # is it the key or its scope?
  limiter explain acme/web --json        # `verdict`, `reason`, `until`";

pub(super) const EVENTS: &str = "\
Examples:
  limiter events
  limiter events --follow                # until it is interrupted
  limiter events --follow --json         # one JSON object a line";

pub(super) const TOP: &str = "\
Examples:
  limiter top                            # q quits; the last lines list the keys
  limiter top --by quota --filter acme
  limiter top --json                     # once, for programs";

pub(super) const FLEET: &str = "\
Examples:
  limiter fleet init                     # on the first host
  limiter fleet join < hash.key          # on each other host
  limiter fleet status";

pub(super) const FLEET_INIT: &str = "\
Examples:
  limiter fleet init                     # `[fleet] engine` in the configuration names the engine";

pub(super) const FLEET_JOIN: &str = "\
Examples:
  limiter fleet join < hash.key          # /var/lib/limiter/hash.key of a host of the fleet
  limiter fleet join --replace < hash.key
  limiter fleet join --state-dir /var/lib/other < hash.key";

pub(super) const FLEET_LEAVE: &str = "\
Examples:
  limiter fleet leave                    # then remove [fleet] from the configuration";

pub(super) const FLEET_STATUS: &str = "\
Examples:
  limiter fleet status
  limiter fleet status --json            # `engine.up`, `hosts`, `problems`";

pub(super) const FLEET_FORGET: &str = "\
Examples:
  limiter fleet forget web-17            # after the host was taken out of service";

pub(super) const FLEET_SEED: &str = "\
Examples:
  limiter fleet seed                     # on the host with the latest scopes and keys";

pub(super) const FLEET_ACL: &str = "\
Examples:
  limiter fleet acl                      # replace PASSWORD in the line
  limiter fleet acl --user gateway";

pub(super) const RELOAD: &str = "\
Examples:
  limiter check && limiter reload";

pub(super) const DETACH: &str = "\
Examples:
  limiter detach                         # nothing is limited from then on
  limiter detach --socket /run/other/limiter.sock
  limiter detach --state-dir /var/lib/other --pin-dir /sys/fs/bpf/other";

pub(super) const COMPLETIONS: &str = "\
Examples:
  limiter completions bash > /etc/bash_completion.d/limiter
  limiter completions fish > ~/.config/fish/completions/limiter.fish";

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use crate::cli::args::Cli;

    /// Collects the visible commands and subcommands, each with the words that select it.
    fn commands(command: &clap::Command, path: &str, found: &mut Vec<(String, String)>) {
        let examples = command.get_after_help().map(ToString::to_string);
        found.push((path.to_owned(), examples.unwrap_or_default()));
        for sub in command.get_subcommands() {
            if !sub.is_hide_set() && sub.get_name() != "help" {
                commands(sub, &format!("{path} {}", sub.get_name()), found);
            }
        }
    }

    #[test]
    fn each_command_has_examples_that_can_be_typed() {
        let mut all = Vec::new();
        commands(&Cli::command(), "limiter", &mut all);
        for (path, help) in all {
            let mut of_it = 0;
            for line in help.lines() {
                assert!(line.len() <= 110, "{path}: too wide: {line}");
                // Removes the comment at the end of the line, the command before `&&`, and
                // redirections.
                let line = line.split(" # ").next().unwrap_or_default();
                let line = line.split(" && ").last().unwrap_or_default();
                let line = line.split(['<', '>']).next().unwrap_or_default().trim();
                if !line.starts_with("limiter ") {
                    continue;
                }
                let words = shlex::split(line).unwrap();
                if let Err(error) = Cli::try_parse_from(&words) {
                    panic!("{path}: {line}: {error}");
                }
                let mut rest = words.iter();
                let is_of_it = path.split(' ').all(|word| rest.any(|other| other == word));
                of_it += usize::from(is_of_it);
            }
            assert!(of_it > 0, "{path} has no example of its own");
        }
    }
}

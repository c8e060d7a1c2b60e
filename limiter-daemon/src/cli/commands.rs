// SPDX-License-Identifier: MIT OR Apache-2.0

//! The commands that send requests to a daemon.

use std::{
    io::{self, Read as _},
    path::Path,
};

use anyhow::Context as _;
use hyper::Method;
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    args::{
        AuditArgs, Command, TierCommand, default_socket, keys::KeyCommand, limits::LimitsCommand,
        scopes::ScopeCommand,
    },
    client::{Client, escape, query},
    events,
    exit::Failure,
    explain, fleet, import, keys,
    moment::Date,
    render, status, top, trial,
};
use crate::{
    domain::{plain, scope::ScopeName},
    protocol::{
        requests::{
            AddScope, CheckKey, ClearLimits, CreateKey, ImportKey, Noted, SetLimits, SetMode,
            SetTier,
        },
        views::{AuditView, CreatedKey, KeyCheck, KeyView, Report, rfc3339},
    },
};

pub(super) fn run(command: Command, socket: Option<&Path>, json: bool) -> Result<(), Failure> {
    let socket = socket.map_or_else(default_socket, Path::to_path_buf);
    let client = Client::new(&socket, json);
    match command {
        Command::Status => status::status(&client.get("/v1/status")?, json),
        Command::Scope(command) => scope(&client, command, json),
        Command::Key(command) => key(&client, command, json),
        Command::Limits(command) => limits(&client, command, json),
        Command::Usage { scope, date } => {
            let date = date.map(Date::day);
            let query = date.map(|date| format!("?date={date}")).unwrap_or_default();
            match scope {
                Some(scope) => {
                    let path = format!("/v1/scopes/{}/usage{query}", escape(scope.as_str()));
                    render::usage_of(&client.get(&path)?, json)
                }
                None => {
                    let views: Vec<_> = client.get(&format!("/v1/usage{query}"))?;
                    render::usage(&views, date.is_some(), json)
                }
            }
        }
        Command::Reset { scope, note } => {
            let path = format!("/v1/scopes/{}/reset", escape(scope.as_str()));
            render::usage_of(&client.send(Method::POST, &path, &Noted { note })?, json)
        }
        Command::Tier(TierCommand::List) => {
            render::tiers(&client.get::<Vec<_>>("/v1/tiers")?, json)
        }
        Command::Audit(args) => audit(&client, &args, json),
        Command::Explain { object } => {
            let view = client.get(&format!("/v1/explain/{}", escape(&object)))?;
            explain::explain(&view, json)
        }
        Command::Events(args) if args.follow => events::follow(&client, args.limit, json),
        Command::Events(args) if args.limit == 0 => Err(Failure::Usage(
            "`--limit 0` would show no event: give a number from 1 to 1000, or add --follow to show only new events"
                .to_owned(),
        )),
        Command::Events(args) => {
            let path = format!("/v1/events?limit={}", args.limit);
            events::recent(&client.get::<Vec<_>>(&path)?, json)
        }
        Command::Fleet(command) => fleet::run(&client, command, json),
        Command::Top(args) => top::top(client, &args, json),
        Command::Reload => {
            let report: Report = client.post("/v1/reload")?;
            render::report(&report, "the configuration has not changed", json)
        }
        Command::Run(_)
        | Command::Check(_)
        | Command::Detach(_)
        | Command::Completions { .. }
        | Command::ManPages { .. } => {
            // `dispatch` handles these commands itself.
            Err(Failure::failed("this command does not send a request to a daemon"))
        }
    }
}

fn scope(client: &Client, command: ScopeCommand, json: bool) -> Result<(), Failure> {
    match command {
        ScopeCommand::Add { scope, tier } => {
            let view = client.send(Method::POST, "/v1/scopes", &AddScope { scope, tier })?;
            render::changed_scope(&view, json)
        }
        ScopeCommand::List => render::scopes(&client.get::<Vec<_>>("/v1/scopes")?, json),
        ScopeCommand::Show { scope } => {
            render::scope_detail(&client.get(&scope_path(&scope, ""))?, json)
        }
        ScopeCommand::Set { scope, tier, note } => {
            let path = scope_path(&scope, "/tier");
            let view = client.send(Method::PUT, &path, &SetTier { tier, note })?;
            render::changed_scope(&view, json)
        }
        ScopeCommand::Mode { scope, mode, note } => {
            let path = scope_path(&scope, "/mode");
            let view = client.send(Method::PUT, &path, &SetMode { mode, note })?;
            render::changed_scope(&view, json)
        }
        ScopeCommand::Remove { scope, with_keys } => {
            let path = format!("{}?with_keys={with_keys}", scope_path(&scope, ""));
            let report: Report = client.send(Method::DELETE, &path, &json!({}))?;
            render::report(&report, "nothing was removed", json)
        }
    }
}

fn scope_path(scope: &ScopeName, rest: &str) -> String {
    format!("/v1/scopes/{}{rest}", escape(scope.as_str()))
}

fn key(client: &Client, command: KeyCommand, json: bool) -> Result<(), Failure> {
    let change = |id: &str, verb: &str, fields: &[(&str, Option<String>)]| {
        let query = query(fields);
        let view: KeyView = client.post(&format!("/v1/keys/{}/{verb}{query}", escape(id)))?;
        keys::key(&view, json)
    };
    match command {
        KeyCommand::Create {
            scope,
            label,
            until,
            note,
        } => {
            let request = CreateKey {
                scope,
                label,
                until: until.map(|until| until.end()),
                note,
            };
            let made: CreatedKey = client.send(Method::POST, "/v1/keys", &request)?;
            keys::created_key(&made, json)
        }
        KeyCommand::Import {
            csv: Some(file), ..
        } => import::import(client, &file, json),
        KeyCommand::Import {
            scope: Some(scope),
            label,
            csv: None,
            note,
        } => {
            let raw = read_key()?;
            let request = ImportKey {
                scope,
                label,
                key: raw.to_string(),
                note,
            };
            let view: KeyView = client.send(Method::POST, "/v1/keys/import", &request)?;
            let _wiped = Zeroizing::new(request.key);
            keys::key(&view, json)
        }
        KeyCommand::Import {
            scope: None,
            csv: None,
            ..
        } => Err(Failure::Usage(
            "name a scope, or a file with --csv".to_owned(),
        )),
        KeyCommand::Check => {
            let raw = read_key()?;
            let request = CheckKey {
                key: raw.to_string(),
            };
            let check: KeyCheck = client.send(Method::POST, "/v1/keys/check", &request)?;
            let _wiped = Zeroizing::new(request.key);
            keys::key_check(&check, json)
        }
        KeyCommand::List { scope, removed } => {
            let of = scope
                .as_ref()
                .map(|scope| format!("&scope={}", escape(scope.as_str())))
                .unwrap_or_default();
            let keys: Vec<_> = client.get(&format!("/v1/keys?removed={removed}{of}"))?;
            if removed && keys.is_empty() && !json {
                let of = scope.map_or_else(String::new, |scope| format!(" called {scope}"));
                return render::lines(&[format!("there are no keys of removed scopes{of}")]);
            }
            keys::keys(&keys, scope.as_ref(), json)
        }
        KeyCommand::Disable { id, note } => change(&id, "disable", &[("note", note)]),
        KeyCommand::Enable { id, note } => change(&id, "enable", &[("note", note)]),
        KeyCommand::Revoke { id, at, note } => {
            let at = at.map(|at| at.end().to_string());
            change(&id, "revoke", &[("at", at), ("note", note)])
        }
    }
}

/// The maximum number of bytes that are read from standard input for a key. It is larger than the
/// maximum length of a key, because a request can carry a longer value, for which the kernel may
/// have created a scope. `key check` therefore accepts any value that fits into the head of a
/// request.
const MAX_VALUE: u64 = 16 * 1024;

/// Reads a key from standard input. The key is one line, without its line end. It is not an
/// argument, because every user of the host can see the arguments of a process.
fn read_key() -> Result<Zeroizing<String>, Failure> {
    let limit = MAX_VALUE;
    let mut text = Zeroizing::new(String::new());
    io::stdin()
        .take(limit)
        .read_to_string(&mut text)
        .context("cannot read the key from standard input")?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    Ok(Zeroizing::new(line.to_owned()))
}

fn limits(client: &Client, command: LimitsCommand, json: bool) -> Result<(), Failure> {
    match command {
        LimitsCommand::Set(args) => {
            let request = SetLimits {
                limits: args.changes(),
                until: args.until.map(|until| until.end()),
                note: args.note.clone(),
            };
            let path = scope_path(&args.scope, "/limits");
            let view = client.send(Method::PUT, &path, &request)?;
            render::changed_scope(&view, json)
        }
        LimitsCommand::Try(args) => trial::trial(client, &args, json),
        LimitsCommand::Clear(args) => {
            let request = ClearLimits {
                limits: args.limits(),
                note: args.note.clone(),
            };
            let path = scope_path(&args.scope, "/limits");
            let view = client.send(Method::DELETE, &path, &request)?;
            render::changed_scope(&view, json)
        }
    }
}

fn audit(client: &Client, args: &AuditArgs, json: bool) -> Result<(), Failure> {
    let mut path = format!("/v1/audit?limit={}", args.limit);
    if let Some(since) = &args.since {
        path.push_str(&format!("&since={}", escape(&rfc3339(&since.at()))));
    }
    if let Some(object) = &args.object {
        path.push_str(&format!("&object={}", escape(object)));
    }
    let entries: Vec<AuditView> = client.get(&path)?;
    let nothing = match (&args.object, &args.since) {
        (Some(object), _) => format!(
            "the audit trail has no matching changes of {object}: `limiter audit` shows the changes of all scopes and keys"
        ),
        (None, Some(_)) => {
            "the audit trail has no changes since then: `limiter audit` shows all changes".to_owned()
        }
        (None, None) => {
            "the audit trail has no changes yet: it will show the changes of `scope`, `key`, `limits` and `reset`"
                .to_owned()
        }
    };
    render::audit(&entries, &nothing, json)?;
    if !json && entries.len() == args.limit as usize {
        eprintln!(
            "limiter: only the last {} {} shown: use --limit for more",
            plain::counted(args.limit, "change"),
            if args.limit == 1 { "is" } else { "are" }
        );
    }
    Ok(())
}

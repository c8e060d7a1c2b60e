//! The commands that ask a daemon.

use std::{
    io::{self, Read as _},
    path::Path,
};

use anyhow::Context as _;
use hyper::Method;
use limiter_common::abi::MAX_KEY;
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    args::{
        AuditArgs, Command, KeyCommand, LimitsCommand, ScopeCommand, SetArgs, TierCommand,
        default_socket,
    },
    client::{Client, escape},
    events,
    exit::Failure,
    explain, import, render, status, top,
};
use crate::{
    api::{
        AddScope, AuditView, CheckKey, CreateKey, CreatedKey, ImportKey, KeyCheck, KeyView, Noted,
        Report, SetLimits, SetMode, rfc3339,
    },
    scope::ScopeName,
};

pub(super) fn run(command: Command, socket: Option<&Path>, json: bool) -> Result<(), Failure> {
    let socket = socket.map_or_else(default_socket, Path::to_path_buf);
    let client = Client::new(&socket);
    match command {
        Command::Status => status::status(&client.get("/v1/status")?, json),
        Command::Scope(command) => scope(&client, command, json),
        Command::Key(command) => key(&client, command, json),
        Command::Limits(command) => limits(&client, command, json),
        Command::Usage { scope, date } => {
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
        Command::Events(args) => {
            let path = format!("/v1/events?limit={}", args.limit);
            events::recent(&client.get::<Vec<_>>(&path)?, json)
        }
        Command::Top(args) => top::top(client, &args, json),
        Command::Reload => {
            let report: Report = client.post("/v1/reload")?;
            render::report(&report, "nothing has changed", json)
        }
        Command::Run(_)
        | Command::Check(_)
        | Command::Detach(_)
        | Command::Completions { .. }
        | Command::ManPages { .. } => {
            // `dispatch` keeps these for itself: they do not ask a daemon first.
            Err(Failure::failed("this command does not ask a daemon"))
        }
    }
}

fn scope(client: &Client, command: ScopeCommand, json: bool) -> Result<(), Failure> {
    match command {
        ScopeCommand::Add { scope, tier } => {
            let view = client.send(Method::POST, "/v1/scopes", &AddScope { scope, tier })?;
            render::scope(&view, json)
        }
        ScopeCommand::List => render::scopes(&client.get::<Vec<_>>("/v1/scopes")?, json),
        ScopeCommand::Show { scope } => {
            render::scope_detail(&client.get(&scope_path(&scope, ""))?, json)
        }
        ScopeCommand::Mode { scope, mode, note } => {
            let path = scope_path(&scope, "/mode");
            render::scope(
                &client.send(Method::PUT, &path, &SetMode { mode, note })?,
                json,
            )
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
    let change = |id: &str, verb: &str| {
        let view: KeyView = client.post(&format!("/v1/keys/{}/{verb}", escape(id)))?;
        render::key(&view, json)
    };
    match command {
        KeyCommand::Create { scope, label } => {
            let made: CreatedKey =
                client.send(Method::POST, "/v1/keys", &CreateKey { scope, label })?;
            render::created_key(&made, json)
        }
        KeyCommand::Import {
            csv: Some(file), ..
        } => import::import(client, &file, json),
        KeyCommand::Import {
            scope: Some(scope),
            label,
            csv: None,
        } => {
            let raw = read_key()?;
            let request = ImportKey {
                scope,
                label,
                key: raw.to_string(),
            };
            let view: KeyView = client.send(Method::POST, "/v1/keys/import", &request)?;
            let _wiped = Zeroizing::new(request.key);
            render::key(&view, json)
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
            render::key_check(&check, json)
        }
        KeyCommand::List { scope } => {
            let query = scope
                .as_ref()
                .map(|scope| format!("?scope={}", escape(scope.as_str())))
                .unwrap_or_default();
            let keys: Vec<_> = client.get(&format!("/v1/keys{query}"))?;
            render::keys(&keys, scope.as_ref(), json)
        }
        KeyCommand::Disable { id } => change(&id, "disable"),
        KeyCommand::Enable { id } => change(&id, "enable"),
        KeyCommand::Revoke { id } => change(&id, "revoke"),
    }
}

/// A key from standard input: one line, its end not part of it. Never from the command line,
/// where every user of the host could read it.
fn read_key() -> Result<Zeroizing<String>, Failure> {
    // A little more than a key, so that one that is too long is told from one that fits.
    let limit = (MAX_KEY * 4) as u64;
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
            let SetArgs {
                scope, until, note, ..
            } = &args;
            let request = SetLimits {
                limits: args.changes(),
                until: until.map(|until| until.at()),
                note: note.clone(),
            };
            let view = client.send(Method::PUT, &scope_path(scope, "/limits"), &request)?;
            render::scope(&view, json)
        }
        LimitsCommand::Clear { scope, note } => {
            let path = scope_path(&scope, "/limits");
            render::scope(&client.send(Method::DELETE, &path, &Noted { note })?, json)
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
            "no such changes of {object} on record: `limiter audit` shows those of all scopes and keys"
        ),
        (None, Some(_)) => {
            "no changes since then on record: without --since there are all".to_owned()
        }
        (None, None) => {
            "no changes on record yet: what `scope`, `key`, `limits` and `reset` change comes here"
                .to_owned()
        }
    };
    render::audit(&entries, &nothing, json)?;
    if !json && entries.len() == args.limit as usize {
        eprintln!(
            "these are the last {} entries: --limit shows more",
            args.limit
        );
    }
    Ok(())
}

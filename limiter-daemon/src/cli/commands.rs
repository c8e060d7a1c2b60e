//! The commands that ask a daemon.

use std::{
    io::{self, Read as _},
    path::Path,
    str::FromStr,
};

use anyhow::Context as _;
use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use hyper::Method;
use limiter_common::abi::MAX_KEY;
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    args::{
        Command, KeyCommand, LimitsCommand, ScopeCommand, SetArgs, TierCommand, default_socket,
    },
    client::{Client, escape},
    exit::Failure,
    import, render, status,
};
use crate::{
    api::{AddScope, CreateKey, CreatedKey, ImportKey, KeyView, Noted, Report, SetLimits},
    scope::ScopeName,
};

/// When an override ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Until(DateTime<Utc>);

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        until(text, Utc::now()).map(Self)
    }
}

fn until(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    let wrong = || {
        format!(
            "`{text}` is not a time: write 2026-12-31 (its first moment, UTC), 2026-12-31T18:00:00Z, or from now on 90m, 36h, 7d"
        )
    };
    let at = if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        at.with_timezone(&Utc)
    } else if let Ok(date) = text.parse::<NaiveDate>() {
        date.and_time(NaiveTime::MIN).and_utc()
    } else {
        let span = text.strip_prefix('+').unwrap_or(text);
        let unit_at = span
            .len()
            .checked_sub(1)
            .filter(|at| span.is_char_boundary(*at));
        let (number, unit) = span.split_at(unit_at.ok_or_else(wrong)?);
        let seconds = match unit {
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(wrong()),
        };
        let number: u32 = number.parse().map_err(|_| wrong())?;
        let span = TimeDelta::seconds(i64::from(number) * seconds);
        now.checked_add_signed(span).ok_or_else(wrong)?
    };
    if at <= now {
        return Err(format!("`{text}` has passed already"));
    }
    Ok(at)
}

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
                None => render::usage(&client.get::<Vec<_>>(&format!("/v1/usage{query}"))?, json),
            }
        }
        Command::Reset { scope, note } => {
            let path = format!("/v1/scopes/{}/reset", escape(scope.as_str()));
            render::usage_of(&client.send(Method::POST, &path, &Noted { note })?, json)
        }
        Command::Tier(TierCommand::List) => {
            render::tiers(&client.get::<Vec<_>>("/v1/tiers")?, json)
        }
        Command::Reload => {
            let report: Report = client.post("/v1/reload")?;
            render::report(&report, "nothing has changed", json)
        }
        Command::Run(_) | Command::Check(_) | Command::Detach(_) | Command::Completions { .. } => {
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
        KeyCommand::List { scope } => {
            let query = scope
                .map(|scope| format!("?scope={}", escape(scope.as_str())))
                .unwrap_or_default();
            render::keys(&client.get::<Vec<_>>(&format!("/v1/keys{query}"))?, json)
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
                until: until.map(|until| until.0),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-24T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn ends_are_moments_dates_or_spans() {
        for (text, wanted) in [
            ("2026-12-31", "2026-12-31T00:00:00Z"),
            ("2026-12-31T18:00:00+02:00", "2026-12-31T16:00:00Z"),
            ("90m", "2026-11-24T13:30:00Z"),
            ("+36h", "2026-11-26T00:00:00Z"),
            ("7d", "2026-12-01T12:00:00Z"),
        ] {
            let wanted: DateTime<Utc> = wanted.parse().unwrap();
            assert_eq!(until(text, now()), Ok(wanted), "{text}");
        }
        for text in [
            "",
            "tomorrow",
            "7",
            "d",
            "7w",
            "2026-13-01",
            "2026-11-24",
            "0m",
            "é",
            "-3d",
        ] {
            assert!(until(text, now()).is_err(), "{text}");
        }
    }
}

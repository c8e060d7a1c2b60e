// SPDX-License-Identifier: MIT OR Apache-2.0

//! `limiter fleet`.

use std::{
    io::{self, IsTerminal as _, Read as _},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use hyper::Method;
use limiter_fleet::{
    client::{Client as EngineClient, Error, Server},
    registry::Identity,
};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::runtime::Builder;
use zeroize::Zeroizing;

use super::{
    args::fleet::{FleetCommand, JoinArgs},
    client::{Client, escape},
    exit::Failure,
    render,
    table::Table,
    terminal::{BAD, GOOD, NOTABLE},
};
use crate::{
    config::Fleet,
    domain::plain::counted,
    engine::fleet::access,
    protocol::{
        fleet::{EngineView, FleetView, HostView, JoinFleet, LeasesView},
        views::{Report, rfc3339},
    },
    run::lock::DirectoryLock,
    secret,
    store::Store,
};

/// The rights that the user of limiter needs at the engine, as rules of an ACL
/// (<https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/>).
const RULES: &str = "resetkeys ~limiter:* resetchannels &limiter:* -@all +auth +hello +ping \
    +select +info +role +wait +eval +evalsha +script|load +hget +hset +hmget +hgetall +hlen \
    +hexists +hdel +hincrby +exists +del +expireat +time +zadd +zrangebyscore +zremrangebyrank \
    +publish +subscribe +unsubscribe +cluster|slots +cluster|shards";

/// `fleet acl`: the rights that limiter needs at the engine.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AclView {
    /// The name of the user.
    user: String,
    /// The rules of the user's rights.
    rules: Vec<String>,
    /// The line for the file of users (`aclfile`) or the configuration of the engine. PASSWORD
    /// stands for the password.
    line: String,
}

pub(super) fn run(client: &Client, command: FleetCommand, json: bool) -> Result<(), Failure> {
    let report = |report: Report| render::report(&report, "nothing was changed", json);
    match command {
        FleetCommand::Init => report(client.post("/v1/fleet/init")?),
        FleetCommand::Join(args) => join(client, &args, json),
        FleetCommand::Leave => report(client.post("/v1/fleet/leave")?),
        FleetCommand::Seed => report(client.post("/v1/fleet/seed")?),
        FleetCommand::Forget { host } => {
            report(client.post(&format!("/v1/fleet/hosts/{}/forget", escape(&host)))?)
        }
        FleetCommand::Status => status(&client.get("/v1/fleet")?, json),
        // `dispatch` handles this command itself, since it needs no daemon.
        FleetCommand::Acl { user } => acl(&user, json),
    }
}

/// Prints the rule for the user of limiter in the engine's list of users.
pub(super) fn acl(user: &str, json: bool) -> Result<(), Failure> {
    let rules: Vec<&str> = RULES.split_whitespace().collect();
    let line = format!("user {user} on >PASSWORD {}", rules.join(" "));
    if json {
        let user = user.to_owned();
        let rules = rules.into_iter().map(ToOwned::to_owned).collect();
        return render::json(&AclView { user, rules, line });
    }
    render::lines(&[line])
}

/// The longest time for which `limiter check` waits for the engine.
const CHECK_TIME: Duration = Duration::from_secs(5);

/// Connects to the engine, and returns its problems.
pub(super) fn engine_problems(fleet: &Fleet) -> Vec<String> {
    let settings = match access::settings(fleet) {
        Ok(settings) => settings,
        Err(error) => return vec![error.to_string()],
    };
    let runtime = Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else {
        return vec!["cannot start the runtime".to_owned()];
    };
    let mut client = EngineClient::new(settings, "check");
    let asked = runtime.block_on(async {
        let ask = async {
            let servers = client.describe().await?;
            Ok::<_, Error>((
                servers,
                client.confirmations(),
                missing_rights(&mut client).await,
            ))
        };
        tokio::time::timeout(CHECK_TIME, ask).await
    });
    let (servers, confirmations, mut problems) = match asked {
        Err(_) => return vec!["the engine of the fleet does not answer".to_owned()],
        Ok(Err(error)) => return vec![format!("the engine of the fleet: {error}")],
        Ok(Ok(answer)) => answer,
    };
    for (address, server) in servers {
        match server {
            Err(error) => problems.push(format!("the engine of the fleet: {error}")),
            Ok(server) => problems.extend(
                server_problems(&server, confirmations)
                    .map(|problem| format!("the engine of the fleet: {address} {problem}")),
            ),
        }
    }
    problems
}

/// Returns what the user may not do at the engine.
async fn missing_rights(client: &mut EngineClient) -> Vec<String> {
    let mut missing = Vec::new();
    let mut note = |what: &str, error: &Error| {
        missing.push(format!(
            "the engine of the fleet does not let this user {what} (`limiter fleet acl` prints \
             the rights): {error}"
        ));
    };
    if let Err(error) = client.fleet().await {
        note("read the fleet", &error);
        return missing;
    }
    // No fleet has this id, so the script changes nothing.
    let nobody = Identity {
        fleet: "check".to_owned(),
        host: "check".to_owned(),
        session: "check".to_owned(),
        machine: "check".to_owned(),
    };
    match client.heartbeat(&nobody, "{}", 0, false).await {
        Err(Error::NoFleet | Error::OtherFleet(_)) | Ok(_) => {}
        Err(error) => note("run scripts", &error),
    }
    if let Err(error) = client.subscribe().await {
        note("subscribe to announcements", &error);
    }
    missing
}

fn server_problems(server: &Server, confirmations: u32) -> impl Iterator<Item = String> {
    let replicas = server.replicas;
    let too_few = (replicas < confirmations).then(|| {
        format!(
            "has {}, and a grant needs {}: nothing is granted",
            counted(replicas, "replica"),
            counted(confirmations, "confirmation")
        )
    });
    let one = (replicas == 1 && confirmations > 0).then(|| {
        "has one replica: after a failover, nothing is granted until the other server is back"
            .to_owned()
    });
    let forgets = (replicas == 0 && !server.has_append_only_file).then(|| {
        "has no replica and no append-only file: it forgets scopes and keys when it ends, which \
         `limiter fleet seed` then restores"
            .to_owned()
    });
    [too_few, one, forgets].into_iter().flatten()
}

/// Joins the fleet of the engine. If no daemon runs, only the secret is put into its place, and the
/// daemon joins when it starts.
fn join(client: &Client, args: &JoinArgs, json: bool) -> Result<(), Failure> {
    let bytes = read_secret()?;
    let request = JoinFleet {
        secret: bytes
            .as_ref()
            .map(|bytes| secret::to_hex(bytes).to_string()),
        replace: args.replace,
    };
    let report: Report = match client.send(Method::POST, "/v1/fleet/join", &request) {
        Err(Failure::Unreachable(_)) if bytes.is_some() => {
            let bytes = bytes.unwrap_or_default();
            install(&args.state_dir(), &bytes)?;
            Report {
                done: vec![
                    "the hash secret is in its place: the daemon joins the fleet when it starts"
                        .to_owned(),
                ],
                warnings: Vec::new(),
            }
        }
        answer => answer?,
    };
    render::report(&report, "nothing was changed", json)
}

/// Puts the secret into the state directory of a daemon that does not run.
fn install(state: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
    let _lock = DirectoryLock::take(state).map_err(|error| failed(&error))?;
    if Store::exists(state) {
        let store = Store::open_as_owner(state).map_err(|error| failed(&error))?;
        let keys = store.key_count().map_err(|error| failed(&error))?;
        store.close();
        let present = secret::load_or_create(state, keys).map_err(|error| failed(&error))?;
        let new = secret::of_bytes(bytes);
        if keys > 0 && new.is_none_or(|new| *new != *present) {
            return Err(Failure::failed(format!(
                "the store in {} has {} that would not work with another hash secret: remove the \
                 directory, and join again",
                state.display(),
                counted(keys, "key")
            )));
        }
    }
    secret::install(state, bytes)
        .map(drop)
        .map_err(|error| failed(&error))
}

/// Reads the secret from standard input: the content of `hash.key`, or the same as hexadecimal
/// digits. Returns `None` if standard input is a terminal or empty.
fn read_secret() -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Ok(None);
    }
    let mut bytes = Zeroizing::new(Vec::new());
    stdin
        .take(256)
        .read_to_end(&mut bytes)
        .context("cannot read the secret from standard input")?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let secret = secret::from_input(&bytes);
    secret.map(Some).ok_or_else(|| {
        Failure::Usage(
            "standard input is not a hash secret: pass the file hash.key of a host of the fleet"
                .to_owned(),
        )
    })
}

fn status(view: &FleetView, json: bool) -> Result<(), Failure> {
    if json {
        return render::json(view);
    }
    let FleetView {
        fleet,
        name,
        host,
        engine,
        version,
        leases,
        divided_rates,
        hosts,
        problems,
    } = view;
    let mut lines = vec![
        match fleet {
            Some(fleet) => format!("fleet     {fleet}"),
            None => "fleet     none".to_owned(),
        },
        format!("host      {name} ({host})"),
        format!("registry  version {version} of {}", engine.version),
    ];
    lines.extend(engine_lines(engine));
    lines.push(lease_line(leases));
    if *divided_rates > 0 {
        let rates = counted(*divided_rates, "scope");
        lines.push(format!("rates     divided among the hosts for {rates}"));
    }
    render::lines(&lines)?;
    if !hosts.is_empty() {
        render::lines(&[String::new()])?;
        render::lines(&host_table(hosts).lines())?;
    }
    let problems: Vec<String> = problems
        .iter()
        .map(|problem| format!("problem: {problem}"))
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    render::lines(&[String::new()])?;
    render::lines(&problems)
}

fn engine_lines(engine: &EngineView) -> Vec<String> {
    let state = match (engine.up, &engine.answered_at) {
        (true, _) => "up".to_owned(),
        (false, Some(at)) => format!("away, last answer at {}", rfc3339(at)),
        (false, None) => "away, no answer yet".to_owned(),
    };
    let mut lines = vec![format!(
        "engine    {}, {state}, {} for a grant",
        engine.kind,
        counted(engine.confirm, "confirmation")
    )];
    for server in &engine.servers {
        lines.push(match (&server.version, &server.problem) {
            (_, Some(problem)) => format!("          {}: {problem}", server.address),
            (version, None) => format!(
                "          {}: {}, {}{}",
                server.address,
                version.as_deref().unwrap_or("?"),
                counted(server.replicas, "replica"),
                if server.append_only_file {
                    ", append-only file"
                } else {
                    ""
                }
            ),
        });
    }
    lines
}

fn lease_line(leases: &LeasesView) -> String {
    format!(
        "leases    {} left for {}; calls: {} granted, {} leased out, {} used up, {} failed",
        counted(leases.left, "request"),
        counted(leases.scopes, "scope"),
        leases.granted,
        leases.leased_out,
        leases.used_up,
        leases.failed
    )
}

fn host_table(hosts: &[HostView]) -> Table {
    let mut table = Table::new(&["~HOST", "STATE", ">VERSION", ">CLOCK", "?LIMITER", "?ID"])
        .styled("STATE", |text| match text {
            "alive" => GOOD,
            "silent" => BAD,
            _ => NOTABLE,
        });
    for host in hosts {
        let mut states = Vec::new();
        if host.silent {
            states.push("silent");
        }
        if host.behind {
            states.push("behind");
        }
        if host.differs {
            states.push("differs");
        }
        let state = match states.as_slice() {
            [] => "alive".to_owned(),
            states => states.join(", "),
        };
        table.row([
            host.name.clone(),
            state,
            host.version.to_string(),
            format!("{:+} ms", host.clock_ms),
            host.limiter.clone(),
            host.id.clone(),
        ]);
    }
    table
}

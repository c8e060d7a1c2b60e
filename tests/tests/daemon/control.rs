// SPDX-License-Identifier: MIT OR Apache-2.0

//! Access to the control socket. Members of the group `group` may read, and members of the group
//! `admin_group` may also make changes.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use limiter_tests::{
    Config, Lab, Limiter,
    limiter::{Output, binary, exit},
    process,
};
use serde_json::{Value, json};

/// Two groups that exist on every Debian system. The tests use them in place of groups that an
/// operator would create.
const READERS: &str = "games";
const ADMINS: &str = "daemon";
/// An id that belongs to no named user and no named group.
const UNNAMED_ID: u32 = 64_999;

fn gid(name: &str) -> u32 {
    let groups = fs::read_to_string("/etc/group").expect("the groups");
    let line = groups
        .lines()
        .find(|line| line.split(':').next() == Some(name))
        .unwrap_or_else(|| panic!("no group {name}"));
    let id = line.split(':').nth(2).expect("an id");
    id.parse().expect("a number")
}

/// A host with a daemon and a copy of the limiter's binary that every user may execute.
struct Host {
    limiter: Limiter,
    binary: PathBuf,
    _lab: Lab,
}

impl Host {
    fn new(control: &str) -> Self {
        let lab = Lab::loopback();
        let config = Config::published(&lab).small_tables();
        let mut limiter = Limiter::prepare(&lab, "limiter", &config.section("control", control));
        limiter.run(&[]);
        let copy = lab.file("limiter-for-all");
        // A separate process makes the copy. If this process wrote the file itself, a child process
        // of another thread could inherit the open file descriptor, and the execution of the file
        // would then fail (ETXTBSY, execve(2)).
        process::succeed(Command::new("cp").arg(binary()).arg(&copy));
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("for all");
        Self {
            limiter,
            binary: copy,
            _lab: lab,
        }
    }

    fn with_groups() -> Self {
        Self::new(&format!("group = {READERS:?}\nadmin_group = {ADMINS:?}\n"))
    }

    /// Returns a command that runs `limiter` as the user `uid` in the groups `groups`. The first
    /// group is the primary one.
    fn command_as(&self, uid: u32, groups: &[u32], arguments: &[&str]) -> Command {
        let mut command = as_user(uid, groups, &self.binary);
        command
            .arg("--socket")
            .arg(self.limiter.socket())
            .args(arguments)
            .env_remove("LIMITER_SOCKET");
        command
    }

    /// Calls an operation as the user [`UNNAMED_ID`] in the groups `groups`, and returns the status
    /// of the response.
    fn status_as(&self, groups: &[u32], method: &str, path: &str) -> u16 {
        let mut command = as_user(UNNAMED_ID, groups, Path::new("curl"));
        command
            .args(["-q", "-sS", "-o", "/dev/null", "-w", "%{http_code}"])
            .args(["-X", method, "--unix-socket"])
            .arg(self.limiter.socket())
            .arg(format!("http://limiter{path}"));
        let output: Output = command.output().expect("run setpriv").into();
        let status = output.stdout.parse();
        status.unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    fn run_as(&self, uid: u32, groups: &[u32], arguments: &[&str]) -> Output {
        let output = self.command_as(uid, groups, arguments).output();
        output.expect("run setpriv").into()
    }
}

/// Returns a command that runs `program` as the user `uid` in the groups `groups`. The first group
/// is the primary one.
fn as_user(uid: u32, groups: &[u32], program: &Path) -> Command {
    let rest: Vec<String> = groups[1..].iter().map(ToString::to_string).collect();
    let supplementary = if rest.is_empty() {
        "--clear-groups".to_owned()
    } else {
        format!("--groups={}", rest.join(","))
    };
    let mut command = Command::new("setpriv");
    command
        .arg(format!("--reuid={uid}"))
        .arg(format!("--regid={}", groups[0]))
        .arg(supplementary)
        .arg("--")
        .arg(program)
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

const READS: [&[&str]; 9] = [
    &["status"],
    &["scope", "list"],
    &["scope", "show", "acme"],
    &["key", "list"],
    &["usage"],
    &["usage", "acme"],
    &["tier", "list"],
    &["audit"],
    &["key", "check"],
];

const CHANGES: [&[&str]; 13] = [
    &["scope", "add", "beta"],
    &["scope", "remove", "acme", "--with-keys"],
    &["scope", "mode", "acme", "observe", "--note", "x"],
    &["key", "create", "acme"],
    &["key", "import", "acme"],
    &["key", "disable", "ID"],
    &["key", "enable", "ID"],
    &["key", "revoke", "ID"],
    &["limits", "set", "acme", "--burst", "9", "--note", "x"],
    &["limits", "clear", "acme", "--note", "x"],
    &["reset", "acme", "--note", "x"],
    &["reload"],
    &["detach"],
];

#[test]
fn read_group_may_read_and_admin_group_may_change() {
    let host = Host::with_groups();
    let (readers, admins) = (gid(READERS), gid(ADMINS));
    host.limiter.key("acme");
    let before = host.limiter.json(&["audit"]);
    let id = before[1]["object"].as_str().expect("the key's id");
    for groups in [&[UNNAMED_ID, 7, readers][..], &[readers]] {
        for arguments in READS {
            let output = host.run_as(UNNAMED_ID, groups, arguments);
            assert_eq!(output.code, exit::DONE, "{arguments:?}: {output:?}");
        }
        for arguments in CHANGES {
            let arguments: Vec<&str> = arguments
                .iter()
                .map(|word| if *word == "ID" { id } else { word })
                .collect();
            let output = host.run_as(UNNAMED_ID, groups, &arguments);
            output.assert_fails(exit::FAILED, &["uid 64999", ADMINS, "not make changes"]);
        }
    }
    assert_eq!(host.limiter.json(&["audit"]), before, "nothing was changed");

    // With `many`, the user is in more groups than fit into the daemon's first buffer for groups.
    let many: Vec<u32> = [UNNAMED_ID, admins, readers]
        .into_iter()
        .chain(100_000..100_060)
        .collect();
    for groups in [
        &[UNNAMED_ID, readers, admins][..],
        &[admins, readers],
        &many,
    ] {
        let set = [
            "limits",
            "set",
            "acme",
            "--burst",
            "9",
            "--note",
            "by an admin",
        ];
        let output = host.run_as(UNNAMED_ID, groups, &set);
        assert_eq!(output.code, exit::DONE, "{groups:?}: {output:?}");
    }
    let entries = host.limiter.json(&["audit", "acme"]);
    let last = entries.as_array().and_then(|all| all.last());
    let last = last.expect("an entry");
    assert_eq!(
        (&last["who"], &last["note"]),
        (&json!("uid 64999"), &json!("by an admin"))
    );
    let log = host.limiter.log();
    assert!(log.contains("uid 64999 may not make changes"), "{log}");
}

/// Returns the operations in `docs/openapi.json`. Each has its method, its path, and a bool that is
/// true if the operation makes changes and therefore requires the admin group.
fn operations() -> Vec<(String, String, bool)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let text = fs::read_to_string(path).expect("the document");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let changes = match operation["tags"][0].as_str() {
                Some("read") => false,
                Some("change") => true,
                other => panic!("{method} {path}: {other:?}"),
            };
            let path = path.replace("{scope}", "acme").replace("{id}", "k_1");
            operations.push((method.to_ascii_uppercase(), path, changes));
        }
    }
    operations
}

#[test]
fn each_documented_operation_requires_its_documented_group() {
    let host = Host::with_groups();
    host.limiter.scope("acme");
    let (readers, admins) = (gid(READERS), gid(ADMINS));
    // The operation that ends the daemon comes last.
    let mut operations = operations();
    operations.sort_by_key(|(_, path, _)| path == "/v1/detach");
    let [reader, admin] = [[UNNAMED_ID, readers], [UNNAMED_ID, admins]];
    let socket = host.limiter.socket();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("open the socket");
    for (method, path, changes) in &operations {
        let is_safe = method == "GET" || path == "/v1/keys/check";
        assert_eq!(*changes, !is_safe, "{method} {path}");
        let refused = |groups| host.status_as(groups, method, path) == 403;
        assert!(
            refused(&[UNNAMED_ID]),
            "{method} {path} for a user without a group"
        );
        assert_eq!(refused(&reader), *changes, "{method} {path} for a reader");
    }
    for (method, path, _) in &operations {
        let status = host.status_as(&admin, method, path);
        assert!(status != 403 && status < 500, "{method} {path}: {status}");
    }
}

#[test]
fn unauthorized_import_of_a_large_list_gets_the_same_message() {
    let host = Host::with_groups();
    let list = host.limiter.socket().with_file_name("keys.csv");
    let lines: String = (0..200_000).map(|n| format!("acme,key-{n}\n")).collect();
    fs::write(&list, format!("scope,key\n{lines}")).expect("the list");
    let import = ["key", "import", "--csv", &list.display().to_string()];
    let output = host.run_as(UNNAMED_ID, &[gid(READERS)], &import);
    output.assert_fails(exit::FAILED, &["not make changes", ADMINS]);
    assert_eq!(host.limiter.json(&["key", "list"]), json!([]));
}

#[test]
fn users_outside_the_groups_cannot_open_the_socket() {
    let host = Host::with_groups();
    for arguments in [&["status"][..], &["scope", "add", "acme"]] {
        let output = host.run_as(UNNAMED_ID, &[UNNAMED_ID, 7], arguments);
        output.assert_fails(exit::FAILED, &["permission", "root", READERS]);
    }
    // Users in neither group are refused even if the mode of the socket lets them connect.
    let socket = host.limiter.socket();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("open the socket");
    let output = host.run_as(UNNAMED_ID, &[UNNAMED_ID, 7], &["status"]);
    output.assert_fails(exit::FAILED, &["uid 64999", READERS, ADMINS]);
    let output = host.run_as(UNNAMED_ID, &[UNNAMED_ID, 7], &["scope", "add", "acme"]);
    output.assert_fails(exit::FAILED, &["uid 64999", ADMINS]);
    assert_eq!(host.limiter.json(&["scope", "list"]), json!([]));
}

/// Returns the owner, the group and the mode of a file.
fn rights(path: &Path) -> (u32, u32, u32) {
    let file = fs::metadata(path).expect("it is there");
    (file.uid(), file.gid(), file.mode() & 0o777)
}

#[test]
fn socket_and_directory_have_the_group_and_modes() {
    let host = Host::with_groups();
    assert_eq!(rights(&host.limiter.socket()), (0, gid(READERS), 0o660));
    assert_eq!(rights(&host.limiter.runtime_dir()), (0, 0, 0o755));
    assert_eq!(rights(&host.limiter.state_dir()), (0, 0, 0o700));

    // If the groups in the configuration do not exist, only root has access.
    let host = Host::new("group = \"no-such-group\"\nadmin_group = \"nor-this\"\n");
    assert_eq!(rights(&host.limiter.socket()), (0, 0, 0o660));
    let output = host.run_as(UNNAMED_ID, &[UNNAMED_ID, gid(READERS)], &["status"]);
    output.assert_fails(exit::FAILED, &["permission", "root"]);
    host.limiter.done(&["scope", "add", "acme"]);
}

#[test]
fn changed_group_requires_a_restart() {
    let mut host = Host::with_groups();
    let config = fs::read_to_string(host.limiter.config_path()).expect("the configuration");
    host.limiter.write_config(&config.replace(READERS, "users"));
    let report = host.limiter.json(&["reload"]);
    assert!(
        report["warnings"].to_string().contains("[control]"),
        "{report}"
    );
    let status = ["status"];
    assert_eq!(
        host.run_as(UNNAMED_ID, &[gid(READERS)], &status).code,
        exit::DONE
    );
    host.limiter.terminate();
    host.limiter.run(&[]);
    let output = host.run_as(UNNAMED_ID, &[gid(READERS)], &status);
    output.assert_fails(exit::FAILED, &["permission", "users"]);
    assert_eq!(
        host.run_as(UNNAMED_ID, &[gid("users")], &status).code,
        exit::DONE
    );
}

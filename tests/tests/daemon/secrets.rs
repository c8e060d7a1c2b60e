// SPDX-License-Identifier: MIT OR Apache-2.0

//! A raw key is shown once, to the user who creates it, and is stored nowhere.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::{
        fs::{FileExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
        process::ExitStatusExt as _,
    },
    path::Path,
    process::Command,
};

use limiter_tests::{
    Config, Conn, GUARDED, Lab, Limiter, Nginx, Rig, eventually,
    limiter::exit,
    metrics::{self, on_page},
    process, request, skip,
};
use nix::sys::signal::Signal;

/// Returns the paths of the files below `directory` that contain any of `secrets`.
fn holding(directory: &Path, secrets: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("read a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(holding(&path, secrets));
        } else if path.is_file() {
            let content = fs::read(&path).unwrap_or_default();
            if secrets.iter().any(|secret| contains(&content, secret)) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

fn contains(content: &[u8], secret: &str) -> bool {
    let secret = secret.as_bytes();
    let first = secret[0];
    let mut rest = content;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        if rest[at..].starts_with(secret) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// A rig that has processed keys of every kind: created, imported, refused and unknown ones.
struct UsedRig {
    rig: Rig,
    keys: Vec<String>,
    /// Open connections that the kernel programs track. For each key, there is one connection whose
    /// request has been served, one whose request was sent in pieces, one whose request is
    /// incomplete, and one whose request is in flight.
    _open: Vec<Conn>,
    _line: UnixStream,
}

fn used() -> UsedRig {
    let lab = Lab::veth();
    let config = on_page(Config::new(&lab), "top_scopes = 1000")
        .policy("unknown_key = \"tier:guest\"")
        .tier("guest", "daily_quota = 10")
        .tier("profile", "daily_quota = 10");
    let mut limiter = Limiter::prepare(&lab, "limiter", &config);
    limiter.set_log("trace");
    limiter.run(&[]);
    let rig = Rig {
        limiter,
        nginx: Nginx::start(&lab, &[GUARDED]),
        lab,
    };
    let made = rig.limiter.key("acme/web");
    rig.limiter.scope("acme/app");
    let imported = "imported-key-5d41402abc4b2a76".to_owned();
    let import = ["key", "import", "acme/app"];
    assert_eq!(rig.limiter.cli_with_input(&import, &imported).code, 0);
    let listed = "listed-key-9719d911017c592b".to_owned();
    let file = rig.lab.file("keys.csv");
    fs::write(&file, format!("scope,key\nacme/csv,{listed}\n")).expect("the list");
    rig.limiter
        .done(&["key", "import", "--csv", &file.display().to_string()]);
    fs::remove_file(file).expect("remove the list");
    let refused = "refused key-a0f8a7b6c5d4e3f2".to_owned();
    assert_ne!(rig.limiter.cli_with_input(&import, &refused).code, 0);
    // A client sends this key over the control socket, and keeps its connection open.
    let posted = "posted-key-e4da3b7fbbce2345".to_owned();
    let line = post_and_stay(&rig, &posted);
    let unknown = "unknown-key-0cc175b9c0f1b6a8".to_owned();
    let keys = vec![made, imported, listed, posted, unknown];
    let mut open = Vec::new();
    for key in &keys {
        for _ in 0..3 {
            rig.get(key);
        }
        let mut served = rig.lab.connect(GUARDED);
        served.get("/", key);
        open.push(served);
        // This request is sent in three pieces, and the second one ends with the last byte of the
        // key. The kernel programs therefore have to keep state from one segment to the next.
        let mut split = rig.lab.connect(GUARDED);
        let request = request("/", key);
        let (first, rest) = request.split_at(request.len() - 4);
        split.send_pieces([&first[..50], &first[50..], rest]);
        split.response();
        open.push(split);
        // This request ends with the last byte of the key, and its field line is incomplete.
        let mut half = rig.lab.connect(GUARDED);
        half.send_pieces([first]);
        open.push(half);
        let mut held = rig.lab.connect(GUARDED);
        held.send(&limiter_tests::request(Nginx::SLOW, key));
        open.push(held);
        let two = format!("GET / HTTP/1.1\r\nX-Api-Key: {key}\r\nX-Api-Key: x\r\n\r\n");
        rig.lab.connect(GUARDED).ask(two.as_bytes());
    }
    // This key contains a space, so its import was refused.
    let keys = [keys, vec![refused]].concat();
    UsedRig {
        rig,
        keys,
        _open: open,
        _line: line,
    }
}

/// Imports `key` over the control socket, and returns the open connection.
fn post_and_stay(rig: &Rig, key: &str) -> UnixStream {
    let mut line = UnixStream::connect(rig.limiter.socket()).expect("the control socket");
    let body = format!("{{\"scope\":\"acme/app\",\"key\":\"{key}\"}}");
    let request = format!(
        "POST /v1/keys/import HTTP/1.1\r\nHost: limiter\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    line.write_all(request.as_bytes()).expect("the request");
    let mut answer = [0; 4096];
    let length = line.read(&mut answer).expect("an answer");
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    line
}

#[test]
fn raw_keys_are_in_no_file_of_the_daemon_and_in_no_listing() {
    let UsedRig {
        mut rig,
        keys,
        _open,
        _line,
    } = used();
    let commands = [
        &["key", "list"][..],
        &["scope", "list"],
        &["scope", "show", "acme/web"],
        &["usage"],
        &["audit"],
        &["status"],
    ];
    for arguments in commands {
        for output in [
            rig.limiter.done(arguments),
            rig.limiter.json(arguments).to_string(),
        ] {
            for key in &keys {
                assert!(!output.contains(key), "{arguments:?} shows a key");
            }
        }
    }
    let page = metrics::Page::read(&rig.lab).text;
    assert!(page.contains("acme/web"), "the page names scopes");
    for key in &keys {
        assert!(
            !page.contains(key.as_str()),
            "the page of metrics shows a key"
        );
    }
    // The page does not show the digest of any key either, although the name of each scope of an
    // unknown key contains the first bytes of a digest.
    let digests = digests_of(&rig);
    assert!(!digests.is_empty());
    for digest in digests {
        assert!(
            !page.contains(&digest),
            "the page of metrics shows {digest}"
        );
    }
    let leaks = |rig: &Rig| holding(&rig.limiter.config_path().with_file_name("."), &keys);
    assert_eq!(leaks(&rig), Vec::<String>::new());
    rig.limiter.terminate();
    assert_eq!(leaks(&rig), Vec::<String>::new());
}

/// Returns both halves of each digest by which the store identifies keys, in hexadecimal and in
/// both byte orders.
fn digests_of(rig: &Rig) -> Vec<String> {
    let store =
        rusqlite::Connection::open(rig.limiter.state_dir().join("limiter.db")).expect("the store");
    let mut found = Vec::new();
    for query in [
        "SELECT digest FROM keys",
        "SELECT unknown FROM scopes WHERE unknown IS NOT NULL",
    ] {
        let mut statement = store.prepare(query).expect("a query");
        let digests = statement.query_map([], |row| row.get::<_, Vec<u8>>(0));
        for digest in digests.expect("digests") {
            for half in digest.expect("a digest").chunks(8) {
                let mut half = half.to_vec();
                for _ in 0..2 {
                    found.push(half.iter().map(|byte| format!("{byte:02x}")).collect());
                    half.reverse();
                }
            }
        }
    }
    found
}

#[test]
fn raw_keys_are_in_no_map_of_the_kernel() {
    if Command::new("bpftool").arg("version").output().is_err() {
        skip(
            "raw_keys_are_in_no_map_of_the_kernel",
            "bpftool is not installed",
        );
        return;
    }
    let UsedRig {
        rig,
        keys,
        _open,
        _line,
    } = used();
    let mut maps = 0;
    let mut directories = vec![rig.limiter.pin_dir().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("read the pins").flatten() {
            if entry.path().is_dir() {
                directories.push(entry.path());
                continue;
            }
            let mut dump = Command::new("bpftool");
            let dump =
                process::output(dump.args(["-j", "map", "dump", "pinned"]).arg(entry.path()));
            if !dump.status.success() {
                // This pin is a link or a program instead of a map.
                continue;
            }
            maps += 1;
            let bytes = bytes_of(&String::from_utf8_lossy(&dump.stdout));
            for key in &keys {
                assert!(
                    !contains(&bytes, key),
                    "{} holds a key",
                    entry.path().display()
                );
            }
        }
    }
    assert!(maps > 5, "only {maps} maps were looked into");
}

/// Returns the bytes that bpftool prints in the form `"0x41","0x42",...`.
fn bytes_of(dump: &str) -> Vec<u8> {
    dump.split('"')
        .filter_map(|word| u8::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        .collect()
}

/// Returns each of `secrets` that is in the memory of the process `pid`, together with the line of
/// the memory region in `/proc/PID/maps`.
fn regions_with(pid: u32, secrets: &[String]) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the regions");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("the memory");
    let mut looked_at = 0;
    let mut found = Vec::new();
    for line in maps.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        // A region that the process cannot write to contains only bytes of the file that is mapped
        // there, so it is not searched.
        if !words[1].starts_with("rw") {
            continue;
        }
        let (from, to) = words[0].split_once('-').expect("a region");
        let number = |text: &str| u64::from_str_radix(text, 16).expect("an address");
        let (from, to) = (number(from), number(to));
        let mut content = vec![0; usize::try_from(to - from).expect("a size")];
        // Reading fails if the region has been unmapped in the meantime, or belongs to a device.
        let Ok(read) = memory.read_at(&mut content, from) else {
            continue;
        };
        looked_at += read;
        for secret in secrets {
            if contains(&content[..read], secret) {
                found.push(format!("{secret} in {line}"));
            }
        }
    }
    assert!(looked_at > 1 << 20, "only {looked_at} bytes were looked at");
    found
}

#[test]
fn raw_keys_are_not_in_the_daemons_memory() {
    let UsedRig {
        rig,
        keys,
        _open,
        _line,
    } = used();
    let pid = rig.limiter.pid();
    // The daemon's memory contains the path of the configuration. The search must find this path,
    // which shows that the search works.
    let path = rig.limiter.config_path().display().to_string();
    assert!(!regions_with(pid, &[path]).is_empty());
    // The test waits, because the buffers of a request to the daemon are freed only when the task
    // of the request's connection ends.
    eventually("no key is left", || regions_with(pid, &keys).is_empty());
}

#[test]
fn crashed_daemon_leaves_no_core_dump() {
    let (mut limiter, _lab) = Limiter::idle();
    limiter.key("acme/web");
    let pid = limiter.pid().to_string();
    process::succeed(Command::new("prlimit").args(["--pid", &pid, "--core=unlimited"]));
    limiter.signal(Signal::SIGABRT);
    let status = limiter.wait_for_status();
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32));
    assert!(!status.core_dumped(), "a core was dumped");
}

#[test]
fn commands_log_no_key_at_any_log_level() {
    let (limiter, _lab) = Limiter::idle();
    limiter.scope("acme/web");
    for arguments in [
        &["key", "create", "acme/web"][..],
        &["key", "create", "acme/web", "--json"],
    ] {
        let output = limiter
            .command(arguments)
            .env("RUST_LOG", "trace")
            .output()
            .expect("run limiter");
        let shown = String::from_utf8_lossy(&output.stdout);
        let at = shown.find("lmt_").expect("the key");
        assert!(!contains(&output.stderr, &shown[at..at + 53]));
    }
    let list = limiter.socket().with_file_name("keys.csv");
    let secret = "listed-key-9719d911017c592b";
    fs::write(&list, format!("scope,key\nacme/csv,{secret}\n")).expect("the list");
    let output = limiter
        .command(&["key", "import", "--csv", &list.display().to_string()])
        .env("RUST_LOG", "trace")
        .output()
        .expect("run limiter");
    assert!(output.status.success(), "{output:?}");
    assert!(!contains(&output.stderr, secret) && !contains(&output.stdout, secret));
}

#[test]
fn the_hash_secret_is_made_once_and_its_loss_is_explained() {
    let (mut limiter, lab) = Limiter::idle();
    let file = limiter.state_dir().join("hash.key");
    let made = fs::read(&file).expect("the secret");
    let metadata = fs::metadata(&file).expect("the secret");
    assert_eq!(
        (made.len(), metadata.uid(), metadata.mode() & 0o777),
        (16, 0, 0o600)
    );
    // While the store contains no keys, the daemon replaces a missing secret with a new one.
    limiter.terminate();
    fs::remove_file(&file).expect("remove the secret");
    limiter.run(&[]);
    let second = fs::read(&file).expect("the secret");
    assert_ne!(second, made);
    let key = limiter.key("acme/web");
    limiter.terminate();
    limiter.run(&[]);
    assert_eq!(fs::read(&file).expect("the secret"), second, "made once");

    limiter.terminate();
    let kept = lab.file("backup");
    fs::rename(&file, &kept).expect("lose the secret");
    limiter.launch(&[]);
    assert_eq!(limiter.wait_for_end(), Some(exit::FAILED));
    let log = limiter.log();
    for word in ["hash.key", "missing", "1 key ", "restore", "backup"] {
        assert!(log.contains(word), "no {word} in {log}");
    }
    assert!(!file.exists(), "none is made in its place");

    fs::copy(&kept, &file).expect("restore the secret");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("expose it");
    limiter.launch(&[]);
    assert_eq!(limiter.wait_for_end(), Some(exit::FAILED));
    assert!(limiter.log().contains("chmod 600"), "{}", limiter.log());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("hide it");
    limiter.run(&[]);
    let check = limiter.cli_with_input(&["key", "check", "--json"], &key);
    assert_eq!(check.json()["known"], true);
}

/// Returns the name and the mode of each file in the state directory.
fn modes(state: &Path) -> Vec<(String, u32)> {
    let mut modes: Vec<_> = fs::read_dir(state)
        .expect("the state directory")
        .flatten()
        .map(|file| {
            let name = file.file_name().to_string_lossy().into_owned();
            let metadata = file.metadata().expect("a file");
            (name, metadata.mode() & 0o7777)
        })
        .collect();
    modes.sort();
    modes
}

#[test]
fn files_are_private_with_every_umask() {
    for umask in ["000", "022", "077", "027"] {
        let lab = Lab::loopback();
        let config = Config::published(&lab).small_tables();
        let mut limiter = Limiter::prepare(&lab, "limiter", &config);
        limiter.set_umask(umask);
        limiter.run(&[]);
        limiter.scope("acme/web");
        let state = limiter.state_dir();
        let private = ["hash.key", "limiter.db", "limiter.db-shm", "limiter.db-wal"]
            .map(|name| (name.to_owned(), 0o600));
        assert_eq!(modes(&state), private, "{umask}");
        let directory = fs::metadata(&state).expect("the state directory");
        assert_eq!(directory.mode() & 0o7777, 0o700, "{umask}");
        if umask != "022" {
            continue;
        }
        // The files get modes that an older limiter may have left. The daemon keeps read access for
        // the group, because backups may rely on it, and removes all other access for the group and
        // for other users.
        limiter.kill();
        for (name, mode) in [
            ("limiter.db", 0o644),
            ("limiter.db-wal", 0o664),
            ("limiter.db-shm", 0o666),
        ] {
            fs::set_permissions(state.join(name), fs::Permissions::from_mode(mode))
                .expect("a mode");
        }
        limiter.run(&[]);
        limiter.scope("acme/app");
        let kept = [
            ("hash.key", 0o600),
            ("limiter.db", 0o640),
            ("limiter.db-shm", 0o640),
            ("limiter.db-wal", 0o640),
        ]
        .map(|(name, mode)| (name.to_owned(), mode));
        assert_eq!(modes(&state), kept);
    }
}

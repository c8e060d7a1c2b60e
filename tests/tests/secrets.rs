//! Raw keys are shown once, to the one who makes them, and are nowhere else.

use std::{fs, path::Path, process::Command};

use limiter_tests::{Conn, GUARDED, Nginx, Rig, process, request, skip};

/// Every file below `directory` that holds one of `secrets`.
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
    content
        .windows(secret.len())
        .any(|window| window == secret.as_bytes())
}

/// A rig that has seen keys of every kind.
struct Used {
    rig: Rig,
    keys: Vec<String>,
    /// Served, sent in pieces or in part, in flight: the kernel still knows of them.
    _open: Vec<Conn>,
}

fn used() -> Used {
    let rig = Rig::veth(|config| {
        config
            .policy("unknown_key = \"tier:guest\"")
            .tier("guest", "daily_quota = 10")
            .tier("profile", "daily_quota = 10")
    });
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
    let unknown = "unknown-key-0cc175b9c0f1b6a8".to_owned();
    let keys = vec![made, imported, listed, unknown];
    let mut open = Vec::new();
    for key in &keys {
        for _ in 0..3 {
            rig.get(key);
        }
        let mut served = rig.lab.connect(GUARDED);
        served.get("/", key);
        open.push(served);
        // In pieces, one of which ends behind the key: what is carried on from
        // one segment to the next.
        let mut split = rig.lab.connect(GUARDED);
        let request = request("/", key);
        let (first, rest) = request.split_at(request.len() - 4);
        split.send_pieces([&first[..50], &first[50..], rest]);
        split.response();
        open.push(split);
        // Not finished: the line of the key may go on.
        let mut half = rig.lab.connect(GUARDED);
        half.send_pieces([first]);
        open.push(half);
        let mut held = rig.lab.connect(GUARDED);
        held.send(&limiter_tests::request(Nginx::SLOW, key));
        open.push(held);
        let two = format!("GET / HTTP/1.1\r\nX-Api-Key: {key}\r\nX-Api-Key: x\r\n\r\n");
        rig.lab.connect(GUARDED).ask(two.as_bytes());
    }
    Used {
        rig,
        keys,
        _open: open,
    }
}

#[test]
fn raw_keys_are_in_no_file_of_the_daemon_and_in_no_listing() {
    let Used {
        mut rig,
        keys,
        _open,
    } = used();
    let commands = [
        &["key", "list"][..],
        &["scope", "list"],
        &["scope", "show", "acme/web"],
        &["usage"],
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
    let leaks = |rig: &Rig| holding(&rig.limiter.config_path().with_file_name("."), &keys);
    assert_eq!(leaks(&rig), Vec::<String>::new());
    rig.limiter.terminate();
    assert_eq!(leaks(&rig), Vec::<String>::new());
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
    let Used { rig, keys, _open } = used();
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
                // A link or a program.
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

/// The bytes that bpftool shows as `"0x41","0x42",...`.
fn bytes_of(dump: &str) -> Vec<u8> {
    dump.split('"')
        .filter_map(|word| u8::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        .collect()
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! Large numbers of keys: their import, a start of the daemon with them, and the memory and CPU
//! time that they take. A run with `LIMITER_LONG` has as many keys as fit into the default tables.

use std::{
    fmt::Write as _,
    fs,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use limiter_tests::{
    Config, Lab, Limiter, Rig, avoid_midnight,
    limiter::{Output, exit},
    long,
    metrics::{Page, on_page},
    program::pinned_keys,
};
use serde_json::json;

const TIME_BEFORE_MIDNIGHT: Duration = Duration::from_secs(240);

/// The maximum kernel memory per key in bytes. It includes the memory of the scopes, divided by the
/// number of keys.
const BYTES_A_KEY: u64 = 300;
/// The maximum CPU time of an idle daemon, in percent of one CPU.
const IDLE_PERCENT: u64 = 15;
/// The maximum time for the import of a million keys.
const LONGEST_IMPORT: Duration = Duration::from_secs(60);
/// The maximum time for the start of a daemon with a million keys.
const LONGEST_START: Duration = Duration::from_secs(5);

/// The number of times that the metrics page is read to compute the mean time per page.
const PAGES: u32 = 10;

/// The number of scope ids that are reserved for unknown keys.
const UNKNOWN: u32 = 64;
/// The number of clock ticks per second for the times in `/proc/PID/stat` (proc(5), `USER_HZ`).
const TICKS_A_SECOND: u64 = 100;

struct Size {
    keys: u32,
    scopes: u32,
}

impl Size {
    fn of_this_run() -> Self {
        let [keys, scopes] = if long() {
            [1_000_000, 100_000]
        } else {
            [20_000, 2_000]
        };
        Self { keys, scopes }
    }

    /// Adds tables to `config` that have room for all keys and scopes, and for ten more of each.
    fn tables(&self, config: Config) -> Config {
        let (keys, scopes) = (self.keys + 10, self.scopes + 10);
        config.section(
            "tables",
            &format!("flows = 8192\nscopes = {scopes}\nkeys = {keys}\nunknown_keys = {UNKNOWN}\n"),
        )
    }

    fn csv(&self) -> String {
        let mut text = "scope,key\n".to_owned();
        for key in 0..self.keys {
            let scope = key % self.scopes;
            writeln!(text, "a{}/p{scope},{}", scope / 100, raw_key(key)).expect("a string");
        }
        text
    }
}

fn raw_key(number: u32) -> String {
    format!("customer-{number:032}")
}

fn import(limiter: &Limiter, lab: &Lab, text: &str, more: &[&str]) -> Output {
    let file = lab.file("keys.csv");
    fs::write(&file, text).expect("the file");
    let path = file.display().to_string();
    let mut arguments = vec!["key", "import", "--csv", &path];
    arguments.extend(more);
    limiter.cli(&arguments)
}

/// Returns the size in bytes of the kernel maps that contain keys or have an entry per scope.
fn kernel_memory(limiter: &Limiter, scopes: u32) -> u64 {
    let directory = format!("/proc/{}/fdinfo", limiter.pid());
    let mut maps = std::collections::BTreeMap::new();
    for entry in fs::read_dir(directory).expect("the daemon's descriptors") {
        let text = fs::read_to_string(entry.expect("a descriptor").path()).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        let shape = ["map_type:", "key_size:", "value_size:"].map(field);
        // The maps are recognized by their types (bpf.h) and sizes. KEYS is a BPF_MAP_TYPE_HASH (1)
        // with keys and values of 16 bytes. Each map that is indexed by scope ids is a
        // BPF_MAP_TYPE_ARRAY (2).
        let counted = shape == [Some(1), Some(16), Some(16)]
            || shape[0] == Some(2) && field("max_entries:") == Some(u64::from(scopes));
        if let (true, Some(id)) = (counted, field("map_id:")) {
            maps.insert(id, field("memlock:").expect("a map's memory"));
        }
    }
    assert!(
        maps.len() >= 3,
        "KEYS, LIMITS and STATE are not among {maps:?}"
    );
    maps.values().sum()
}

/// Returns the CPU time that the daemon has used, in clock ticks.
fn cpu_ticks(limiter: &Limiter) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", limiter.pid())).expect("the daemon");
    let after_name = stat.rsplit(')').next().expect("proc(5)");
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    [11, 12]
        .map(|at: usize| fields[at].parse::<u64>().expect("proc(5)"))
        .iter()
        .sum()
}

/// A guard that stops the other thread when it is dropped, even if the test fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Returns the number of samples on a page, without the samples about health. The number of health
/// samples may still grow, because some parts of the daemon may not have been checked yet.
fn length(page: &Page) -> usize {
    let samples = page.samples.keys();
    samples
        .filter(|sample| !sample.starts_with("limiter_health"))
        .count()
}

#[test]
fn many_keys_are_imported_cheaply_and_survive_a_restart() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let size = Size::of_this_run();
    let mut rig = Rig::veth(|config| {
        on_page(size.tables(config), "")
            .tier("two", "daily_quota = 2")
            .policy("unknown_key = \"reject\"")
    });
    rig.limiter.key_of_tier("before", "two");
    let page = Page::read(&rig.lab);
    let begun = Instant::now();
    let output = import(&rig.limiter, &rig.lab, &size.csv(), &["--json"]);
    let took = begun.elapsed();
    println!("{} keys imported in {took:?}", size.keys);
    assert_eq!(
        output.json(),
        json!({"keys": size.keys, "scopes": size.scopes, "already_there": 0, "warnings": []})
    );
    assert_eq!(output.stderr, "", "no bar without a terminal");
    assert!(took < LONGEST_IMPORT, "{took:?}");

    let memory = kernel_memory(&rig.limiter, size.scopes + 10 + UNKNOWN) / u64::from(size.keys);
    println!("{memory} bytes of kernel memory per key");
    assert!(
        memory <= BYTES_A_KEY,
        "{memory} bytes of kernel memory per key"
    );

    const IDLE: Duration = Duration::from_secs(4);
    let before = cpu_ticks(&rig.limiter);
    thread::sleep(IDLE);
    let percent = (cpu_ticks(&rig.limiter) - before) * 100 / (TICKS_A_SECOND * IDLE.as_secs());
    println!("the idle daemon takes {percent}% of a CPU");
    assert!(
        percent <= IDLE_PERCENT,
        "the idle daemon takes {percent}% of a CPU"
    );

    // The number of samples on a page does not depend on the number of keys and scopes.
    let begun = Instant::now();
    let pages: Vec<Page> = (0..PAGES).map(|_| Page::read(&rig.lab)).collect();
    println!("a page of metrics in {:?}", begun.elapsed() / PAGES);
    for many in pages {
        assert_eq!(length(&many), length(&page));
        let scopes = "limiter_table_entries{table=\"scopes\"}";
        assert_eq!(many.count(scopes), u64::from(size.scopes) + 1);
    }

    let strict = rig.limiter.another_key("before");
    assert_eq!(rig.statuses(&strict, 3), [200, 200, 429]);
    let [first, last] = [raw_key(0), raw_key(size.keys - 1)];
    let known = pinned_keys(rig.limiter.pin_dir());
    assert_eq!(known.len(), size.keys as usize + 2);
    for end in ["kill", "terminate"] {
        assert_eq!([rig.get(&first).status, rig.get(&last).status], [200, 200]);
        match end {
            "kill" => rig.limiter.kill(),
            _ => rig.limiter.terminate(),
        }
        let begun = Instant::now();
        rig.limiter.launch(&[]);
        let (ready, asked) = (AtomicBool::new(false), AtomicU32::new(0));
        let took = thread::scope(|scope| {
            scope.spawn(|| {
                while !ready.load(SeqCst) {
                    assert_eq!(
                        rig.get(&strict).status,
                        429,
                        "limits stay in force during the start"
                    );
                    assert_eq!(
                        rig.get(&last).status,
                        200,
                        "keys are known during the start"
                    );
                    asked.fetch_add(1, SeqCst);
                }
            });
            let _ends_also_when_this_fails = SetOnDrop(&ready);
            // `limiter status` succeeds when the daemon is ready.
            while rig.limiter.cli(&["status"]).code != exit::DONE {
                assert!(begun.elapsed() < 10 * LONGEST_START, "it does not start");
            }
            begun.elapsed()
        });
        let asked = asked.into_inner();
        println!("ready {took:?} after {end}, with {asked} requests in between");
        assert!(asked > 0, "no request was made while it started");
        if long() {
            assert!(took <= LONGEST_START, "ready only after {took:?}");
        }
        assert_eq!(rig.limiter.count("/keys"), u64::from(size.keys) + 2);
        assert_eq!(rig.limiter.count("/scopes"), u64::from(size.scopes) + 1);
        assert_eq!(rig.get(&strict).status, 429);
        assert!(
            pinned_keys(rig.limiter.pin_dir()) == known,
            "keys have changed"
        );
    }
    let as_they_were = format!(
        "keys in the kernel: {} as in the store, 0 entered",
        known.len()
    );
    let log = rig.limiter.log();
    assert_eq!(log.matches(&as_they_were).count(), 2, "{log}");
    // `detach` removes the maps. The next daemon therefore starts as after a reboot, and enters all
    // keys into new maps.
    assert_eq!(rig.limiter.detach().code, exit::DONE);
    rig.limiter.wait_for_end();
    rig.limiter.run(&[]);
    assert!(
        pinned_keys(rig.limiter.pin_dir()) == known,
        "keys are missing"
    );
    let keys = rig.limiter.json(&["key", "list", "a0/p0"]);
    let used = keys.as_array().expect("a list").iter();
    let used = used.filter(|key| !key["last_used_at"].is_null()).count();
    assert_eq!(used, 1, "{keys}");
}

#[test]
fn import_with_mistakes_changes_nothing_and_reports_all_of_them() {
    let size = Size::of_this_run();
    let lab = Lab::loopback();
    let limiter = Limiter::start(&lab, &size.tables(Config::new(&lab)));
    let mut text = size.csv();
    let lines = size.keys + 1;
    for (number, line) in [
        &*format!("a0/p0,{}", raw_key(7)),
        "no scope,x",
        "a0/p0,",
        "a,b,c",
    ]
    .iter()
    .enumerate()
    {
        writeln!(text, "{line}").expect("a string");
        writeln!(text, "fine,fine-{number}").expect("a string");
    }
    let output = import(&limiter, &lab, &text, &[]);
    let messages: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(
        (output.code, messages.len()),
        (exit::FAILED, 4),
        "{output:?}"
    );
    for (message, offset) in messages.iter().zip([1, 3, 5, 7]) {
        assert!(
            message.contains(&format!("line {}:", lines + offset)),
            "{message}"
        );
    }
    assert!(!output.stderr.contains("customer-"), "{output:?}");
    assert_eq!((limiter.count("/keys"), limiter.count("/scopes")), (0, 0));

    let text = size.csv();
    assert_eq!(import(&limiter, &lab, &text, &[]).code, exit::DONE);
    let again = import(&limiter, &lab, &text, &["--json"]).json();
    assert_eq!(
        again,
        json!({"keys": 0, "scopes": 0, "already_there": size.keys, "warnings": []})
    );
    let keys = text.lines().skip(1).filter_map(|line| line.split_once(','));
    let elsewhere = keys.fold("scope,key\n".to_owned(), |text, (_, key)| {
        text + &format!("elsewhere,{key}\n")
    });
    let again = import(&limiter, &lab, &elsewhere, &[]);
    let more = format!("and {} more", size.keys - 20);
    again.assert_fails(exit::FAILED, &["line 2: ", "line 21: ", &more]);
    assert!(!again.stderr.contains("customer-"), "{again:?}");
    assert_eq!(limiter.count("/keys"), u64::from(size.keys));

    // The import contains eleven new keys, but the table of keys has room for only ten.
    let eleven = (0..11).fold("scope,key\n".to_owned(), |text, key| {
        text + &format!("a0/p0,more-{key}\n")
    });
    import(&limiter, &lab, &eleven, &[]).assert_fails(exit::FAILED, &["tables.keys"]);
    assert_eq!(limiter.count("/keys"), u64::from(size.keys));
}

#[test]
fn import_shows_progress_only_on_a_terminal() {
    let size = Size::of_this_run();
    let lab = Lab::loopback();
    let limiter = Limiter::start(&lab, &size.tables(Config::new(&lab)));
    let file = lab.file("keys.csv");
    let on_terminal = |more: &str| {
        let command = limiter.command(&["key", "import", "--csv"]);
        let mut words = vec![command.get_program().to_owned()];
        words.extend(command.get_args().map(ToOwned::to_owned));
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let line = format!("{} {} {more}", words.join(" "), file.display());
        // script(1) runs the command in a terminal and returns the exit status of the command.
        let output = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .output();
        let output = output.expect("script, of util-linux");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        text
    };
    fs::write(&file, size.csv()).expect("the file");
    let shown = on_terminal("");
    assert!(shown.contains("%"), "no bar in {shown:?}");
    let done = format!("{} keys imported, {} scopes added", size.keys, size.scopes);
    assert!(shown.trim_end().ends_with(&done), "{shown:?}");
    fs::write(&file, "scope,key\na0/p0,another\n").expect("the file");
    let shown = on_terminal("--json");
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("nothing but JSON");
    assert_eq!(
        shown,
        json!({"keys": 1, "scopes": 0, "already_there": 0, "warnings": []})
    );
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! `limiter top` in a terminal that tmux emulates.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

use limiter_tests::{Limiter, Rig, Terminal, process};

fn line<'a>(screen: &'a [String], begin: &str) -> Option<&'a String> {
    screen.iter().find(|line| line.starts_with(begin))
}

/// Returns the columns of the line on the screen that shows `scope`.
fn cells(screen: &[String], scope: &str) -> Option<Vec<String>> {
    let line = line(screen, &format!("{scope} "))?;
    Some(line.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn top_sorts_filters_and_pauses() {
    let rig = Rig::veth(|config| config.tier("profile", "daily_quota = 20"));
    let busy = rig.limiter.key("acme/busy");
    let calm = rig.limiter.key_of_tier("zoo/calm", "master");
    for _ in 0..3 {
        rig.get(&calm);
    }
    assert_eq!(rig.statuses(&busy, 22)[20..], [429, 429]);
    let terminal = Terminal::start(
        &rig.limiter.command(&[]),
        rig.lab.file("tmux"),
        "$LIMITER top; echo status $?; cat",
    );
    let screen = terminal.until("the counts are shown", |screen| {
        let cells = cells(screen, "acme/busy");
        cells.is_some_and(|cells| cells[3..5] == ["20", "100%"] && cells[10] == "2")
    });
    assert_eq!(screen.len(), 24, "{screen:#?}");
    assert!(
        screen[0].starts_with("limiter top  ") && screen[0].contains("scopes 2"),
        "{screen:#?}"
    );
    assert!(screen[23].ends_with("q quit"), "{screen:#?}");
    assert!(
        screen.iter().all(|line| line.chars().count() <= 80),
        "{screen:#?}"
    );
    let first = |screen: &[String]| screen.get(4).cloned().unwrap_or_default();

    terminal.keys(&["u"]);
    terminal.until("sorted by used", |screen| {
        first(screen).starts_with("acme/busy")
    });
    // When the list is sorted by requests in flight, the scope with a request in flight comes
    // first.
    let mut held = rig.lab.connect(limiter_tests::GUARDED);
    held.send(&limiter_tests::request(limiter_tests::Nginx::SLOW, &calm));
    rig.nginx.gate().wait_for(1);
    terminal.keys(&["i"]);
    terminal.until("sorted by requests in flight", |screen| {
        first(screen).starts_with("zoo/calm")
            && cells(screen, "zoo/calm").is_some_and(|cells| cells[5] == "1")
    });

    terminal.keys(&["/", "b", "u", "s"]);
    terminal.until("filtered", |screen| {
        screen[1].starts_with("filter: bus_") && line(screen, "zoo/calm").is_none()
    });
    terminal.keys(&["Enter"]);
    terminal.until("the filter stays", |screen| screen[1].contains("(1 scope;"));
    terminal.keys(&["Escape"]);
    terminal.until("all are back", |screen| line(screen, "zoo/calm").is_some());

    terminal.keys(&["Space"]);
    terminal.until("it is paused", |screen| screen[0].ends_with(" paused"));
    let before = terminal.screen();
    rig.get(&calm);
    rig.limiter.scope("acme/new");
    assert_eq!(terminal.screen(), before);
    terminal.keys(&["Space"]);
    terminal.until("it goes on", |screen| screen[0].contains("scopes 3"));

    process::succeed(&mut terminal.tmux(&["resize-window", "-x", "100", "-y", "30"]));
    terminal.until("it fills the larger window", |screen| {
        screen.len() == 30 && screen[29].ends_with("q quit")
    });
    process::succeed(&mut terminal.tmux(&["resize-window", "-x", "60", "-y", "10"]));
    terminal.until("it fits the smaller one", |screen| {
        screen.len() == 10
            && line(screen, "acme/b").is_some()
            && screen[9].starts_with("c connections")
    });
    terminal.keys(&["q"]);
    let screen = terminal.until("it ends", |screen| line(screen, "status 0").is_some());
    assert!(line(&screen, "limiter top").is_none(), "{screen:#?}");
    rig.nginx.gate().open();
}

/// A guard that stops the other thread when it is dropped, even if the test fails.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn a_rate_is_shown_while_requests_come() {
    let rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    let terminal = Terminal::start(
        &rig.limiter.command(&[]),
        rig.lab.file("tmux"),
        "$LIMITER top",
    );
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _until = Until(&done);
        scope.spawn(|| {
            let mut conn = rig.lab.connect(limiter_tests::GUARDED);
            while !done.load(SeqCst) {
                conn.get("/", &key);
            }
        });
        terminal.until("requests a second", |screen| {
            cells(screen, "acme/web").is_some_and(|cells| cells[1] != "0")
        });
    });
    terminal.until("no requests", |screen| {
        cells(screen, "acme/web").is_some_and(|cells| cells[1] == "0")
    });
}

#[test]
fn top_reports_a_stopped_daemon_and_reconnects() {
    let mut rig = Rig::veth(|config| config);
    rig.limiter.scope("acme/web");
    let terminal = Terminal::start(
        &rig.limiter.command(&[]),
        rig.lab.file("tmux"),
        "$LIMITER top",
    );
    terminal.until("it runs", |screen| line(screen, "acme/web").is_some());
    rig.limiter.kill();
    terminal.until("it reports that no daemon answers", |screen| {
        line(screen, "no daemon responds").is_some()
    });
    rig.limiter.run(&[]);
    rig.limiter.scope("acme/new");
    terminal.until("it goes on", |screen| {
        line(screen, "no daemon responds").is_none() && line(screen, "acme/new").is_some()
    });
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    let rig = Rig::veth(|config| config);
    let pid = rig.lab.file("pid");
    let script = format!(
        "echo before; sh -c 'echo $$ > {}; exec '\"$LIMITER\"' top'; echo status $?; stty -a; cat",
        pid.display()
    );
    let terminal = Terminal::start(&rig.limiter.command(&[]), rig.lab.file("tmux"), &script);
    terminal.until("it runs", |screen| line(screen, "limiter top").is_some());
    let pid = std::fs::read_to_string(pid).expect("its pid");
    process::succeed(Command::new("kill").args(["-TERM", pid.trim()]));
    let screen = terminal.until("it ends", |screen| {
        screen.iter().any(|line| line.contains(" icanon"))
    });
    assert!(
        line(&screen, "before").is_some() && line(&screen, "status 0").is_some(),
        "{screen:#?}"
    );
    assert!(
        screen.iter().any(|line| line.contains(" echo ")),
        "{screen:#?}"
    );
}

#[test]
fn top_uses_colours_only_if_wanted() {
    let rig = Rig::veth(|config| config.tier("profile", "daily_quota = 0"));
    rig.limiter.scope("acme/web");
    let coloured = |script: &str, name: &str| {
        let terminal = Terminal::start(&rig.limiter.command(&[]), rig.lab.file(name), script);
        terminal.until("it runs", |screen| line(screen, "acme/web").is_some());
        let painted = terminal.painted();
        // This is the escape sequence with which tmux prints red, colour number 1.
        painted.contains("\x1b[38;5;1m")
    };
    assert!(coloured("$LIMITER top", "with"));
    assert!(!coloured("export NO_COLOR=1; $LIMITER top", "without"));
}

#[test]
fn top_without_a_terminal_names_the_alternative() {
    let (limiter, _lab) = Limiter::idle();
    limiter.scope("acme/web");
    let output = limiter.cli(&["top"]);
    output.assert_fails(
        limiter_tests::limiter::exit::USAGE,
        &["terminal", "limiter top --json"],
    );
    let top = limiter.json(&["top", "--filter", "acme"]);
    assert_eq!(top["top"][0]["scope"], "acme/web");
    assert_eq!((&top["scopes"], &top["matching"]), (&1.into(), &1.into()));
    assert_eq!(limiter.json(&["top", "--filter", "other"])["matching"], 0);
}

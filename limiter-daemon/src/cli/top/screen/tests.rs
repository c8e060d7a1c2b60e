// SPDX-License-Identifier: MIT OR Apache-2.0

use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::domain::refusals::Refusals;

fn row(scope: &str, rate: f64, used: u64) -> TopRow {
    TopRow {
        scope: scope.parse().unwrap(),
        rate,
        refused_rate: 2.5,
        used,
        fleet_used: None,
        daily_quota: Some(1000),
        in_flight: 7,
        connections: 12,
        refused: Refusals {
            rate: 12_345,
            concurrency: 1,
            connections: 2,
            daily_quota: 3,
        },
    }
}

fn view(top: Vec<TopRow>) -> TopView {
    TopView {
        at: "2026-11-24T12:34:56.789Z".parse().unwrap(),
        scopes: 100_000,
        matching: top.len() as u64,
        rate: 1234.0,
        refused_rate: 5.0,
        in_flight: 9,
        top,
    }
}

fn screen(top: Vec<TopRow>) -> Screen {
    let mut screen = Screen::new(TopColumn::Rate, String::new(), false);
    screen.take(view(top));
    screen
}

fn drawn(screen: &Screen, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let rows = buffer.content.chunks(width.into());
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>())
        .map(|row| row.trim_end().to_owned())
        .collect()
}

fn press(screen: &mut Screen, keys: &str) -> Next {
    let mut next = Next::Draw;
    for letter in keys.chars() {
        let code = match letter {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\x08' => KeyCode::Backspace,
            letter => KeyCode::Char(letter),
        };
        next = screen.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
    next
}

#[test]
fn the_screen_fits_eighty_by_twenty_four() {
    let long = "a-customer-with-a-very-long-name/and-a-profile";
    let mut rows = vec![row("acme/web", 123.4, 1000), row(long, 3.25, 999)];
    rows.extend((0..50).map(|number| row(&format!("n{number}"), 0.0, 0)));
    let lines = drawn(&screen(rows), 80, 24);
    assert_eq!(
        lines[0],
        "limiter top  12:34:56  scopes 100000  req/s 1234  refused/s 5.0  in flight 9"
    );
    assert_eq!(
        lines[2..6],
        [
            "                                                               REFUSED TODAY: BY",
            "SCOPE                 REQ/S  REF/S   USED QUOTA  FLY  CONN  RATE  FLY CONN   DAY",
            "acme/web                123    2.5   1000  100%    7    12 12.3k    1    2     3",
            "a-customer-with-a-~     3.2    2.5    999   99%    7    12 12.3k    1    2     3",
        ]
    );
    assert_eq!(lines.len(), 24);
    assert!(lines[21].starts_with("n15"), "{lines:#?}");
    assert!(lines[22].starts_with("sort: s scope"));
    assert!(lines[23].ends_with("q quit"));
}

#[test]
fn the_requests_of_a_fleet_have_a_column_if_there_is_room() {
    let fleet = TopRow {
        fleet_used: Some(900),
        ..row("acme/web", 1.0, 50)
    };
    let screen = screen(vec![fleet, row("acme", 1.0, 50)]);
    let lines = drawn(&screen, 87, 24);
    assert_eq!(
        lines[3..6],
        [
            "SCOPE                 REQ/S  REF/S   USED  FLEET QUOTA  FLY  CONN  RATE  FLY CONN   DAY",
            "acme/web                1.0    2.5     50    900   90%    7    12 12.3k    1    2     3",
            "acme                    1.0    2.5     50      -    5%    7    12 12.3k    1    2     3",
        ]
    );
    assert!(!drawn(&screen, 86, 24)[3].contains("FLEET"));
}

#[test]
fn any_size_of_the_terminal_can_be_drawn() {
    for (width, height) in [(1, 1), (20, 5), (79, 6), (300, 100)] {
        drawn(&screen(vec![row("acme", 1.0, 1)]), width, height);
    }
}

#[test]
fn a_sort_key_sorts_at_once_and_requests_the_rows() {
    let mut screen = screen(vec![row("a", 9.0, 1), row("b", 1.0, 5)]);
    assert_eq!(press(&mut screen, "u"), Next::Ask);
    assert_eq!(screen.by(), TopColumn::Used);
    assert!(drawn(&screen, 80, 24)[4].starts_with("b "));
    press(&mut screen, "s");
    assert!(drawn(&screen, 80, 24)[4].starts_with("a "));
    assert_eq!(press(&mut screen, "q"), Next::Quit);
}

#[test]
fn a_filter_is_typed_and_removed() {
    let mut screen = screen(vec![row("acme", 1.0, 1), row("quark", 1.0, 1)]);
    // While the filter is being typed, the keys that otherwise sort or quit are added to the filter
    // as letters.
    assert_eq!(press(&mut screen, "/qurz\x08"), Next::Ask);
    assert_eq!(screen.filter(), "qur");
    assert_eq!(drawn(&screen, 80, 24)[1], "filter: qur_");
    press(&mut screen, "\x08\x08uark\n");
    let lines = drawn(&screen, 80, 24);
    assert_eq!(lines[1], "filter: quark (2 scopes; Esc shows all)");
    assert!(lines[4].starts_with("quark"));
    assert_eq!(lines[5], "");
    press(&mut screen, "/z\n");
    assert_eq!(
        drawn(&screen, 80, 24)[4],
        "no name of a scope contains this text"
    );
    press(&mut screen, "\x1b");
    assert_eq!(screen.filter(), "");
}

#[test]
fn a_paused_screen_requests_nothing_and_is_marked() {
    let mut screen = screen(vec![row("a", 9.0, 1), row("b", 1.0, 5)]);
    assert_eq!(press(&mut screen, " "), Next::Draw);
    assert!(screen.is_paused());
    assert!(drawn(&screen, 100, 24)[0].ends_with(" paused"));
    assert_eq!(press(&mut screen, "u/b"), Next::Draw);
    assert_eq!(press(&mut screen, "\n "), Next::Ask);
}

#[test]
fn a_daemon_that_does_not_respond_is_reported_until_it_does() {
    let mut screen = screen(vec![row("a", 9.0, 1)]);
    screen.note_failure(&Failure::Unreachable("x".to_owned()));
    let lines = drawn(&screen, 80, 24);
    assert_eq!(lines[1], "no daemon responds: trying again");
    assert!(lines[4].starts_with("a "));
    screen.take(view(Vec::new()));
    assert_eq!(drawn(&screen, 80, 24)[1], "");
}

#[test]
fn numbers_are_short() {
    for (number, text) in [
        (0, "0"),
        (9999, "9999"),
        (10_000, "10.0k"),
        (123_456, "123k"),
        (9_999_999, "9.9M"),
        (12_345_678_901, "12.3G"),
    ] {
        assert_eq!(short(number), text);
    }
    assert_eq!([pace(0.0), pace(0.26), pace(99.6)], ["0", "0.3", "100"]);
}

#[test]
fn without_colours_no_cell_has_one() {
    let mut screen = screen(vec![row("a", 9.0, 1000)]);
    screen.note_failure(&Failure::Unreachable(String::new()));
    let colours = |screen: &Screen| {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let cells = terminal.backend().buffer().content.iter();
        cells.filter(|cell| cell.fg != Color::Reset).count()
    };
    assert_eq!(colours(&screen), 0);
    screen.colours = true;
    assert!(colours(&screen) > 0);
}

// SPDX-License-Identifier: MIT OR Apache-2.0

//! The screen of `limiter top`, and the keys that control it.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::{
    Frame,
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::Paragraph,
};

use crate::{
    cli::exit::Failure,
    domain::plain::counted,
    protocol::{
        insight::{TopColumn, TopRow, TopView},
        views::rfc3339,
    },
};

/// The number of lines above the scopes.
const HEAD: u16 = 4;
/// The number of lines below the scopes.
const FOOT: u16 = 2;
/// The minimum width of the column of names.
const MIN_NAME_WIDTH: usize = 8;
/// The least width of a terminal, in characters, at which the numbers of a fleet have a column.
const WIDE: usize = 87;
/// A quota is marked as nearly used up if at least this share of it is used.
const NEARLY_USED_UP: f64 = 0.8;

/// A column of numbers.
struct Column {
    head: &'static str,
    width: usize,
    /// The ranking to which the column belongs. The heading of the column is marked while this
    /// ranking is selected.
    by: TopColumn,
    cell: fn(&TopRow) -> String,
}

const fn column(
    head: &'static str,
    width: usize,
    by: TopColumn,
    cell: fn(&TopRow) -> String,
) -> Column {
    Column {
        head,
        width,
        by,
        cell,
    }
}

/// The column of the requests of all hosts of a fleet. It is shown if there are such numbers, and
/// if the terminal is wide enough.
const FLEET: Column = column("FLEET", 7, TopColumn::Used, |row| {
    row.fleet_used.map_or_else(|| "-".to_owned(), short)
});

/// The other columns of numbers. Together with 20 terminal columns for the name, the table is 80
/// columns wide.
const COLUMNS: [Column; 10] = [
    column("REQ/S", 7, TopColumn::Rate, |row| pace(row.rate)),
    column("REF/S", 7, TopColumn::RefusedRate, |row| {
        pace(row.refused_rate)
    }),
    column("USED", 7, TopColumn::Used, |row| short(row.used)),
    column("QUOTA", 6, TopColumn::Quota, share),
    column("FLY", 5, TopColumn::InFlight, |row| short(row.in_flight)),
    column("CONN", 6, TopColumn::Connections, |row| {
        short(row.connections)
    }),
    column("RATE", 6, TopColumn::Refused, |row| short(row.refused.rate)),
    column("FLY", 5, TopColumn::Refused, |row| {
        short(row.refused.concurrency)
    }),
    column("CONN", 5, TopColumn::Refused, |row| {
        short(row.refused.connections)
    }),
    column("DAY", 6, TopColumn::Refused, |row| {
        short(row.refused.daily_quota)
    }),
];

/// The keys that change the ranking.
const SORT: [(char, TopColumn); 8] = [
    ('s', TopColumn::Scope),
    ('r', TopColumn::Rate),
    ('f', TopColumn::RefusedRate),
    ('u', TopColumn::Used),
    ('p', TopColumn::Quota),
    ('i', TopColumn::InFlight),
    ('c', TopColumn::Connections),
    ('x', TopColumn::Refused),
];

const HELP: [&str; FOOT as usize] = [
    "sort: s scope, r req/s, f refused/s, u used, p part of quota, i in flight,",
    "c connections, x refused today    / filter    space pause    q quit",
];

/// The action that follows a key press.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Draw the screen again.
    Draw,
    /// Request other scopes from the daemon.
    Ask,
    /// Quit.
    Quit,
}

/// The state of the screen.
pub(super) struct Screen {
    view: Option<TopView>,
    by: TopColumn,
    filter: String,
    /// Whether the filter is being typed.
    typing: bool,
    paused: bool,
    /// The reason why the figures are out of date, if they are.
    failure: Option<String>,
    colours: bool,
}

impl Screen {
    pub(super) fn new(by: TopColumn, filter: String, colours: bool) -> Self {
        Self {
            view: None,
            by,
            filter,
            typing: false,
            paused: false,
            failure: None,
            colours,
        }
    }

    pub(super) fn by(&self) -> TopColumn {
        self.by
    }

    pub(super) fn filter(&self) -> &str {
        &self.filter
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Stores the figures of a response.
    pub(super) fn take(&mut self, view: TopView) {
        self.failure = None;
        self.view = Some(view);
    }

    /// Stores the reason why there was no response.
    pub(super) fn note_failure(&mut self, failure: &Failure) {
        self.failure = Some(match failure {
            Failure::Unreachable(_) => "no daemon responds: trying again".to_owned(),
            Failure::Usage(message) => message.clone(),
            Failure::Failed(error) => format!("{error:#}: trying again"),
        });
    }

    /// Handles a key press.
    pub(super) fn key(&mut self, key: KeyEvent) -> Next {
        if key.kind == KeyEventKind::Release {
            return Next::Draw;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c' | 'd') => Next::Quit,
                _ => Next::Draw,
            };
        }
        if self.typing {
            return self.type_filter(key.code);
        }
        match key.code {
            KeyCode::Char('q') => Next::Quit,
            KeyCode::Char('/') => {
                self.typing = true;
                Next::Draw
            }
            KeyCode::Char(' ') => {
                self.paused = !self.paused;
                self.unless_paused()
            }
            KeyCode::Esc if !self.filter.is_empty() => {
                self.filter.clear();
                self.unless_paused()
            }
            KeyCode::Char(letter) => {
                let sort = SORT.iter().find(|(key, _)| *key == letter);
                sort.map_or(Next::Draw, |(_, by)| self.sort(*by))
            }
            _ => Next::Draw,
        }
    }

    fn unless_paused(&self) -> Next {
        if self.paused { Next::Draw } else { Next::Ask }
    }

    fn sort(&mut self, by: TopColumn) -> Next {
        self.by = by;
        // The rows on the screen are sorted immediately. The daemon's next response may contain
        // other scopes, which rank higher in the new order.
        if let Some(view) = &mut self.view {
            view.top.sort_by(|one, other| by.rank(one, other));
        }
        self.unless_paused()
    }

    fn type_filter(&mut self, key: KeyCode) -> Next {
        match key {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => return Next::Draw,
        }
        self.unless_paused()
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let width = usize::from(area.width);
        let height = area.height.saturating_sub(HEAD + FOOT);
        let columns = self.columns(width);
        let numbers: usize = columns.iter().map(|column| column.width).sum();
        let name = width.saturating_sub(numbers).max(MIN_NAME_WIDTH);
        let mut lines = vec![self.sums(), self.state()];
        lines.extend(self.head(&columns, name));
        let shown = self.view.iter().flat_map(|view| &view.top);
        // A paused screen requests no new rows. The filter therefore selects among the rows that
        // the screen already has.
        let shown = shown.filter(|row| row.scope.as_str().contains(&self.filter));
        let rows: Vec<Line<'_>> = shown
            .take(height.into())
            .map(|row| self.row(row, &columns, name))
            .collect();
        if rows.is_empty() {
            lines.push(Line::raw(self.empty_note()));
        }
        lines.extend(rows);
        lines.resize(usize::from(HEAD + height), Line::default());
        let dim = Style::new().add_modifier(Modifier::DIM);
        lines.extend(HELP.map(|help| Line::styled(help, dim)));
        frame.render_widget(Paragraph::new(lines), area);
    }

    /// Returns the columns of numbers for a terminal of this width.
    fn columns(&self, width: usize) -> Vec<&'static Column> {
        let mut rows = self.view.iter().flat_map(|view| &view.top);
        let has_fleet = width >= WIDE && rows.any(|row| row.fleet_used.is_some());
        let mut columns: Vec<&Column> = COLUMNS.iter().collect();
        if has_fleet {
            let after = columns.iter().position(|column| column.head == "QUOTA");
            columns.insert(after.unwrap_or(columns.len()), &FLEET);
        }
        columns
    }

    fn colour(&self, colour: Color) -> Style {
        if self.colours {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }

    fn sums(&self) -> Line<'_> {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let mut spans = vec![Span::styled("limiter top", bold)];
        if let Some(view) = &self.view {
            let at = rfc3339(&view.at);
            let time = at.get(11..19).unwrap_or_default();
            spans.push(Span::raw(format!(
                "  {time}  scopes {}  req/s {}  refused/s {}  in flight {}",
                view.scopes,
                pace(view.rate),
                pace(view.refused_rate),
                view.in_flight
            )));
        }
        if self.paused {
            let style = self.colour(Color::Yellow).add_modifier(Modifier::REVERSED);
            spans.push(Span::raw("  "));
            spans.push(Span::styled(" paused ", style));
        }
        Line::from(spans)
    }

    /// Returns the line that shows the filter, or the reason why the figures are out of date.
    fn state(&self) -> Line<'_> {
        if let Some(failure) = &self.failure {
            let style = self.colour(Color::Red).add_modifier(Modifier::BOLD);
            return Line::styled(failure.as_str(), style);
        }
        if self.typing {
            return Line::raw(format!("filter: {}_", self.filter));
        }
        if self.filter.is_empty() {
            return Line::default();
        }
        let matching = self.view.as_ref().map_or(0, |view| view.matching);
        Line::raw(format!(
            "filter: {} ({}; Esc shows all)",
            self.filter,
            counted(matching, "scope")
        ))
    }

    fn head(&self, columns: &[&Column], name: usize) -> [Line<'_>; 2] {
        let width = |refused: bool| -> usize {
            let columns = columns
                .iter()
                .filter(|column| (column.by == TopColumn::Refused) == refused);
            columns.map(|column| column.width).sum()
        };
        let (before, refused) = (name + width(false), width(true));
        let group = format!("{:before$}{:>refused$}", "", "REFUSED TODAY: BY");
        let mark = |by| {
            if by == self.by {
                self.colour(Color::Cyan)
                    .add_modifier(Modifier::BOLD | Modifier::REVERSED)
            } else {
                Style::new().add_modifier(Modifier::BOLD)
            }
        };
        let mut spans = vec![
            Span::styled("SCOPE", mark(TopColumn::Scope)),
            Span::raw(" ".repeat(name.saturating_sub("SCOPE".len()))),
        ];
        for column in columns {
            let space = column.width.saturating_sub(column.head.len());
            spans.push(Span::raw(" ".repeat(space)));
            spans.push(Span::styled(column.head, mark(column.by)));
        }
        [
            Line::styled(group, Style::new().add_modifier(Modifier::DIM)),
            Line::from(spans),
        ]
    }

    fn row(&self, row: &TopRow, columns: &[&Column], name: usize) -> Line<'_> {
        let mut spans = vec![Span::raw(fit(row.scope.as_str(), name))];
        for column in columns {
            let cell = format!("{:>width$}", (column.cell)(row), width = column.width);
            let style = match column.by {
                TopColumn::Quota => match row.quota_share() {
                    Some(share) if share >= 1.0 => self.colour(Color::Red),
                    Some(share) if share >= NEARLY_USED_UP => self.colour(Color::Yellow),
                    _ => Style::new(),
                },
                TopColumn::RefusedRate if row.refused_rate > 0.0 => self.colour(Color::Yellow),
                _ => Style::new(),
            };
            spans.push(Span::styled(cell, style));
        }
        Line::from(spans)
    }

    fn empty_note(&self) -> &'static str {
        match &self.view {
            None => "",
            Some(view) if view.scopes == 0 => {
                "there are no scopes yet: add one with `limiter scope add`"
            }
            Some(_) => "no name of a scope contains this text",
        }
    }
}

/// Returns a name padded to `width` columns, with at least one space at the end. A name that is too
/// long is truncated, and ends with a mark.
fn fit(name: &str, width: usize) -> String {
    let available = width.saturating_sub(1);
    // Names are ASCII, so each byte is one column wide.
    match name.get(..available.saturating_sub(1)) {
        Some(begin) if name.len() > available => format!("{begin}~ "),
        _ => format!("{name:<width$}"),
    }
}

/// Returns a number in at most five columns.
fn short(number: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    if number < 10_000 {
        return number.to_string();
    }
    let unit = UNITS.iter().find(|(unit, _)| number >= *unit);
    let (unit, name) = unit.copied().unwrap_or((1, ""));
    let (whole, tenths) = (number / unit, number % unit * 10 / unit);
    if whole < 100 {
        format!("{whole}.{tenths}{name}")
    } else {
        format!("{whole}{name}")
    }
}

/// Returns a rate, with one decimal place if the rate is low.
fn pace(rate: f64) -> String {
    if rate > 0.0 && rate < 10.0 {
        format!("{rate:.1}")
    } else {
        // A rate always fits into 64 bits.
        short(rate.round() as u64)
    }
}

/// Returns the used share of the quota as a percentage. The share is rounded down, so 100% means
/// that the whole quota is used.
fn share(row: &TopRow) -> String {
    match row.quota_share() {
        Some(share) if share >= 1.0 => "100%".to_owned(),
        Some(share) => format!("{}%", (share * 100.0).floor()),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests;

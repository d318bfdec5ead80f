//! The tables of the pages: which columns, what stands in them, and how rows are ordered by them.

use std::cmp::Ordering;

use super::desk::{Order, Page};
use crate::finding::Weight;
use crate::screens::view::{NodeView, PoolView, SessionView, View};
use crate::show::Tone;

/// A column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    /// What stands above it.
    pub(crate) name: &'static str,
    /// Numbers stand at the right.
    pub(crate) right: bool,
    /// The higher, the sooner it gives way where there is no room.
    pub(crate) yields: u8,
}

/// What a cell is ordered by.
#[derive(Clone, Debug, PartialEq)]
enum Key {
    Text,
    Number(f64),
}

/// A cell.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    /// What stands there.
    pub(crate) text: String,
    /// How it is coloured.
    pub(crate) tone: Option<Tone>,
    key: Key,
}

/// A page's table.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Its columns.
    pub(crate) columns: Vec<Column>,
    /// Its rows.
    pub(crate) rows: Vec<Vec<Cell>>,
}

fn text(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), tone: None, key: Key::Text }
}

fn number(value: f64, text: impl Into<String>) -> Cell {
    Cell { text: text.into(), tone: None, key: Key::Number(value) }
}

fn count(value: u64) -> Cell {
    number(value as f64, value.to_string())
}

/// A rate; nothing at all is quiet, and `·` where nobody knows.
fn rate(value: Option<f64>) -> Cell {
    match value {
        None => quiet(number(-1.0, "·")),
        Some(0.0) => quiet(number(0.0, "0")),
        Some(value) if value >= 100.0 => number(value, format!("{value:.0}")),
        Some(value) => number(value, format!("{value:.1}")),
    }
}

fn toned(cell: Cell, tone: Tone) -> Cell {
    Cell { tone: Some(tone), ..cell }
}

fn quiet(cell: Cell) -> Cell {
    toned(cell, Tone::Quiet)
}

fn bad_if(cell: Cell, bad: bool) -> Cell {
    if bad { toned(cell, Tone::Bad) } else { cell }
}

const fn left(name: &'static str, yields: u8) -> Column {
    Column { name, right: false, yields }
}

const fn right(name: &'static str, yields: u8) -> Column {
    Column { name, right: true, yields }
}

/// The table of a page; `now` in seconds since 1970.
pub(crate) fn table(page: Page, view: &View, now: i64) -> Table {
    match page {
        Page::Nodes => nodes(view, now),
        Page::Sessions => sessions(view, now),
        Page::Pools => pools(view),
        Page::Wrong => wrong(view),
    }
}

fn nodes(view: &View, now: i64) -> Table {
    let columns = [
        left("NODE", 0),
        right("SESSIONS", 1),
        right("BLOCKS", 5),
        right("USED", 2),
        right("FREE", 4),
        right("START/s", 1),
        right("STOP/s", 1),
        right("ROUTES", 3),
        right("CHANGES/s", 3),
        right("DRIFT", 6),
        right("MEMORY", 7),
        right("CPU", 7),
        left("WHERE", 8),
        left("", 2),
    ];
    Table { columns: columns.to_vec(), rows: view.nodes.iter().map(|one| node(one, now)).collect() }
}

fn node(node: &NodeView, now: i64) -> Vec<Cell> {
    let rates = node.rates.as_ref();
    let live = |value: Option<u64>| value.map_or_else(|| quiet(number(-1.0, "·")), count);
    let down = node.sessions_up < node.sessions;
    let (note, tone) = match (node.ready, silence(node, now)) {
        (Some(false), _) => ("not ready".to_owned(), Tone::Bad),
        (None, _) => ("has not reported".to_owned(), Tone::Bad),
        (_, silence) => (silence, Tone::Quiet),
    };
    let sessions = number(
        node.sessions_up as f64 - node.sessions as f64,
        format!("{}/{}", node.sessions_up, node.sessions),
    );
    vec![
        bad_if(text(&node.name), node.findings > 0),
        bad_if(sessions, down),
        count(node.blocks as u64),
        count(node.used),
        bad_if(count(node.free), node.free == 0 && node.blocks > 0),
        rate(rates.map(|rates| rates.started)),
        rate(rates.map(|rates| rates.stopped)),
        bad_if(
            live(rates.map(|rates| rates.routes)),
            rates.is_some_and(|rates| rates.routes < rates.desired),
        ),
        rate(rates.map(|rates| rates.changes)),
        live(rates.map(|rates| rates.drift)),
        rates.map_or_else(
            || quiet(number(-1.0, "·")),
            |rates| number(rates.memory as f64, octets(rates.memory)),
        ),
        rates.map_or_else(
            || quiet(number(-1.0, "·")),
            |rates| number(rates.cpu, format!("{:.0}%", rates.cpu * 100.0)),
        ),
        quiet(text(&node.group)),
        toned(text(note), tone),
    ]
}

/// Since when a node has not answered, and why.
fn silence(node: &NodeView, now: i64) -> String {
    let age = node.silent_since.map(|since| span(now - since));
    match (age, &node.away) {
        (Some(age), Some(why)) => format!("no answer for {age}: {why}"),
        (Some(age), None) => format!("no answer for {age}"),
        (None, Some(why)) => format!("not asked: {why}"),
        (None, None) => String::new(),
    }
}

fn sessions(view: &View, now: i64) -> Table {
    let columns = [
        left("NODE", 0),
        left("PEER", 0),
        left("STATE", 0),
        right("SINCE", 1),
        right("IN", 2),
        right("OUT", 2),
        right("MSG IN/s", 3),
        right("MSG OUT/s", 3),
        right("FLAPS", 4),
        left("ADDRESS", 5),
        right("AS", 6),
        left("LAST ERROR", 2),
    ];
    Table { columns: columns.to_vec(), rows: view.sessions.iter().map(|one| session(one, now)).collect() }
}

fn session(session: &SessionView, now: i64) -> Vec<Cell> {
    let tone = if session.up { Tone::Good } else { Tone::Bad };
    let error = text(&session.error);
    vec![
        text(&session.node),
        text(&session.peer),
        toned(text(format!("{:?}", session.state)), tone),
        number((now - session.since) as f64, span(now - session.since)),
        bad_if(count(session.accepted), false),
        count(session.advertised),
        rate(session.messages.map(|(into, _)| into)),
        rate(session.messages.map(|(_, out)| out)),
        count(session.flaps),
        quiet(text(&session.address)),
        session.as_number.map_or_else(|| text(""), |number| count(u64::from(number))),
        if session.up { quiet(error) } else { toned(error, Tone::Bad) },
    ]
}

fn pools(view: &View) -> Table {
    let columns = [
        left("POOL", 0),
        left("CIDR", 1),
        left("CLAIMED", 0),
        right("BLOCKS", 2),
        right("OF", 3),
        right("USED", 1),
        right("FREE IN BLOCKS", 2),
        left("", 4),
    ];
    Table { columns: columns.to_vec(), rows: view.pools.iter().map(pool).collect() }
}

fn pool(pool: &PoolView) -> Vec<Cell> {
    let full = pool.claimed;
    let tone = if full >= 0.95 {
        Tone::Bad
    } else if full >= 0.8 {
        Tone::Doubtful
    } else {
        Tone::Good
    };
    let note = if pool.ready { "" } else { "not ready" };
    vec![
        bad_if(text(&pool.name), pool.findings > 0),
        text(&pool.cidr),
        toned(number(full, format!("{} {:>4.1}%", bar(full), full * 100.0)), tone),
        count(pool.blocks as u64),
        number(pool.places, large(pool.places)),
        count(pool.used),
        count(pool.free),
        toned(text(note), Tone::Bad),
    ]
}

fn wrong(view: &View) -> Table {
    let columns = [left("", 0), left("WHERE", 0), left("WHAT, AND WHAT TO DO", 0)];
    let rows = view.findings.iter().map(|finding| {
        let (word, tone, weight) = match finding.weight {
            Weight::Error => ("error", Tone::Bad, 0.0),
            Weight::Warning => ("warning", Tone::Doubtful, 1.0),
            Weight::Note => ("note", Tone::Quiet, 2.0),
        };
        let mut what = finding.what.clone();
        if !finding.cure.is_empty() {
            what.push_str(" → ");
            what.push_str(&finding.cure);
        }
        vec![toned(number(weight, word), tone), text(&finding.object), text(what)]
    });
    Table { columns: columns.to_vec(), rows: rows.collect() }
}

/// Keeps what contains the filter, and orders it.
pub(crate) fn arrange(table: &mut Table, page: Page, filter: &str, order: Order) {
    if !filter.is_empty() {
        let filter = filter.to_lowercase();
        table.rows.retain(|row| row.iter().any(|cell| cell.text.to_lowercase().contains(&filter)));
    }
    if let Some(column) = order.column {
        table.rows.sort_by(|one, other| compare(&one[column], &other[column]));
    } else if page == Page::Sessions {
        // What is down comes first.
        table.rows.sort_by_key(|row| row[2].tone == Some(Tone::Good));
    }
    if order.backwards {
        table.rows.reverse();
    }
}

/// Text from A, numbers from the greatest.
fn compare(one: &Cell, other: &Cell) -> Ordering {
    match (&one.key, &other.key) {
        (Key::Number(a), Key::Number(b)) => b.total_cmp(a),
        _ => one.text.cmp(&other.text),
    }
}

/// The columns that have room, by their numbers: those that yield give way first.
pub(crate) fn fit(table: &Table, widths: &[usize], room: usize) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..table.columns.len()).collect();
    let needed =
        |shown: &[usize]| shown.iter().map(|&column| widths[column] + 2).sum::<usize>().saturating_sub(2);
    while needed(&shown) > room {
        let yields = shown.iter().copied().max_by_key(|&column| (table.columns[column].yields, column));
        match yields.filter(|&column| table.columns[column].yields > 0) {
            Some(column) => shown.retain(|&one| one != column),
            None => break,
        }
    }
    shown
}

/// A bar of ten characters.
fn bar(part: f64) -> String {
    let full = ((part * 10.0).round() as usize).min(10);
    let full = if part > 0.0 { full.max(1) } else { full };
    "█".repeat(full) + &"░".repeat(10 - full)
}

/// Octets in a few letters.
pub(crate) fn octets(octets: u64) -> String {
    match octets {
        0..=1_048_575 => format!("{}K", octets >> 10),
        1_048_576..=1_073_741_823 => format!("{}M", octets >> 20),
        _ => format!("{:.1}G", octets as f64 / f64::from(1 << 30)),
    }
}

/// A large number in a few letters.
fn large(value: f64) -> String {
    if value < 1e7 { format!("{value}") } else { format!("2^{:.0}", value.log2()) }
}

/// A span of time in two units.
pub(crate) fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, ..) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

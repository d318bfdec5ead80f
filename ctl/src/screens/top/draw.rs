//! Draws a view on a terminal of any size.

use manx_api::Timestamp;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Sparkline};

use super::columns::{self, Cell, Table};
use super::desk::{Desk, Page};
use crate::screens::view::{Summary, View};
use crate::show::Tone;

/// Rows that a terminal must have for curves.
const ROOM_FOR_CURVES: u16 = 20;

const HELP: [(&str, &str); 10] = [
    ("1 2 3 4, Tab", "nodes, sessions, pools, what is wrong"),
    ("s  S", "order by the next column, by the one before"),
    ("r", "the other way round"),
    ("/", "only rows that contain what you type; Esc takes it back"),
    ("p, space", "stop and go on"),
    ("↑ ↓ PgUp PgDn Home End", "up and down"),
    ("?", "this help"),
    ("q, Ctrl-C", "the end"),
    ("·", "not known: the node does not answer, or not yet"),
    ("IN, OUT", "prefixes believed of a peer, and told to it"),
];

/// Draws everything.
pub(crate) fn draw(frame: &mut Frame<'_>, view: &View, desk: &mut Desk, now: Timestamp) {
    let area = frame.area();
    let curves = if area.height >= ROOM_FOR_CURVES { 3 } else { 0 };
    let parts = [
        Constraint::Length(2),
        Constraint::Length(curves),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ];
    let [head, graph, tabs, table, foot] = Layout::vertical(parts).areas(area);
    frame.render_widget(Paragraph::new(headlines(view, desk, now)), head);
    if curves > 0 {
        draw_curves(frame, &view.summary, graph);
    }
    frame.render_widget(Paragraph::new(tab_line(view, desk)), tabs);
    draw_table(frame, view, desk, now.as_second(), table);
    frame.render_widget(Paragraph::new(footer(desk)), foot);
    if desk.help() {
        draw_help(frame, area);
    }
}

fn style(tone: Option<Tone>) -> Style {
    match tone {
        None => Style::new(),
        Some(Tone::Good) => Style::new().fg(Color::Green),
        Some(Tone::Doubtful) => Style::new().fg(Color::Yellow),
        Some(Tone::Bad) => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        Some(Tone::Quiet) => Style::new().fg(Color::DarkGray),
        Some(Tone::Strong) => Style::new().add_modifier(Modifier::BOLD),
    }
}

fn span(text: impl Into<String>, tone: Tone) -> Span<'static> {
    Span::styled(text.into(), style(Some(tone)))
}

/// Whose cluster, when, and the whole of it.
fn headlines(view: &View, desk: &Desk, now: Timestamp) -> Vec<Line<'static>> {
    let summary = &view.summary;
    let clock = now.strftime("%H:%M:%S UTC").to_string();
    let mut first = vec![span("manx", Tone::Strong), Span::raw("  "), Span::raw(summary.cluster.clone())];
    first.push(Span::raw(format!("  {clock}")));
    if desk.paused() {
        first.push(span("  paused", Tone::Doubtful));
    }
    if let Some(trouble) = summary.troubles.first() {
        first.push(span(format!("  {trouble}"), Tone::Bad));
    }
    if !summary.complete {
        return vec![Line::from(first), Line::from(span("reading the cluster …", Tone::Quiet))];
    }
    vec![Line::from(first), Line::from(totals(summary))]
}

fn totals(summary: &Summary) -> Vec<Span<'static>> {
    let of = |part: usize, all: usize| {
        span(format!("{part}/{all}"), if part == all { Tone::Good } else { Tone::Bad })
    };
    let rates = &summary.rates;
    let mut line = vec![
        Span::raw("nodes "),
        of(summary.nodes_ready, summary.nodes),
        Span::raw("  sessions "),
        of(summary.sessions_up, summary.sessions),
        Span::raw(format!(
            "  addresses {} used, {} free in {} blocks",
            summary.used, summary.free, summary.blocks
        )),
    ];
    if summary.nodes_asked > 0 {
        line.push(Span::raw(format!("  pods +{:.1} -{:.1}/s", rates.started, rates.stopped)));
        line.push(Span::raw(format!("  routes {} ({:.1} changes/s)", rates.routes, rates.changes)));
    }
    if summary.nodes_asked < summary.nodes {
        let silent = summary.nodes - summary.nodes_asked;
        line.push(span(format!("  {silent} not asked"), Tone::Quiet));
    }
    line
}

/// What happened per second over the last minutes.
fn draw_curves(frame: &mut Frame<'_>, summary: &Summary, area: Rect) {
    let areas: [Rect; 3] = Layout::horizontal([Constraint::Fill(1); 3]).areas(area);
    let titles = ["pods started/s", "pods stopped/s", "route changes/s"];
    for (index, (title, area)) in titles.into_iter().zip(areas).enumerate() {
        let all: Vec<u64> = summary.history.iter().map(|point| (point[index] * 10.0) as u64).collect();
        let room = usize::from(area.width.saturating_sub(2));
        let newest = &all[all.len().saturating_sub(room)..];
        let last = summary.history.last().map_or(0.0, |point| point[index]);
        let most = newest.iter().max().copied().unwrap_or_default() as f64 / 10.0;
        let block = Block::bordered().border_style(style(Some(Tone::Quiet)));
        let block = block.title(format!(" {title} {last:.1}, most {most:.1} "));
        frame.render_widget(Sparkline::default().data(newest).block(block), area);
    }
}

fn tab_line(view: &View, desk: &Desk) -> Line<'static> {
    let counts = [view.nodes.len(), view.sessions.len(), view.pools.len(), view.findings.len()];
    let mut spans = Vec::new();
    for (index, (page, count)) in Page::ALL.into_iter().zip(counts).enumerate() {
        let mut look = Style::new();
        if page == desk.page() {
            look = look.add_modifier(Modifier::REVERSED);
        } else if page == Page::Wrong && count > 0 {
            look = style(Some(Tone::Bad));
        }
        spans.push(Span::styled(format!(" {} {} {count} ", index + 1, page.title()), look));
        spans.push(Span::raw(" "));
    }
    if !desk.filter().is_empty() || desk.typing() {
        let cursor = if desk.typing() { "▏" } else { "" };
        spans.push(span(format!("/{}{cursor}", desk.filter()), Tone::Doubtful));
    }
    Line::from(spans)
}

fn draw_table(frame: &mut Frame<'_>, view: &View, desk: &mut Desk, now: i64, area: Rect) {
    let page = desk.page();
    let mut table = columns::table(page, view, now);
    columns::arrange(&mut table, page, desk.filter(), desk.order());
    let room = usize::from(area.height.saturating_sub(1));
    if table.rows.is_empty() {
        return frame.render_widget(Paragraph::new(nothing(view, desk)), area);
    }
    if page == Page::Wrong {
        return draw_findings(frame, &table, desk, area);
    }
    let first = desk.scroll(room, table.rows.len());
    let visible = &table.rows[first..(first + room).min(table.rows.len())];
    let widths = widths(&table, visible);
    let shown = columns::fit(&table, &widths, usize::from(area.width));
    let mut lines = vec![header(&table, desk, &shown, &widths)];
    lines.extend(visible.iter().map(|row| line(&table, row, &shown, &widths)));
    frame.render_widget(Paragraph::new(lines), area);
}

/// Why there are no rows.
fn nothing(view: &View, desk: &Desk) -> Line<'static> {
    if !view.summary.complete {
        return Line::from(span("reading the cluster …", Tone::Quiet));
    }
    if !desk.filter().is_empty() {
        return Line::from(span(format!("nothing contains {:?}; Esc shows all", desk.filter()), Tone::Quiet));
    }
    match desk.page() {
        Page::Wrong => Line::from(span("nothing is wrong", Tone::Good)),
        Page::Nodes => Line::from("no node runs an agent of Manx yet"),
        Page::Sessions => Line::from("no node has a session: declare a mesh or a BGPPeer"),
        Page::Pools => Line::from("there is no IPPool yet: pods get no addresses"),
    }
}

/// Sentences, each in as many lines as it takes.
fn draw_findings(frame: &mut Frame<'_>, table: &Table, desk: &mut Desk, area: Rect) {
    let width = usize::from(area.width).max(20);
    let mut lines = Vec::new();
    for row in &table.rows {
        let [word, object, what] = &row[..] else { continue };
        let text = format!("{}: {}", object.text, what.text);
        for (index, part) in wrap(&text, width - 10).into_iter().enumerate() {
            let word = if index == 0 { format!("{:<9} ", word.text) } else { " ".repeat(10) };
            lines.push(Line::from(vec![Span::styled(word, style(row[0].tone)), Span::raw(part)]));
        }
    }
    let first = desk.scroll(usize::from(area.height), lines.len());
    frame.render_widget(Paragraph::new(lines.split_off(first)), area);
}

/// Words in lines of at most so many characters; longer words are cut.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.extend(word.chars().take(width));
        }
    }
    lines
}

fn widths(table: &Table, rows: &[Vec<Cell>]) -> Vec<usize> {
    let column = |(index, column): (usize, &columns::Column)| {
        let cells = rows.iter().map(|row| row[index].text.chars().count());
        // One more for the arrow of the order.
        cells.max().unwrap_or(0).max(column.name.chars().count() + 1).min(64)
    };
    table.columns.iter().enumerate().map(column).collect()
}

fn header(table: &Table, desk: &Desk, shown: &[usize], widths: &[usize]) -> Line<'static> {
    let order = desk.order();
    let spans = shown.iter().flat_map(|&index| {
        let column = table.columns[index];
        let arrow = if order.column != Some(index) {
            ""
        } else if order.backwards {
            "▲"
        } else {
            "▼"
        };
        let name = pad(&format!("{}{arrow}", column.name), widths[index], column.right);
        [Span::styled(name, Style::new().add_modifier(Modifier::BOLD)), Span::raw("  ")]
    });
    Line::from(spans.collect::<Vec<_>>())
}

fn line(table: &Table, row: &[Cell], shown: &[usize], widths: &[usize]) -> Line<'static> {
    let spans = shown.iter().flat_map(|&index| {
        let text = pad(&row[index].text, widths[index], table.columns[index].right);
        [Span::styled(text, style(row[index].tone)), Span::raw("  ")]
    });
    Line::from(spans.collect::<Vec<_>>())
}

fn pad(text: &str, width: usize, right: bool) -> String {
    let long = text.chars().count() > width;
    let text: String =
        if long { text.chars().take(width - 1).chain(['…']).collect() } else { text.to_owned() };
    if right { format!("{text:>width$}") } else { format!("{text:<width$}") }
}

fn footer(desk: &Desk) -> Line<'static> {
    let words = if desk.typing() {
        "type to filter   Enter keeps it   Esc takes it back"
    } else {
        "q quit   ? help   Tab page   s sort   r reverse   / filter   p pause"
    };
    Line::from(span(words, Tone::Quiet))
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let width = 72.min(area.width);
    let height = (HELP.len() as u16 + 2).min(area.height);
    let at = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    let lines =
        HELP.map(|(key, what)| Line::from(vec![span(format!(" {key:<23}"), Tone::Strong), Span::raw(what)]));
    frame.render_widget(Clear, at);
    frame.render_widget(Paragraph::new(lines.to_vec()).block(Block::bordered().title(" Keys ")), at);
}

#[cfg(test)]
mod tests;

//! Pages as they stand on a terminal, and what keys make of them.

use manx_api::SessionState;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::*;
use crate::finding::Finding;
use crate::screens::rates::Rates;
use crate::screens::top::desk::Pressed;
use crate::screens::view::{NodeView, PoolView, SessionView};

fn node(name: &str, started: f64, up: usize) -> NodeView {
    NodeView {
        name: name.to_owned(),
        ready: Some(true),
        sessions_up: up,
        sessions: 2,
        blocks: 3,
        used: 40,
        free: 152,
        rates: Some(Rates {
            started,
            routes: 6,
            desired: 6,
            memory: 33 << 20,
            cpu: 0.02,
            ..Rates::default()
        }),
        findings: 2 - up,
        ..NodeView::default()
    }
}

fn session(node: &str, peer: &str, state: SessionState, error: &str) -> SessionView {
    SessionView {
        node: node.to_owned(),
        peer: peer.to_owned(),
        router: None,
        address: "192.0.2.1".to_owned(),
        as_number: Some(64512),
        state,
        up: state == SessionState::Established,
        since: -3700,
        received: 9,
        accepted: 7,
        advertised: 2,
        flaps: 1,
        error: error.to_owned(),
        error_at: None,
        messages: Some((0.4, 1.0)),
    }
}

fn view() -> View {
    let summary = Summary {
        cluster: "prod".to_owned(),
        complete: true,
        nodes: 2,
        nodes_ready: 2,
        nodes_asked: 2,
        sessions: 2,
        sessions_up: 1,
        blocks: 6,
        used: 80,
        free: 304,
        rates: Rates { started: 3.5, stopped: 1.0, routes: 12, changes: 2.0, ..Rates::default() },
        history: vec![[1.0, 0.0, 2.0], [3.5, 1.0, 2.0]],
        ..Summary::default()
    };
    View {
        summary,
        nodes: vec![node("node1", 1.0, 2), node("node2", 2.5, 1)],
        sessions: vec![
            session("node1", "peer/tor", SessionState::Established, ""),
            session("node2", "peer/tor", SessionState::Active, "hold timer expired"),
        ],
        pools: vec![PoolView {
            name: "v4".to_owned(),
            cidr: "10.244.0.0/16".to_owned(),
            places: 1024.0,
            blocks: 870,
            claimed: 0.85,
            ready: true,
            ..PoolView::default()
        }],
        findings: vec![Finding::error(
            "node node2",
            "the session with peer/tor is Active",
            "start the router",
        )],
        ..View::default()
    }
}

fn shown(view: &View, desk: &mut Desk, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("no terminal is needed");
    terminal.draw(|frame| draw(frame, view, desk, Timestamp::UNIX_EPOCH)).expect("drawn");
    let buffer = terminal.backend().buffer();
    let rows = buffer.content.chunks(usize::from(width));
    let lines = rows.map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>());
    lines.map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn press(desk: &mut Desk, keys: &str) -> Pressed {
    let mut last = Pressed::On;
    for char in keys.chars() {
        let code = match char {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\u{1b}' => KeyCode::Esc,
            char => KeyCode::Char(char),
        };
        last = desk.press(KeyEvent::new(code, KeyModifiers::NONE), &view());
    }
    last
}

fn names(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| line.starts_with("node") && !line.starts_with("nodes "))
        .map(|line| &line[..5])
        .collect()
}

#[test]
fn nodes_stand_with_what_they_do() {
    let text = shown(&view(), &mut Desk::new(Page::Nodes), (150, 24));
    for part in [
        "manx  prod  00:00:00 UTC",
        "nodes 2/2  sessions 1/2  addresses 80 used, 304 free in 6 blocks  pods +3.5 -1.0/s  routes 12 (2.0 changes/s)",
        "pods started/s 3.5, most 3.5",
        "1 Nodes 2   2 Sessions 2   3 Pools 1   4 Wrong 1",
        "node1        2/2        3     40    152       1.0        0        6           0       0      33M    2%",
        "q quit",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
}

#[test]
fn what_has_no_room_gives_way_and_the_rest_stays_readable() {
    let narrow = shown(&view(), &mut Desk::new(Page::Nodes), (56, 12));
    assert!(
        !narrow.contains("MEMORY") && narrow.contains("SESSIONS") && narrow.contains("START/s"),
        "{narrow}"
    );
    assert!(!narrow.contains("most"), "no curves in twelve lines:\n{narrow}");
    for size in [(1, 1), (5, 3), (20, 5), (300, 100)] {
        for page in Page::ALL {
            let mut desk = Desk::new(page);
            press(&mut desk, "?");
            shown(&view(), &mut desk, size);
        }
    }
}

#[test]
fn sessions_that_are_down_come_first_with_their_reason() {
    let text = shown(&view(), &mut Desk::new(Page::Sessions), (160, 12));
    assert_eq!(names(&text), ["node2", "node1"]);
    assert!(
        text.contains("Active") && text.contains("1h01m") && text.contains("hold timer expired"),
        "{text}"
    );
}

#[test]
fn pools_show_how_full_they_are() {
    let text = shown(&view(), &mut Desk::new(Page::Pools), (120, 12));
    assert!(text.contains("█████████░ 85.0%") && text.contains("1024"), "{text}");
}

#[test]
fn what_is_wrong_stands_with_its_cure_in_as_many_lines_as_it_takes() {
    let text = shown(&view(), &mut Desk::new(Page::Wrong), (44, 12));
    assert!(
        text.contains("error     node node2: the session with\n          peer/tor is Active → start the"),
        "{text}"
    );
    let well = View { findings: Vec::new(), ..view() };
    assert!(shown(&well, &mut Desk::new(Page::Wrong), (44, 12)).contains("nothing is wrong"));
}

#[test]
fn keys_change_page_order_and_filter() {
    let mut desk = Desk::new(Page::Nodes);
    press(&mut desk, "ssssss");
    let text = shown(&view(), &mut desk, (150, 12));
    assert!(text.contains("START/s▼"), "{text}");
    assert_eq!(names(&text), ["node2", "node1"], "the most starts first");
    press(&mut desk, "r");
    assert_eq!(names(&shown(&view(), &mut desk, (150, 12))), ["node1", "node2"]);
    press(&mut desk, "/NODE2\n");
    let text = shown(&view(), &mut desk, (150, 12));
    assert!(text.contains("/NODE2") && names(&text) == ["node2"], "{text}");
    press(&mut desk, "\u{1b}\t");
    let text = shown(&view(), &mut desk, (150, 12));
    assert!(text.contains("PEER") && names(&text).len() == 2, "{text}");
    press(&mut desk, "p");
    assert!(desk.paused() && shown(&view(), &mut desk, (150, 12)).contains("paused"));
    press(&mut desk, "?");
    assert!(shown(&view(), &mut desk, (150, 24)).contains("Keys"));
    assert_eq!(press(&mut desk, "q"), Pressed::On, "any key closes the help");
    assert_eq!(press(&mut desk, "q"), Pressed::Quit);
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(Desk::default().press(control, &view()), Pressed::Quit);
}

#[test]
fn letters_are_the_filter_s_while_it_is_typed() {
    let mut desk = Desk::new(Page::Nodes);
    assert_eq!(press(&mut desk, "/q4p"), Pressed::On);
    assert_eq!((desk.filter(), desk.page(), desk.paused()), ("q4p", Page::Nodes, false));
    assert!(shown(&view(), &mut desk, (80, 12)).contains("nothing contains \"q4p\""));
}

#[test]
fn a_long_list_scrolls_and_stops_at_its_end() {
    let many =
        View { nodes: (0..100).map(|number| node(&format!("n{number:03}"), 0.0, 2)).collect(), ..view() };
    let mut desk = Desk::new(Page::Nodes);
    assert!(shown(&many, &mut desk, (100, 12)).contains("n000"));
    press(&mut desk, "G");
    let text = shown(&many, &mut desk, (100, 12));
    assert!(text.contains("n099") && !text.contains("n091"), "{text}");
    press(&mut desk, "jjjk");
    assert!(shown(&many, &mut desk, (100, 12)).contains("n098"));
    assert!(shown(&view(), &mut desk, (100, 12)).contains("node1"), "fewer rows than were scrolled past");
}

#[test]
fn a_node_that_is_not_asked_says_why() {
    let away =
        NodeView { rates: None, away: Some("its kubelet is away".to_owned()), ..node("node1", 0.0, 2) };
    let text = shown(&View { nodes: vec![away], ..view() }, &mut Desk::new(Page::Nodes), (170, 12));
    assert!(text.contains("not asked: its kubelet is away") && text.contains("·"), "{text}");
}

#[test]
fn a_node_that_fell_silent_says_for_how_long() {
    let silent = NodeView { rates: None, silent_since: Some(-75), ..node("node1", 0.0, 2) };
    let text = shown(&View { nodes: vec![silent], ..view() }, &mut Desk::new(Page::Nodes), (170, 12));
    assert!(text.contains("no answer for 1m15s") && text.contains("·"), "{text}");
}

#[test]
fn before_everything_is_read_nothing_is_called_missing() {
    let view = View::default();
    let text = shown(&view, &mut Desk::new(Page::Pools), (80, 12));
    assert!(text.contains("reading the cluster") && !text.contains("no IPPool"), "{text}");
    let empty = View { summary: Summary { complete: true, ..Summary::default() }, ..View::default() };
    assert!(shown(&empty, &mut Desk::new(Page::Pools), (80, 12)).contains("there is no IPPool yet"));
}

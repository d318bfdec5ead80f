//! What whoever sits before the terminal wants to see: page, order, filter, how far down. Pure: keys in.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::columns;
use crate::screens::view::View;

/// One page of the terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Page {
    /// Nodes.
    #[default]
    Nodes,
    /// Sessions.
    Sessions,
    /// Pools.
    Pools,
    /// What is wrong, and what to do.
    Wrong,
}

impl Page {
    /// All of them, in their order.
    pub(crate) const ALL: [Self; 4] = [Self::Nodes, Self::Sessions, Self::Pools, Self::Wrong];

    /// What it is called.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Nodes => "Nodes",
            Self::Sessions => "Sessions",
            Self::Pools => "Pools",
            Self::Wrong => "Wrong",
        }
    }
}

/// What a key led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pressed {
    /// Go on.
    On,
    /// The end.
    Quit,
}

/// How a page is ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    /// The number of the column; `None`: as the page thinks best.
    pub(crate) column: Option<usize>,
    /// Backwards.
    pub(crate) backwards: bool,
}

/// What is wanted.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    page: Page,
    orders: [Order; 4],
    filter: String,
    typing: bool,
    help: bool,
    paused: bool,
    top: usize,
    /// Rows that had room when it was last drawn, and rows that there were.
    room: usize,
    rows: usize,
}

impl Desk {
    /// Beginning with a page.
    pub(crate) fn new(page: Page) -> Self {
        Self { page, ..Self::default() }
    }

    /// The page.
    pub(crate) fn page(&self) -> Page {
        self.page
    }

    /// The order of its rows.
    pub(crate) fn order(&self) -> Order {
        self.orders[self.page as usize]
    }

    /// Only rows that contain this, whatever the case of its letters.
    pub(crate) fn filter(&self) -> &str {
        &self.filter
    }

    /// The filter is being typed.
    pub(crate) fn typing(&self) -> bool {
        self.typing
    }

    /// The keys are explained.
    pub(crate) fn help(&self) -> bool {
        self.help
    }

    /// Nothing moves.
    pub(crate) fn paused(&self) -> bool {
        self.paused
    }

    /// Takes how many rows have room and how many there are; gives the first to draw.
    pub(crate) fn scroll(&mut self, room: usize, rows: usize) -> usize {
        (self.room, self.rows) = (room, rows);
        self.top = self.top.min(rows.saturating_sub(room));
        self.top
    }

    /// Takes a key.
    pub(crate) fn press(&mut self, key: KeyEvent, view: &View) -> Pressed {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            _ if key.kind == KeyEventKind::Release => {}
            KeyCode::Char('c' | 'd') if control => return Pressed::Quit,
            _ if self.typing => self.type_filter(key.code),
            _ if self.help => self.help = false,
            KeyCode::Char('q') => return Pressed::Quit,
            KeyCode::Esc if self.filter.is_empty() => return Pressed::Quit,
            KeyCode::Esc => self.filter.clear(),
            code => self.turn(code, view),
        }
        Pressed::On
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(char) => self.filter.push(char),
            _ => {}
        }
        self.top = 0;
    }

    fn turn(&mut self, code: KeyCode, view: &View) {
        let page = self.page as usize;
        match code {
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char(digit @ '1'..='4') => self.show(usize::from(digit as u8 - b'1')),
            KeyCode::Tab | KeyCode::Right => self.show((page + 1) % 4),
            KeyCode::BackTab | KeyCode::Left => self.show((page + 3) % 4),
            KeyCode::Char('s') => self.sort(1, view),
            KeyCode::Char('S') => self.sort(-1, view),
            KeyCode::Char('r') => self.orders[page].backwards ^= true,
            KeyCode::Down | KeyCode::Char('j') => self.top += 1,
            KeyCode::Up | KeyCode::Char('k') => self.top = self.top.saturating_sub(1),
            KeyCode::PageDown => self.top += self.room.max(1),
            KeyCode::PageUp => self.top = self.top.saturating_sub(self.room.max(1)),
            KeyCode::Home | KeyCode::Char('g') => self.top = 0,
            KeyCode::End | KeyCode::Char('G') => self.top = self.rows,
            _ => {}
        }
        self.top = self.top.min(self.rows.saturating_sub(self.room));
    }

    fn show(&mut self, page: usize) {
        self.page = Page::ALL[page];
        self.top = 0;
    }

    /// Goes on to the next column, or to the one before; past the last is the page's own order.
    fn sort(&mut self, step: i32, view: &View) {
        let columns = columns::table(self.page, view, 0).columns.len() as i32;
        let now = self.order().column.map_or(-1, |column| column as i32);
        let next = (now + 1 + step).rem_euclid(columns + 1) - 1;
        self.orders[self.page as usize] = Order { column: usize::try_from(next).ok(), backwards: false };
        self.top = 0;
    }
}

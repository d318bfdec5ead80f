//! Tables that fit the terminal: columns as wide as their longest cell, and cells shortened where that is too much.

use crate::show::{Page, Tone};

/// Between two columns.
const GAP: usize = 2;
/// No cell of names is made shorter than this,
const LEAST: usize = 8;
/// and none of words shorter than this.
const LEAST_WORDS: usize = 20;

/// One column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    cut: Cut,
    right: bool,
    wide: bool,
    /// Where there is no room, columns are left out from the highest of these on; 0 never.
    spare: u8,
}

/// Where a cell loses letters when there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Nowhere,
    Middle,
    End,
}

/// A column whose cells are never shortened: states, numbers, addresses.
pub(crate) const fn column(title: &'static str) -> Column {
    Column { title, cut: Cut::Nowhere, right: false, wide: false, spare: 0 }
}

/// A column of names: a long one keeps its beginning and its end.
pub(crate) const fn names(title: &'static str) -> Column {
    Column { title, cut: Cut::Middle, right: false, wide: false, spare: 0 }
}

/// A column of words: a long cell keeps its beginning.
pub(crate) const fn words(title: &'static str) -> Column {
    Column { title, cut: Cut::End, right: false, wide: false, spare: 0 }
}

/// A column of numbers.
pub(crate) const fn number(title: &'static str) -> Column {
    Column { title, cut: Cut::Nowhere, right: true, wide: false, spare: 0 }
}

impl Column {
    /// Only with `-o wide`.
    pub(crate) const fn wide(self) -> Self {
        Self { wide: true, ..self }
    }

    /// Left out where there is no room, those with a higher number first.
    pub(crate) const fn spare(self, spare: u8) -> Self {
        Self { spare, ..self }
    }

    /// The least that it can be shortened to.
    fn least(&self) -> usize {
        let letters = if self.cut == Cut::End { LEAST_WORDS } else { LEAST };
        letters.max(self.title.chars().count())
    }
}

/// One cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    /// A cell that says something by its colour too.
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone: Some(tone) }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(value: T) -> Self {
        Self { text: value.to_string(), tone: None }
    }
}

/// A table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// One without rows.
    pub(crate) fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row: a cell for each column, those of `-o wide` too.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Lines as long as the page is wide at most, without spaces at their ends.
    pub(crate) fn render(&self, page: &Page) -> String {
        let shown = self.shown(page);
        let widths = self.widths(&shown, page.width);
        let heads: Vec<Cell> =
            self.columns.iter().map(|column| Cell::toned(column.title, Tone::Strong)).collect();
        std::iter::once(&heads).chain(&self.rows).map(|row| self.line(row, &shown, &widths, page)).collect()
    }

    /// The columns that have room.
    fn shown(&self, page: &Page) -> Vec<usize> {
        let mut shown: Vec<usize> =
            (0..self.columns.len()).filter(|&index| page.wide || !self.columns[index].wide).collect();
        let least = |index: usize| match self.columns[index].cut {
            Cut::Nowhere => self.longest(index),
            Cut::Middle | Cut::End => self.longest(index).min(self.columns[index].least()),
        };
        while let Some(limit) = page.width {
            let needed: usize = shown.iter().map(|&index| least(index) + GAP).sum();
            let spare = (0..shown.len()).filter(|&at| self.columns[shown[at]].spare > 0);
            let Some(at) = spare.max_by_key(|&at| self.columns[shown[at]].spare) else { break };
            if needed <= limit + GAP {
                break;
            }
            shown.remove(at);
        }
        shown
    }

    /// Letters of the longest cell of a column.
    fn longest(&self, index: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.text.chars().count());
        cells.chain([self.columns[index].title.chars().count()]).max().unwrap_or(0)
    }

    fn line(&self, row: &[Cell], shown: &[usize], widths: &[usize], page: &Page) -> String {
        let (mut line, mut used, mut owed) = (String::new(), 0, 0);
        for (&index, &width) in shown.iter().zip(widths) {
            let Some(cell) = row.get(index) else { continue };
            let room = page.width.map_or(width, |all| width.min(all.saturating_sub(used + owed)));
            let text = shorten(&cell.text, room, self.columns[index].cut);
            let length = text.chars().count();
            let pad = room.saturating_sub(length);
            let (before, after) = if self.columns[index].right { (pad, 0) } else { (0, pad) };
            // Spaces are only written before something, so that none are at the end of the line.
            owed += before;
            if length > 0 {
                line.extend(std::iter::repeat_n(' ', owed));
                used += owed + length;
                owed = 0;
                line.push_str(&cell.tone.map_or_else(|| text.clone(), |tone| page.paint(tone, &text)));
            }
            owed += after + GAP;
        }
        line.push('\n');
        line
    }

    /// As wide as the longest cell; where that is too much, the widest that can be shortened gives first.
    fn widths(&self, shown: &[usize], limit: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = shown.iter().map(|&index| self.longest(index)).collect();
        let Some(limit) = limit else { return widths };
        let gaps = GAP * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > limit {
            let gives = |&at: &usize| {
                let column = &self.columns[shown[at]];
                column.cut != Cut::Nowhere && widths[at] > column.least()
            };
            let Some(at) = (0..widths.len()).filter(gives).max_by_key(|&at| widths[at]) else { break };
            widths[at] -= 1;
        }
        widths
    }
}

/// The text in so many letters, with `…` for what is missing.
fn shorten(text: &str, room: usize, cut: Cut) -> String {
    let length = text.chars().count();
    if length <= room {
        return text.to_owned();
    }
    let Some(kept) = room.checked_sub(1) else { return String::new() };
    let (head, tail) = if cut == Cut::Middle { (kept.div_ceil(2), kept / 2) } else { (kept, 0) };
    text.chars().take(head).chain(['…']).chain(text.chars().skip(length - tail)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([names("NODE"), number("N"), column("MORE").wide(), words("WHY")]);
        table.row(["node1.rack-a.example.com".into(), 5.into(), "m".into(), "hold timer expired".into()]);
        table.row(["b".into(), 12.into(), "m".into(), Cell::default()]);
        table
    }

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        assert_eq!(
            table().render(&Page::plain()),
            "NODE                       N  WHY\n\
             node1.rack-a.example.com   5  hold timer expired\n\
             b                         12\n"
        );
        let wide = table().render(&Page { wide: true, ..Page::plain() });
        assert_eq!(wide.lines().nth(2), Some("b                         12  m"));
    }

    #[test]
    fn a_narrow_terminal_shortens_names_in_the_middle_and_words_at_the_end() {
        let narrow = Page { width: Some(36), ..Page::plain() };
        assert_eq!(
            table().render(&narrow),
            "NODE           N  WHY\n\
             node1.…e.com   5  hold timer expired\n\
             b             12\n"
        );
    }

    #[test]
    fn spare_columns_go_before_others_are_cut() {
        let mut table =
            Table::new([column("A"), number("COUNT").spare(1), number("TIMES").spare(2), column("STATE")]);
        table.row(["a".into(), 1.into(), 2.into(), "Established".into()]);
        let at = |width| table.render(&Page { width: Some(width), ..Page::plain() });
        assert!(at(28).starts_with("A  COUNT  TIMES  STATE"), "{}", at(28));
        assert_eq!(at(27), "A  COUNT  STATE\na      1  Established\n");
        assert_eq!(at(14), "A  STATE\na  Established\n");
    }

    #[test]
    fn no_line_is_longer_than_the_terminal_however_narrow_it_is() {
        for width in 1..60 {
            let text = table().render(&Page { width: Some(width), ..Page::plain() });
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
        }
    }
}

//! The layout of text: its width, its colours, and words for spans of time.

use anstyle::{AnsiColor, Style};
use manx_api::Timestamp;

/// How text is laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    /// Words may be coloured.
    pub(crate) colour: bool,
    /// Columns of the terminal; none where lines may be as long as they like.
    pub(crate) width: Option<usize>,
    /// All columns of tables.
    pub(crate) wide: bool,
    /// The time from which ages are counted.
    pub(crate) now: Timestamp,
}

/// What a word says beside its letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// It is as it should be.
    Good,
    /// It may become bad.
    Doubtful,
    /// It is wrong.
    Bad,
    /// It matters less than what is around it.
    Quiet,
    /// It is a heading.
    Strong,
}

impl Page {
    /// One with these colours and width, as of now.
    pub(crate) fn new(colour: bool, width: Option<usize>, wide: bool) -> Self {
        Self { colour, width, wide, now: Timestamp::now() }
    }

    /// No colour, any width, in 1970: for tests.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { now: Timestamp::UNIX_EPOCH, ..Self::new(false, None, false) }
    }

    /// The text in the colour of its tone, where there is colour.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
        let style = match tone {
            Tone::Good => colour(AnsiColor::Green),
            Tone::Doubtful => colour(AnsiColor::Yellow),
            Tone::Bad => colour(AnsiColor::Red).bold(),
            Tone::Quiet => Style::new().dimmed(),
            Tone::Strong => Style::new().bold(),
        };
        format!("{style}{text}{style:#}")
    }

    /// The text broken between words into lines that fit, the first after `first` and the others after `rest`, without an
    /// end of line at the end. A word that is longer than a line stays whole.
    pub(crate) fn wrap(&self, text: &str, first: &str, rest: &str) -> String {
        let Some(width) = self.width else { return format!("{first}{text}") };
        let mut lines = Vec::new();
        let mut line = first.to_owned();
        let mut empty = true;
        for word in text.split(' ') {
            if !empty && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::replace(&mut line, rest.to_owned()));
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
        lines.push(line);
        lines.join("\n")
    }

    /// How long ago that was, as `kubectl` says it.
    pub(crate) fn ago(&self, when: Timestamp) -> String {
        age(self.now.as_second() - when.as_second())
    }
}

/// A span of so many seconds in one word of at most two units: `42s`, `5m10s`, `3h20m`, `12d`.
pub(crate) fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |large: i64, unit: char, small: i64, smaller: char| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{smaller}"),
    };
    match seconds {
        ..120 => format!("{seconds}s"),
        120..600 => two(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, 'd', hours % 24, 'h'),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_said_as_kubectl_says_them() {
        let said = [
            (-5, "0s"),
            (119, "119s"),
            (125, "2m5s"),
            (600, "10m"),
            (12_000, "3h20m"),
            (30_000, "8h"),
            (180_000, "2d2h"),
            (1_000_000, "11d"),
        ];
        for (seconds, text) in said {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn text_is_broken_between_words_where_the_terminal_ends() {
        let page = Page { width: Some(12), ..Page::plain() };
        assert_eq!(
            page.wrap("one two three averyverylongword x", "- ", "  "),
            "- one two\n  three\n  averyverylongword\n  x"
        );
        assert_eq!(Page::plain().wrap("one two", "- ", "  "), "- one two");
    }

    #[test]
    fn colour_is_only_where_there_is_colour() {
        assert_eq!(Page::plain().paint(Tone::Bad, "no"), "no");
        let page = Page { colour: true, ..Page::plain() };
        assert_eq!(page.paint(Tone::Bad, "no"), "\u{1b}[1m\u{1b}[31mno\u{1b}[0m");
        assert_eq!(page.paint(Tone::Bad, ""), "");
    }
}

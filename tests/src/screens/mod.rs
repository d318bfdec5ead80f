//! What programs draw, as whoever sits before it sees it: a real browser, and a real terminal.

pub mod browser;
pub mod terminal;

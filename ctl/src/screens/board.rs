//! What the page in the browser is to show, as named pieces of JSON, so that only pieces that changed are sent.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::view::{SessionView, View};

/// Pieces that are gone are remembered for pages that have not heard of it; of more, pages begin anew.
const GONE: usize = 4096;

/// All pieces, each with the version of the board in which it last changed.
#[derive(Debug, Default)]
pub(crate) struct Board {
    version: u64,
    /// Who has an older version than this begins anew.
    floor: u64,
    pieces: BTreeMap<String, Piece>,
}

#[derive(Debug)]
struct Piece {
    version: u64,
    /// `None`: gone.
    json: Option<String>,
}

/// What changed since a version.
#[derive(Debug)]
pub(crate) struct News<'a> {
    /// Everything before is void.
    anew: bool,
    /// Names with JSON.
    set: Vec<(&'a str, &'a str)>,
    gone: Vec<&'a str>,
}

impl News<'_> {
    /// As JSON, in one line.
    pub(crate) fn line(&self) -> String {
        let mut line = format!("{{\"anew\":{},\"set\":{{", self.anew);
        for (index, (name, json)) in self.set.iter().enumerate() {
            line.push_str(if index == 0 { "" } else { "," });
            line.push_str(&text(name));
            line.push(':');
            line.push_str(json);
        }
        line.push_str("},\"gone\":");
        line.push_str(&text(&self.gone));
        line.push('}');
        line
    }
}

fn text<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("views have string keys and finite numbers")
}

impl Board {
    /// The version now; 0 before anything is shown.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Shows this and nothing else; says whether anything changed.
    pub(crate) fn show(&mut self, view: &View) -> bool {
        let next = self.version + 1;
        let mut new = pieces(view);
        let mut changed = false;
        for (name, piece) in &mut self.pieces {
            let json = new.remove(name);
            if json != piece.json {
                *piece = Piece { version: next, json };
                changed = true;
            }
        }
        changed |= !new.is_empty();
        let added = new.into_iter().map(|(name, json)| (name, Piece { version: next, json: Some(json) }));
        self.pieces.extend(added);
        if changed {
            self.version = next;
            self.forget();
        }
        changed
    }

    fn forget(&mut self) {
        let gone = self.pieces.values().filter(|piece| piece.json.is_none()).count();
        if gone > GONE {
            self.pieces.retain(|_, piece| piece.json.is_some());
            self.floor = self.version;
        }
    }

    /// What changed after a version; everything for who has none, or one that is too old.
    pub(crate) fn since(&self, version: u64) -> News<'_> {
        let anew = version == 0 || version < self.floor || version > self.version;
        let mut news = News { anew, set: Vec::new(), gone: Vec::new() };
        for (name, piece) in &self.pieces {
            match &piece.json {
                Some(json) if anew || piece.version > version => news.set.push((name, json)),
                None if !anew && piece.version > version => news.gone.push(name),
                _ => {}
            }
        }
        news
    }
}

/// A view in pieces.
fn pieces(view: &View) -> BTreeMap<String, String> {
    let mut pieces = BTreeMap::new();
    pieces.insert("summary".to_owned(), text(&view.summary));
    pieces.insert("findings".to_owned(), text(&view.findings));
    pieces.extend(view.routers.iter().map(|router| (format!("router/{}", router.name), text(router))));
    pieces.extend(view.pools.iter().map(|pool| (format!("pool/{}", pool.name), text(pool))));
    pieces.extend(view.blocks.iter().map(|block| (format!("block/{}", block.cidr), text(block))));
    let mut sessions: HashMap<&str, Vec<&SessionView>> = HashMap::new();
    for session in &view.sessions {
        sessions.entry(&session.node).or_default().push(session);
    }
    for node in &view.nodes {
        pieces.insert(format!("node/{}", node.name), text(node));
        let own = sessions.remove(node.name.as_str()).unwrap_or_default();
        if let Some(rates) = &node.rates {
            pieces.insert(format!("rates/{}", node.name), text(&(rates, busy(&own))));
        }
        pieces.insert(format!("sessions/{}", node.name), text(&own));
    }
    pieces
}

/// Messages per second from and to those peers where there are any.
fn busy<'a>(sessions: &[&'a SessionView]) -> BTreeMap<&'a str, (f64, f64)> {
    let busy = sessions.iter().filter_map(|session| Some((session.peer.as_str(), session.messages?)));
    busy.filter(|(_, messages)| *messages != (0.0, 0.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::view::{NodeView, RouterView};
    use super::*;

    fn view(nodes: &[(&str, u64)]) -> View {
        let node = |(name, used): &(&str, u64)| NodeView {
            name: (*name).to_owned(),
            used: *used,
            ..NodeView::default()
        };
        View { nodes: nodes.iter().map(node).collect(), ..View::default() }
    }

    fn names(news: &News<'_>) -> (bool, Vec<String>, Vec<String>) {
        let owned = |name: &&str| (*name).to_owned();
        (
            news.anew,
            news.set.iter().map(|(name, _)| owned(name)).collect(),
            news.gone.iter().map(owned).collect(),
        )
    }

    #[test]
    fn only_what_changed_is_sent() {
        let mut board = Board::default();
        assert!(board.show(&view(&[("a", 1), ("b", 1)])));
        assert!(!board.show(&view(&[("a", 1), ("b", 1)])), "the same again is no news");
        assert!(names(&board.since(0)).1.contains(&"node/a".to_owned()));
        let before = board.version();
        assert!(board.show(&view(&[("b", 2), ("c", 1)])));
        let (anew, set, gone) = names(&board.since(before));
        assert!(!anew);
        assert_eq!(set, ["node/b", "node/c", "sessions/c"]);
        assert_eq!(gone, ["node/a", "sessions/a"]);
        let line = board.since(before).line();
        let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&read["set"]["node/b"]["used"], read["gone"][0].as_str()), (&2.into(), Some("node/a")));
    }

    #[test]
    fn who_comes_from_before_what_is_remembered_begins_anew() {
        let mut board = Board::default();
        board.show(&view(&[("a", 1)]));
        let before = board.version();
        let router = |number: usize| RouterView { name: format!("peer/{number}"), ..RouterView::default() };
        board.show(&View { routers: (0..GONE + 1).map(router).collect(), ..View::default() });
        board.show(&view(&[("a", 1)]));
        let (anew, set, gone) = names(&board.since(before));
        assert!(anew && gone.is_empty() && set.contains(&"node/a".to_owned()));
        assert!(board.since(board.version() + 5).anew, "a page of another process");
    }
}

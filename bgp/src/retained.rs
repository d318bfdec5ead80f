//! Which routes of a peer outlive its session, and until when: for the time of a restart (RFC 4724), then marked for long
//! (RFC 9494), then for as long as a peer that is back may take to confirm them.
//!
//! ```text
//!            session ends                restart time over           stale time over
//! confirmed ──────────────► stale ──────────────────────► marked ─────────────────────► gone
//!     ▲                       │  (no stale time: gone)       │
//!     └── announced again ────┴──────── session is back ─────┘   End-of-RIB, or too late: gone
//! ```
//!
//! The stale time runs on while the peer is back, until its End-of-RIB. A session that ends before does not start it
//! again: what was marked stays so and goes when it is over, what was confirmed begins anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::prefix::Family;

/// How long a peer that is back may take to confirm its routes, whatever their number.
const CONFIRM_TIME: Duration = Duration::from_secs(360);

/// Routes of a peer that outlive its session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retained {
    kept: BTreeMap<Family, Kept>,
}

/// Those of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    /// When the time for a restart, or to confirm, is over.
    until: Option<Instant>,
    /// For how long routes are marked after that; `None`: they go.
    long: Option<Duration>,
    /// When those that are marked go.
    last: Option<Instant>,
}

/// What is to be done about the routes of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// What is stale is marked.
    Mark,
    /// What is marked goes.
    DropMarked,
    /// What is stale goes, marked or not.
    DropStale,
}

impl Retained {
    /// Whether nothing is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether routes of the family are kept.
    pub(crate) fn contains(&self, family: Family) -> bool {
        self.kept.contains_key(&family)
    }

    /// The session has ended. Routes of the family stay until then, and marked for `long` after that.
    pub(crate) fn keep(&mut self, family: Family, until: Instant, long: Option<Duration>) {
        let last = self.kept.get(&family).and_then(|kept| kept.last);
        let long = long.filter(|long| !long.is_zero());
        self.kept.insert(family, Kept { until: Some(until), long, last });
    }

    /// Nothing of the family is kept any more.
    pub(crate) fn remove(&mut self, family: Family) {
        self.kept.remove(&family);
    }

    /// Nothing goes before then.
    pub(crate) fn put_off(&mut self, earliest: Instant) {
        for kept in self.kept.values_mut() {
            kept.until = kept.until.map(|until| until.max(earliest));
            kept.last = kept.last.map(|last| last.max(earliest));
        }
    }

    /// When something is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.kept.values().flat_map(|kept| [kept.until, kept.last]).flatten().min()
    }

    /// Everything that is due, in order.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<(Family, Due)> {
        let mut due = Vec::new();
        for (family, kept) in &mut self.kept {
            if kept.last.is_some_and(|last| last <= now) {
                kept.last = None;
                due.push((*family, Due::DropMarked));
            }
            if kept.until.is_some_and(|until| until <= now) {
                kept.until = None;
                due.push((*family, if kept.long.is_some() { Due::Mark } else { Due::DropStale }));
                kept.last = kept.long.map(|long| kept.last.unwrap_or(now + long));
            }
        }
        self.kept.retain(|_, kept| kept.until.is_some() || kept.last.is_some());
        due
    }

    /// The peer is back. `forwarded` says for a family, and whether its routes are marked, if the peer has kept
    /// forwarding; the families for which it has not are returned, their routes go.
    pub(crate) fn returned(&mut self, forwarded: impl Fn(Family, bool) -> bool, now: Instant) -> Vec<Family> {
        let gone: Vec<Family> = self
            .kept
            .iter()
            .filter(|(family, kept)| !forwarded(**family, kept.last.is_some()))
            .map(|(family, _)| *family)
            .collect();
        gone.iter().for_each(|family| self.remove(*family));
        for kept in self.kept.values_mut() {
            *kept = Kept { until: Some(now + CONFIRM_TIME), long: None, last: kept.last };
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Family = Family::Ipv4Unicast;
    const LONG: Option<Duration> = Some(Duration::from_secs(3600));

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn what_is_due_follows_from_when_the_peer_goes_and_returns() {
        #[derive(Clone, Copy)]
        enum Step {
            /// The session ends; the restart time is 120 s.
            Ends(Option<Duration>),
            Returns {
                forwarded: bool,
            },
            EndOfRib,
        }
        use Step::{EndOfRib, Ends, Returns};
        let back = Returns { forwarded: true };
        type Row<'a> = (&'a str, &'a [(u64, Step)], &'a [(u64, Due)]);
        let rows: [Row<'_>; 9] = [
            ("without a stale time routes go", &[(0, Ends(None))], &[(120, Due::DropStale)]),
            ("no time is no stale time", &[(0, Ends(Some(Duration::ZERO)))], &[(120, Due::DropStale)]),
            (
                "with one they are marked, then go",
                &[(0, Ends(LONG))],
                &[(120, Due::Mark), (3720, Due::DropMarked)],
            ),
            (
                "a peer that is back in time has time to confirm",
                &[(0, Ends(LONG)), (100, back)],
                &[(460, Due::DropStale)],
            ),
            ("End-of-RIB ends it", &[(0, Ends(LONG)), (100, back), (110, EndOfRib)], &[]),
            (
                "so it does when routes are marked",
                &[(0, Ends(LONG)), (200, back), (210, EndOfRib)],
                &[(120, Due::Mark)],
            ),
            (
                "the stale time runs on while the peer confirms",
                &[(0, Ends(LONG)), (3700, back)],
                &[(120, Due::Mark), (3720, Due::DropMarked), (4060, Due::DropStale)],
            ),
            (
                "and is not begun again by another end",
                &[(0, Ends(LONG)), (200, back), (300, Ends(LONG))],
                &[(120, Due::Mark), (420, Due::Mark), (3720, Due::DropMarked)],
            ),
            (
                "a peer that has not forwarded is asked for nothing more",
                &[(0, Ends(LONG)), (200, Returns { forwarded: false })],
                &[(120, Due::Mark)],
            ),
        ];
        let start = Instant::now();
        for (name, steps, expected) in rows {
            let (mut retained, mut found) = (Retained::default(), Vec::new());
            for second in 0..10_000 {
                let now = start + Duration::from_secs(second);
                for (_, step) in steps.iter().filter(|(at, _)| *at == second) {
                    match *step {
                        Ends(long) => retained.keep(V4, now + Duration::from_secs(120), long),
                        Returns { forwarded } => {
                            let gone = retained.returned(|_, _| forwarded, now);
                            assert_eq!(gone.is_empty(), forwarded, "{name}");
                        }
                        EndOfRib => retained.remove(V4),
                    }
                }
                assert!(retained.next().is_none_or(|next| next >= now), "{name}");
                found.extend(retained.take_due(now).into_iter().map(|(_, due)| (second, due)));
            }
            assert_eq!(found, expected, "{name}");
            assert!(retained.is_empty(), "{name}");
        }
    }
}

//! Why a prefix is where it is: every path with what became of it, and what every peer is told and why.

use std::collections::BTreeSet;
use std::fmt;

use crate::config::PeerId;
use crate::prefix::{Gateway, Prefix};
use crate::rib::decision::Step;
use crate::snapshot::{ImportStatus, PathStatus};
use crate::wire::{Attributes, Community};

/// All about one prefix. Its [`Display`](fmt::Display) is the text for humans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Which prefix.
    pub prefix: Prefix,
    /// All paths known, ours first, then in the order of peer names; empty if the prefix is unknown.
    pub paths: Vec<PathExplanation>,
    /// The place of the best one in `paths`.
    pub best: Option<usize>,
    /// The step that preferred it to the runner-up.
    pub step: Option<Step>,
    /// The next hops in use; empty for our own.
    pub next_hops: BTreeSet<Gateway>,
    /// Every configured peer, in the order of names; those that take several paths once for each (RFC 7911).
    pub told: Vec<Told>,
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathExplanation {
    /// Whose it is, what import made of it, where it lost.
    pub status: PathStatus,
    /// What the peer said.
    pub received: Attributes,
    /// What the decision process saw; `None` if the path took no part in it.
    pub used: Option<Attributes>,
    /// The amendments of import policy that changed it.
    pub amended: Vec<String>,
}

/// One peer's share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whom.
    pub peer: PeerId,
    /// The place in [`Explanation::paths`] of the path that this is about, if there is one.
    pub path: Option<usize>,
    /// What it is told, or why it is not.
    pub status: ToldStatus,
}

/// What a peer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToldStatus {
    /// The route.
    Told {
        /// The rule of export policy that accepts it; `None`: no rule matched, the policy's default.
        rule: Option<String>,
        /// The amendments of export policy.
        amended: Vec<String>,
        /// What the peer reads.
        attributes: Box<Attributes>,
        /// Whether it is on its way or there; `false` while the connection cannot take it.
        sent: bool,
    },
    /// Nothing.
    Untold(Untold),
}

/// Why a peer is not told a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untold {
    /// No path can be used.
    NoPath,
    /// No session is up.
    Down,
    /// The session does not carry the family.
    NotNegotiated,
    /// The best path is the peer's own.
    SplitHorizon,
    /// The best path is an internal peer's, and neither is a client of ours (RFC 4456 §6).
    NotReflected,
    /// A well-known community forbids it (RFC 1997).
    Community(Community),
    /// It is for customers only, and the peer is none (RFC 9234 §5).
    OnlyToCustomer,
    /// This rule of export policy rejects it; `None`: no rule matched, the policy's default.
    Rejected(Option<String>),
    /// It takes no more than this many paths, and they are better.
    Limit(u8),
    /// It cannot be written.
    Unsayable(&'static str),
}

impl fmt::Display for Untold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPath => f.write_str("no path can be used"),
            Self::Down => f.write_str("no session is up"),
            Self::NotNegotiated => f.write_str("the session does not carry the family"),
            Self::SplitHorizon => f.write_str("the best path is its own"),
            Self::NotReflected => f.write_str("both peers are internal and neither is a reflector client"),
            Self::Community(community) => write!(f, "the route carries {community}"),
            Self::OnlyToCustomer => f.write_str("the route is for customers only"),
            Self::Rejected(rule) => write!(f, "rejected by {}", By(rule.as_deref())),
            Self::Limit(most) => write!(f, "the peer takes at most {most} paths"),
            Self::Unsayable(reason) => f.write_str(reason),
        }
    }
}

/// The rule that decided.
struct By<'a>(Option<&'a str>);

impl fmt::Display for By<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rule) => write!(f, "rule {rule}"),
            None => f.write_str("default: no rule matched"),
        }
    }
}

/// Attributes in one line.
struct Said<'a>(&'a Attributes);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attributes { as_path, next_hop, origin, med, local_pref, only_to_customer, .. } = self.0;
        if !next_hop.address().is_unspecified() {
            write!(f, "next hop {next_hop}, ")?;
        }
        match as_path.is_empty() {
            true => f.write_str("empty AS path")?,
            false => write!(f, "AS path {as_path}")?,
        }
        write!(f, ", origin {origin}")?;
        let mut number = |name: &str, value: Option<u32>| match value {
            Some(value) => write!(f, ", {name} {value}"),
            None => Ok(()),
        };
        number("local preference", *local_pref)?;
        number("MED", *med)?;
        number("only to customer", only_to_customer.map(|asn| asn.0))?;
        let communities = communities(self.0);
        if communities.is_empty() { Ok(()) } else { write!(f, ", communities {}", communities.join(" ")) }
    }
}

/// All communities in the usual notation: standard, extended, large.
pub fn communities(attributes: &Attributes) -> Vec<String> {
    let standard = attributes.communities.iter().map(ToString::to_string);
    let extended = attributes.extended_communities.iter().map(ToString::to_string);
    let large = attributes.large_communities.iter().map(ToString::to_string);
    standard.chain(extended).chain(large).collect()
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.prefix)?;
        if self.paths.is_empty() {
            writeln!(f, "  no path")?;
        }
        for (place, path) in self.paths.iter().enumerate() {
            self.path(place, path, f)?;
        }
        for Told { peer, path, status } in &self.told {
            let path = path.filter(|place| self.best != Some(*place)).and_then(|place| self.paths.get(place));
            let which = path.and_then(|path| path.status.peer.as_ref());
            let which = which.map_or_else(String::new, |whose| format!(" the path of {whose}"));
            match status {
                ToldStatus::Untold(reason) => writeln!(f, "  not told {peer}{which}: {reason}")?,
                ToldStatus::Told { rule, amended, attributes, sent } => {
                    let waits = if *sent { "" } else { " (waits for the connection)" };
                    writeln!(f, "  told {peer}{which}{waits}: {}", Said(attributes))?;
                    writeln!(f, "    accepted by {}{}", By(rule.as_deref()), Amended(amended))?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for ImportStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "our own",
            Self::Accepted(rule) | Self::Discarded(rule) => {
                return write!(f, "accepted by {}", By(rule.as_deref()));
            }
            Self::Rejected(rule) => return write!(f, "rejected by {}", By(rule.as_deref())),
            Self::AsLoop => "refused: our AS is in its path",
            Self::ReflectionLoop => "refused: it has been here before",
            Self::OwnNextHop => "refused: its next hop is ourselves",
            Self::NextHopOffLink => "refused: its next hop is link-local, the session is not",
            Self::Leak => "refused: a leak, it is for customers only",
            Self::Blackhole => "refused: it carries blackhole, which no rule allows this peer",
        })
    }
}

impl Told {
    /// What decided, in words: the rule that accepts it, or why the peer is not told.
    pub fn verdict(&self) -> String {
        match &self.status {
            ToldStatus::Told { rule, .. } => format!("accepted by {}", By(rule.as_deref())),
            ToldStatus::Untold(reason) => reason.to_string(),
        }
    }
}

/// The amendments behind a rule.
struct Amended<'a>(&'a [String]);

impl fmt::Display for Amended<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ", amended by {}", self.0.join(", ")) }
    }
}

impl Explanation {
    fn path(&self, place: usize, path: &PathExplanation, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PathExplanation { status, received, used, amended } = path;
        match &status.peer {
            Some(peer) => write!(f, "  path of {peer}")?,
            None => f.write_str("  path of our own")?,
        }
        match (status.lost_at, self.best == Some(place)) {
            (Some(step), _) if status.selected => writeln!(f, ": carries traffic too, after {step}")?,
            (Some(step), _) => writeln!(f, ": lost at {step}")?,
            (None, true) => match self.step {
                Some(step) => writeln!(f, ": best by {step}")?,
                None => writeln!(f, ": best, the only one")?,
            },
            (None, false) => writeln!(f, ": not used")?,
        }
        writeln!(f, "    received: {}", Said(received))?;
        match &status.import {
            ImportStatus::Local => {}
            import @ ImportStatus::Accepted(_) => writeln!(f, "    {import}{}", Amended(amended))?,
            import @ ImportStatus::Discarded(_) => {
                writeln!(f, "    {import}{}: its traffic is discarded", Amended(amended))?;
            }
            import => writeln!(f, "    {import}")?,
        }
        match used {
            Some(used) if used != received => writeln!(f, "    used: {}", Said(used)),
            _ => Ok(()),
        }
    }
}

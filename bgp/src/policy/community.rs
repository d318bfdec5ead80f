//! Communities as data: values with wildcards, sets of them, and which routes they match.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::wire::{Attributes, Community, ExtendedCommunity, LargeCommunity};

/// A community of any kind, parts of which may be open.
///
/// Written as the communities themselves, with `*` for an open part: `65000:*`, `no-export`, `65000:1:*`,
/// `rt:65000:*`, `0x0002fde800000064`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommunityValue {
    /// RFC 1997: `high:low`; `None` is any.
    Standard {
        /// By habit an autonomous system.
        high: Option<u16>,
        /// What that system means.
        low: Option<u16>,
    },
    /// RFC 4360: the eight octets, of which only the bits set in `mask` count.
    Extended {
        /// The octets; zero where `mask` is.
        octets: [u8; 8],
        /// Which bits count.
        mask: [u8; 8],
    },
    /// RFC 8092; `None` is any.
    Large {
        /// The autonomous system.
        global: Option<u32>,
        /// Its first part.
        local1: Option<u32>,
        /// Its second part.
        local2: Option<u32>,
    },
}

impl CommunityValue {
    /// An extended community in which only the bits of `mask` count.
    pub fn extended(community: ExtendedCommunity, mask: [u8; 8]) -> Self {
        let mut octets = community.0;
        octets.iter_mut().zip(mask).for_each(|(octet, mask)| *octet &= mask);
        Self::Extended { octets, mask }
    }

    /// Whether a standard community is meant.
    pub fn matches_standard(&self, community: Community) -> bool {
        match *self {
            Self::Standard { high, low } => {
                high.is_none_or(|high| high == community.high())
                    && low.is_none_or(|low| low == community.low())
            }
            Self::Extended { .. } | Self::Large { .. } => false,
        }
    }

    /// Whether an extended community is meant.
    pub fn matches_extended(&self, community: ExtendedCommunity) -> bool {
        match self {
            Self::Extended { octets, mask } => {
                octets.iter().zip(mask).zip(community.0).all(|((octet, mask), is)| *octet == is & mask)
            }
            Self::Standard { .. } | Self::Large { .. } => false,
        }
    }

    /// Whether a large community is meant.
    pub fn matches_large(&self, community: LargeCommunity) -> bool {
        match *self {
            Self::Large { global, local1, local2 } => {
                global.is_none_or(|global| global == community.global)
                    && local1.is_none_or(|local1| local1 == community.local1)
                    && local2.is_none_or(|local2| local2 == community.local2)
            }
            Self::Standard { .. } | Self::Extended { .. } => false,
        }
    }

    /// Whether a route carries such a community.
    pub fn is_in(&self, attributes: &Attributes) -> bool {
        match *self {
            Self::Standard { high: Some(high), low: Some(low) } => {
                attributes.communities.contains(&Community::new(high, low))
            }
            Self::Standard { .. } => attributes.communities.iter().any(|it| self.matches_standard(*it)),
            Self::Extended { .. } => {
                attributes.extended_communities.iter().any(|it| self.matches_extended(*it))
            }
            Self::Large { .. } => attributes.large_communities.iter().any(|it| self.matches_large(*it)),
        }
    }

    /// Takes all such communities away.
    pub(super) fn remove_from(&self, attributes: &mut Attributes) {
        match self {
            Self::Standard { .. } => attributes.communities.retain(|it| !self.matches_standard(*it)),
            Self::Extended { .. } => {
                attributes.extended_communities.retain(|it| !self.matches_extended(*it));
            }
            Self::Large { .. } => attributes.large_communities.retain(|it| !self.matches_large(*it)),
        }
    }
}

impl From<Community> for CommunityValue {
    fn from(community: Community) -> Self {
        Self::Standard { high: Some(community.high()), low: Some(community.low()) }
    }
}

impl From<ExtendedCommunity> for CommunityValue {
    fn from(community: ExtendedCommunity) -> Self {
        Self::Extended { octets: community.0, mask: [0xff; 8] }
    }
}

impl From<LargeCommunity> for CommunityValue {
    fn from(community: LargeCommunity) -> Self {
        let LargeCommunity { global, local1, local2 } = community;
        Self::Large { global: Some(global), local1: Some(local1), local2: Some(local2) }
    }
}

/// The octets of an extended community that `rt:65000:*` leaves open: the last four, or two.
const OPEN_FOUR: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
const OPEN_TWO: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];

impl fmt::Display for CommunityValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Standard { high: Some(high), low: Some(low) } => Community::new(high, low).fmt(f),
            Self::Standard { high, low } => write!(f, "{}:{}", Part(high), Part(low)),
            Self::Large { global, local1, local2 } => {
                write!(f, "{}:{}:{}", Part(global), Part(local1), Part(local2))
            }
            Self::Extended { octets, mask: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff] } => {
                ExtendedCommunity(octets).fmt(f)
            }
            Self::Extended { octets, mask } => {
                let shown = ExtendedCommunity(octets).to_string();
                match shown.strip_suffix(":0").filter(|_| mask == open_tail(octets)) {
                    Some(open) => write!(f, "{open}:*"),
                    None => {
                        write!(f, "0x{:016x}/{:016x}", u64::from_be_bytes(octets), u64::from_be_bytes(mask))
                    }
                }
            }
        }
    }
}

/// Which octets count in an extended community whose last number is open.
fn open_tail([kind, ..]: [u8; 8]) -> [u8; 8] {
    if kind == 0 { OPEN_FOUR } else { OPEN_TWO }
}

impl fmt::Debug for CommunityValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A number, or `*`.
struct Part<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for Part<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str("*"),
        }
    }
}

/// A text is not a community, with or without open parts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a community such as 65000:100, 65000:*, no-export, 65000:1:*, rt:65000:100 or rt:65000:*"
)]
pub struct CommunityValueError(String);

impl FromStr for CommunityValue {
    type Err = CommunityValueError;

    fn from_str(text: &str) -> Result<Self, CommunityValueError> {
        let wrong = || CommunityValueError(text.to_owned());
        if let Ok(community) = text.parse::<Community>() {
            return Ok(community.into());
        }
        if let Ok(community) = text.parse::<ExtendedCommunity>() {
            return Ok(community.into());
        }
        if let Some((octets, mask)) = text.strip_prefix("0x").and_then(|rest| rest.split_once('/')) {
            let number = |text: &str| u64::from_str_radix(text, 16).map(u64::to_be_bytes);
            let octets = number(octets).map_err(|_| wrong())?;
            return Ok(Self::extended(ExtendedCommunity(octets), number(mask).map_err(|_| wrong())?));
        }
        if text.starts_with("rt:") || text.starts_with("ro:") {
            let open = text.strip_suffix(":*").ok_or_else(wrong)?;
            let community: ExtendedCommunity = format!("{open}:0").parse().map_err(|_| wrong())?;
            return Ok(Self::extended(community, open_tail(community.0)));
        }
        let parts: Vec<&str> = text.split(':').collect();
        match *parts.as_slice() {
            [high, low] => {
                Ok(Self::Standard { high: part(high).ok_or_else(wrong)?, low: part(low).ok_or_else(wrong)? })
            }
            [global, local1, local2] => Ok(Self::Large {
                global: part(global).ok_or_else(wrong)?,
                local1: part(local1).ok_or_else(wrong)?,
                local2: part(local2).ok_or_else(wrong)?,
            }),
            _ => Err(wrong()),
        }
    }
}

fn part<T: FromStr>(text: &str) -> Option<Option<T>> {
    if text == "*" { Some(None) } else { text.parse().ok().map(Some) }
}

/// What communities a route must carry, or must not. Each list that is not empty is one condition; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommunityMatch {
    /// At least one of these.
    pub any_of: BTreeSet<CommunityValue>,
    /// Every one of these.
    pub all_of: BTreeSet<CommunityValue>,
    /// None of these.
    pub none_of: BTreeSet<CommunityValue>,
}

impl CommunityMatch {
    /// At least one of these.
    pub fn any(values: impl IntoIterator<Item = CommunityValue>) -> Self {
        Self { any_of: values.into_iter().collect(), ..Self::default() }
    }

    /// Whether a route's communities are such.
    pub fn matches(&self, attributes: &Attributes) -> bool {
        (self.any_of.is_empty() || self.any_of.iter().any(|value| value.is_in(attributes)))
            && self.all_of.iter().all(|value| value.is_in(attributes))
            && !self.none_of.iter().any(|value| value.is_in(attributes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::NextHop;

    #[test]
    fn what_is_written_is_read_again() {
        let rows = [
            "65000:100",
            "65000:*",
            "*:666",
            "*:*",
            "no-export",
            "blackhole",
            "65000:1:2",
            "65000:*:2",
            "*:*:*",
            "rt:65000:100",
            "rt:65000:*",
            "ro:65536:*",
            "rt:192.0.2.1:7",
            "rt:192.0.2.1:*",
            "0x0304000000000001",
            "0x0300000000000000/ff00000000000000",
        ];
        for row in rows {
            let value: CommunityValue = row.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(value.to_string(), row);
        }
        for row in ["", "65000", "65536:1", "65000:1:2:3", "a:b", "rt:65000", "rt:1:2:3", "0xzz", "rt:*:1"] {
            assert!(row.parse::<CommunityValue>().is_err(), "{row}");
        }
    }

    #[test]
    fn open_parts_match_anything_and_the_others_only_themselves() {
        let mut route = Attributes::new(NextHop::V4([10, 0, 0, 1].into()));
        route.communities.extend([Community::new(65000, 100), Community::NO_EXPORT]);
        route.large_communities.insert(LargeCommunity { global: 65000, local1: 1, local2: 2 });
        route.extended_communities.extend(
            ["rt:65000:100", "ro:192.0.2.1:9"].map(|text| text.parse::<ExtendedCommunity>().unwrap()),
        );
        let rows = [
            ("65000:100", true),
            ("65000:*", true),
            ("*:100", true),
            ("65001:*", false),
            ("*:101", false),
            ("no-export", true),
            ("no-advertise", false),
            ("65000:1:2", true),
            ("65000:*:2", true),
            ("*:2:*", false),
            ("rt:65000:100", true),
            ("rt:65000:*", true),
            ("rt:65001:*", false),
            ("ro:65000:*", false),
            ("ro:192.0.2.1:*", true),
            ("0x0000000000000000/ff00000000000000", true),
            ("0x0600000000000000/ff00000000000000", false),
        ];
        for (text, expected) in rows {
            let value: CommunityValue = text.parse().unwrap();
            assert_eq!(value.is_in(&route), expected, "{text}");
            let mut rest = route.clone();
            value.remove_from(&mut rest);
            assert!(!value.is_in(&rest), "{text} is left");
            assert_eq!(rest != route, expected, "{text} takes what it matches and nothing else");
        }
    }

    #[test]
    fn any_all_and_none_must_hold_together() {
        let set = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<BTreeSet<_>>();
        let mut route = Attributes::new(NextHop::V4([10, 0, 0, 1].into()));
        route.communities.extend([Community::new(1, 1), Community::new(1, 2)]);
        let rows = [
            (&[][..], &[][..], &[][..], true),
            (&["1:1", "9:9"], &[], &[], true),
            (&["9:9"], &[], &[], false),
            (&[], &["1:1", "1:2"], &[], true),
            (&[], &["1:1", "9:9"], &[], false),
            (&[], &[], &["9:9"], true),
            (&[], &[], &["9:9", "1:*"], false),
            (&["1:1"], &["1:2"], &["1:2"], false),
            (&["1:1"], &["1:2"], &["1:3"], true),
        ];
        for (any, all, none, expected) in rows {
            let wanted = CommunityMatch { any_of: set(any), all_of: set(all), none_of: set(none) };
            assert_eq!(wanted.matches(&route), expected, "{wanted:?}");
        }
    }
}

//! Conditions on the way that a route came.

use std::collections::BTreeSet;

use crate::prefix::Asn;
use crate::wire::AsPath;

/// What AS_PATH must be like. Each list that is not empty, and each bound that is set, is one condition; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AsPathMatch {
    /// The system that made the route, the rightmost, is one of these. A route of our own AS has none.
    pub origin: BTreeSet<Asn>,
    /// The system that it came from, the leftmost, is one of these. A route of our own AS has none.
    pub neighbor: BTreeSet<Asn>,
    /// One of these is anywhere in the path, sets included.
    pub contains: BTreeSet<Asn>,
    /// The fewest hops, counted as the decision process does: a set is one (RFC 4271 §9.1.2.2 a).
    pub min_hops: Option<u16>,
    /// The most hops.
    pub max_hops: Option<u16>,
}

impl AsPathMatch {
    /// Whether a path is such.
    pub fn matches(&self, path: &AsPath) -> bool {
        let among = |wanted: &BTreeSet<Asn>, asn: Option<Asn>| {
            wanted.is_empty() || asn.is_some_and(|asn| wanted.contains(&asn))
        };
        let hops = path.hops();
        among(&self.origin, path.origin())
            && among(&self.neighbor, path.first())
            && (self.contains.is_empty() || path.asns().iter().any(|asn| self.contains.contains(asn)))
            && self.min_hops.is_none_or(|least| hops >= usize::from(least))
            && self.max_hops.is_none_or(|most| hops <= usize::from(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_on_a_path_says_what_it_matches() {
        let set = |asns: &[u32]| asns.iter().copied().map(Asn).collect::<BTreeSet<_>>();
        let any = AsPathMatch::default;
        let rows: [(AsPathMatch, [bool; 4]); 9] = [
            // own, "65001 65002 65003", "65001 {65002,65004}", "{65005}"
            (any(), [true, true, true, true]),
            (AsPathMatch { origin: set(&[65003, 1]), ..any() }, [false, true, false, false]),
            (AsPathMatch { neighbor: set(&[65001, 1]), ..any() }, [false, true, true, false]),
            (AsPathMatch { contains: set(&[65002]), ..any() }, [false, true, true, false]),
            (AsPathMatch { contains: set(&[65005, 65003]), ..any() }, [false, true, false, true]),
            (AsPathMatch { min_hops: Some(2), ..any() }, [false, true, true, false]),
            (AsPathMatch { max_hops: Some(1), ..any() }, [true, false, false, true]),
            (AsPathMatch { min_hops: Some(1), max_hops: Some(2), ..any() }, [false, false, true, true]),
            (
                AsPathMatch { neighbor: set(&[65001]), contains: set(&[65004]), ..any() },
                [false, false, true, false],
            ),
        ];
        let paths = ["", "65001 65002 65003", "65001 {65002,65004}", "{65005}"];
        for (wanted, expected) in rows {
            let actual = paths.map(|path| wanted.matches(&path.parse().unwrap()));
            assert_eq!(actual, expected, "{wanted:?}");
        }
    }
}

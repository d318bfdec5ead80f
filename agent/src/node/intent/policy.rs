//! What is believed of a peer and what it is told, as rules in order.
//!
//! Import: never our own blocks, but claimed addresses in them; then the peer's filters; then blocks of pools and
//! claimed addresses; nothing else.
//! Export: the peer's filters; then our own blocks (and, from a reflector to nodes, theirs); nothing else.
//! The rules that are ours have names that begin with `built-in/`, those of filters are `FILTER/RULE`; docs/policy.md
//! lists ours.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kube::ResourceExt as _;
use manx_api::{
    BGPFilter, Cidr, CommunityPattern, FilterAction, FilterRule, FilterSource, IPPool, MatchOperator,
    PeerType,
};
use manx_bgp::{
    Amendment, AsPathMatch, Asn, Changes, CommunityMatch, CommunityValue, Family, Policy, Prefix,
    PrefixMatch, Rule, Source, Verdict,
};

use super::pools::Tags;
use super::{View, drains};

/// Towards whom a policy works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Towards {
    /// Another node of the cluster.
    Node,
    /// A router outside.
    Outside,
}

/// What is believed of a peer.
pub(super) fn import(view: &View<'_>, family: Family, filters: &[&BGPFilter]) -> Policy {
    let own = view.cluster.blocks.iter().filter(|(_, owner)| *owner == view.me);
    let own: Vec<PrefixMatch> = own.filter_map(|(block, _)| within(block.cidr(), family)).collect();
    let (home, abroad): (Vec<PrefixMatch>, Vec<PrefixMatch>) =
        claimed(view, family).partition(|host| is_within(host, &own));
    let claimed = |hosts| unless_empty("built-in/claimed-addresses", hosts, None, accept());
    let mut rules: Vec<Rule> = claimed(home).into_iter().collect();
    rules.extend(unless_empty("built-in/own-blocks", own, None, Verdict::Reject));
    rules.extend(filters.iter().flat_map(|filter| translate(filter, import_rules(filter, family), family)));
    rules.extend(unless_empty("built-in/inside-pools", blocks(view, family), None, accept()));
    rules.extend(claimed(abroad));
    rules.push(nothing_else());
    Policy { rules, finally: vec![Amendment::graceful_shutdown()], ..Policy::reject_all() }
}

/// What a peer is told.
pub(super) fn export(view: &View<'_>, family: Family, towards: Towards, filters: &[&BGPFilter]) -> Policy {
    let mut rules: Vec<Rule> =
        filters.iter().flat_map(|filter| translate(filter, export_rules(filter, family), family)).collect();
    let told = pools(view, family, |pool| towards == Towards::Node || pool.spec.advertise);
    if towards == Towards::Node && view.reflector {
        rules.extend(unless_empty(
            "built-in/reflected-blocks",
            told.clone(),
            Some(Source::Internal),
            accept(),
        ));
    }
    rules.extend(unless_empty("built-in/own-blocks", told, Some(Source::Local), accept()));
    rules.push(nothing_else());
    let finally = if drains(view.config, view.node) { Amendment::drain().into() } else { Vec::new() };
    Policy { rules, finally, ..Policy::reject_all() }
}

/// A rule of ours. To the speaker a rule without prefixes matches everything; an empty list of ours means nothing.
fn unless_empty(
    name: &str,
    prefixes: Vec<PrefixMatch>,
    source: Option<Source>,
    verdict: Verdict,
) -> Option<Rule> {
    (!prefixes.is_empty()).then(|| Rule { prefixes, source, ..Rule::new(name, verdict) })
}

/// The last rule: without a reason to pass nothing passes, whoever the peer is (RFC 8212).
fn nothing_else() -> Rule {
    Rule::new("built-in/nothing-else", Verdict::Reject)
}

fn accept() -> Verdict {
    Verdict::Accept(Changes::default())
}

fn pools(view: &View<'_>, family: Family, chosen: impl Fn(&IPPool) -> bool) -> Vec<PrefixMatch> {
    let pools = view.cluster.pools.values().filter(|pool| chosen(pool));
    pools.filter_map(|pool| within(pool.spec.cidr.network(), family)).collect()
}

/// What blocks can look like, and sums of them; what is longer than a block is no node's to announce.
fn blocks(view: &View<'_>, family: Family) -> Vec<PrefixMatch> {
    let of_pool = |pool: &IPPool| {
        let inside = within(pool.spec.cidr.network(), family)?;
        Some(PrefixMatch { max_len: pool.spec.block_len(), ..inside })
    };
    view.cluster.pools.values().filter_map(|pool| of_pool(pool)).collect()
}

/// The addresses inside pools that belong to the names of pods: each may be announced by itself.
fn claimed(view: &View<'_>, family: Family) -> impl Iterator<Item = PrefixMatch> {
    let in_pool = |address: &IpAddr| {
        view.cluster.pools.values().any(|pool| pool.spec.cidr.network().contains(*address))
    };
    let claimed = view.cluster.claimed.iter().filter(move |address| in_pool(address));
    claimed.filter_map(move |address| within(IpNetwork::from(*address), family))
}

fn is_within(host: &PrefixMatch, networks: &[PrefixMatch]) -> bool {
    networks.iter().any(|network| network.prefix.contains(&host.prefix))
}

fn within(network: IpNetwork, family: Family) -> Option<PrefixMatch> {
    let prefix = Prefix::new(network).ok()?;
    (prefix.family() == family).then(|| PrefixMatch::within(prefix))
}

fn import_rules(filter: &BGPFilter, family: Family) -> &[FilterRule] {
    match family {
        Family::Ipv4Unicast => &filter.spec.import_v4,
        Family::Ipv6Unicast => &filter.spec.import_v6,
    }
}

fn export_rules(filter: &BGPFilter, family: Family) -> &[FilterRule] {
    match family {
        Family::Ipv4Unicast => &filter.spec.export_v4,
        Family::Ipv6Unicast => &filter.spec.export_v6,
    }
}

fn translate(filter: &BGPFilter, rules: &[FilterRule], family: Family) -> Vec<Rule> {
    let name = filter.name_any();
    rules.iter().filter_map(|rule| rule_of(&name, rule, family)).collect()
}

/// A rule of a filter for the speaker; `None` when nothing can match it.
fn rule_of(filter: &str, rule: &FilterRule, family: Family) -> Option<Rule> {
    let bits = bits(family);
    let length = rule.prefix_length;
    let min = length.and_then(|length| length.min).unwrap_or(0);
    let max = length.and_then(|length| length.max).unwrap_or(bits).min(bits);
    let matches = match rule.cidr {
        Some(cidr) => compared(cidr, rule.match_operator.unwrap_or_default()),
        None if length.is_none() => Vec::new(),
        None => vec![Span { network: everything(family), min: 0, max: bits }],
    };
    let any = rule.cidr.is_none() && length.is_none();
    let clipped = matches.into_iter().filter_map(|span| span.clipped(min, max));
    let prefixes: Vec<PrefixMatch> = clipped.filter_map(|span| span.prefix_match(family)).collect();
    if prefixes.is_empty() && !any {
        return None;
    }
    let source = rule.source.map(|source| match source {
        FilterSource::Local => Source::Local,
        FilterSource::Internal => Source::Internal,
        FilterSource::External => Source::External,
    });
    let verdict = match rule.action {
        FilterAction::Accept => Verdict::Accept(changes(rule)),
        FilterAction::Reject => Verdict::Reject,
    };
    let peer = rule.peer_type.map(|peer| match peer {
        PeerType::Internal => Source::Internal,
        PeerType::External => Source::External,
    });
    let communities = rule.communities.as_ref().map(communities);
    let as_path = rule.as_path.as_ref().map(as_path);
    Some(Rule {
        prefixes,
        source,
        peer,
        communities,
        as_path,
        ..Rule::new(format!("{filter}/{}", rule.name), verdict)
    })
}

fn communities(wanted: &manx_api::CommunityMatch) -> CommunityMatch {
    CommunityMatch {
        any_of: patterns(&wanted.any),
        all_of: patterns(&wanted.all),
        none_of: patterns(&wanted.none),
    }
}

/// Written the same in both worlds: what the door lets in the speaker reads.
fn patterns(patterns: &[CommunityPattern]) -> BTreeSet<CommunityValue> {
    patterns.iter().filter_map(|pattern| pattern.as_str().parse().ok()).collect()
}

fn as_path(wanted: &manx_api::AsPathMatch) -> AsPathMatch {
    let all = |numbers: &[u32]| numbers.iter().copied().map(Asn).collect();
    AsPathMatch {
        origin: all(&wanted.origin),
        neighbor: all(&wanted.neighbor),
        contains: all(&wanted.contains),
        min_hops: wanted.min_hops,
        max_hops: wanted.max_hops,
    }
}

fn changes(rule: &FilterRule) -> Changes {
    let added = Tags::new(&rule.add_communities);
    let set = rule.set_communities.as_deref().map(Tags::new);
    let set = set.map(|set| (set.standard, set.extended, set.large));
    let (set_communities, set_extended_communities, set_large_communities) = match set {
        Some((standard, extended, large)) => (Some(standard), Some(extended), Some(large)),
        None => (None, None, None),
    };
    Changes {
        local_pref: rule.set_local_preference,
        med: rule.set_med,
        set_communities,
        set_extended_communities,
        set_large_communities,
        remove_communities: patterns(&rule.remove_communities),
        add_communities: added.standard,
        add_extended_communities: added.extended,
        add_large_communities: added.large,
        prepend: rule.prepend_as_path.unwrap_or(0),
        next_hop: rule.set_next_hop.map(manx_api::Address::ip),
        blackhole: rule.blackhole,
    }
}

/// Prefixes inside `network` with a length between the bounds.
#[derive(Debug, Clone, Copy)]
struct Span {
    network: IpNetwork,
    min: u8,
    max: u8,
}

impl Span {
    fn clipped(self, min: u8, max: u8) -> Option<Self> {
        let span = Self { min: self.min.max(min), max: self.max.min(max), ..self };
        (span.min <= span.max).then_some(span)
    }

    fn prefix_match(self, family: Family) -> Option<PrefixMatch> {
        let prefix = Prefix::new(self.network).ok()?;
        (prefix.family() == family).then_some(PrefixMatch { prefix, min_len: self.min, max_len: self.max })
    }
}

/// The spans whose union is what the operator says. The speaker knows no negation: what is not
/// inside a network is inside the sibling of one of its ancestors, or is one of its ancestors.
fn compared(cidr: Cidr, operator: MatchOperator) -> Vec<Span> {
    let network = cidr.network();
    let (len, bits) = (cidr.prefix_len(), if cidr.is_ipv4() { 32 } else { 128 });
    let outside = || {
        let siblings = (1..=len).filter_map(move |depth| sibling(network, depth));
        let siblings = siblings.map(move |network| Span { network, min: network.prefix(), max: bits });
        let ancestors = (0..len).filter_map(move |depth| truncated(network, depth));
        siblings.chain(ancestors.map(|network| Span {
            network,
            min: network.prefix(),
            max: network.prefix(),
        }))
    };
    match operator {
        MatchOperator::In => vec![Span { network, min: len, max: bits }],
        MatchOperator::Equal => vec![Span { network, min: len, max: len }],
        MatchOperator::NotIn => outside().collect(),
        MatchOperator::NotEqual => {
            let inside = Span { network, min: len.saturating_add(1), max: bits };
            outside().chain((len < bits).then_some(inside)).collect()
        }
    }
}

/// The first `depth` bits of a network.
fn truncated(network: IpNetwork, depth: u8) -> Option<IpNetwork> {
    let shorter = IpNetwork::new(network.network(), depth).ok()?;
    IpNetwork::new(shorter.network(), depth).ok()
}

/// The first `depth` bits of a network, the last of them turned over.
fn sibling(network: IpNetwork, depth: u8) -> Option<IpNetwork> {
    let own = truncated(network, depth)?;
    let turned = match own.network() {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() ^ 1_u32.checked_shl(u32::from(32 - depth))?).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() ^ 1_u128.checked_shl(u32::from(128 - depth))?).into()),
    };
    IpNetwork::new(turned, depth).ok()
}

fn everything(family: Family) -> IpNetwork {
    let unspecified: IpAddr = match family {
        Family::Ipv4Unicast => std::net::Ipv4Addr::UNSPECIFIED.into(),
        Family::Ipv6Unicast => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNetwork::new(unspecified, 0).expect("zero is a prefix length of every family")
}

fn bits(family: Family) -> u8 {
    match family {
        Family::Ipv4Unicast => 32,
        Family::Ipv6Unicast => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(spans: &[Span], network: &str) -> bool {
        let network: IpNetwork = network.parse().expect("a network");
        spans.iter().any(|span| {
            (span.min..=span.max).contains(&network.prefix())
                && span.network.prefix() <= network.prefix()
                && span.network.contains(network.network())
        })
    }

    #[test]
    fn each_operator_matches_exactly_what_it_says() {
        let cidr: Cidr = "10.0.0.0/8".parse().expect("a network");
        let cases = [
            // network, In, Equal, NotIn, NotEqual
            ("10.0.0.0/8", [true, true, false, false]),
            ("10.1.0.0/16", [true, false, false, true]),
            ("10.255.255.255/32", [true, false, false, true]),
            ("11.0.0.0/8", [false, false, true, true]),
            ("0.0.0.0/0", [false, false, true, true]),
            ("8.0.0.0/7", [false, false, true, true]),
            ("8.0.0.0/5", [false, false, true, true]),
            ("192.0.2.1/32", [false, false, true, true]),
        ];
        let operators =
            [MatchOperator::In, MatchOperator::Equal, MatchOperator::NotIn, MatchOperator::NotEqual];
        for (network, expected) in cases {
            let actual = operators.map(|operator| matches(&compared(cidr, operator), network));
            assert_eq!(actual, expected, "{network}");
        }
    }

    #[test]
    fn a_rule_whose_length_range_leaves_nothing_is_dropped_rather_than_matching_everything() {
        let rule = FilterRule {
            cidr: Some("10.0.0.0/8".parse().expect("a network")),
            prefix_length: Some(manx_api::PrefixLength { min: None, max: Some(4) }),
            ..FilterRule::any("short", FilterAction::Accept)
        };
        assert_eq!(rule_of("f", &rule, Family::Ipv4Unicast), None);
    }

    #[test]
    fn every_community_that_the_door_lets_in_is_one_to_the_speaker() {
        for text in [
            "65535:0",
            "*:1",
            "*:*:*",
            "1:*:4294967295",
            "rt:65535:4294967295",
            "ro:70000:65535",
            "rt:1:*",
            "no-peer",
        ] {
            let pattern: CommunityPattern = text.parse().expect("let in");
            assert_eq!(patterns(&[pattern]).len(), 1, "{text}");
        }
    }

    #[test]
    fn a_rule_with_nothing_set_matches_everything() {
        let rule = FilterRule::any("all", FilterAction::Reject);
        let rule = rule_of("f", &rule, Family::Ipv6Unicast).expect("a rule");
        assert_eq!((rule.name.as_str(), rule.prefixes.len()), ("f/all", 0));
    }
}

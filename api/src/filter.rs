//! `BGPFilter`: ordered rules on what is believed of a peer and what is told to it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Address, Cidr, Community, CommunityPattern};

const V4_RULES: (&str, &str) = (
    concat!(
        "self.all(r, (!has(r.cidr) || !isCIDR(r.cidr) || cidr(r.cidr).ip().family() == 4)",
        " && (!has(r.prefixLength) || ((!has(r.prefixLength.min) || r.prefixLength.min <= 32)",
        " && (!has(r.prefixLength.max) || r.prefixLength.max <= 32))))",
    ),
    "rules on IPv4 take IPv4 networks and prefix lengths up to 32",
);

const NO_BLACKHOLE: (&str, &str) =
    ("self.all(r, !has(r.blackhole) || !r.blackhole)", "blackhole has a meaning on import only");

const V6_RULES: (&str, &str) = (
    "self.all(r, !has(r.cidr) || !isCIDR(r.cidr) || cidr(r.cidr).ip().family() == 6)",
    "rules on IPv6 take IPv6 networks",
);

/// Ordered rules on what is believed of a peer (import) and what is told to it (export). The first rule that matches
/// decides. What no rule matches falls to the default: believe prefixes inside our pools, tell our own blocks.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "manx.dev",
    version = "v1alpha1",
    kind = "BGPFilter",
    plural = "bgpfilters",
    shortname = "bgpf",
    category = "manx",
    status = "BGPFilterStatus",
    derive = "PartialEq",
    doc = "Ordered rules on what is believed of a peer (import) and what is told to it (export). The first rule that matches decides.",
    printcolumn(
        name = "ACCEPTED",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct BGPFilterSpec {
    /// Which IPv4 prefixes of the peer are believed.
    #[serde(rename = "importV4", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]), validation = V4_RULES)]
    pub import_v4: Vec<FilterRule>,

    /// Which IPv4 prefixes the peer is told.
    #[serde(rename = "exportV4", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]), validation = V4_RULES, validation = NO_BLACKHOLE)]
    pub export_v4: Vec<FilterRule>,

    /// Which IPv6 prefixes of the peer are believed.
    #[serde(rename = "importV6", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]), validation = V6_RULES)]
    pub import_v6: Vec<FilterRule>,

    /// Which IPv6 prefixes the peer is told.
    #[serde(rename = "exportV6", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]), validation = V6_RULES, validation = NO_BLACKHOLE)]
    pub export_v6: Vec<FilterRule>,
}

/// One rule. It matches a prefix when everything that is set matches; a rule with nothing set matches everything.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("!has(self.matchOperator) || has(self.cidr)", "matchOperator compares with cidr: it needs cidr"),
    validation = (
        "self.action == 'Accept' || (!has(self.setLocalPreference) && !has(self.setMED) && !has(self.setCommunities) && !has(self.removeCommunities) && !has(self.addCommunities) && !has(self.prependASPath) && !has(self.setNextHop) && (!has(self.blackhole) || !self.blackhole))",
        "setLocalPreference, setMED, setCommunities, removeCommunities, addCommunities, prependASPath, setNextHop and blackhole need action Accept"
    )
)]
pub struct FilterRule {
    /// Name of the rule, which status and explanations use.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// What happens to a prefix that matches.
    pub action: FilterAction,

    /// The network that prefixes are compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<Cidr>,

    /// How prefixes are compared with cidr. Unset: In.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_operator: Option<MatchOperator>,

    /// Prefix lengths that match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_length: Option<PrefixLength>,

    /// Where the route must come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<FilterSource>,

    /// Whom the route is exchanged with: the sender on import, the listener on export. Unset: anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_type: Option<PeerType>,

    /// What communities the route carries. Unset: any or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communities: Option<CommunityMatch>,

    /// The way the route came. Unset: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_path: Option<AsPathMatch>,

    /// LOCAL_PREF that an accepted route gets; on export it reaches internal peers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_local_preference: Option<u32>,

    /// MULTI_EXIT_DISC that an accepted route gets.
    #[serde(rename = "setMED", default, skip_serializing_if = "Option::is_none")]
    pub set_med: Option<u32>,

    /// Communities that an accepted route carries instead of all that it had, of every kind; an empty list takes all
    /// away. Unset: those that it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub set_communities: Option<Vec<Community>>,

    /// Communities that are taken off an accepted route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub remove_communities: Vec<CommunityPattern>,

    /// How many times more an AS is put before the path of an accepted route: ours on export to external peers, the
    /// neighbour's on import from them.
    #[serde(rename = "prependASPath", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub prepend_as_path: Option<u8>,

    /// Next hop that an accepted route gets: where traffic goes on import, what the peer is told on export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_next_hop: Option<Address>,

    /// Traffic of an accepted route is discarded, and the route is told to nobody (RFC 7999). Without it a route from an
    /// external peer that carries blackhole is not used. On import only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blackhole: bool,

    /// Communities that are added to an accepted route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub add_communities: Vec<Community>,
}

/// What happens to a prefix that a rule matches.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterAction {
    /// It is believed, or told.
    Accept,
    /// It is not.
    Reject,
}

/// How a prefix is compared with a rule's network.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatchOperator {
    /// It is the network or inside it.
    #[default]
    In,
    /// It is the network.
    Equal,
    /// It is neither the network nor inside it.
    NotIn,
    /// It is not the network.
    NotEqual,
}

/// A range of prefix lengths, both ends included.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!has(self.min) || !has(self.max) || self.min <= self.max", "min must not be above max"))]
pub struct PrefixLength {
    /// The shortest that matches. Unset: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 128))]
    pub min: Option<u8>,

    /// The longest that matches. Unset: 32 (IPv4) or 128 (IPv6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 128))]
    pub max: Option<u8>,
}

/// Where a route comes from.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterSource {
    /// This node.
    Local,
    /// An iBGP peer.
    Internal,
    /// An eBGP peer.
    External,
}

/// Whom a route is exchanged with.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerType {
    /// An iBGP peer.
    Internal,
    /// An eBGP peer.
    External,
}

/// What communities a route must carry, or must not. Each list that is set is one condition; all must hold.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.any) || has(self.all) || has(self.none)", "at least one of any, all and none must be set"))]
pub struct CommunityMatch {
    /// At least one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub any: Vec<CommunityPattern>,

    /// Every one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub all: Vec<CommunityPattern>,

    /// None of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub none: Vec<CommunityPattern>,
}

/// What an AS path must be like. Each list and bound that is set is one condition; all must hold.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "has(self.origin) || has(self.neighbor) || has(self.contains) || has(self.minHops) || has(self.maxHops)",
        "at least one of origin, neighbor, contains, minHops and maxHops must be set"
    ),
    validation = ("!has(self.minHops) || !has(self.maxHops) || self.minHops <= self.maxHops", "minHops must not be above maxHops")
)]
pub struct AsPathMatch {
    /// The AS that made the route, the last of the path, is one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub origin: Vec<u32>,

    /// The AS that the route came from, the first of the path, is one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub neighbor: Vec<u32>,

    /// One of these is anywhere in the path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub contains: Vec<u32>,

    /// The fewest hops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_hops: Option<u16>,

    /// The most hops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_hops: Option<u16>,
}

/// What became of a filter.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BGPFilterStatus {
    /// Accepted, or why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

impl FilterRule {
    /// A rule that matches everything.
    pub fn any(name: &str, action: FilterAction) -> Self {
        Self {
            name: name.to_owned(),
            action,
            cidr: None,
            match_operator: None,
            prefix_length: None,
            source: None,
            peer_type: None,
            communities: None,
            as_path: None,
            set_local_preference: None,
            set_med: None,
            set_communities: None,
            remove_communities: Vec::new(),
            prepend_as_path: None,
            set_next_hop: None,
            blackhole: false,
            add_communities: Vec::new(),
        }
    }
}

impl BGPFilter {
    /// The filter of `deploy/examples/bgpfilter.yaml`: believe the default route and the data centre, nothing else.
    pub fn example() -> Self {
        let within = |name: &str, cidr: &str, operator| FilterRule {
            cidr: Some(cidr.parse().expect("a valid network")),
            match_operator: Some(operator),
            ..FilterRule::any(name, FilterAction::Accept)
        };
        let everything_else = FilterRule::any("everything-else", FilterAction::Reject);
        let data_centre = FilterRule {
            prefix_length: Some(PrefixLength { min: None, max: Some(24) }),
            ..within("data-centre", "10.0.0.0/8", MatchOperator::In)
        };
        let default_v4 = within("default-route", "0.0.0.0/0", MatchOperator::Equal);
        let default_v6 = within("default-route", "::/0", MatchOperator::Equal);
        let spec = BGPFilterSpec {
            import_v4: vec![default_v4, data_centre, everything_else.clone()],
            import_v6: vec![default_v6, everything_else],
            ..BGPFilterSpec::default()
        };
        Self::new("tor", spec)
    }
}

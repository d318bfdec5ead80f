//! Filters: Calico's BGPFilter as BGPFilters of ours.

use manx_api::{
    AsPathMatch, BGPFilter, BGPFilterSpec, CommunityMatch, FilterAction, FilterRule, FilterSource,
    MatchOperator, PeerType, PrefixLength,
};

use super::calico::{Calico, Rule};
use super::plan::Remarks;

/// The filters, those left out that cannot be said.
pub(crate) fn translate(calico: &Calico, as_number: u32, remarks: &mut Remarks) -> Vec<BGPFilter> {
    let mut filters = Vec::new();
    for filter in &calico.filters {
        let read = |rules: &[Rule]| -> Result<Vec<FilterRule>, String> {
            let rules = rules.iter().enumerate();
            let rules = rules.map(|(index, rule)| self::rules(rule, index + 1, as_number));
            Ok(rules.collect::<Result<Vec<_>, _>>()?.concat())
        };
        let spec = || -> Result<BGPFilterSpec, String> {
            Ok(BGPFilterSpec {
                import_v4: read(&filter.spec.import_v4)?,
                export_v4: read(&filter.spec.export_v4)?,
                import_v6: read(&filter.spec.import_v6)?,
                export_v6: read(&filter.spec.export_v6)?,
            })
        };
        match spec() {
            Ok(spec) => filters.push(BGPFilter::new(&filter.name, spec)),
            Err(text) => remarks.blocker(
                format!("BGPFilter {}", filter.name),
                format!("{text}: make a BGPFilter of that name in Manx yourself, or change the rule"),
            ),
        }
    }
    filters
}

/// A rule in our words: several where one of ours says less.
fn rules(rule: &Rule, number: usize, as_number: u32) -> Result<Vec<FilterRule>, String> {
    let name = format!("rule-{number}");
    let wrong = |text: String| format!("{name}: {text}");
    if let Some(field) = rule.rest.keys().next() {
        return Err(wrong(format!("there is nothing like {field}")));
    }
    let action = match rule.action.as_str() {
        "Accept" => FilterAction::Accept,
        "Reject" => FilterAction::Reject,
        other => return Err(wrong(format!("action {other:?} is neither Accept nor Reject"))),
    };
    let cidr = rule.cidr.as_deref().map(str::parse).transpose().map_err(|error| wrong(format!("{error}")))?;
    let mut one = FilterRule {
        cidr,
        match_operator: rule.match_operator.as_deref().map(operator).transpose().map_err(wrong)?,
        prefix_length: rule.prefix_length.as_ref().map(|len| PrefixLength { min: len.min, max: len.max }),
        peer_type: rule.peer_type.as_deref().map(peer_type).transpose().map_err(wrong)?,
        ..FilterRule::any(&name, action)
    };
    if let Some(communities) = &rule.communities {
        let any = communities.values.iter().map(|value| value.parse());
        let any = any.collect::<Result<_, _>>().map_err(|error| wrong(format!("{error}")))?;
        one.communities = Some(CommunityMatch { any, ..CommunityMatch::default() });
    }
    match rule.as_path_prefix.as_slice() {
        [] => {}
        [neighbor] => one.as_path = Some(AsPathMatch { neighbor: vec![*neighbor], ..AsPathMatch::default() }),
        _ => return Err(wrong("an asPathPrefix of several AS numbers cannot be said".to_owned())),
    }
    operations(rule, as_number, &mut one).map_err(wrong)?;
    match rule.source.as_deref() {
        None | Some("") => Ok(vec![one]),
        Some("RemotePeers") => Ok(vec![
            FilterRule { source: Some(FilterSource::Internal), ..one.clone() },
            FilterRule { source: Some(FilterSource::External), name: format!("{name}-external"), ..one },
        ]),
        Some(other) => Err(wrong(format!("there is nothing like source {other}"))),
    }
}

fn operator(text: &str) -> Result<MatchOperator, String> {
    Ok(match text {
        "Equal" => MatchOperator::Equal,
        "NotEqual" => MatchOperator::NotEqual,
        "In" => MatchOperator::In,
        "NotIn" => MatchOperator::NotIn,
        other => return Err(format!("there is nothing like matchOperator {other}")),
    })
}

fn peer_type(text: &str) -> Result<PeerType, String> {
    match text {
        "eBGP" => Ok(PeerType::External),
        "iBGP" => Ok(PeerType::Internal),
        other => Err(format!("there is nothing like peerType {other}")),
    }
}

fn operations(rule: &Rule, as_number: u32, one: &mut FilterRule) -> Result<(), String> {
    for operation in &rule.operations {
        if let Some(field) = operation.rest.keys().next() {
            return Err(format!("there is nothing like the operation {field}"));
        }
        if let Some(community) = &operation.add_community {
            one.add_communities.push(community.value.parse().map_err(|error| format!("{error}"))?);
        }
        if let Some(prepend) = &operation.prepend_as_path {
            if prepend.prefix.iter().any(|number| *number != as_number) {
                return Err(format!(
                    "prependASPath: only the AS of the nodes, {as_number}, can be put before a path"
                ));
            }
            let times = usize::from(one.prepend_as_path.unwrap_or(0)) + prepend.prefix.len();
            one.prepend_as_path = u8::try_from(times).ok().filter(|times| *times > 0);
        }
    }
    Ok(())
}

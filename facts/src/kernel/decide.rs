//! Which rule and which route decide about a packet: the way of the kernel through its rules.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{Kernel, Route, RouteKind, Rule, RuleAction, TABLE_LOCAL, TABLE_MAIN};

/// The table that is looked at last.
const TABLE_DEFAULT: u32 = 253;

/// A packet without a mark, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Where it goes: to an address, or to any of a network.
    pub to: IpNetwork,
    /// Where it comes from; `None` if from anywhere.
    pub from: Option<IpAddr>,
    /// The link by which it comes in, `lo` if it is the machine's own; `None` if by any.
    pub iif: Option<&'a str>,
}

/// What a rule makes of a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The rule; `None` if the node tells no rules, and the usual ones are taken to be there.
    pub rule: Option<&'a Rule>,
    /// The route that it finds in its table; `None` if the rule itself throws the packet away.
    pub route: Option<&'a Route>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decided<'a> {
    /// What becomes of some such packets, by rules whose conditions are not all known to be met.
    pub some: Vec<Decision<'a>>,
    /// What becomes of all others; `None` if there is no route.
    pub others: Option<Decision<'a>>,
}

/// Whether a packet is one that a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Yes,
    No,
    Some,
}

/// Whether one network holds all of another.
pub fn holds(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

impl Kernel {
    /// The route of this table that all packets to a network take: the longest prefix that holds it, then the lowest
    /// metric. It takes the first of several routes that differ in nothing else.
    pub fn route_to(&self, table: u32, network: IpNetwork) -> Option<&Route> {
        let fits = |route: &&Route| route.table == table && holds(route.dst, network);
        let better = |route: &&Route| (std::cmp::Reverse(route.dst.prefix()), route.metric);
        let route = self.routes.iter().filter(fits).min_by_key(better);
        route.filter(|route| route.kind != RouteKind::Throw)
    }

    /// What becomes of a packet, by all rules in their order.
    pub fn decide(&self, packet: &Packet<'_>) -> Decided<'_> {
        let rules: Vec<&Rule> = self.rules.iter().filter(|rule| rule.ipv6 == packet.to.is_ipv6()).collect();
        let mut decided = Decided::default();
        if rules.is_empty() {
            let route = [TABLE_LOCAL, TABLE_MAIN].into_iter().find_map(|it| self.route_to(it, packet.to));
            decided.others = route.map(|route| Decision { rule: None, route: Some(route) });
            return decided;
        }
        let mut place = 0;
        while let Some(rule) = rules.get(place) {
            place += 1;
            match (rule.fits(packet), self.outcome(rule, packet.to)) {
                (Fit::Yes, Some(decision)) => {
                    decided.others = Some(decision);
                    return decided;
                }
                (Fit::Some, Some(decision)) => decided.some.push(decision),
                (Fit::Yes, None) if rule.action == RuleAction::Goto => {
                    let target = rules.iter().position(|other| Some(other.priority) == rule.goto);
                    // Only forward, as the kernel does.
                    place = target.filter(|target| *target >= place).unwrap_or(place);
                }
                _ => {}
            }
        }
        decided
    }

    /// What the rule makes of a packet that it is for; `None` if the next rule decides.
    fn outcome<'a>(&'a self, rule: &'a Rule, to: IpNetwork) -> Option<Decision<'a>> {
        match rule.action {
            RuleAction::Table => {
                let route = self.route_to(rule.table, to)?;
                let counts = rule.suppress_length.is_none_or(|length| u32::from(route.dst.prefix()) > length);
                counts.then_some(Decision { rule: Some(rule), route: Some(route) })
            }
            RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit => {
                Some(Decision { rule: Some(rule), route: None })
            }
            RuleAction::Goto | RuleAction::Nop | RuleAction::Other => None,
        }
    }
}

impl Rule {
    /// Whether it is one of those that every machine has, or does no more than they do: it has a table of these looked
    /// at, whatever the packet.
    pub fn is_usual(&self) -> bool {
        let any = |network: Option<IpNetwork>| network.is_none_or(|network| network.prefix() == 0);
        let free = any(self.from)
            && any(self.to)
            && self.mark.is_none()
            && self.iif.is_none()
            && self.oif.is_none()
            && !self.invert
            && !self.more;
        let table = matches!(self.table, TABLE_LOCAL | TABLE_MAIN | TABLE_DEFAULT);
        free && table && self.action == RuleAction::Table && self.suppress_length.is_none()
    }

    fn fits(&self, packet: &Packet<'_>) -> Fit {
        let from = match (self.from, packet.from) {
            (None, _) => Fit::Yes,
            (Some(network), _) if network.prefix() == 0 => Fit::Yes,
            (Some(network), Some(from)) => yes(network.contains(from)),
            (Some(_), None) => Fit::Some,
        };
        let to = match self.to {
            None => Fit::Yes,
            Some(network) if holds(network, packet.to) => Fit::Yes,
            Some(network) if holds(packet.to, network) => Fit::Some,
            Some(_) => Fit::No,
        };
        let iif = match (&self.iif, packet.iif) {
            (None, _) => Fit::Yes,
            (Some(name), Some(iif)) => yes(name == iif),
            (Some(_), None) => Fit::Some,
        };
        let mark = yes(self.mark.is_none_or(|mark| mark & self.mask.unwrap_or(u32::MAX) == 0));
        // Those of sockets that are bound to a link.
        let oif = yes(self.oif.is_none());
        let more = if self.more { Fit::Some } else { Fit::Yes };
        let all = [from, to, iif, mark, oif, more];
        let fit = match () {
            () if all.contains(&Fit::No) => Fit::No,
            () if all.contains(&Fit::Some) => Fit::Some,
            () => Fit::Yes,
        };
        match (fit, self.invert) {
            (Fit::Yes, true) => Fit::No,
            (Fit::No, true) => Fit::Yes,
            (fit, _) => fit,
        }
    }
}

fn yes(holds: bool) -> Fit {
    if holds { Fit::Yes } else { Fit::No }
}

/// As `ip rule` shows it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |network: Option<IpNetwork>| match network {
            Some(network) if network.prefix() == if network.is_ipv4() { 32 } else { 128 } => {
                network.ip().to_string()
            }
            Some(network) => network.to_string(),
            None => "all".to_owned(),
        };
        let not = if self.invert { "not " } else { "" };
        write!(f, "{}: {not}from {}", self.priority, all(self.from))?;
        if self.to.is_some() {
            write!(f, " to {}", all(self.to))?;
        }
        if let Some(mark) = self.mark {
            write!(f, " fwmark {mark:#x}")?;
            if let Some(mask) = self.mask.filter(|mask| *mask != u32::MAX) {
                write!(f, "/{mask:#x}")?;
            }
        }
        for (word, link) in [("iif", &self.iif), ("oif", &self.oif)] {
            if let Some(link) = link {
                write!(f, " {word} {link}")?;
            }
        }
        if self.more {
            f.write_str(" …")?;
        }
        match self.action {
            RuleAction::Table => write!(f, " lookup {}", table(self.table))?,
            RuleAction::Goto => write!(f, " goto {}", self.goto.unwrap_or_default())?,
            RuleAction::Nop => f.write_str(" nop")?,
            RuleAction::Blackhole => f.write_str(" blackhole")?,
            RuleAction::Unreachable => f.write_str(" unreachable")?,
            RuleAction::Prohibit => f.write_str(" prohibit")?,
            RuleAction::Other => f.write_str(" an action that is not known")?,
        }
        self.suppress_length.map_or(Ok(()), |length| write!(f, " suppress_prefixlength {length}"))
    }
}

/// A table by the name that every machine has for it, or its number.
fn table(number: u32) -> String {
    match number {
        TABLE_LOCAL => "local".to_owned(),
        TABLE_MAIN => "main".to_owned(),
        TABLE_DEFAULT => "default".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Hop;
    use super::*;

    fn network(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn route(dst: &str, table: u32, link: u32) -> Route {
        let hops = vec![Hop { link, ..Hop::default() }];
        let dst = network(dst);
        let kind = RouteKind::Unicast;
        let (metric, protocol, scope) = (0, 0, 0);
        Route { dst, table, metric, protocol, kind, hops, nexthop: None, source: None, mtu: None, scope }
    }

    fn usual() -> Vec<Rule> {
        let rule = |priority, table| Rule { priority, table, ..Rule::default() };
        vec![rule(0, TABLE_LOCAL), rule(32_766, TABLE_MAIN), rule(32_767, TABLE_DEFAULT)]
    }

    /// The main table leads to link 1, table 100 to link 2.
    fn kernel(rules: &[Rule]) -> Kernel {
        let mut all = [usual(), rules.to_vec()].concat();
        all.sort_by_key(|rule| rule.priority);
        let routes = vec![route("10.0.0.0/8", TABLE_MAIN, 1), route("0.0.0.0/0", 100, 2)];
        Kernel { rules: all, routes, ..Kernel::default() }
    }

    fn to(text: &str) -> Packet<'static> {
        Packet { to: network(text), from: None, iif: None }
    }

    fn link(decision: Option<Decision<'_>>) -> Option<u32> {
        Some(decision?.route?.hops.first()?.link)
    }

    #[test]
    fn the_first_rule_that_is_for_a_packet_and_has_a_route_decides() {
        let rule = Rule { priority: 100, table: 100, to: Some(network("10.1.0.0/16")), ..Rule::default() };
        let kernel = kernel(&[Rule { priority: 50, table: 7, ..Rule::default() }, rule.clone()]);
        let decided = kernel.decide(&to("10.1.2.3/32"));
        assert_eq!((link(decided.others), decided.some.len()), (Some(2), 0));
        assert_eq!(decided.others.unwrap().rule, Some(&rule));
        assert_eq!(link(kernel.decide(&to("10.2.0.0/16")).others), Some(1));
        // Of a wider network only some.
        let wide = kernel.decide(&to("10.0.0.0/8"));
        assert_eq!((link(wide.others), link(wide.some.first().copied())), (Some(1), Some(2)));
        assert_eq!(kernel.decide(&to("192.0.2.1/32")).others, None);
        assert_eq!(rule.to_string(), "100: from all to 10.1.0.0/16 lookup 100");
    }

    #[test]
    fn a_source_and_a_link_that_are_not_known_make_it_some_packets() {
        let from = Rule { priority: 100, table: 100, from: Some(network("10.9.0.0/16")), ..Rule::default() };
        let iif = Rule { priority: 101, table: 100, iif: Some("eth1".to_owned()), ..Rule::default() };
        let kernel = kernel(&[from, iif]);
        let packet = to("10.1.2.3/32");
        let decided = kernel.decide(&packet);
        assert_eq!((decided.some.len(), link(decided.others)), (2, Some(1)));
        let known = |from: &str, iif| {
            let packet = Packet { from: Some(from.parse().unwrap()), iif: Some(iif), ..packet };
            let decided = kernel.decide(&packet);
            assert_eq!(decided.some, []);
            link(decided.others)
        };
        assert_eq!(known("10.9.0.1", "eth0"), Some(2));
        assert_eq!(known("10.8.0.1", "eth1"), Some(2));
        assert_eq!(known("10.8.0.1", "eth0"), Some(1));
    }

    #[test]
    fn marks_lengths_that_do_not_count_throws_and_jumps_are_followed() {
        // As wg-quick has it: all that the tunnel did not mark, but for routes of the main table that are no default.
        let tunnel = Rule { priority: 200, table: 100, mark: Some(7), invert: true, ..Rule::default() };
        let main = Rule { priority: 199, table: TABLE_MAIN, suppress_length: Some(0), ..Rule::default() };
        let mut ruled = kernel(&[main.clone(), tunnel.clone()]);
        assert_eq!(link(ruled.decide(&to("10.1.2.3/32")).others), Some(1));
        assert_eq!(link(ruled.decide(&to("192.0.2.1/32")).others), Some(2));
        assert_eq!(main.to_string(), "199: from all lookup main suppress_prefixlength 0");
        assert_eq!(tunnel.to_string(), "200: not from all fwmark 0x7 lookup 100");
        let throw = Route { kind: RouteKind::Throw, ..route("10.1.0.0/16", TABLE_MAIN, 0) };
        ruled.routes.push(throw);
        assert_eq!(link(ruled.decide(&to("10.1.2.3/32")).others), Some(2));
        let (action, goto) = (RuleAction::Goto, Some(32_766));
        let jump = Rule { priority: 10, action, goto, ..Rule::default() };
        let ruled = kernel(&[jump, Rule { priority: 20, table: 100, ..Rule::default() }]);
        assert_eq!(link(ruled.decide(&to("10.1.2.3/32")).others), Some(1));
    }

    #[test]
    fn a_rule_may_throw_away_by_itself_and_without_rules_the_usual_ones_hold() {
        let rule = Rule { priority: 10, action: RuleAction::Prohibit, ..Rule::default() };
        let mut kernel = kernel(&[rule]);
        let decision = kernel.decide(&to("10.1.2.3/32")).others.unwrap();
        assert_eq!((decision.rule.map(|rule| rule.priority), decision.route), (Some(10), None));
        kernel.rules.clear();
        let decision = kernel.decide(&to("10.1.2.3/32")).others;
        assert_eq!((link(decision), decision.unwrap().rule), (Some(1), None));
        assert!(usual().iter().all(Rule::is_usual));
        assert!(!Rule { priority: 32_766, table: 100, ..Rule::default() }.is_usual());
    }
}

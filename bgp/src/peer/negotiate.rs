//! What two OPENs agree on, or the NOTIFICATION that says why they do not. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{FamilyConfig, HoldTime, Local, PeerConfig, RemoteAs, Role};
use crate::policy::Source;
use crate::prefix::{Asn, Families, Family, RouterId};
use crate::wire::{
    AddPathFamily, AfiSafi, Capability, Dialect, ErrorCode, ExtendedNextHop, GracefulRestart,
    LongLivedFamily, Notification, Open, RestartFamily, Side,
};

/// What holds for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// How messages are read and written.
    pub(crate) dialect: Dialect,
    /// The peer's AS.
    pub(crate) asn: Asn,
    /// The peer's BGP identifier.
    pub(crate) router_id: RouterId,
    /// How long silence is borne; `None`: for ever.
    pub(crate) hold: Option<Duration>,
    /// The peer answers route refreshes.
    pub(crate) route_refresh: bool,
    /// Both mark the begin and the end of a refresh (RFC 7313).
    pub(crate) enhanced_refresh: bool,
    /// Both have told their roles (RFC 9234).
    pub(crate) role: Option<Role>,
    /// What the peer said about restarts, if both want them.
    pub(crate) restart: Option<PeerRestart>,
    /// Our OPEN.
    pub(crate) ours: Open,
    /// The peer's OPEN.
    pub(crate) theirs: Open,
}

/// The peer's side of graceful restart (RFC 4724 §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerRestart {
    /// How long it may be away.
    pub(crate) time: Duration,
    /// Both keep routes over a NOTIFICATION as well (RFC 8538 §2).
    pub(crate) notification: bool,
    /// The families whose routes may be kept.
    pub(crate) families: Families,
    /// The families for which forwarding went on while it was away.
    pub(crate) forwarding: Families,
    /// The families whose routes may be kept for long, if both want that (RFC 9494 §3).
    pub(crate) long_lived: BTreeMap<Family, LongLived>,
}

/// How long stale routes of a family may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LongLived {
    /// The time, from the end of that for a restart.
    pub(crate) time: Duration,
    /// Forwarding went on while the peer was away.
    pub(crate) forwarding: bool,
}

/// What of our state the OPEN tells about restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RestartState {
    /// R: we have restarted.
    pub(crate) restarting: bool,
    /// F: our forwarding outlived it.
    pub(crate) forwarding: bool,
}

/// The longest restart time that the wire can carry.
const LONGEST_RESTART: u64 = 4095;
/// The longest time for stale routes that the wire can carry: 24 bits of seconds.
const LONGEST_STALE: u32 = 0x00ff_ffff;
const IPV6_AFI: u16 = 2;

/// The AS that a peer sees.
pub(crate) fn presented(local: &Local, config: &PeerConfig) -> Asn {
    config.local_as.map_or(local.asn, |shown| shown.asn)
}

/// The kind of peer. What counts is the AS that the peer sees: both ends must agree on it.
pub(crate) fn kind(local: &Local, config: &PeerConfig) -> Source {
    let internal = match config.asn {
        RemoteAs::Exactly(asn) => asn == presented(local, config),
        RemoteAs::Internal => true,
        RemoteAs::External => false,
    };
    if internal { Source::Internal } else { Source::External }
}

/// The number of a role on the wire (RFC 9234 §4.1).
fn role_code(role: Role) -> u8 {
    match role {
        Role::Provider => 0,
        Role::RouteServer => 1,
        Role::RouteServerClient => 2,
        Role::Customer => 3,
        Role::Peer => 4,
    }
}

/// What the peer must be if we are this (RFC 9234 §4.2).
fn counterpart(role: Role) -> Role {
    match role {
        Role::Provider => Role::Customer,
        Role::RouteServer => Role::RouteServerClient,
        Role::RouteServerClient => Role::RouteServer,
        Role::Customer => Role::Provider,
        Role::Peer => Role::Peer,
    }
}

/// Our OPEN for a peer.
pub(crate) fn open(local: &Local, config: &PeerConfig, restart: RestartState) -> Open {
    let families = || config.families.keys().copied();
    let mut capabilities: Vec<Capability> =
        families().map(|family| Capability::Multiprotocol(family.into())).collect();
    capabilities.extend([Capability::RouteRefresh, Capability::EnhancedRouteRefresh]);
    if config.families.get(&Family::Ipv4Unicast).is_some_and(|family| family.extended_next_hop) {
        let family = AfiSafi::from(Family::Ipv4Unicast);
        let entry = ExtendedNextHop { family, next_hop_afi: IPV6_AFI };
        capabilities.push(Capability::ExtendedNextHop(vec![entry]));
    }
    let add_path: Vec<AddPathFamily> = config.families.iter().filter_map(add_path).collect();
    if !add_path.is_empty() {
        capabilities.push(Capability::AddPath(add_path));
    }
    capabilities.push(Capability::ExtendedMessages);
    if let Some(time) = config.graceful_restart {
        let forwarding = restart.forwarding;
        capabilities.push(Capability::GracefulRestart(GracefulRestart {
            restarting: restart.restarting,
            notification: true,
            restart_secs: time.as_secs().min(LONGEST_RESTART) as u16,
            families: families().map(|family| RestartFamily { family: family.into(), forwarding }).collect(),
        }));
        if let Some(time) = config.long_lived {
            let stale_secs = u32::try_from(time.as_secs()).unwrap_or(u32::MAX).min(LONGEST_STALE);
            let long_lived =
                |family: Family| LongLivedFamily { family: family.into(), forwarding, stale_secs };
            capabilities.push(Capability::LongLivedGracefulRestart(families().map(long_lived).collect()));
        }
    }
    if let (Some(role), Source::External) = (config.role, kind(local, config)) {
        capabilities.push(Capability::Role(role_code(role)));
    }
    let asn = presented(local, config);
    capabilities.push(Capability::FourOctetAs(asn));
    Open { asn, hold_secs: config.hold_time.seconds(), router_id: local.router_id, capabilities }
}

/// What a family is offered to carry in paths; `None`: one path per prefix.
fn add_path((family, config): (&Family, &FamilyConfig)) -> Option<AddPathFamily> {
    let receive = if config.add_path.receive { AddPathFamily::RECEIVE } else { 0 };
    let send = if config.add_path.send.is_some() { AddPathFamily::SEND } else { 0 };
    let family = (*family).into();
    (receive | send != 0).then_some(AddPathFamily { family, mode: receive | send })
}

/// What our OPEN and theirs agree on.
///
/// # Errors
/// The NOTIFICATION of RFC 4271 §6.2 to refuse with: the wrong AS, an identifier that is ours, roles that do not go
/// together, no common family.
pub(crate) fn negotiate(ours: &Open, theirs: &Open, config: &PeerConfig) -> Result<Agreed, Notification> {
    let expected = match config.asn {
        RemoteAs::Exactly(asn) => theirs.asn == asn,
        RemoteAs::Internal => theirs.asn == ours.asn,
        RemoteAs::External => theirs.asn != ours.asn,
    };
    if !expected {
        return Err(ErrorCode::BAD_PEER_AS.into());
    }
    if theirs.router_id == ours.router_id && theirs.asn == ours.asn {
        return Err(ErrorCode::BAD_ROUTER_ID.into());
    }
    let role = agree_on_role(ours, theirs, config)?;
    let families = ours.families().intersection(theirs.families());
    if families.is_empty() {
        return Err(no_common_family(ours));
    }
    let hold_secs = ours.hold_secs.min(theirs.hold_secs);
    let hold = HoldTime::new(hold_secs).map_err(|_| Notification::from(ErrorCode::UNACCEPTABLE_HOLD_TIME))?;
    Ok(Agreed {
        dialect: Dialect {
            side: if theirs.asn == ours.asn { Side::Internal } else { Side::External },
            families,
            four_octet_as: ours.four_octet_as() && theirs.four_octet_as(),
            extended_messages: ours.extended_messages() && theirs.extended_messages(),
            extended_next_hop: ours.extended_next_hop() && theirs.extended_next_hop(),
            paths_in: ours.takes_paths().intersection(theirs.sends_paths()).intersection(families),
            paths_out: ours.sends_paths().intersection(theirs.takes_paths()).intersection(families),
        },
        asn: theirs.asn,
        router_id: theirs.router_id,
        hold: hold.duration(),
        route_refresh: ours.route_refresh() && theirs.route_refresh(),
        enhanced_refresh: ours.enhanced_route_refresh() && theirs.enhanced_route_refresh(),
        role,
        restart: restart(ours, theirs, families),
        ours: ours.clone(),
        theirs: theirs.clone(),
    })
}

/// Whether a connection with this OPEN of ours can go on, although we would send another one now. A hold time counts
/// only as far as both agreed on it.
pub(crate) fn still_holds(sent: &Open, now: &Open, agreed: Option<&Agreed>, config: &PeerConfig) -> bool {
    let Some(agreed) = agreed else { return same_offer(sent, now) && sent.hold_secs == now.hold_secs };
    let again = negotiate(now, &agreed.theirs, config);
    same_offer(sent, now)
        && again.is_ok_and(|again| {
            let Agreed { dialect, asn, hold, role, .. } = again;
            (dialect, asn, hold, role) == (agreed.dialect, agreed.asn, agreed.hold, agreed.role)
        })
}

/// Whether two OPENs of ours offer the same, whatever they say about a restart that is over.
fn same_offer(one: &Open, other: &Open) -> bool {
    let capabilities = |open: &Open| {
        let mut capabilities = open.capabilities.clone();
        for capability in &mut capabilities {
            match capability {
                Capability::GracefulRestart(restart) => {
                    restart.restarting = false;
                    restart.families.iter_mut().for_each(|family| family.forwarding = false);
                }
                Capability::LongLivedGracefulRestart(families) => {
                    families.iter_mut().for_each(|family| family.forwarding = false);
                }
                _ => {}
            }
        }
        capabilities
    };
    (one.asn, one.router_id) == (other.asn, other.router_id) && capabilities(one) == capabilities(other)
}

/// Our role, if both have told theirs and the two go together (RFC 9234 §4.2).
fn agree_on_role(ours: &Open, theirs: &Open, config: &PeerConfig) -> Result<Option<Role>, Notification> {
    let mismatch = || Notification::from(ErrorCode::ROLE_MISMATCH);
    let Some(role) = config.role.filter(|_| theirs.asn != ours.asn) else { return Ok(None) };
    let wanted = role_code(counterpart(role));
    match theirs.roles().as_slice() {
        [] if config.role_strict => Err(mismatch()),
        [] => Ok(None),
        [told, more @ ..] if *told == wanted && more.iter().all(|other| other == told) => Ok(Some(role)),
        _ => Err(mismatch()),
    }
}

/// Unsupported Capability, with the capabilities that we insist on (RFC 5492 §3).
fn no_common_family(ours: &Open) -> Notification {
    let mut data = Vec::new();
    for family in ours.families().iter() {
        let AfiSafi { afi, safi } = family.into();
        let [high, low] = afi.to_be_bytes();
        data.extend_from_slice(&[1, 4, high, low, 0, safi]);
    }
    Notification { code: ErrorCode::UNSUPPORTED_CAPABILITY, data }
}

fn restart(ours: &Open, theirs: &Open, families: Families) -> Option<PeerRestart> {
    let (mine, peer) = (ours.graceful_restart()?, theirs.graceful_restart()?);
    let listed = |wanted: fn(&RestartFamily) -> bool| -> Families {
        let entries = peer.families.iter().filter(|entry| wanted(entry));
        let known: Families = entries.filter_map(|entry| entry.family.family()).collect();
        known.intersection(families)
    };
    Some(PeerRestart {
        time: Duration::from_secs(peer.restart_secs.into()),
        notification: mine.notification && peer.notification,
        families: listed(|_| true),
        forwarding: listed(|entry| entry.forwarding),
        long_lived: long_lived(ours, theirs, families),
    })
}

/// For how long the peer's stale routes may be kept: as it says, but no longer than we would (RFC 9494 §4.2).
fn long_lived(ours: &Open, theirs: &Open, families: Families) -> BTreeMap<Family, LongLived> {
    let Some(mine) = ours.long_lived().first().map(|entry| entry.stale_secs) else { return BTreeMap::new() };
    let entries = theirs.long_lived().iter();
    let known = entries.filter_map(|entry| {
        let family = entry.family.family().filter(|family| families.contains(*family))?;
        let time = Duration::from_secs(entry.stale_secs.min(mine).into());
        Some((family, LongLived { time, forwarding: entry.forwarding }))
    });
    known.collect()
}

impl Agreed {
    /// The names of what was agreed on, for status.
    pub(crate) fn capabilities(&self) -> Vec<&'static str> {
        let restart = self.restart.as_ref();
        [
            (self.dialect.four_octet_as, "four-octet AS"),
            (self.route_refresh, "route refresh"),
            (self.enhanced_refresh, "enhanced route refresh"),
            (self.role.is_some(), "role"),
            (self.dialect.extended_messages, "extended messages"),
            (self.dialect.extended_next_hop, "extended next hop"),
            (!self.dialect.paths_in.is_empty(), "several paths in"),
            (!self.dialect.paths_out.is_empty(), "several paths out"),
            (restart.is_some(), "graceful restart"),
            (restart.is_some_and(|restart| !restart.long_lived.is_empty()), "long-lived graceful restart"),
            (restart.is_some_and(|restart| restart.notification), "graceful restart on notification"),
        ]
        .into_iter()
        .filter_map(|(agreed, name)| agreed.then_some(name))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NextHopMode;
    use crate::policy::Policy;

    const QUIET: RestartState = RestartState { restarting: false, forwarding: false };

    fn local(asn: u32, id: u8) -> Local {
        Local::new(Asn(asn), RouterId::new([10, 0, 0, id].into()).unwrap())
    }

    fn config(asn: u32, families: &[Family]) -> PeerConfig {
        let family = FamilyConfig::new(Policy::accept_all(), Policy::accept_all(), NextHopMode::Keep);
        let mut config = PeerConfig::new(Asn(asn), "10.0.0.2:179".parse().unwrap());
        config.families = families.iter().map(|known| (*known, family.clone())).collect();
        config
    }

    #[test]
    fn what_only_one_side_offers_is_not_agreed_on() {
        let both = config(2, &Family::ALL);
        let ours = open(&local(1, 1), &both, QUIET);
        let mut theirs = open(&local(2, 2), &config(1, &[Family::Ipv6Unicast]), QUIET);
        theirs.hold_secs = 9;
        theirs.capabilities.retain(|capability| *capability != Capability::ExtendedMessages);
        let agreed = negotiate(&ours, &theirs, &both).unwrap();
        assert_eq!(agreed.dialect.families, Families::from_iter([Family::Ipv6Unicast]));
        assert!(!agreed.dialect.extended_messages && !agreed.dialect.extended_next_hop);
        assert!(agreed.dialect.four_octet_as && agreed.route_refresh);
        assert_eq!(agreed.hold, Some(Duration::from_secs(9)));
        assert_eq!(agreed.dialect.side, Side::External);
    }

    #[test]
    fn each_disagreement_has_its_own_notification() {
        let ours = open(&local(1, 1), &config(2, &[Family::Ipv4Unicast]), QUIET);
        let theirs = |asn, id, family| open(&local(asn, id), &config(1, &[family]), QUIET);
        let wanted = |asn| config(asn, &[Family::Ipv4Unicast]);
        let refusal = |theirs: Open, expected| negotiate(&ours, &theirs, &wanted(expected)).unwrap_err().code;
        assert_eq!(refusal(theirs(3, 2, Family::Ipv4Unicast), 2), ErrorCode::BAD_PEER_AS);
        assert_eq!(refusal(theirs(1, 1, Family::Ipv4Unicast), 1), ErrorCode::BAD_ROUTER_ID);
        assert_eq!(refusal(theirs(2, 2, Family::Ipv6Unicast), 2), ErrorCode::UNSUPPORTED_CAPABILITY);
        // The same identifier in another AS is somebody else (RFC 6286 §2.1).
        assert!(negotiate(&ours, &theirs(2, 1, Family::Ipv4Unicast), &wanted(2)).is_ok());
    }

    #[test]
    fn a_hold_time_of_zero_on_either_side_means_never() {
        let ours = open(&local(1, 1), &config(2, &[Family::Ipv4Unicast]), QUIET);
        let mut theirs = open(&local(2, 2), &config(1, &[Family::Ipv4Unicast]), QUIET);
        theirs.hold_secs = 0;
        let config = config(2, &[Family::Ipv4Unicast]);
        assert_eq!(negotiate(&ours, &theirs, &config).unwrap().hold, None);
    }

    #[test]
    fn restart_bits_arrive_as_they_were_sent() {
        let ours = open(&local(1, 1), &config(2, &Family::ALL), QUIET);
        let state = RestartState { restarting: true, forwarding: true };
        let theirs = open(&local(2, 2), &config(1, &Family::ALL), state);
        let restart = negotiate(&ours, &theirs, &config(2, &Family::ALL)).unwrap().restart.unwrap();
        assert!(restart.notification);
        assert_eq!(restart.forwarding, Families::ALL);
        assert_eq!(restart.time, Duration::from_secs(120));
    }

    #[test]
    fn paths_go_from_who_sends_them_to_who_takes_them() {
        let family = AfiSafi::from(Family::Ipv4Unicast);
        let with = |mode| {
            let mut open = open(&local(1, 1), &config(2, &Family::ALL), QUIET);
            open.capabilities.push(Capability::AddPath(vec![AddPathFamily { family, mode }]));
            open
        };
        // Modes of RFC 7911 §4: 1 receives, 2 sends, 3 does both; the others mean nothing.
        for ours in 0..=5_u8 {
            for theirs in 0..=5_u8 {
                let does = |mode: u8, bit: u8| mode <= 3 && mode & bit != 0;
                let (mine, mut their) = (with(ours), with(theirs));
                (their.asn, their.router_id) = (Asn(2), local(2, 2).router_id);
                let agreed = negotiate(&mine, &their, &config(2, &Family::ALL)).unwrap().dialect;
                let v4 = |agreed: bool| {
                    if agreed { Families::from_iter([Family::Ipv4Unicast]) } else { Families::NONE }
                };
                assert_eq!(agreed.paths_in, v4(does(ours, 1) && does(theirs, 2)), "{ours} and {theirs}");
                assert_eq!(agreed.paths_out, v4(does(ours, 2) && does(theirs, 1)), "{ours} and {theirs}");
            }
        }
    }

    #[test]
    fn ipv6_next_hops_for_ipv4_need_both_sides_and_exactly_that_entry() {
        let (v4, v6) = (AfiSafi::from(Family::Ipv4Unicast), AfiSafi::from(Family::Ipv6Unicast));
        let labelled = AfiSafi { afi: 1, safi: 4 };
        type Row<'a> = (bool, &'a [(AfiSafi, u16)], bool);
        let rows: [Row<'_>; 7] = [
            (true, &[(v4, 2)], true),
            (false, &[(v4, 2)], false),
            (true, &[], false),
            (true, &[(v4, 1)], false),
            (true, &[(v6, 2)], false),
            (true, &[(labelled, 2)], false),
            (true, &[(labelled, 2), (v4, 2)], true),
        ];
        for (offered, entries, expected) in rows {
            let mut mine = config(2, &Family::ALL);
            mine.families.get_mut(&Family::Ipv4Unicast).unwrap().extended_next_hop = offered;
            let mut theirs = open(&local(2, 2), &config(1, &Family::ALL), QUIET);
            theirs.capabilities.retain(|known| !matches!(known, Capability::ExtendedNextHop(_)));
            let entry = |(family, next_hop_afi): &(AfiSafi, u16)| ExtendedNextHop {
                family: *family,
                next_hop_afi: *next_hop_afi,
            };
            theirs.capabilities.push(Capability::ExtendedNextHop(entries.iter().map(entry).collect()));
            let agreed = negotiate(&open(&local(1, 1), &mine, QUIET), &theirs, &mine).unwrap();
            assert_eq!(agreed.dialect.extended_next_hop, expected, "{offered} {entries:?}");
        }
    }
}

//! What two OPENs agree on, or the NOTIFICATION that says why they do not. Pure.

use std::time::Duration;

use crate::config::{HoldTime, Local, PeerConfig};
use crate::policy::Source;
use crate::prefix::{Asn, Families, Family, RouterId};
use crate::wire::{
    AfiSafi, Capability, Dialect, ErrorCode, ExtendedNextHop, GracefulRestart, Notification, Open,
    RestartFamily, Side,
};

/// What holds for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// How messages are read and written.
    pub(crate) dialect: Dialect,
    /// The peer's BGP identifier.
    pub(crate) router_id: RouterId,
    /// How long silence is borne; `None`: for ever.
    pub(crate) hold: Option<Duration>,
    /// The peer answers route refreshes.
    pub(crate) route_refresh: bool,
    /// What the peer said about restarts, if both want them.
    pub(crate) restart: Option<PeerRestart>,
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
const IPV6_AFI: u16 = 2;

/// The kind of peer that `asn` makes.
pub(crate) fn kind(local: &Local, asn: Asn) -> Source {
    if asn == local.asn { Source::Internal } else { Source::External }
}

/// Our OPEN for a peer.
pub(crate) fn open(local: &Local, config: &PeerConfig, restart: RestartState) -> Open {
    let families = || config.families.keys().copied();
    let mut capabilities: Vec<Capability> =
        families().map(|family| Capability::Multiprotocol(family.into())).collect();
    capabilities.push(Capability::RouteRefresh);
    if config.families.contains_key(&Family::Ipv4Unicast) {
        let family = AfiSafi::from(Family::Ipv4Unicast);
        let entry = ExtendedNextHop { family, next_hop_afi: IPV6_AFI };
        capabilities.push(Capability::ExtendedNextHop(vec![entry]));
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
    }
    capabilities.push(Capability::FourOctetAs(local.asn));
    Open { asn: local.asn, hold_secs: config.hold_time.seconds(), router_id: local.router_id, capabilities }
}

/// What our OPEN and theirs agree on.
///
/// # Errors
/// The NOTIFICATION of RFC 4271 §6.2 to refuse with: the wrong AS, an identifier that is ours, no common family.
pub(crate) fn negotiate(ours: &Open, theirs: &Open, expected: Asn) -> Result<Agreed, Notification> {
    if theirs.asn != expected {
        return Err(ErrorCode::BAD_PEER_AS.into());
    }
    if theirs.router_id == ours.router_id && theirs.asn == ours.asn {
        return Err(ErrorCode::BAD_ROUTER_ID.into());
    }
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
        },
        router_id: theirs.router_id,
        hold: hold.duration(),
        route_refresh: ours.route_refresh() && theirs.route_refresh(),
        restart: restart(ours, theirs, families),
    })
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
    })
}

impl Agreed {
    /// The names of what was agreed on, for status.
    pub(crate) fn capabilities(&self) -> Vec<&'static str> {
        let restart = self.restart.as_ref();
        [
            (self.dialect.four_octet_as, "four-octet AS"),
            (self.route_refresh, "route refresh"),
            (self.dialect.extended_messages, "extended messages"),
            (self.dialect.extended_next_hop, "extended next hop"),
            (restart.is_some(), "graceful restart"),
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
    use crate::config::FamilyConfig;
    use crate::config::NextHopMode;
    use crate::policy::Policy;

    const QUIET: RestartState = RestartState { restarting: false, forwarding: false };

    fn local(asn: u32, id: u8) -> Local {
        Local::new(Asn(asn), RouterId::new([10, 0, 0, id].into()).unwrap())
    }

    fn config(asn: u32, families: &[Family]) -> PeerConfig {
        let family = FamilyConfig {
            import: Policy::accept_all(),
            export: Policy::accept_all(),
            max_prefixes: 10,
            next_hop: NextHopMode::Keep,
        };
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
        let agreed = negotiate(&ours, &theirs, Asn(2)).unwrap();
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
        let refusal = |theirs: Open, expected| negotiate(&ours, &theirs, Asn(expected)).unwrap_err().code;
        assert_eq!(refusal(theirs(3, 2, Family::Ipv4Unicast), 2), ErrorCode::BAD_PEER_AS);
        assert_eq!(refusal(theirs(1, 1, Family::Ipv4Unicast), 1), ErrorCode::BAD_ROUTER_ID);
        assert_eq!(refusal(theirs(2, 2, Family::Ipv6Unicast), 2), ErrorCode::UNSUPPORTED_CAPABILITY);
        // The same identifier in another AS is somebody else (RFC 6286 §2.1).
        assert!(negotiate(&ours, &theirs(2, 1, Family::Ipv4Unicast), Asn(2)).is_ok());
    }

    #[test]
    fn a_hold_time_of_zero_on_either_side_means_never() {
        let ours = open(&local(1, 1), &config(2, &[Family::Ipv4Unicast]), QUIET);
        let mut theirs = open(&local(2, 2), &config(1, &[Family::Ipv4Unicast]), QUIET);
        theirs.hold_secs = 0;
        assert_eq!(negotiate(&ours, &theirs, Asn(2)).unwrap().hold, None);
    }

    #[test]
    fn restart_bits_arrive_as_they_were_sent() {
        let ours = open(&local(1, 1), &config(2, &Family::ALL), QUIET);
        let state = RestartState { restarting: true, forwarding: true };
        let theirs = open(&local(2, 2), &config(1, &Family::ALL), state);
        let restart = negotiate(&ours, &theirs, Asn(2)).unwrap().restart.unwrap();
        assert!(restart.notification);
        assert_eq!(restart.forwarding, Families::ALL);
        assert_eq!(restart.time, Duration::from_secs(120));
    }
}

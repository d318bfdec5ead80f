//! What a BGPPeer and the BGPConfiguration say of a session, in the words of the speaker.

use std::time::Duration;

use manx_api::{
    BGPConfigurationSpec, BGPPeerSpec, GracefulRestart, LimitAction as ApiAction, MaxPrefixes, PeerAsn,
};
use manx_bgp::{AddPath, Asn, Dial, Family, LimitAction, LocalAs, PrefixLimit, RemoteAs, Role};

/// Prefixes that one peer may announce in a family unless told otherwise: above the 20,000 blocks of a
/// cluster of 5,000 nodes, below what would hurt a node.
const MAX_PREFIXES: u32 = 65_536;
/// The first pause between two attempts to connect; it doubles from there.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The settings of a session: those of its BGPPeer, and of the cluster where that says nothing. The mesh has no BGPPeer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings<'a> {
    pub(super) peer: Option<&'a BGPPeerSpec>,
    pub(super) config: &'a BGPConfigurationSpec,
}

impl Settings<'_> {
    fn seconds(&self, peer: fn(&BGPPeerSpec) -> Option<u16>) -> Option<u16> {
        self.peer.and_then(peer)
    }

    /// The hold time, in seconds.
    pub(super) fn hold_time(&self) -> u16 {
        self.seconds(|peer| peer.hold_time_seconds).unwrap_or(self.config.hold_time_seconds)
    }

    pub(super) fn keepalive(&self) -> Option<Duration> {
        let seconds = self.seconds(|peer| peer.keepalive_time_seconds).or(self.config.keepalive_time_seconds);
        seconds.map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// The first and the longest wait between two attempts to connect.
    pub(super) fn retry(&self) -> (Duration, Duration) {
        let longest =
            self.seconds(|peer| peer.connect_retry_seconds).unwrap_or(self.config.connect_retry_seconds);
        let longest = Duration::from_secs(longest.into());
        (FIRST_RETRY.min(longest), longest)
    }

    pub(super) fn delay_open(&self) -> Option<Duration> {
        self.seconds(|peer| peer.delay_open_seconds).map(|seconds| Duration::from_secs(seconds.into()))
    }

    pub(super) fn damping(&self) -> bool {
        self.peer.is_none_or(|peer| peer.damping)
    }

    pub(super) fn graceful_restart(&self) -> Option<Duration> {
        let restart =
            self.peer.and_then(|peer| peer.graceful_restart).unwrap_or(self.config.graceful_restart);
        let GracefulRestart { enabled, restart_time_seconds } = restart;
        enabled.then(|| Duration::from_secs(restart_time_seconds.into()))
    }

    /// The long-lived stale time (RFC 9494).
    pub(super) fn long_lived(&self) -> Option<Duration> {
        let own = self.peer.and_then(|peer| peer.long_lived_graceful_restart);
        let stale = own.or(self.config.long_lived_graceful_restart)?.stale_time_seconds;
        (stale > 0).then(|| Duration::from_secs(stale.into()))
    }

    pub(super) fn add_path(&self) -> AddPath {
        let wanted = self.peer.and_then(|peer| peer.add_path).unwrap_or_default();
        AddPath { receive: wanted.receive, send: wanted.send }
    }

    pub(super) fn extended_next_hop(&self) -> bool {
        self.peer.is_none_or(|peer| peer.extended_next_hop)
    }

    pub(super) fn local_as(&self) -> Option<LocalAs> {
        let wanted = self.peer?.local_as?;
        Some(LocalAs { asn: Asn(wanted.as_number), prepend: !wanted.no_prepend, replace: wanted.replace_as })
    }

    pub(super) fn role(&self) -> Option<Role> {
        Some(match self.peer?.role? {
            manx_api::Role::Provider => Role::Provider,
            manx_api::Role::RouteServer => Role::RouteServer,
            manx_api::Role::RouteServerClient => Role::RouteServerClient,
            manx_api::Role::Customer => Role::Customer,
            manx_api::Role::Peer => Role::Peer,
        })
    }

    /// How many prefixes of a family the peer may announce. What a BGPPeer does not say of it the
    /// BGPConfiguration does.
    pub(super) fn limit(&self, family: Family) -> PrefixLimit {
        let own = self.peer.and_then(|peer| peer.max_prefixes).unwrap_or_default();
        let all = self.config.max_prefixes;
        let restart = own.restart_seconds.or(all.restart_seconds).unwrap_or(60);
        PrefixLimit {
            max: max_of(own, family).or_else(|| max_of(all, family)).unwrap_or(MAX_PREFIXES),
            warn_percent: own.warn_percent.or(all.warn_percent).unwrap_or(75),
            action: match own.action.or(all.action).unwrap_or(ApiAction::Restart) {
                ApiAction::Warn => LimitAction::Warn,
                ApiAction::Restart => LimitAction::Restart(Duration::from_secs(restart.into())),
                ApiAction::StayDown => LimitAction::StayDown,
            },
        }
    }
}

fn max_of(limits: MaxPrefixes, family: Family) -> Option<u32> {
    match family {
        Family::Ipv4Unicast => limits.ipv4,
        Family::Ipv6Unicast => limits.ipv6,
    }
}

/// The AS that a peer must have.
pub(super) fn remote_as(asn: PeerAsn) -> RemoteAs {
    match asn {
        PeerAsn::Number(number) => RemoteAs::Exactly(Asn(number)),
        PeerAsn::Internal => RemoteAs::Internal,
        PeerAsn::External => RemoteAs::External,
    }
}

/// What two settings together cannot mean, whatever the peer is.
pub(super) fn contradiction(spec: &BGPPeerSpec, own: u32) -> Option<String> {
    let internal = matches!(spec.as_number, PeerAsn::Internal) || spec.as_number == PeerAsn::Number(own);
    if internal && spec.role.is_some() {
        return Some("role is for external peers (RFC 9234 §4): this one is in our own AS".to_owned());
    }
    if internal && spec.local_as.is_some() {
        return Some("localAS is shown to external peers: this one is in our own AS".to_owned());
    }
    None
}

/// Who dials, given the peer's address.
pub(super) fn dial(spec: Option<&BGPPeerSpec>, target: std::net::SocketAddr) -> Dial {
    if spec.is_some_and(|spec| spec.passive) { Dial::Passive(target) } else { Dial::Active(target) }
}

//! What holds between us and a peer about autonomous systems: loops, numbers shown and hidden, and roles (RFC 9234).

use crate::config::{Local, LocalAs, PeerConfig, Role};
use crate::prefix::Asn;
use crate::wire::AsPath;

/// The part of a peer's configuration that AS_PATH depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Another AS that we show to the peer.
    pub(crate) local_as: Option<LocalAs>,
    /// How often our AS may be in a path that we take.
    pub(crate) allow_own_as: u8,
    /// Private numbers do not go out.
    pub(crate) remove_private_as: bool,
}

impl From<&PeerConfig> for Terms {
    fn from(config: &PeerConfig) -> Self {
        let PeerConfig { local_as, allow_own_as, remove_private_as, .. } = *config;
        Self { local_as, allow_own_as, remove_private_as }
    }
}

impl Terms {
    /// The AS that the peer sees.
    pub(crate) fn presented(&self, local: &Local) -> Asn {
        self.local_as.map_or(local.asn, |shown| shown.asn)
    }

    /// Whether a path has been through our AS more often than it may; the AS that we show counts as ours.
    pub(crate) fn loops(&self, path: &AsPath, local: &Local) -> bool {
        let shown = self.presented(local);
        let own = path.asns().iter().filter(|asn| **asn == local.asn || **asn == shown).count();
        own > usize::from(self.allow_own_as)
    }

    /// The path as it goes into the table; `None` if it stays as it is.
    pub(crate) fn received(&self, path: &AsPath, local: &Local) -> Option<AsPath> {
        let shown = self.local_as.filter(|shown| shown.prepend && shown.asn != local.asn)?;
        Some(path.prepended(shown.asn, 1))
    }

    /// The path as an external peer is told it, our AS `times` more in front of it than it must be.
    pub(crate) fn sent(&self, path: &AsPath, peer: Asn, times: u8, local: &Local) -> AsPath {
        let shown = self.presented(local);
        let cleaned = self.remove_private_as.then(|| path.without(|asn| asn.is_private() && asn != peer));
        let path = cleaned.as_ref().unwrap_or(path);
        let hidden = self.local_as.is_none_or(|shown| shown.replace || shown.asn == local.asn);
        let times = usize::from(times) + 1;
        if hidden {
            path.prepended(shown, times)
        } else {
            path.prepended(local.asn, 1).prepended(shown, times)
        }
    }
}

/// What becomes of the attribute Only to Customer on its way in: the route leaked, or has this value from now on
/// (RFC 9234 §5, ingress). `role` is ours, `sender` the peer's AS.
pub(crate) fn arriving(role: Option<Role>, value: Option<Asn>, sender: Asn) -> Result<Option<Asn>, Leaked> {
    match (role, value) {
        (Some(Role::Provider | Role::RouteServer), Some(_)) => Err(Leaked),
        (Some(Role::Peer), Some(asn)) if asn != sender => Err(Leaked),
        (Some(Role::Customer | Role::Peer | Role::RouteServerClient), None) => Ok(Some(sender)),
        _ => Ok(value),
    }
}

/// A route came from where it should not have been (RFC 9234 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaked;

/// What becomes of it on its way out: the route may not go, or goes with this value (RFC 9234 §5, egress). `shown` is
/// the AS that the peer sees us as.
pub(crate) fn leaving(role: Option<Role>, value: Option<Asn>, shown: Asn) -> Result<Option<Asn>, Leaked> {
    match (role, value) {
        (Some(Role::Customer | Role::Peer | Role::RouteServerClient), Some(_)) => Err(Leaked),
        (Some(Role::Provider | Role::Peer | Role::RouteServer), None) => Ok(Some(shown)),
        _ => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::RouterId;

    const SENDER: Asn = Asn(65001);
    const OTHER: Asn = Asn(65002);
    const US: Asn = Asn(64512);

    #[test]
    fn only_to_customer_follows_the_roles_both_ways() {
        let (leak, stays, gets) = (Err(Leaked), |value| Ok(value), |asn| Ok(Some(asn)));
        // Our role; arriving with none, with the sender's, with another's; leaving with none, with some.
        let rows = [
            (None, [stays(None), gets(SENDER), gets(OTHER)], [stays(None), gets(OTHER)]),
            (Some(Role::Provider), [stays(None), leak, leak], [gets(US), gets(OTHER)]),
            (Some(Role::RouteServer), [stays(None), leak, leak], [gets(US), gets(OTHER)]),
            (Some(Role::RouteServerClient), [gets(SENDER), gets(SENDER), gets(OTHER)], [stays(None), leak]),
            (Some(Role::Customer), [gets(SENDER), gets(SENDER), gets(OTHER)], [stays(None), leak]),
            (Some(Role::Peer), [gets(SENDER), gets(SENDER), leak], [gets(US), leak]),
        ];
        for (role, arrives, leaves) in rows {
            let actual = [None, Some(SENDER), Some(OTHER)].map(|value| arriving(role, value, SENDER));
            assert_eq!(actual, arrives, "{role:?} in");
            assert_eq!([None, Some(OTHER)].map(|value| leaving(role, value, US)), leaves, "{role:?} out");
        }
    }

    fn local() -> Local {
        Local::new(US, RouterId::new([10, 0, 0, 1].into()).unwrap())
    }

    fn path(text: &str) -> AsPath {
        text.parse().unwrap()
    }

    #[test]
    fn our_own_as_may_be_in_a_path_as_often_as_allowed() {
        let shown = LocalAs { asn: Asn(64999), prepend: false, replace: false };
        let rows = [
            ("65001 65002", None, 0, false),
            ("65001 64512", None, 0, true),
            ("65001 64512", None, 1, false),
            ("65001 64512 65002 64512", None, 1, true),
            ("65001 {64512,65003}", None, 0, true),
            ("65001 64999", None, 0, false),
            ("65001 64999", Some(shown), 0, true),
            ("65001 64999 64512", Some(shown), 1, true),
            ("65001 64999 64512", Some(shown), 2, false),
        ];
        for (text, local_as, allow_own_as, expected) in rows {
            let terms = Terms { local_as, allow_own_as, ..Terms::default() };
            assert_eq!(terms.loops(&path(text), &local()), expected, "{text}, {allow_own_as} allowed");
        }
    }

    #[test]
    fn a_shown_as_is_put_before_paths_and_hides_ours_as_configured() {
        let shown = |prepend, replace| Some(LocalAs { asn: Asn(65500), prepend, replace });
        let rows = [
            // Local AS; received "65001 1" becomes; "1" is sent plain, and with two more.
            (None, "65001 1", "64512 1", "64512 64512 64512 1"),
            (shown(false, false), "65001 1", "65500 64512 1", "65500 65500 65500 64512 1"),
            (shown(true, false), "65500 65001 1", "65500 64512 1", "65500 65500 65500 64512 1"),
            (shown(true, true), "65500 65001 1", "65500 1", "65500 65500 65500 1"),
            (
                Some(LocalAs { asn: US, prepend: true, replace: false }),
                "65001 1",
                "64512 1",
                "64512 64512 64512 1",
            ),
        ];
        for (local_as, received, sent, longer) in rows {
            let terms = Terms { local_as, ..Terms::default() };
            let taken = terms.received(&path("65001 1"), &local()).unwrap_or_else(|| path("65001 1"));
            assert_eq!(taken.to_string(), received, "{local_as:?}");
            assert_eq!(terms.sent(&path("1"), SENDER, 0, &local()).to_string(), sent, "{local_as:?}");
            assert_eq!(terms.sent(&path("1"), SENDER, 2, &local()).to_string(), longer, "{local_as:?}");
        }
    }

    #[test]
    fn private_numbers_go_except_the_listeners_own() {
        let rows = [
            ("", "64512"),
            ("64513 3356", "64512 3356"),
            ("3356 65534 64511 65535", "64512 3356 64511 65535"),
            ("4200000000 4294967294 4294967295 4199999999", "64512 4294967295 4199999999"),
            ("64513 {64514,3356} {64515}", "64512 {3356}"),
            ("65001 64513", "64512 65001"),
        ];
        let terms = Terms { remove_private_as: true, ..Terms::default() };
        for (text, expected) in rows {
            assert_eq!(terms.sent(&path(text), SENDER, 0, &local()).to_string(), expected, "{text}");
        }
    }
}

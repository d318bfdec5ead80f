//! What the kernel has of pods when an agent starts.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use manx_ipam::{Endpoint, EndpointId};
use manx_kernel::model::{Dump, Forward};
use manx_kernel::names::parse_alias;

use super::{Node, Output, Owed};

/// How long an endpoint may be without a link after a start: its plugin may be about to make it, seconds.
pub(super) const LINK_GRACE: u64 = 60;

/// Endpoints that had no link at the start, and whose plugins might have been about to make it.
#[derive(Debug, Default)]
pub(super) struct Linkless {
    pub(super) young: BTreeSet<EndpointId>,
    /// When it is looked whether they have one by now.
    pub(super) due: Option<Instant>,
}

/// The links of pods that the kernel has, with the addresses that are routed to them: none when the link is down or
/// only half made.
pub fn endpoints(dump: &Dump) -> Vec<Endpoint> {
    let ours = dump.links.iter().filter_map(|link| Some((link, parse_alias(link.alias.as_deref()?)?)));
    let endpoints = ours.map(|(link, (container, ifname))| {
        let routes = dump.routes.iter().filter(|route| route.forward == Forward::Link(link.index));
        let mut addresses: Vec<_> = routes.map(|route| route.key.dst.ip()).collect();
        addresses.sort();
        Endpoint {
            id: EndpointId { container: container.to_owned(), ifname: ifname.to_owned() },
            link: link.name.clone(),
            addresses,
            ..Endpoint::default()
        }
    });
    endpoints.collect()
}

impl Node {
    /// Heals record and kernel after a start: what the kernel has and the record lacks is taken over,
    /// what the record has and the kernel lacks is freed.
    pub(super) fn on_found(&mut self, endpoints: Vec<Endpoint>, at: u64, now: Instant) {
        let found: BTreeSet<EndpointId> = endpoints.iter().map(|endpoint| endpoint.id.clone()).collect();
        let over = |then: u64, now: u64| then.saturating_add(LINK_GRACE) < now;
        let uptime = self.uptime(now);
        let settled = |known: &Endpoint| match (known.asked, uptime) {
            // Asked for later than now: before the machine was started anew.
            (Some(asked), Some(uptime)) => asked > uptime || over(asked, uptime),
            _ => known.since.is_none_or(|since| over(since, at)),
        };
        let linkless = self.ipam.endpoints().filter(|known| !found.contains(&known.id));
        let (vanished, young): (Vec<&Endpoint>, Vec<&Endpoint>) = linkless.partition(|known| settled(known));
        let vanished: Vec<EndpointId> = vanished.into_iter().map(|known| known.id.clone()).collect();
        let young: BTreeSet<EndpointId> = young.into_iter().map(|known| known.id.clone()).collect();
        let due = (!young.is_empty()).then(|| now + Duration::from_secs(LINK_GRACE + 1));
        self.linkless = Linkless { young, due };
        for id in vanished {
            self.free_ourselves(id, |id| Owed::Nothing { id }, now);
        }
        let leaving: BTreeSet<EndpointId> = self.ipam.leaving().map(|endpoint| endpoint.id.clone()).collect();
        let living = |found: &Endpoint| {
            !found.addresses.is_empty() && !leaving.contains(&found.id) && !self.ended.contains(&found.id)
        };
        let living: Vec<Endpoint> = endpoints.into_iter().filter(living).collect();
        self.ended.clear();
        self.healed = true;
        self.claims.stir();
        self.ipam.handle(manx_ipam::Input::Adopt(living), now);
        self.resize();
    }

    /// How long the machine has been running, in seconds, if that is known.
    pub(super) fn uptime(&self, now: Instant) -> Option<u64> {
        let (started, uptime) = self.started;
        (!uptime.is_zero()).then(|| (uptime + now.saturating_duration_since(started)).as_secs())
    }

    pub(super) fn look_for_links(&mut self, now: Instant) {
        if self.linkless.due.is_some_and(|due| due <= now) {
            self.linkless.due = Some(now + Duration::from_secs(LINK_GRACE));
            self.outputs.push_back(Output::Look);
        }
    }

    /// Frees what has no link though its plugin has ended long ago: its end did not get into the record.
    pub(super) fn on_linked(&mut self, present: &BTreeSet<EndpointId>, now: Instant) {
        let Linkless { young, .. } = std::mem::take(&mut self.linkless);
        for id in young.into_iter().filter(|id| !present.contains(id)) {
            self.free_ourselves(id, |id| Owed::Nothing { id }, now);
        }
    }
}

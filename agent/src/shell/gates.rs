//! The upkeep of the guards of pods' links: the plugin makes each with its link, here what is missing is added, at the
//! start for the pods that an earlier version left, and now and then for what somebody flushed.

use std::time::{Duration, Instant};

use manx_kernel::netlink::guard::{Audit, Gates};
use manx_kernel::netlink::socket::SocketError;

use super::events::chain;

/// How often all guards are compared with what they should be.
const AUDIT: Duration = Duration::from_secs(60);
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// What a kernel without the means leaves open.
const UNSUPPORTED: &str = "this kernel has no nftables for the ingress of links (CONFIG_NF_TABLES_NETDEV): a pod that may \
                           send raw frames can forge IPv6 sources and fill the neighbour tables of its node";

/// What is known of the guards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guarded {
    /// Links of pods that take only what their pods may send.
    pub links: usize,
    /// Guards that were found missing or changed, since the start.
    pub mended_total: u64,
    /// Why not all links are guarded, if they are not.
    pub error: Option<String>,
}

/// Looks after all guards.
pub(super) struct Keeper {
    gates: Option<Gates>,
    due: Option<Instant>,
    known: Guarded,
    /// Links of which the last audit did not know what may come: a plugin may just be making them.
    doubted: Vec<String>,
}

impl Keeper {
    /// Begins with an audit, which is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { gates: None, due: Some(now), known: Guarded::default(), doubted: Vec::new() }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn known(&self) -> Guarded {
        self.known.clone()
    }

    pub(super) fn on_time(&mut self, now: Instant) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        match self.audit() {
            Ok(Some(audit)) => {
                self.due = Some(now + if audit.unknown.is_empty() { AUDIT } else { RETRY });
                self.note(audit);
            }
            Ok(None) => {
                tracing::warn!("{UNSUPPORTED}");
                self.known.error = Some(UNSUPPORTED.to_owned());
                self.due = None;
            }
            Err(error) => {
                self.gates = None;
                self.complain(format!("the guards of pods' links cannot be looked after: {}", chain(&error)));
                self.due = Some(now + RETRY);
            }
        }
    }

    fn audit(&mut self) -> Result<Option<Audit>, SocketError> {
        if self.gates.is_none() {
            self.gates = Gates::open()?;
        }
        self.gates.as_mut().map(Gates::audit).transpose()
    }

    fn note(&mut self, audit: Audit) {
        self.known.links = audit.guarded;
        self.known.mended_total += u64::try_from(audit.mended.len()).unwrap_or(u64::MAX);
        if !audit.mended.is_empty() {
            tracing::warn!(links = ?audit.mended, "guards of pods' links were missing or changed, and are right again");
        }
        let doubted = std::mem::replace(&mut self.doubted, audit.unknown);
        let unknown: Vec<&str> =
            self.doubted.iter().filter(|link| doubted.contains(link)).map(String::as_str).collect();
        if !unknown.is_empty() {
            let links = unknown.join(", ");
            self.complain(format!(
                "what may come by these links is not known, since their permanent neighbours were removed: {links}; restart their pods"
            ));
        } else if self.known.error.take().is_some() {
            tracing::info!(links = audit.guarded, "all links of pods are guarded");
        }
    }

    fn complain(&mut self, error: String) {
        if self.known.error.as_ref() != Some(&error) {
            tracing::error!(error, "not all links of pods are guarded");
            self.known.error = Some(error);
        }
    }
}

//! Leader election by a Lease, after the algorithm of client-go: whoever holds the Lease renews it
//! often; another takes it over only when it saw no renewal for the whole duration.
//!
//! The age of a foreign Lease is measured on our own clock from the moment at which we saw it
//! change, never by comparing its timestamps with our wall clock: clocks of two machines differ.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::time::Instant;

/// How long a Lease lasts and how often it is renewed.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// For how long a Lease that nobody renews keeps others away.
    pub duration: Duration,
    /// After how long without a successful renewal the leader stops working; shorter than `duration`.
    pub renew_deadline: Duration,
    /// The pause between two tries.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// One candidate's view of the Lease.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    timing: Timing,
    seen: Option<Seen>,
}

/// The holder's record as last seen, and when it was seen to change.
#[derive(Debug)]
struct Seen {
    holder: String,
    version: Option<String>,
    at: Instant,
}

/// What a candidate does about the Lease it just read.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is ours: renew it.
    Renew,
    /// Nobody holds it, or its holder is silent: take it.
    Take,
    /// Somebody else holds it.
    Wait,
}

impl Election {
    /// Prepares to run for the Lease `name` as `identity`, which must be unique per process.
    pub fn new(api: Api<Lease>, name: &str, identity: &str, timing: Timing) -> Self {
        Self { api, name: name.to_owned(), identity: identity.to_owned(), timing, seen: None }
    }

    /// Waits until this process is the leader.
    pub async fn acquire(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, lease = %self.name, "the Lease of the leader cannot be read or taken: this replica waits and tries again")
                }
            }
            tokio::time::sleep(self.timing.retry).await;
        }
    }

    /// Keeps the Lease; returns when leadership is lost or can no longer be proven.
    pub async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.timing.retry).await;
            match tokio::time::timeout_at(renewed + self.timing.renew_deadline, self.attempt()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) if renewed.elapsed() >= self.timing.renew_deadline => {
                    tracing::error!(%error, lease = %self.name, "leadership is lost: the Lease could not be renewed; this replica starts over");
                    return;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = %self.name, "the Lease of the leader cannot be renewed; it is tried again")
                }
            }
        }
    }

    /// Gives the Lease up so that another candidate takes it at once.
    ///
    /// # Errors
    /// When the API server refuses or is away; the Lease then runs out by itself.
    pub async fn resign(&mut self) -> kube::Result<()> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }

    /// Tries once; true when the Lease is ours afterwards.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            return settled(self.api.create(&PostParams::default(), &self.fresh()).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        self.observe(&spec, lease.metadata.resource_version.clone());
        let spec = match self.step(&spec) {
            Step::Wait => return Ok(false),
            Step::Renew => LeaseSpec { renew_time: Some(now()), ..spec },
            Step::Take => self.taken(spec.lease_transitions.unwrap_or(0) + 1),
        };
        // The resourceVersion inside makes the replace a compare-and-swap.
        let lease = Lease { spec: Some(spec), ..lease };
        settled(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    fn observe(&mut self, spec: &LeaseSpec, version: Option<String>) {
        if self.seen.as_ref().is_none_or(|seen| seen.version != version) {
            let holder = spec.holder_identity.clone().unwrap_or_default();
            self.seen = Some(Seen { holder, version, at: Instant::now() });
        }
    }

    fn step(&self, spec: &LeaseSpec) -> Step {
        let Some(seen) = &self.seen else { return Step::Wait };
        if seen.holder == self.identity {
            return Step::Renew;
        }
        let lasts = spec.lease_duration_seconds.and_then(|secs| u64::try_from(secs).ok());
        let lasts = lasts.map_or(self.timing.duration, Duration::from_secs);
        if seen.holder.is_empty() || seen.at.elapsed() >= lasts { Step::Take } else { Step::Wait }
    }

    fn fresh(&self) -> Lease {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        Lease { metadata, spec: Some(self.taken(0)) }
    }

    fn taken(&self, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.duration.as_secs()).ok(),
            acquire_time: Some(now()),
            renew_time: Some(now()),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

fn now() -> MicroTime {
    MicroTime(Timestamp::now())
}

/// A write that lost against another one is no error: we are simply not the leader.
fn settled(written: kube::Result<Lease>) -> kube::Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(identity: &str) -> Election {
        let service = tower_free_client();
        Election::new(Api::namespaced(service, "test"), "controller", identity, Timing::default())
    }

    /// A client that is never used: these tests decide on Leases that they make themselves.
    fn tower_free_client() -> kube::Client {
        let config = kube::Config::new("http://127.0.0.1:1".parse().expect("an address"));
        kube::Client::try_from(config).expect("a client without TLS")
    }

    fn held_by(holder: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_foreign_lease_is_taken_only_after_its_whole_duration_without_a_change() {
        let mut ours = candidate("a");
        ours.observe(&held_by("b"), Some("1".to_owned()));
        assert_eq!(ours.step(&held_by("b")), Step::Wait);
        tokio::time::advance(Duration::from_secs(14)).await;
        ours.observe(&held_by("b"), Some("2".to_owned()));
        tokio::time::advance(Duration::from_secs(14)).await;
        assert_eq!(ours.step(&held_by("b")), Step::Wait);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(ours.step(&held_by("b")), Step::Take);
    }

    #[tokio::test]
    async fn a_lease_given_up_by_its_holder_is_taken_at_once() {
        let mut ours = candidate("a");
        ours.observe(&held_by(""), Some("1".to_owned()));
        assert_eq!(ours.step(&held_by("")), Step::Take);
    }

    #[tokio::test]
    async fn the_holder_renews_its_own_lease() {
        let mut ours = candidate("a");
        ours.observe(&held_by("a"), Some("1".to_owned()));
        assert_eq!(ours.step(&held_by("a")), Step::Renew);
    }
}

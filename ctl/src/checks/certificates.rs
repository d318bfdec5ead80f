//! Certificates that Manx relies on: of the API server, as each node sees them. Manx has none of its own.

use std::collections::BTreeMap;

use manx_api::Timestamp;

use super::{Facts, machines, weighed};
use crate::finding::{Finding, Weight};

/// Days before its end from which on a certificate is named, and from which on that is urgent.
const SOON: i64 = 30;
const URGENT: i64 = 3;
const DAY: i64 = 86_400;
const NANOS: u64 = 1_000_000_000;

/// Certificates that end soon, or have ended.
pub(super) fn certificates(facts: &Facts) -> Vec<Finding> {
    let mut ends: BTreeMap<(&str, i64), i64> = BTreeMap::new();
    for (_, host) in machines(facts) {
        // By the clock of the node that looks at it.
        let now = i64::try_from(host.time / NANOS).unwrap_or(i64::MAX);
        for certificate in &host.certificates {
            let left = certificate.until.saturating_sub(now);
            let least = ends.entry((&certificate.of, certificate.until)).or_insert(left);
            *least = left.min(*least);
        }
    }
    ends.into_iter().filter_map(|((of, until), left)| judge(of, until, left)).collect()
}

fn judge(of: &str, until: i64, left: i64) -> Option<Finding> {
    let day =
        Timestamp::from_second(until).map(|time| time.strftime("%Y-%m-%d").to_string()).unwrap_or_default();
    let (weight, when) = match left.div_euclid(DAY) {
        ..0 => (Weight::Error, format!("has ended on {day}")),
        days @ ..URGENT => (Weight::Error, format!("ends on {day}, in {days} days")),
        days @ ..SOON => (Weight::Warning, format!("ends on {day}, in {days} days")),
        _ => return None,
    };
    let cure = "renew it before (`kubeadm certs renew apiserver` and a restart of the API server, where kubeadm made it): \
                without it agents learn of no new blocks, peers and annotations";
    Some(
        weighed(weight, &format!("the certificate of {of}"), format!("it {when}"), cure)
            .see("api-server-away"),
    )
}

//! What was asked of the server: counted by verb, resource and client, with the newest requests in full.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::faults::Subject;

/// How many requests are kept in full.
const KEPT: usize = 10_000;

/// One request that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    /// What it asked for.
    #[serde(flatten)]
    pub subject: Subject,
    /// HTTP status; 0 when the connection was cut instead of an answer.
    pub code: u16,
    /// From the head of the request to the head of the answer.
    #[serde(rename = "took_ms", serialize_with = "milliseconds")]
    pub took: Duration,
}

/// Requests of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Kind {
    /// `get`, `list` …
    pub verb: String,
    /// Plural name with the subresource, or the path.
    pub resource: String,
    /// The client's `User-Agent`.
    pub user_agent: String,
    /// HTTP status; 0 when the connection was cut.
    pub code: u16,
}

/// The log of requests since the start or the last [`RequestLog::reset`].
#[derive(Debug, Default)]
pub struct RequestLog(Mutex<Log>);

#[derive(Debug, Default)]
struct Log {
    counts: BTreeMap<Kind, u64>,
    newest: VecDeque<Request>,
}

impl RequestLog {
    /// How many requests there were of each kind.
    pub fn counts(&self) -> BTreeMap<Kind, u64> {
        self.locked().counts.clone()
    }

    /// How many requests there were of the chosen kinds.
    pub fn count(&self, chosen: impl Fn(&Kind) -> bool) -> u64 {
        self.locked().counts.iter().filter(|(kind, _)| chosen(kind)).map(|(_, count)| count).sum()
    }

    /// The newest requests in full, oldest first, at most 10 000.
    pub fn newest(&self) -> Vec<Request> {
        self.locked().newest.iter().cloned().collect()
    }

    /// Starts counting afresh.
    pub fn reset(&self) {
        *self.locked() = Log::default();
    }

    pub(crate) fn record(&self, request: Request) {
        let mut log = self.locked();
        let subject = &request.subject;
        let kind = Kind {
            verb: subject.verb.clone(),
            resource: subject.resource.clone(),
            user_agent: subject.user_agent.clone(),
            code: request.code,
        };
        *log.counts.entry(kind).or_default() += 1;
        log.newest.push_back(request);
        if log.newest.len() > KEPT {
            log.newest.pop_front();
        }
    }

    fn locked(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn milliseconds<S: serde::Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(took.as_secs_f64() * 1000.0)
}

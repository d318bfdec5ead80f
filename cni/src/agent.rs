//! Asking the agent, and saying what its answers and its silence mean to the runtime.

use std::path::Path;
use std::time::Duration;

use manx_cni::rpc::call;
use manx_cni::rpc::{
    AddRequest, Assignment, Attachment, CallError, DelRequest, GcRequest, Remover, Reply, Request,
};
use manx_cni::spec::{Code, Error};
use manx_kernel::names::Mac;

/// The agent may have to claim a block before it can answer, once in a great while.
const ADD_TIMEOUT: Duration = Duration::from_secs(20);
/// Everything else it has at hand.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why there are no addresses.
pub(crate) enum AddFailure {
    /// The agent is away: it has not seen the request.
    NotAsked(Error),
    /// The agent refused, and changed nothing.
    Refused(Error),
    /// The agent may have assigned addresses without this plugin knowing.
    Unknown(Error),
}

/// Gets addresses.
pub(crate) fn add(run_dir: &Path, request: AddRequest) -> Result<Assignment, AddFailure> {
    match call(run_dir, &Request::Add(request), ADD_TIMEOUT) {
        Ok(Reply::Assigned(assignment)) => sound(assignment).map_err(AddFailure::Unknown),
        Ok(Reply::Error(refusal)) => Err(AddFailure::Refused(refusal.into())),
        Ok(_) => Err(AddFailure::Unknown(senseless())),
        Err(error @ CallError::Unreachable { .. }) => Err(AddFailure::NotAsked(away(&error))),
        Err(error) => Err(AddFailure::Unknown(away(&error))),
    }
}

/// Frees addresses and says who removes the link; `None` if the agent cannot see to it now.
pub(crate) fn del(run_dir: &Path, request: &DelRequest) -> Option<Remover> {
    match call(run_dir, &Request::Del(request.clone()), TIMEOUT) {
        Ok(Reply::Deleted { link_removed_by }) => Some(link_removed_by),
        _ => None,
    }
}

/// What the agent has on record.
pub(crate) fn check(run_dir: &Path, attachment: &Attachment) -> Result<Option<Assignment>, Error> {
    match call(run_dir, &Request::Check(attachment.clone()), TIMEOUT) {
        Ok(Reply::Known(assignment)) => Ok(assignment),
        other => Err(unexpected(other)),
    }
}

/// Lets the agent forget what is not in the list.
pub(crate) fn gc(run_dir: &Path, request: GcRequest) -> Result<Vec<Attachment>, Error> {
    match call(run_dir, &Request::Gc(request), TIMEOUT) {
        Ok(Reply::Collected(freed)) => Ok(freed),
        other => Err(unexpected(other)),
    }
}

/// Whether the node can take pods.
pub(crate) fn status(run_dir: &Path) -> Result<(), Error> {
    match call(run_dir, &Request::Status, TIMEOUT) {
        Ok(Reply::Ready) => Ok(()),
        Ok(Reply::Error(refusal)) => Err(refusal.into()),
        Ok(_) => Err(Error { code: Code::NOT_AVAILABLE, ..senseless() }),
        Err(error) => Err(Error { code: Code::NOT_AVAILABLE, ..away(&error) }),
    }
}

fn unexpected(answer: Result<Reply, CallError>) -> Error {
    match answer {
        Ok(Reply::Error(refusal)) => refusal.into(),
        Ok(_) => senseless(),
        Err(error) => away(&error),
    }
}

/// At least one address, at most one of each family, an MTU that the kernel takes, and a hardware address that is one.
fn sound(assignment: Assignment) -> Result<Assignment, Error> {
    let v4 = assignment.addresses.iter().filter(|address| address.is_ipv4()).count();
    let v6 = assignment.addresses.len() - v4;
    let counts = v4 <= 1 && v6 <= 1 && v4 + v6 > 0;
    let mac = assignment.mac.as_ref().is_none_or(|mac| mac.parse::<Mac>().is_ok());
    if counts && mac && (68..=65_535).contains(&assignment.mtu) { Ok(assignment) } else { Err(senseless()) }
}

fn senseless() -> Error {
    Error::new(Code::AGENT, "the Manx agent of this node gave an answer that makes no sense to this plugin")
        .details("are /opt/cni/bin/manx-cni and the agent of the same version?")
}

fn away(error: &CallError) -> Error {
    let cause = std::error::Error::source(error).map(|cause| format!("{cause}; ")).unwrap_or_default();
    Error::new(Code::TRY_AGAIN, error.to_string())
        .details(format!("{cause}is the manx-agent pod of this node running?"))
}

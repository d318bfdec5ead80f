//! The plugin's calls: which goes where, and what is answered from what is known (CHECK, STATUS, GC).

use std::collections::BTreeSet;
use std::time::Instant;

use manx_cni::rpc::{Assignment, Attachment, GcRequest, Reply, Request, RpcError};
use manx_cni::spec::Code;
use manx_ipam::{AssignError, BlockUsage, Endpoint, EndpointId, RequestId, Standing};

use super::{Node, takeover};

impl Node {
    pub(super) fn on_call(&mut self, request: RequestId, call: Request, at: u64, now: Instant) {
        match call {
            Request::Add(add) => self.on_add(request, add, at, now),
            Request::Del(del) => self.on_del(request, del, now),
            Request::Check(Attachment { container, ifname }) => {
                let id = EndpointId { container, ifname };
                let known = self.ipam.endpoint(&id).map(|endpoint| self.assignment(endpoint));
                self.reply(request, Reply::Known(known));
            }
            Request::Status => {
                let obstacles = self.obstacles();
                let reply = if obstacles.is_empty() {
                    Reply::Ready
                } else {
                    refusal(self.severity(), "this node cannot take pods now", obstacles.join("; "))
                };
                self.reply(request, reply);
            }
            Request::Gc(gc) => self.on_gc(request, gc, now),
        }
    }

    /// How bad it is that no pod can start: running pods are cut off as well where their block is somebody else's.
    fn severity(&self) -> Code {
        let lost = |block: &BlockUsage| {
            block.used > 0 && matches!(block.standing, Standing::Foreign | Standing::Vanished)
        };
        let cut_off = self.ipam.usage().blocks.iter().any(lost);
        if cut_off { Code::NOT_AVAILABLE_LIMITED } else { Code::NOT_AVAILABLE }
    }

    /// What is not in the list is freed, unless it is of another network of this node; which ones those are is known
    /// when the allocator is drained.
    fn on_gc(&mut self, request: RequestId, gc: GcRequest, now: Instant) {
        let valid = gc.valid.into_iter();
        let mut valid: BTreeSet<EndpointId> =
            valid.map(|kept| EndpointId { container: kept.container, ifname: kept.ifname }).collect();
        valid.extend(self.of_other_networks(&gc.network));
        self.ipam.handle(manx_ipam::Input::Keep { valid }, now);
        let collected = self.drain(now);
        self.reply(request, Reply::Collected(collected));
    }

    /// The endpoints that a GC of this network must leave alone. One that does not say its network counts as of the
    /// only one that the node has; with several it is nobody's to collect, and goes with its DEL or its link.
    fn of_other_networks(&self, network: &str) -> BTreeSet<EndpointId> {
        let is_other = |endpoint: &&Endpoint| endpoint.network.as_ref().is_some_and(|name| name != network);
        let several = self.ipam.endpoints().any(|endpoint| is_other(&endpoint));
        let spared = self.ipam.endpoints();
        let spared = spared.filter(|endpoint| is_other(endpoint) || (several && endpoint.network.is_none()));
        spared.map(|endpoint| endpoint.id.clone()).collect()
    }

    pub(super) fn assignment(&self, endpoint: &Endpoint) -> Assignment {
        Assignment {
            addresses: endpoint.addresses.clone(),
            mtu: self.mtu_of(endpoint),
            link: endpoint.link.clone(),
            mac: endpoint.mac.clone(),
            taken_over: takeover::is_guest(endpoint),
        }
    }
}

pub(super) fn refusal(code: Code, msg: &str, details: String) -> Reply {
    Reply::Error(RpcError { code: code.0, msg: msg.to_owned(), details })
}

pub(super) fn code_of(why: &AssignError) -> Code {
    match why {
        AssignError::NoPool { .. } => Code::NO_ADDRESS,
        _ if why.is_exhaustion() => Code::NO_ADDRESS,
        _ if why.is_transient() => Code::TRY_AGAIN,
        _ => Code::ADDRESS_REFUSED,
    }
}

//! A machine with its record, its clock, and short ways to say things to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::{
    AssignError, BlockId, ClaimError, Endpoint, EndpointId, Event, Input, Limits, NodeIpam, NodeName, Output,
    Pool, Recovered, RequestId, Want, recover,
};

pub(super) const NODE: &str = "node1";

pub(super) fn pool(name: &str, cidr: &str, block_len: u8) -> Pool {
    Pool::new(name, cidr.parse().unwrap(), block_len).unwrap()
}

pub(super) fn block(cidr: &str) -> BlockId {
    cidr.parse().unwrap()
}

pub(super) fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

pub(super) fn id(container: &str) -> EndpointId {
    EndpointId { container: container.into(), ifname: "eth0".into() }
}

pub(super) fn endpoint(container: &str) -> Endpoint {
    Endpoint { id: id(container), link: format!("cali{container}"), ..Endpoint::default() }
}

pub(super) fn v4() -> Want {
    Want { v4: true, ..Want::default() }
}

pub(super) fn both() -> Want {
    Want { v4: true, v6: true, ..Want::default() }
}

pub(super) fn exactly(addresses: &[&str]) -> Want {
    Want { addresses: addresses.iter().map(|address| ip(address)).collect(), ..Want::default() }
}

/// No prefetch, a cooldown of 10 s, and release after 60 s.
pub(super) fn limits() -> Limits {
    Limits {
        cooldown: Duration::from_secs(10),
        headroom: 0,
        release_after: Duration::from_secs(60),
        max_blocks: 8,
        wait: Duration::from_secs(5),
    }
}

pub(super) struct Bench {
    pub(super) ipam: NodeIpam,
    pub(super) now: Instant,
    began: Instant,
    pub(super) record: Vec<u8>,
    pub(super) owned: BTreeSet<BlockId>,
    list: BTreeMap<BlockId, NodeName>,
    limits: Limits,
    requests: u64,
}

impl Bench {
    #[expect(clippy::disallowed_methods, reason = "any instant will do as a beginning")]
    pub(super) fn new(limits: Limits) -> Self {
        let now = Instant::now();
        let ipam = NodeIpam::new(NODE.into(), limits.clone(), recover(b""), now);
        let (record, owned, list) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        let mut bench = Self { ipam, now, began: now, record, owned, list, limits, requests: 0 };
        bench.drain();
        bench
    }

    /// With these pools and a cluster that has no blocks.
    pub(super) fn ready(limits: Limits, pools: &[Pool]) -> Self {
        let mut bench = Self::new(limits);
        bench.feed(Input::SetPools(pools.to_vec()));
        bench.sees(&[]);
        bench
    }

    /// A new machine from the same record.
    pub(super) fn restart(&mut self) -> Vec<Output> {
        self.restart_at(self.now - self.began)
    }

    /// The same, with what the machine's clock shows.
    pub(super) fn restart_at(&mut self, uptime: Duration) -> Vec<Output> {
        let recovered = Recovered { uptime, ..recover(&self.record) };
        self.ipam = NodeIpam::new(NODE.into(), self.limits.clone(), recovered, self.now);
        self.owned.clear();
        self.drain()
    }

    pub(super) fn feed(&mut self, input: Input) -> Vec<Output> {
        self.ipam.handle(input, self.now);
        self.drain()
    }

    /// Lets time pass, waking the machine as it wishes.
    pub(super) fn pass(&mut self, time: Duration) -> Vec<Output> {
        let end = self.now + time;
        let mut outputs = Vec::new();
        while let Some(due) = self.ipam.deadline().filter(|due| *due <= end) {
            assert!(due > self.now, "a deadline lies ahead");
            self.now = due;
            outputs.extend(self.feed(Input::Timeout));
        }
        self.now = end;
        outputs.extend(self.feed(Input::Timeout));
        outputs
    }

    pub(super) fn secs(&mut self, secs: u64) -> Vec<Output> {
        self.pass(Duration::from_secs(secs))
    }

    pub(super) fn sees(&mut self, blocks: &[(&str, &str)]) -> Vec<Output> {
        self.list = blocks.iter().map(|(cidr, owner)| (block(cidr), NodeName::from(*owner))).collect();
        self.feed(Input::SetBlocks { blocks: self.list.clone() })
    }

    /// The list again, as it is.
    pub(super) fn shows(&mut self) -> Vec<Output> {
        self.feed(Input::SetBlocks { blocks: self.list.clone() })
    }

    /// A release was carried out, and the list shows it.
    pub(super) fn released(&mut self, block: BlockId) -> Vec<Output> {
        self.list.remove(&block);
        let mut outputs = self.feed(Input::Released { block, outcome: Ok(()) });
        outputs.extend(self.shows());
        outputs
    }

    pub(super) fn claimed(&mut self, block: BlockId, outcome: Result<(), ClaimError>) -> Vec<Output> {
        self.feed(Input::Claimed { block, outcome })
    }

    pub(super) fn assign(&mut self, container: &str, want: Want) -> Vec<Output> {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.feed(Input::Assign { request, endpoint: endpoint(container), want })
    }

    /// Assigns, grants every claim, and returns the addresses.
    pub(super) fn gets(&mut self, container: &str, want: Want) -> Vec<IpAddr> {
        let outputs = self.assign(container, want);
        let outputs = self.grant(outputs);
        assigned(&outputs).into_iter().next().expect("assigned").addresses
    }

    pub(super) fn free(&mut self, container: &str) -> Option<Endpoint> {
        self.requests += 1;
        let outputs = self.feed(Input::Free { request: RequestId(self.requests), id: id(container) });
        let mut freed = outputs.into_iter().filter_map(|output| match output {
            Output::Freed { endpoint, .. } => Some(endpoint),
            _ => None,
        });
        freed.next_back().expect("every free is answered")
    }

    pub(super) fn link_gone(&mut self, container: &str) -> Vec<Output> {
        self.feed(Input::LinkGone { id: id(container) })
    }

    /// Frees, and its link goes.
    pub(super) fn drop_pod(&mut self, container: &str) {
        self.free(container).expect("it was there");
        self.link_gone(container);
    }

    /// Answers claims with success, and shows the blocks in the list, until no more come.
    pub(super) fn grant(&mut self, outputs: Vec<Output>) -> Vec<Output> {
        let mut all = outputs;
        let mut at = 0;
        while at < all.len() {
            if let Output::Claim(block) = all[at] {
                all.extend(self.claimed(block, Ok(())));
                self.list.insert(block, NODE.into());
                all.extend(self.feed(Input::SetBlocks { blocks: self.list.clone() }));
            }
            at += 1;
        }
        all
    }

    fn drain(&mut self) -> Vec<Output> {
        let outputs: Vec<Output> = std::iter::from_fn(|| self.ipam.poll()).collect();
        for output in &outputs {
            match output {
                Output::Record(line) => self.record.extend(line),
                Output::Rewrite(all) => self.record.clone_from(all),
                Output::Owned(blocks) => self.owned.clone_from(blocks),
                _ => {}
            }
        }
        outputs
    }
}

pub(super) fn assigned(outputs: &[Output]) -> Vec<Endpoint> {
    let endpoints = outputs.iter().filter_map(|output| match output {
        Output::Assigned { endpoint, .. } => Some(endpoint.clone()),
        _ => None,
    });
    endpoints.collect()
}

pub(super) fn refused(outputs: &[Output]) -> Vec<AssignError> {
    let reasons = outputs.iter().filter_map(|output| match output {
        Output::Refused { why, .. } => Some(why.clone()),
        _ => None,
    });
    reasons.collect()
}

pub(super) fn claims(outputs: &[Output]) -> Vec<BlockId> {
    let blocks = outputs.iter().filter_map(|output| match output {
        Output::Claim(block) => Some(*block),
        _ => None,
    });
    blocks.collect()
}

pub(super) fn releases(outputs: &[Output]) -> Vec<BlockId> {
    let blocks = outputs.iter().filter_map(|output| match output {
        Output::Release(block) => Some(*block),
        _ => None,
    });
    blocks.collect()
}

pub(super) fn events(outputs: &[Output]) -> Vec<Event> {
    let events = outputs.iter().filter_map(|output| match output {
        Output::Event(event) => Some(event.clone()),
        _ => None,
    });
    events.collect()
}

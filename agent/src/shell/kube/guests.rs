//! Takes over the pods of this node that another network started, before the blocks in which their addresses lie are
//! heeded.
//!
//! Looks at the links again whenever the API server tells more of whose they are, and from time to time for as long as
//! one of them lives.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnetwork::IpNetwork;
use manx_api::IPBlock;
use manx_ipam::{Endpoint, EndpointId, NodeName};
use manx_kernel::names::{alias, parse_alias};
use manx_kernel::netlink::guests::{Guest, guests, mark};
use manx_kernel::netlink::inspect;
use manx_kernel::netlink::links::{self, LinkError};
use manx_kernel::netlink::socket::Socket;
use manx_kernel::pod::PodLink;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::node::takeover::{HandedOver, Part, handed_over, is_guest, judge};
use crate::shell::events::chain;
use crate::shell::owner::NodeReport;

/// The pause between two looks while there is a guest, or something is not explained.
const LOOK_PAUSE: Duration = Duration::from_secs(5);
/// The pause after a look that failed.
const RETRY: Duration = Duration::from_secs(1);

/// What a look found, for the owner of the node's addresses.
#[derive(Debug, Default)]
pub struct Guests {
    /// Endpoints whose links are ours now, or are held.
    pub found: Vec<Endpoint>,
    /// All endpoints whose links there are.
    pub present: BTreeSet<EndpointId>,
}

/// Keeps the guests of this node.
pub struct Host {
    me: NodeName,
    handed: HandedOver,
    /// What was handed over was looked for.
    looked: bool,
    due: Option<Instant>,
    /// Links that are held, and have been told of.
    held: BTreeSet<String>,
    found: mpsc::Sender<Guests>,
}

impl Host {
    /// Tells `found` whatever a look finds.
    pub fn new(me: NodeName, found: mpsc::Sender<Guests>) -> Self {
        Self { me, handed: HandedOver::default(), looked: false, due: None, held: BTreeSet::new(), found }
    }

    /// The API server shows these blocks of ours.
    pub fn shown<'a>(&mut self, blocks: impl Iterator<Item = &'a IPBlock>) {
        let handed = handed_over(blocks, &self.me);
        if handed != self.handed {
            self.looked &= handed.blocks.is_subset(&self.handed.blocks);
            self.handed = handed;
            self.due = Some(Instant::now());
        }
    }

    /// The node has these endpoints.
    pub fn heard(&mut self, report: &NodeReport) {
        let mut endpoints = report.usage.blocks.iter().flat_map(|block| &block.allocations);
        if self.due.is_none() && endpoints.any(is_guest) {
            self.due = Some(Instant::now() + LOOK_PAUSE);
        }
    }

    /// When the links are to be looked at.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether blocks may be heeded: whoever has addresses in them is known.
    pub fn is_ready(&self) -> bool {
        self.looked || self.handed.blocks.is_empty()
    }

    /// Looks, takes over, and tells.
    pub async fn look(&mut self) {
        let handed = self.handed.clone();
        let looked = tokio::task::spawn_blocking(move || take_over(&handed)).await;
        let look = match looked {
            Ok(Ok(look)) => look,
            Ok(Err(error)) => {
                tracing::error!(error = chain(&error), "the links of another network cannot be taken over");
                self.due = Some(Instant::now() + RETRY);
                return;
            }
            Err(error) => {
                tracing::error!(%error, "looking at the links of another network failed; it is tried again");
                self.due = Some(Instant::now() + RETRY);
                return;
            }
        };
        self.tell(&look);
        self.due = (!look.failed.is_empty() || !look.held.is_empty()).then(|| Instant::now() + LOOK_PAUSE);
        self.looked = true;
        // The owner ends with the process.
        let _ended = self.found.send(look.guests).await;
    }

    fn tell(&mut self, look: &Look) {
        for (link, error) in &look.failed {
            tracing::error!(link, error, "a link of another network cannot be taken over");
        }
        for link in look.held.difference(&self.held) {
            tracing::warn!(
                link,
                "it has an address of this node's and nobody says whose it is: run manxctl migrate again; until then \
                 the address is kept"
            );
        }
        if !look.taken.is_empty() {
            tracing::info!(links = look.taken.len(), "links of another network are ours now");
        }
        self.held.clone_from(&look.held);
    }
}

/// What one look came to.
#[derive(Debug, Default)]
struct Look {
    guests: Guests,
    taken: Vec<String>,
    held: BTreeSet<String>,
    failed: Vec<(String, String)>,
}

fn take_over(handed: &HandedOver) -> Result<Look, LinkError> {
    let mut socket = Socket::route()?;
    let networks: Vec<IpNetwork> = handed.blocks.iter().map(|block| block.cidr()).collect();
    let guests = guests(&mut socket, &networks)?;
    let mut look = Look::default();
    for (index, part) in judge(handed, &guests) {
        let Some(guest) = guests.iter().find(|guest| guest.end.index == index) else { continue };
        let name = guest.end.name.clone();
        match part {
            Part::Adopt(endpoint) => {
                match adopt(&mut socket, guest, &endpoint) {
                    Ok(true) => look.taken.extend((guest.end.alias.is_none()).then_some(name)),
                    Ok(false) => continue,
                    // It has its address nevertheless, and is tried again.
                    Err(error) => look.failed.push((name, chain(&error))),
                }
                look.guests.present.insert(endpoint.id.clone());
                look.guests.found.push(endpoint);
            }
            Part::Hold(endpoint) => {
                mark(&mut socket, index, &alias(&endpoint.id.container, &endpoint.id.ifname))?;
                look.held.insert(name);
                look.guests.found.push(endpoint);
            }
        }
    }
    for end in inspect::ends(&mut socket)? {
        if let Some((container, ifname)) = end.alias.as_deref().and_then(parse_alias) {
            let id = EndpointId { container: container.to_owned(), ifname: ifname.to_owned() };
            look.guests.present.insert(id);
        }
    }
    Ok(look)
}

/// Makes a link ours; false when its pod has gone meanwhile.
fn adopt(socket: &mut Socket, guest: &Guest, endpoint: &Endpoint) -> Result<bool, LinkError> {
    let Some(mac) = guest.mac else { return Ok(false) };
    let link = PodLink {
        container: endpoint.id.container.clone(),
        ifname: endpoint.id.ifname.clone(),
        link: guest.end.name.clone(),
        addresses: endpoint.addresses.clone(),
        mtu: guest.end.mtu,
        mac,
    };
    links::take_over(socket, &link, guest.end.index).map(|()| true)
}

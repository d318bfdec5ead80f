//! What this node has in the way of links and addresses, for status and diagnosis.
//!
//! Read through `rtnetlink`, whose types know far more of links than [`crate::model`] needs to.

use std::collections::BTreeMap;
use std::io;

use futures_util::TryStreamExt;
use ipnetwork::IpNetwork;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage};

/// A link and its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Index, unique in the network namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// `veth`, `vxlan`, `bond`, …; empty for hardware.
    pub kind: String,
    /// Whether it is administratively up and has carrier.
    pub running: bool,
    /// Largest packet in octets.
    pub mtu: u32,
    /// Addresses with the lengths of their prefixes, in the order of the kernel.
    pub addresses: Vec<IpNetwork>,
}

/// The links and addresses cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The system gives no socket.
    #[error("cannot open a netlink socket")]
    Socket(#[from] io::Error),
    /// The kernel refused a dump.
    #[error("cannot read the links and addresses of this node")]
    Dump(#[from] rtnetlink::Error),
    /// The connection ended before its time.
    #[error("the kernel closed the netlink connection while it was read")]
    Closed,
}

/// Reads all links and their addresses, in the current network namespace.
///
/// # Errors
///
/// When the kernel cannot be asked.
pub async fn read() -> Result<Vec<Interface>, InventoryError> {
    let (connection, handle, _notifications) = rtnetlink::new_connection_with_strict_check()?;
    tokio::select! {
        () = connection => Err(InventoryError::Closed),
        interfaces = read_through(handle) => interfaces,
    }
}

async fn read_through(handle: Handle) -> Result<Vec<Interface>, InventoryError> {
    let mut addresses = BTreeMap::<u32, Vec<IpNetwork>>::new();
    let mut dump = handle.address().get().execute();
    while let Some(message) = dump.try_next().await? {
        addresses.entry(message.header.index).or_default().extend(network(&message));
    }
    let links = handle
        .link()
        .get()
        .set_filter_mask(rtnetlink::packet_route::AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
    let mut interfaces: Vec<Interface> = links.execute().map_ok(interface).try_collect().await?;
    for interface in &mut interfaces {
        interface.addresses = addresses.remove(&interface.index).unwrap_or_default();
    }
    Ok(interfaces)
}

fn network(message: &AddressMessage) -> Option<IpNetwork> {
    let (mut local, mut remote) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            // On a point-to-point link this is the other end.
            AddressAttribute::Address(address) => remote = Some(*address),
            _ => {}
        }
    }
    IpNetwork::new(local.or(remote)?, message.header.prefix_len).ok()
}

fn interface(message: LinkMessage) -> Interface {
    let mut interface = Interface {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        running: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        mtu: 0,
        addresses: Vec::new(),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::Mtu(mtu) => interface.mtu = mtu,
            LinkAttribute::LinkInfo(infos) => {
                let kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
                interface.kind = kind.unwrap_or_default();
            }
            _ => {}
        }
    }
    interface
}

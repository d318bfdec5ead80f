//! What the kernel says of the network namespace of this thread, read anew.

use manx_facts::kernel::{Kernel, KernelQuestion};
use manx_kernel::netlink::socket::{Socket, SocketError};

use super::{guards, links, programs, routes, settings};

/// Room for the kernel's answers, in octets.
const BUFFER: usize = 4 << 20;
/// The most routes that are told, unless asked for another number.
const MOST_ROUTES: usize = 100_000;

/// Reads it, with the guards of pods' links. What cannot be read is named.
pub(super) fn look_at_node(question: &KernelQuestion) -> Kernel {
    let mut kernel = look(question);
    match guards::look() {
        Ok(guards) => kernel.guards = Some(guards),
        Err(why) => kernel.unread.push(format!("guards of pods' links: {why}")),
    }
    kernel
}

/// Reads it. What cannot be read is named.
pub(super) fn look(question: &KernelQuestion) -> Kernel {
    let mut kernel = Kernel::default();
    let mut socket = match Socket::route() {
        Ok(socket) => socket,
        Err(error) => {
            kernel.unread.push(format!("netlink: {error}"));
            return kernel;
        }
    };
    socket.enlarge_buffers(BUFFER);
    let unread = &mut kernel.unread;
    kernel.links = read("links", links::links(&mut socket), unread);
    read("filters of tc", programs::filters(&mut socket, &mut kernel.links), unread);
    kernel.addresses = read("addresses", links::addresses(&mut socket), unread);
    kernel.neighbours = read("neighbours", links::neighbours(&mut socket), unread);
    kernel.rules = read("rules", routes::rules(&mut socket), unread);
    let most = usize::try_from(question.most_routes).ok().filter(|most| *most > 0).unwrap_or(MOST_ROUTES);
    let (routes, left_out) = read("routes", routes::routes(&mut socket, &question.around, most), unread);
    (kernel.routes, kernel.routes_left_out) = (routes, left_out);
    kernel.settings = settings::settings(&kernel.links);
    kernel
}

fn read<T: Default>(what: &str, result: Result<T, SocketError>, unread: &mut Vec<String>) -> T {
    result.unwrap_or_else(|error| {
        unread.push(format!("{what}: {error}"));
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use manx_facts::kernel::{RouteKind, TABLE_LOCAL, TABLE_MAIN};

    use super::*;

    #[test]
    fn the_namespace_of_this_process_is_read_whole() {
        let kernel = look(&KernelQuestion::default());
        assert_eq!(kernel.unread, Vec::<String>::new());
        let lo = kernel.link_named("lo").expect("every namespace has it");
        assert_eq!((lo.index, &lo.kind), (1, &None));
        assert!(kernel.addresses.iter().all(|address| kernel.link(address.link).is_some()));
        assert!(kernel.rules.iter().any(|rule| !rule.ipv6 && rule.table == TABLE_MAIN));
        assert!(kernel.setting("net/ipv4/ip_forward").is_some() && kernel.ipv4("lo", "rp_filter").is_some());
        if lo.up {
            let own = kernel.route_in(TABLE_LOCAL, Ipv4Addr::LOCALHOST.into()).expect("a route to itself");
            assert_eq!((own.kind, own.hops.first().map(|hop| hop.link)), (RouteKind::Local, Some(1)));
        }
    }

    #[test]
    fn routes_can_be_asked_for_around_an_address_and_are_bounded() {
        let around = vec![IpAddr::from(Ipv4Addr::LOCALHOST).into()];
        let some = look(&KernelQuestion { around, most_routes: 0 });
        assert!(some.routes.iter().all(|route| route.dst.contains(Ipv4Addr::LOCALHOST.into())));
        let all = look(&KernelQuestion::default());
        let one = look(&KernelQuestion { most_routes: 1, ..KernelQuestion::default() });
        let all = u64::try_from(all.routes.len()).expect("few");
        assert_eq!(u64::try_from(one.routes.len()).expect("one") + one.routes_left_out, all);
    }
}

//! What the kernel says of the network namespace of this thread, read anew.

use manx_facts::kernel::{Kernel, KernelQuestion};
use manx_kernel::netlink::socket::{Socket, SocketError};

use super::{links, routes, settings};

/// Room for the kernel's answers, in octets.
const BUFFER: usize = 4 << 20;
/// The most routes that are told, unless asked for another number.
const MOST_ROUTES: usize = 100_000;

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

//! Filters of tc and XDP programs on links, out of netlink messages.

use manx_facts::kernel::{Link, Program, ProgramPlace};
use manx_kernel::netlink::request::{Batch, Message, attribute, attributes, read_str, read_u32};
use manx_kernel::netlink::socket::{Socket, SocketError};
use nix::libc;

const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
/// Octets of `struct tcmsg`.
const BODY: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;
/// Where filters of the disciplines `clsact` and `ingress` hang.
const PLACES: [(u32, ProgramPlace); 2] =
    [(0xffff_fff2, ProgramPlace::Ingress), (0xffff_fff3, ProgramPlace::Egress)];

/// The XDP program of a link, out of its attribute.
pub(super) fn xdp(kind: u16, value: &[u8]) -> Option<Program> {
    let of_kind = |wanted| attribute(value, wanted);
    (kind == IFLA_XDP && *of_kind(IFLA_XDP_ATTACHED)?.first()? != 0).then(|| Program {
        place: ProgramPlace::Xdp,
        id: of_kind(IFLA_XDP_PROG_ID).and_then(read_u32),
        ..Program::default()
    })
}

/// Adds the filters of tc to the links that have any.
pub(super) fn filters(socket: &mut Socket, links: &mut [Link]) -> Result<(), SocketError> {
    let disciplines = socket.dump(&mut Batch::of(RTM_GETQDISC, libc::NLM_F_DUMP, &[0; BODY], |_| {}))?;
    let mut found = Vec::new();
    for discipline in disciplines.iter() {
        let kind = discipline.attribute(BODY, TCA_KIND).map(read_str).unwrap_or_default();
        let index = discipline.body::<BODY>().and_then(|body| read_u32(&body[4..]));
        if let (Some(index), "clsact" | "ingress") = (index, &*kind) {
            found.push((index, kind == "clsact"));
        }
    }
    for (index, both) in found {
        let Some(link) = links.iter_mut().find(|link| link.index == index) else { continue };
        for (parent, place) in PLACES.into_iter().take(if both { 2 } else { 1 }) {
            let mut body = [0; BODY];
            body[4..8].copy_from_slice(&index.to_ne_bytes());
            body[12..16].copy_from_slice(&parent.to_ne_bytes());
            let replies = socket.dump(&mut Batch::of(RTM_GETTFILTER, libc::NLM_F_DUMP, &body, |_| {}))?;
            for program in replies.iter().filter_map(|message| filter(&message, place)) {
                // Some kinds tell each of their parts.
                if !link.programs.contains(&program) {
                    link.programs.push(program);
                }
            }
        }
    }
    Ok(())
}

fn filter(message: &Message<'_>, place: ProgramPlace) -> Option<Program> {
    if message.kind != RTM_NEWTFILTER {
        return None;
    }
    let mut program = Program { place, ..Program::default() };
    let mut options: &[u8] = &[];
    for (kind, value) in message.attributes(BODY) {
        match kind {
            TCA_KIND => program.kind = read_str(value),
            TCA_OPTIONS => options = value,
            _ => {}
        }
    }
    if program.kind == "bpf" {
        for (kind, value) in attributes(options) {
            match kind {
                TCA_BPF_NAME => program.name = Some(read_str(value)),
                TCA_BPF_ID => program.id = read_u32(value),
                _ => {}
            }
        }
    }
    Some(program)
}

//! What is to be said of somebody's rules of nf_tables: their comments, their places, and whether iptables wrote them.

use std::collections::BTreeMap;

use nix::libc;

use super::expression::NFTA_EXPR_NAME;
use super::nftables::{
    BODY, NFTA_EXPR_DATA, NFTA_LIST_ELEM, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_HANDLE,
    NFTA_RULE_TABLE, NFTA_RULE_USERDATA, kind,
};
use super::request::{Batch, Message, attribute, attributes, read_str};
use super::socket::{Socket, SocketError};

/// Of `match`, an expression that stands for one of iptables.
const NFTA_MATCH_NAME: u16 = 1;
const NFTA_MATCH_INFO: u16 = 3;

/// What there is to say of a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleNote {
    /// Its comment.
    pub comment: Option<String>,
    /// Which one of its chain it is, from 1.
    pub line: u32,
    /// Whether it is made of matches or targets of iptables.
    pub xtables: bool,
}

/// The rules of a table, by handle. `family` is as nft says it.
pub(super) fn notes(
    socket: &mut Socket,
    family: &str,
    table: &str,
) -> Result<BTreeMap<u64, RuleNote>, SocketError> {
    let number = match family {
        "ip" => libc::NFPROTO_IPV4,
        "ip6" => libc::NFPROTO_IPV6,
        "netdev" => libc::NFPROTO_NETDEV,
        "bridge" => libc::NFPROTO_BRIDGE,
        _ => libc::NFPROTO_INET,
    };
    let body = [number as u8, 0, 0, 0];
    let mut request = Batch::of(kind(libc::NFT_MSG_GETRULE), libc::NLM_F_DUMP, &body, |attributes| {
        attributes.put_str(NFTA_RULE_TABLE, table);
    });
    let (mut notes, mut lines) = (BTreeMap::new(), BTreeMap::<String, u32>::new());
    socket.visit(&mut request, |rule| {
        if let Some((handle, chain, mut note)) = read(rule) {
            let line = lines.entry(chain).or_default();
            *line += 1;
            note.line = *line;
            notes.insert(handle, note);
        }
    })?;
    Ok(notes)
}

fn read(rule: &Message<'_>) -> Option<(u64, String, RuleNote)> {
    let (mut handle, mut chain, mut note) = (None, String::new(), RuleNote::default());
    for (kind, value) in rule.attributes(BODY) {
        match kind {
            NFTA_RULE_HANDLE => handle = value.first_chunk().map(|octets| u64::from_be_bytes(*octets)),
            NFTA_RULE_CHAIN => chain = read_str(value),
            // As nft writes a comment: kind 0, length with the final zero, text.
            NFTA_RULE_USERDATA if value.first() == Some(&0) => {
                note.comment = value.get(2..).map(read_str);
            }
            NFTA_RULE_EXPRESSIONS => {
                let all = attributes(value).filter(|(kind, _)| *kind == NFTA_LIST_ELEM);
                all.for_each(|(_, expression)| see(expression, &mut note));
            }
            _ => {}
        }
    }
    Some((handle?, chain, note))
}

fn see(expression: &[u8], note: &mut RuleNote) {
    let name = attribute(expression, NFTA_EXPR_NAME).map(read_str).unwrap_or_default();
    note.xtables |= name == "match" || name == "target";
    let data = attribute(expression, NFTA_EXPR_DATA).filter(|_| name == "match");
    if let Some(data) = data
        && attribute(data, NFTA_MATCH_NAME).map(read_str).as_deref() == Some("comment")
    {
        note.comment = attribute(data, NFTA_MATCH_INFO).map(read_str);
    }
}

//! What the agent's BGP speaker knows, as its loopback pages tell it.

use manx_facts::bgp::{Explain, Explained, Routes, RoutesQuestion, Side};
use serde::de::DeserializeOwned;

use super::page;
use crate::shell::bgp::RoutesPart;
use crate::shell::options::Look;

/// The most routes that are told, unless asked for another number.
const MOST: usize = 10_000;
/// The most that are told at all, however many are asked for.
const LIMIT: usize = 1_000_000;

/// Why a prefix is where it is.
pub(super) async fn explain(question: &Explain, place: &Look) -> Result<Explained, String> {
    let covering = if question.covering { "&covering=1" } else { "" };
    read(place, &format!("/bgp/explain?format=json&prefix={}{covering}", question.prefix)).await
}

/// A part of a table, put together of pieces small enough that the speaker goes on between them.
pub(super) async fn routes(question: &RoutesQuestion, place: &Look) -> Result<Routes, String> {
    let most = usize::try_from(question.most).ok().filter(|most| *most > 0).unwrap_or(MOST).min(LIMIT);
    let path = path(question);
    let mut all = Routes::default();
    let mut next = Some(0);
    while let Some(from) = next {
        let part: RoutesPart = read(place, &format!("{path}&from={from}")).await?;
        let room = most - all.routes.len();
        all.left_out += u64::try_from(part.routes.len().saturating_sub(room)).unwrap_or(u64::MAX);
        all.routes.extend(part.routes.into_iter().take(room));
        next = part.next;
    }
    all.routes.sort_by(|one, other| (one.prefix, &one.peer).cmp(&(other.prefix, &other.peer)));
    Ok(all)
}

fn path(question: &RoutesQuestion) -> String {
    let side = match question.side {
        Side::Best => "best",
        Side::In => "in",
        Side::Out => "out",
    };
    let mut path = format!("/bgp/routes?side={side}");
    if let Some(peer) = &question.peer {
        path += &format!("&peer={peer}");
    }
    if let Some(within) = question.within {
        path += &format!("&within={within}");
    }
    path
}

async fn read<T: DeserializeOwned>(place: &Look, path: &str) -> Result<T, String> {
    let page = page::get(place.health_listen, path).await?;
    match page.status {
        200 => serde_json::from_slice(&page.body).map_err(|error| {
            format!("what the agent answers cannot be read ({error}): is it of another version?")
        }),
        _ => Err(page.text()),
    }
}

//! Where the state's events come from: the objects that the API server tells of, and nodes that can be asked.

use std::pin::pin;
use std::time::Duration;

use anyhow::Result;
use futures_util::StreamExt as _;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::state::Event;
use crate::Context;
use crate::cluster::{Cluster, Part};

/// Events on their way to the state.
const AHEAD: usize = 1024;
/// What happens to objects meanwhile is told at once.
const PAUSE: Duration = Duration::from_millis(400);

/// A way for events.
pub(crate) fn events() -> (Sender<Event>, Receiver<Event>) {
    mpsc::channel(AHEAD)
}

/// What happened, all of it that is there; waits for the first.
pub(crate) async fn next(events: &mut Receiver<Event>) -> Vec<Event> {
    let mut happened = Vec::new();
    events.recv_many(&mut happened, AHEAD).await;
    happened
}

/// Follows all objects for as long as it is polled.
///
/// # Errors
/// When they cannot be read at all.
pub(crate) async fn follow(context: &Context, events: Sender<Event>) -> Result<()> {
    let mut objects = pin!(Cluster::follow(context, &Part::ALL).await?);
    while let Some(now) = objects.next().await {
        if events.send(Event::Objects(Box::new(now?))).await.is_err() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

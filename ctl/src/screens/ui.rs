//! `manxctl ui`: a page for the browser of this machine, and of nobody else.
//!
//! It listens on loopback only. Who asks must know the random word in the address that is printed, and must have asked
//! for this very host: neither a page from elsewhere nor a name that resolves to this machine gets anything. Nothing can
//! be written by it.

mod door;
mod serve;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use manx_api::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::Shown;
use super::board::Board;
use super::feed;
use super::listen::listen;
use super::state::{Event, State};
use crate::Context;
use door::Door;

/// How often the page is brought up to date.
const TICK: Duration = Duration::from_secs(1);
/// How long changes of objects are gathered before they are shown.
const SOON: Duration = Duration::from_millis(150);

/// Where the page is, and what it shows.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  manxctl ui                     # open the printed address in a browser
  ssh -L 9178:127.0.0.1:9178 ops manxctl ui    # from another machine")]
pub(crate) struct Options {
    /// The port on 127.0.0.1; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value = "9178")]
    port: u16,
    #[command(flatten)]
    shown: Shown,
}

/// Serves until Ctrl-C.
pub(crate) async fn run(options: Options, context: &Context) -> Result<ExitCode> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: say another --port, or 0 for any"))?;
    let door = Arc::new(Door::new(listener.local_addr()?.port())?);
    crate::write_out(format!("{}\n", door.address()).as_bytes())?;
    eprintln!("Open this address in a browser of this machine. Ctrl-C ends it.");
    let (board, shown) = watch::channel(Board::default());
    let (sender, events) = feed::events();
    let state = State::new(context.cluster_name(), options.shown.group_by.clone());
    tokio::select! {
        () = keep(state, events, board) => {}
        followed = feed::follow(context, sender.clone()) => followed?,
        () = serve::serve(listener, door, shown) => {}
        () = listen(context, sender.clone()), if !options.shown.objects_only => {}
        ended = crate::screens::ended() => ended?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Keeps the board as the state is.
async fn keep(mut state: State, mut events: Receiver<Event>, board: watch::Sender<Board>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            happened = feed::next(&mut events) => {
                let counted = |event: &Event| matches!(event, Event::Counted(..));
                let soon = !happened.iter().all(counted);
                happened.into_iter().for_each(|event| state.handle(event, Timestamp::now()));
                if !soon {
                    continue;
                }
                tokio::time::sleep(SOON).await;
            }
            _ = tick.tick() => state.handle(Event::Tick, Timestamp::now()),
        }
        // The server itself holds one; without another nobody looks, and nothing is drawn.
        if board.receiver_count() > 1 {
            let view = state.view();
            board.send_if_modified(|board| board.show(&view));
        }
    }
}

//! `manxctl top`: the cluster in a terminal, live.
//!
//! Only cells that changed are written, once a second or as often as was asked for, and at once after a key: slow links
//! keep up. The terminal is given back however the program ends.

mod columns;
mod desk;
mod draw;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use manx_api::Timestamp;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event;
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::MissedTickBehavior;

use super::Shown;
use super::feed;
use super::listen::listen;
use super::state::{Event, State};
use crate::Context;
use desk::{Desk, Page, Pressed};

/// How often a thread that waits for keys looks whether anybody still wants them.
const GLANCE: Duration = Duration::from_millis(250);

/// What is shown first, and how often.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  manxctl top
  manxctl top sessions --every 5      # over a slow link")]
pub(crate) struct Options {
    /// What to begin with.
    #[arg(value_enum, default_value = "nodes")]
    page: Page,
    /// Seconds from one drawing to the next.
    #[arg(long, value_name = "SECONDS", default_value = "1")]
    every: f32,
    #[command(flatten)]
    shown: Shown,
}

/// Draws until q is pressed.
pub(crate) async fn run(options: Options, context: &Context) -> Result<ExitCode> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!("top draws on a terminal, and this is none: use `manxctl status` or `manxctl status -o json`");
    }
    let every = Duration::try_from_secs_f32(options.every).ok().filter(|every| !every.is_zero());
    let every = every.with_context(|| format!("--every {} is no time", options.every))?;
    let (sender, events) = feed::events();
    let state = State::new(context.cluster_name(), options.shown.group_by.clone());
    context.client().await?;
    let keys = keys();
    // From here on a panic gives the terminal back, too.
    let mut terminal = ratatui::try_init().context("the terminal cannot be drawn on")?;
    let result = tokio::select! {
        drawn = draw(&mut terminal, state, events, keys, Desk::new(options.page), every) => drawn,
        followed = feed::follow(context, sender.clone()) => followed,
        () = listen(context, sender.clone()), if !options.shown.objects_only => Ok(()),
        ended = super::ended() => ended.map_err(Into::into),
    };
    ratatui::restore();
    result?;
    Ok(ExitCode::SUCCESS)
}

/// Keys and new sizes, as they come.
fn keys() -> Receiver<event::Event> {
    let (sender, keys) = mpsc::channel(64);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            let said = match event::poll(GLANCE) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let Ok(said) = said else { return };
            if sender.blocking_send(said).is_err() {
                return;
            }
        }
    });
    keys
}

async fn draw(
    terminal: &mut DefaultTerminal,
    mut state: State,
    mut events: Receiver<Event>,
    mut keys: Receiver<event::Event>,
    mut desk: Desk,
    every: Duration,
) -> Result<()> {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut tick = tokio::time::interval(every);
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut complete = false;
    let mut view = state.view();
    loop {
        tokio::select! {
            happened = feed::next(&mut events) => {
                happened.into_iter().for_each(|event| state.handle(event, Timestamp::now()));
                if complete {
                    continue;
                }
                view = state.view();
                complete = view.summary.complete;
            }
            _ = second.tick() => {
                state.handle(Event::Tick, Timestamp::now());
                continue;
            }
            _ = tick.tick() => if !desk.paused() { view = state.view() },
            key = keys.recv() => match key {
                None => bail!("the terminal is gone"),
                Some(event::Event::Key(key)) => if desk.press(key, &view) == Pressed::Quit { return Ok(()) },
                Some(_) => {}
            },
        }
        let now = Timestamp::now();
        terminal.draw(|frame| draw::draw(frame, &view, &mut desk, now))?;
    }
}

//! `manxctl top` on a terminal and `manxctl ui` in a browser, for an operator who has only the roles that ship: both ask
//! the agents by exec.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manx_tests::kubernetes::Cluster;
use manx_tests::lab::netns;
use manx_tests::screens::browser::{Browser, Tab};
use manx_tests::screens::terminal::Terminal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::eyes::Person;
use super::ground::Ground;
use super::{Scenario, shared};

/// The scenarios of this module.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("top_shows_nodes_sessions_and_pods_that_start_and_gives_the_terminal_back", top),
    ("the_page_shows_a_session_that_goes_and_comes_again_without_a_reload", page),
];

/// How long it may take until a page has its address.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first event of the page's data, as whoever opens the page gets it.
const FIRST_EVENT: &str = "(async () => { const reader = (await fetch('events')).body.getReader(); \
    const words = new TextDecoder(); let text = ''; \
    while (!text.includes('\\n\\n')) text += words.decode((await reader.read()).value, {stream: true}); \
    reader.cancel(); return text.split('data: ')[1].split('\\n\\n')[0]; })()";

/// Carries a future out on this thread, and so in its network.
fn carry_out<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// The words of a command line.
fn words(command: &Command) -> Vec<String> {
    let all = std::iter::once(command.get_program()).chain(command.get_args());
    all.map(|word| word.to_string_lossy().into_owned()).collect()
}

/// The pods that start and stop per second, out of the line of totals: `pods +1.2 -0.0/s`.
fn pods_per_second(screen: &str) -> Option<(f64, f64)> {
    let (_, rest) = screen.split_once("pods +")?;
    let (started, rest) = rest.split_once(" -")?;
    Some((started.parse().ok()?, rest.split_once("/s")?.0.parse().ok()?))
}

fn top() -> Result<()> {
    let cluster = &*shared()?;
    let person = Person::new(cluster, "before-top", true)?;
    let ground = Ground::new(cluster, "top", &json!({}))?;
    ground.deployment("web", 1, &json!({}))?;
    ground.ready("web", 1)?;
    carry_out(async {
        let mut terminal = Terminal::start(&words(&person.manxctl.command(&["top"])?), 40, 170)?;
        let nodes =
            |screen: &str| ["node1", "node2", "node3", "nodes 3/3"].iter().all(|word| screen.contains(word));
        terminal.until(|screen| nodes(screen) && screen.contains("sessions 9/9")).await?;
        let all_answer = |screen: &str| pods_per_second(screen).is_some() && !screen.contains("not asked");
        terminal.until(all_answer).await.context("every node answers")?;

        ground.kubectl(&["scale", "deployment/web", "--replicas=7"])?;
        terminal.until(|screen| pods_per_second(screen).is_some_and(|(up, _)| up > 0.0)).await?;
        ground.ready("web", 7)?;
        terminal.until(|screen| pods_per_second(screen) == Some((0.0, 0.0))).await.context("it ebbs away")?;
        ground.kubectl(&["scale", "deployment/web", "--replicas=0"])?;
        terminal.until(|screen| pods_per_second(screen).is_some_and(|(_, down)| down > 0.0)).await?;
        terminal.type_keys("2")?;
        terminal.until(|screen| screen.contains("Established") && screen.contains("node/node3")).await?;
        terminal.type_keys("q")?;
        let after = terminal.end().await?;
        ensure!(after.contains("ended 0") && after.contains("mode as before"), "{after}");
        ensure!(!after.contains("q quit"), "the first screen is back: {after}");
        Ok(())
    })?;
    ground.finish()
}

fn page() -> Result<()> {
    let cluster = &*shared()?;
    let person = Person::new(cluster, "before-page", true)?;
    let ui = person.manxctl.command(&["ui", "--port", "0"])?;
    // The page is on the loopback of where the API server is, and so is the browser.
    netns::enter(&cluster.control_plane_host().netns, || carry_out(look(cluster, &ui)))
}

async fn look(cluster: &Cluster, ui: &Command) -> Result<()> {
    let Some(mut browser) = Browser::start().await? else { return Ok(()) };
    let words = words(ui);
    let mut command = tokio::process::Command::new(&words[0]);
    let mut process = command.args(&words[1..]).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(process.stdout.take().context("a pipe")?).lines();
    let address =
        tokio::time::timeout(PATIENCE, lines.next_line()).await??.context("it printed no address")?;
    let mut tab = browser.open(1440, 900).await?;
    tab.go(&address).await?;
    tab.until("document.documentElement.dataset.drawn == 'complete'").await?;
    tab.until("document.querySelector('#figures').textContent.includes('pods now')").await?;
    data(&mut tab).await?;

    for (count, selector) in [(3, "[data-node]"), (1, "[data-router=tor]"), (6, ".t-edge[data-up=true]")] {
        tab.until(&format!("document.querySelectorAll('{selector}').length == {count}")).await?;
    }
    tab.evaluate("window.stayed = true").await?;
    let router = cluster.router();
    router.birdc(&["disable", "node3", "\"moving racks\""])?;
    let red = tab.until("document.querySelector('[data-node=node3]').dataset.state == 'bad'").await;
    let why = tab.until("document.querySelector('.t-why').textContent.includes('moving racks')").await;
    let once = tab.until("document.querySelectorAll('[data-router]').length == 1").await;
    router.birdc(&["enable", "node3"])?;
    red?;
    why?;
    once.context("the router stays one while a session is down")?;
    tab.until("document.querySelectorAll('.t-edge[data-up=true]').length == 6").await?;
    tab.until("document.querySelectorAll('.t-edge.down, .t-node.bad').length == 0").await?;
    tab.until("window.stayed === true").await.context("it was loaded again")?;
    ensure!(tab.complaints().is_empty(), "the console says: {:#?}", tab.complaints());
    Ok(())
}

/// What the page is made of names every node with its sessions and its routes.
async fn data(tab: &mut Tab) -> Result<()> {
    let event = tab.evaluate(FIRST_EVENT).await?;
    let event: Value = serde_json::from_str(event.as_str().context("text")?)?;
    let pieces = &event["set"];
    for node in ["node1", "node2", "node3"] {
        let sessions = pieces[format!("sessions/{node}")].as_array().with_context(|| format!("{event}"))?;
        let up = sessions.iter().filter(|session| session["up"] == true).count();
        ensure!((up, sessions.len()) == (3, 3), "{node}: {sessions:?}");
        let routes = pieces[format!("rates/{node}")][0]["routes"].as_u64();
        ensure!(routes.is_some_and(|routes| routes > 0), "{node}: {routes:?}");
    }
    let summary = &pieces["summary"];
    ensure!(summary["nodes"] == 3 && summary["nodesAsked"] == 3, "{summary}");
    ensure!(summary["sessionsUp"] == summary["sessions"], "{summary}");
    Ok(())
}

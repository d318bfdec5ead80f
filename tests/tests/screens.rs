//! `manxctl ui` in a real browser, and `manxctl top` on a real terminal: a cluster in the embedded API server, and nodes
//! that answer what counters they are told to.

#[path = "screens/cluster.rs"]
mod cluster;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::{Cluster, Shape, Ui};
use manx_tests::screens::browser::{Browser, Tab};
use manx_tests::screens::terminal::Terminal;

/// Set to a folder: pictures of the pages are written there.
const PICTURES: &str = "MANX_SCREENS";

/// Notes how long the page is busy at a time.
const WATCH_TASKS: &str = "(window.tasks = [], new PerformanceObserver(list => \
    window.tasks.push(...list.getEntries().map(task => Math.round(task.duration)))).observe({type: 'longtask'}), 0)";

/// Says so, with what the page was told first and what it has in memory.
const TOLD_TASKS: &str = "(async () => { const reader = (await fetch('events')).body.getReader(); \
    const words = new TextDecoder(); let text = ''; \
    while (!text.includes('\\n\\n')) text += words.decode((await reader.read()).value, {stream: true}); reader.cancel(); \
    return `the page: ${text.length} octets to begin with, ${performance.memory.usedJSHeapSize >> 20} MiB, ` \
        + `${window.tasks.length} tasks above 50 ms, the longest ${Math.max(0, ...window.tasks)} ms`; })()";

/// Ten of sixty nodes never answer, and one falls silent after its fifth answer.
const SOME_HANG: &str = r#"read question
case $1 in node1?) exec sleep 3600 ;; esac
for number in $(seq 1000); do
    echo "{\"ok\":{\"time\":$(date +%s%N),\"ready\":true,\"started\":$number}}" || exit 0
    case $1-$number in node2-5) exec sleep 3600 ;; esac
    sleep 4
done"#;

/// A program that was built before, beside this test's folder; `None` where there is none, which is a failure under CI.
fn program(name: &str) -> Option<PathBuf> {
    let exe = std::env::current_exe().expect("a test is a program");
    let program = exe.ancestors().nth(2).expect("target/debug").join(name);
    if program.exists() {
        return Some(program);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is not built", program.display());
    eprintln!("skipped: {} is not built", program.display());
    None
}

/// A page that shows this cluster.
async fn page(cluster: &Cluster, view: &str) -> Result<Option<(Ui, Browser, Tab)>> {
    let Some(manxctl) = program("manxctl") else { return Ok(None) };
    let Some(mut browser) = Browser::start().await? else { return Ok(None) };
    let ui = cluster.ui(&manxctl).await?;
    let mut tab = browser.open(1440, 900).await?;
    tab.go(&format!("{}#/{view}", ui.address)).await?;
    tab.until("document.documentElement.dataset.drawn == 'complete'").await?;
    Ok(Some((ui, browser, tab)))
}

/// What every page must be: without complaints, and asking for nothing from elsewhere.
fn clean(tab: &Tab, ui: &Ui) -> Result<()> {
    ensure!(tab.complaints().is_empty(), "the console says: {:#?}", tab.complaints());
    let host = ui.address.split('/').take(3).collect::<Vec<_>>().join("/");
    let elsewhere: Vec<&String> = tab.asked().iter().filter(|url| !url.starts_with(&host)).collect();
    ensure!(elsewhere.is_empty(), "asked elsewhere: {elsewhere:?}");
    ensure!(tab.asked().len() >= 8, "the requests were not seen: {:?}", tab.asked());
    Ok(())
}

async fn picture(tab: &mut Tab, name: &str) -> Result<()> {
    let picture = tab.picture().await?;
    ensure!(picture.starts_with(b"\x89PNG"), "no picture");
    if let Some(folder) = std::env::var_os(PICTURES) {
        std::fs::write(PathBuf::from(folder).join(format!("{name}.png")), picture)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_goes_down_turns_red_without_a_reload() -> Result<()> {
    let cluster = Cluster::of(3).await?;
    let Some((ui, _browser, mut tab)) = page(&cluster, "overview").await? else { return Ok(()) };
    for (count, selector) in [
        (3, "[data-node]"),
        (1, "[data-router=tor]"),
        // Three with the router, and three between the nodes.
        (6, ".t-edge[data-up=true]"),
        (0, ".t-edge.down, .t-node.bad, .t-router.bad"),
        (1, "#findings li.well"),
    ] {
        tab.until(&format!("document.querySelectorAll('{selector}').length == {count}")).await?;
    }
    tab.until("document.querySelector('#figures').textContent.includes('+2.0')")
        .await
        .context("pods per second")?;
    picture(&mut tab, "ui-well").await?;
    tab.evaluate("window.stayed = true").await?;

    cluster.session("node3", "peer/tor", Some("peer: Hold Timer Expired")).await?;

    tab.until("document.querySelector('[data-node=node3]').dataset.state == 'bad'").await?;
    tab.until("document.querySelectorAll('.t-edge.down').length == 1").await?;
    tab.until("document.querySelector('.t-why').textContent == 'peer: Hold Timer Expired'").await?;
    tab.until("document.querySelector('#findings').textContent.includes('Hold Timer Expired')").await?;
    let red = "getComputedStyle(document.querySelector('.t-edge.down')).stroke";
    let green = "getComputedStyle(document.querySelector('.t-edge[data-up=true]')).stroke";
    tab.until(&format!("{red} != {green}")).await?;
    tab.until("window.stayed === true").await.context("it was loaded again")?;
    picture(&mut tab, "ui-session-down").await?;

    cluster.session("node3", "peer/tor", None).await?;
    tab.until("document.querySelectorAll('.t-edge.down').length == 0").await?;
    clean(&tab, &ui)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_view_works_by_keyboard_and_shows_what_there_is() -> Result<()> {
    let cluster = Cluster::of(3).await?;
    let Some((ui, _browser, mut tab)) = page(&cluster, "overview").await? else { return Ok(()) };
    tab.until("document.querySelectorAll('[data-node]').length == 3").await?;
    tab.evaluate("document.querySelector('[data-node=node2]').focus()").await?;
    tab.press("Enter").await?;
    tab.until("document.querySelector('#chosen h2').textContent == 'node2'").await?;
    tab.until("document.querySelectorAll('#chosen .peers li').length == 3").await?;
    tab.until("document.activeElement.dataset.node == 'node2'").await.context("the focus stays")?;
    tab.evaluate("document.querySelector('#tab-overview').focus()").await?;
    tab.press("ArrowRight").await?;
    tab.until("document.querySelectorAll('[data-pool=pods-v4] [data-block]').length == 6").await?;
    tab.until("document.querySelectorAll('[data-pool=pods-v6] [data-block]').length == 3").await?;
    tab.evaluate("document.querySelector('[data-block] ').focus()").await?;
    tab.press("ArrowRight").await?;
    tab.until("document.querySelector('#tip').textContent.includes('10.244.0.64/26')").await?;
    picture(&mut tab, "ui-blocks-small").await?;
    tab.evaluate("document.querySelector('#block-filter').focus()").await?;
    tab.type_text("10.244.0.70").await?;
    tab.until("document.querySelector('#block-found').textContent.startsWith('1 block')").await?;
    for (view, rows) in [("nodes", 3), ("sessions", 9)] {
        tab.evaluate(&format!("document.querySelector('#tab-{view}').click()")).await?;
        tab.until(&format!("document.querySelectorAll('#{view} tbody tr').length == {rows}")).await?;
    }
    tab.until("[...document.querySelectorAll('button, input, [role=button]')].every(e => e.textContent.trim() || e.ariaLabel || e.labels?.length)")
        .await
        .context("everything that can be pressed has a name")?;
    clean(&tab, &ui)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_nodes_are_drawn_in_their_racks_in_light_and_dark() -> Result<()> {
    let cluster = Cluster::of(200).await?;
    cluster.session("node17", "peer/tor-01a", Some("peer: Hold Timer Expired")).await?;
    cluster.session("node140", "peer/tor-07b", Some("no route to 172.30.140.1")).await?;
    let Some((ui, _browser, mut tab)) = page(&cluster, "overview").await? else { return Ok(()) };
    for (count, selector) in [
        (200, "[data-node]"),
        (20, "[data-router]"),
        (10, "[data-group]"),
        (2, ".t-node.bad"),
        (2, ".t-edge.down"),
    ] {
        tab.until(&format!("document.querySelectorAll('{selector}').length == {count}")).await?;
    }
    let overlap = "(() => { const b = [...document.querySelectorAll('[data-node] > .b, [data-router] > .b')].map(e => e.getBoundingClientRect()); \
        return b.some((p, i) => b.some((q, j) => i < j && p.left < q.right && q.left < p.right && p.top < q.bottom && q.top < p.bottom)); })()";
    ensure!(tab.evaluate(overlap).await? == false, "nodes or routers lie on one another");
    picture(&mut tab, "ui-racks").await?;
    tab.dark().await?;
    tab.until("document.documentElement.dataset.theme == 'dark'").await?;
    picture(&mut tab, "ui-racks-dark").await?;
    tab.evaluate("document.querySelector('#tab-blocks').click()").await?;
    tab.until("document.querySelectorAll('[data-pool=pods-v4] [data-block]').length == 400").await?;
    picture(&mut tab, "ui-blocks-dark").await?;
    tab.light().await?;
    picture(&mut tab, "ui-blocks").await?;
    tab.evaluate("document.querySelector('#tab-sessions').click()").await?;
    tab.until("document.querySelector('#sessions tbody tr').dataset.up == 'false'")
        .await
        .context("down first")?;
    picture(&mut tab, "ui-sessions").await?;
    cluster.usage(&ui);
    clean(&tab, &ui)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_of_two_hundred_nodes_is_one_ring_and_only_what_is_broken_is_marked() -> Result<()> {
    let cluster = Cluster::shaped(200, Shape::Mesh).await?;
    for [node, peer] in [["node17", "node/node18"], ["node18", "node/node17"]] {
        cluster.session(node, peer, Some("peer: Hold Timer Expired")).await?;
    }
    let Some((ui, _browser, mut tab)) = page(&cluster, "overview").await? else { return Ok(()) };
    tab.until("document.querySelector('.t-mesh[data-mesh=\"19900\"][data-down=\"1\"]')").await?;
    let lines = "document.querySelectorAll('.t-edge').length";
    tab.until(&format!("{lines} == 1 && document.querySelectorAll('[data-node]').length == 200")).await?;
    tab.evaluate(WATCH_TASKS).await?;

    cluster.alone("node140", "no route to host").await?;
    tab.until("document.querySelector('[data-lost]').dataset.lost == '199'").await?;
    tab.until(&format!("{lines} == 1"))
        .await
        .context("a node that lost all is marked, without a line for each")?;
    tab.until("document.querySelectorAll('#findings li').length == 3")
        .await
        .context("it is one thing that is wrong, beside what the two ends of the other session say")?;
    picture(&mut tab, "ui-mesh").await?;
    tab.evaluate("document.querySelector('[data-node=node140]').focus()").await?;
    tab.press("Enter").await?;
    tab.until(&format!("{lines} == 200")).await.context("its own when it is chosen, and the other one")?;
    tab.until("document.querySelectorAll('#chosen .peers li').length == 199").await?;
    tab.evaluate("document.querySelector('#tab-sessions').click()").await?;
    tab.until("document.querySelectorAll('#sessions tbody tr').length == 400").await?;
    println!("{}", tab.evaluate(TOLD_TASKS).await?.as_str().unwrap_or_default());
    cluster.usage(&ui);
    clean(&tab, &ui)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_hang_keep_neither_the_others_nor_the_screen_waiting() -> Result<()> {
    let Some(manxctl) = program("manxctl") else { return Ok(()) };
    let cluster = Cluster::of(60).await?;
    cluster.nodes_answer(SOME_HANG)?;
    let mut terminal = Terminal::start(&cluster.top(&manxctl, &["--node-timeout", "3"]), 80, 200)?;
    let row = |screen: &str, name: &str, words: &str| {
        screen.lines().any(|line| line.split_whitespace().next() == Some(name) && line.contains(words))
    };
    terminal.until(|screen| screen.contains("nodes 60/60")).await?;
    let pressed = std::time::Instant::now();
    terminal.type_keys("2")?;
    terminal.until(|screen| screen.contains("MSG IN/s")).await?;
    ensure!(pressed.elapsed() < Duration::from_secs(5), "the key took {:?}", pressed.elapsed());
    terminal.type_keys("1")?;
    terminal.until(|screen| screen.contains("10 not asked")).await.context("fifty answer")?;
    terminal.until(|screen| row(screen, "node10", "not asked: no answer in time")).await?;
    terminal
        .until(|screen| row(screen, "node2", "no answer for 1"))
        .await
        .context("the one that fell silent")?;
    terminal.until(|screen| screen.contains("11 not asked")).await?;
    terminal.type_keys("q")?;
    ensure!(terminal.end().await?.contains("ended 0"), "it ends at once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_cluster_and_an_api_server_that_goes_away_are_told() -> Result<()> {
    let cluster = Cluster::of(0).await?;
    let Some((ui, _browser, mut tab)) = page(&cluster, "overview").await? else { return Ok(()) };
    tab.until(
        "document.querySelector('#topology').textContent.includes('No node runs an agent of Manx yet')",
    )
    .await?;
    picture(&mut tab, "ui-empty").await?;
    cluster.stop().await;
    tab.until("document.querySelector('#trouble').textContent.includes('is from before')").await?;
    tab.until("document.querySelector('#live').textContent == 'live'").await?;
    clean(&tab, &ui)?;
    drop(ui);
    tab.until("document.querySelector('#live').className.includes('off')").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_draws_reacts_to_keys_and_gives_the_terminal_back() -> Result<()> {
    let Some(manxctl) = program("manxctl") else { return Ok(()) };
    let cluster = Cluster::of(3).await?;
    let mut terminal = Terminal::start(&cluster.top(&manxctl, &[]), 40, 150)?;
    terminal.until(|screen| screen.contains("node3") && screen.contains("sessions 9/9")).await?;
    terminal.until(|screen| screen.contains("pods +2.0")).await.context("pods per second")?;
    cluster.session("node3", "peer/tor", Some("peer: Hold Timer Expired")).await?;
    terminal.until(|screen| screen.contains("sessions 8/9")).await?;
    terminal.type_keys("2")?;
    terminal
        .until(|screen| screen.contains("peer/tor") && screen.contains("peer: Hold Timer Expired"))
        .await?;
    terminal.type_keys("/node1\r")?;
    terminal.until(|screen| !screen.contains("Hold Timer") && screen.contains("node1")).await?;
    terminal.resize(12, 60)?;
    terminal.until(|screen| !screen.contains("pods started/s") && screen.contains("q quit")).await?;
    terminal.type_keys("\u{1b}q")?;
    let after = terminal.end().await?;
    ensure!(after.contains("SHELL AGAIN") && !after.contains("q quit"), "the first screen is back: {after}");
    ensure!(after.contains("ended 0") && after.contains("mode as before"), "{after}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_gives_the_terminal_back_when_it_is_told_to_end() -> Result<()> {
    let Some(manxctl) = program("manxctl") else { return Ok(()) };
    let cluster = Cluster::of(3).await?;
    for signal in ["TERM", "INT", "HUP"] {
        let mut terminal = Terminal::start(&cluster.top(&manxctl, &[]), 30, 120)?;
        terminal.until(|screen| screen.contains("node3")).await?;
        terminal.signal("manxctl", signal)?;
        let after = terminal.end().await?;
        ensure!(after.contains("mode as before") && !after.contains("q quit"), "SIG{signal}: {after}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_says_that_it_needs_a_terminal() -> Result<()> {
    let Some(manxctl) = program("manxctl") else { return Ok(()) };
    let cluster = Cluster::of(0).await?;
    let words = cluster.top(&manxctl, &[]);
    let output = tokio::time::timeout(
        Duration::from_secs(20),
        tokio::process::Command::new(&words[0]).args(&words[1..]).stdin(std::process::Stdio::null()).output(),
    )
    .await??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(2) && said.contains("this is none"), "{:?} {said}", output.status);
    Ok(())
}
